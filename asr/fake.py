"""Ears for tests: they "hear" a script, whatever the sound."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from asr.engine import RATE, Hypothesis, Listening, Pcm, Word


class Fake:
    """Hear the next text of `texts` in each utterance, and `always` when they are used up.

    Attributes:
        opened: What every stream was opened with, in order.
        listening: How many streams are open now.
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
        self._delay = delay
        self._always = always
        self._partial = partial

    async def start(self) -> None:
        """Do nothing; there is nothing to load."""

    async def stop(self) -> None:
        """Do nothing; there is nothing to free."""

    def open(self, listening: Listening) -> "FakeStream":
        """Begin one utterance."""
        self.opened.append(listening)
        self.listening += 1
        text = next(self._texts, self._always)
        return FakeStream(self, text, self._confidence, self._delay, self._partial)


class FakeStream:
    """One utterance."""

    def __init__(
        self, engine: Fake, text: str, confidence: float, delay: float, partial: bool
    ) -> None:
        self._engine, self._text, self._partial = engine, text, partial
        self._confidence, self._delay = confidence, delay
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
        if self._delay:
            await asyncio.sleep(self._delay)
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
