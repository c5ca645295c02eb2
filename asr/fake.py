"""Ears for tests and benchmarks: they "hear" a script, whatever the sound."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from asr.engine import RATE, Hypothesis, Listening, Pcm, Word

KEPT = 100
"""Openings remembered, for tests."""


class Fake:
    """Hear the next text of `texts` in each utterance, and `always` when they are used up.

    Attributes:
        opened: What every stream was opened with, in order, the last `KEPT`.
        listening: How many streams are open now.
        delay: Seconds until the final words are told; may change at any time.
    """

    name = "fake"
    about = "Hears what a script says it hears; for tests."

    def __init__(
        self,
        texts: Iterable[str] = (),
        confidence: float = 1.0,
        delay: float = 0.0,
        *,
        always: str = "",
        partial: bool = True,
    ) -> None:
        """Answer `finish` after `delay` seconds with `confidence`.

        With `partial`, the first word is told as soon as there is sound.
        """
        self.opened: list[Listening] = []
        self.listening = 0
        self._texts = iter(texts)
        self._confidence = confidence
        self.delay = delay
        self._always = always
        self._partial = partial

    async def start(self) -> None:
        """Do nothing; there is nothing to load."""

    async def stop(self) -> None:
        """Do nothing; there is nothing to free."""

    def open(self, listening: Listening) -> "FakeStream":
        """Begin one utterance."""
        self.opened.append(listening)
        del self.opened[:-KEPT]
        self.listening += 1
        text = next(self._texts, self._always)
        return FakeStream(self, text, self._confidence, self._partial)


class FakeStream:
    """One utterance."""

    def __init__(self, engine: Fake, text: str, confidence: float, partial: bool) -> None:
        self._engine, self._text, self._partial = engine, text, partial
        self._confidence = confidence
        self._samples = 0
        self._sound = asyncio.Event()
        self._over = False

    def push(self, pcm: Pcm) -> None:
        """Count the samples."""
        self._samples += len(pcm)
        self._sound.set()

    async def hypotheses(self) -> AsyncIterator[Hypothesis]:
        """Yield the first word once."""
        await self._sound.wait()
        if self._text and self._partial and not self._over:
            yield Hypothesis(tentative=self._text.split()[0], end=self._samples)

    async def settle(self, deadline: float) -> Hypothesis:
        """Return the scripted words, spread evenly over the sound."""
        if self._engine.delay:
            await asyncio.sleep(self._engine.delay)
        texts = self._text.split()
        step = self._samples / RATE / max(1, len(texts))
        words = tuple(
            Word(text, i * step, (i + 1) * step, self._confidence) for i, text in enumerate(texts)
        )
        return Hypothesis(words, "", self._confidence if words else 0.0, self._samples)

    async def finish(self, deadline: float) -> Hypothesis:
        """Return the same and end the utterance."""
        final = await self.settle(deadline)
        self.close()
        return final

    def close(self) -> None:
        """End the utterance."""
        if not self._over:
            self._over = True
            self._engine.listening -= 1
            self._sound.set()


class Prompted:
    """Hear the words that they are told were just said.

    Attributes:
        said: What the caller of each call has said so far, by its name; whoever speaks adds
            to it.
    """

    name = "prompted"
    about = "Hears what it is told was said; to measure everything but hearing."

    def __init__(self, delay: float = 0.0) -> None:
        """Answer `finish` and `settle` after `delay` seconds."""
        self.said: dict[str, list[str]] = {}
        self.delay = delay

    async def start(self) -> None:
        """Do nothing; there is nothing to load."""

    async def stop(self) -> None:
        """Do nothing; there is nothing to free."""

    def open(self, listening: Listening) -> "PromptedStream":
        """Begin one utterance."""
        return PromptedStream(self, self.said.setdefault(listening.call, []))


class PromptedStream:
    """One utterance: what was said since it began."""

    EVERY = 0.1
    """Seconds between two looks at what was said: a recogniser's partial words are no faster."""

    def __init__(self, engine: Prompted, said: list[str]) -> None:
        self._engine, self._said, self._first = engine, said, len(said)
        self._over = False

    def push(self, pcm: Pcm) -> None:
        """Take samples; they tell nothing."""

    async def hypotheses(self) -> AsyncIterator[Hypothesis]:
        """Yield the words whenever there are more."""
        known = 0
        while not self._over:
            words = self._said[self._first :]
            if len(words) != known:
                known = len(words)
                yield Hypothesis(tentative=" ".join(words))
            await asyncio.sleep(self.EVERY)

    async def settle(self, deadline: float) -> Hypothesis:
        """Return the words so far."""
        await asyncio.sleep(self._engine.delay)
        words = tuple(Word(text, 0.0, 0.0) for text in self._said[self._first :])
        return Hypothesis(words, "", 1.0 if words else 0.0)

    async def finish(self, deadline: float) -> Hypothesis:
        """Return the same and end the utterance."""
        final = await self.settle(deadline)
        self.close()
        return final

    def close(self) -> None:
        """End the utterance."""
        self._over = True
