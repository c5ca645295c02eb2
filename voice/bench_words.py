"""Engines that do all their work and say agreed words: calls with models of random weights.

A model whose weights are random costs what a trained one costs, but what it makes up would not be
a conversation: the agent would ask again for ever. So a benchmark wraps it. Ears decode every
utterance and hear `TRANSCRIPT`; a mind generates token by token, and each becomes the next token
of `REPLY`. A mouth needs no words and is left as it is.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import asr.engine
import llm.engine
from llm.script import tokens
from voice.stubs import REPLY, TRANSCRIPT

WORD = 0.3
"""Seconds after which one more word of `TRANSCRIPT` counts as heard while the caller speaks."""


class Ears:
    """A recogniser that hears `TRANSCRIPT` in every utterance, in the time its own words take."""

    def __init__(self, real: asr.engine.Engine) -> None:
        self.name, self.about = f"bench:{real.name}", real.about
        self._real = real

    async def start(self) -> None:
        """Start the real one."""
        await self._real.start()

    def open(self, listening: asr.engine.Listening) -> "Stream":
        """Begin one utterance."""
        return Stream(self._real.open(listening))

    async def stop(self) -> None:
        """Stop the real one."""
        await self._real.stop()


class Stream:
    """One utterance; see `asr.engine.Stream`."""

    def __init__(self, real: asr.engine.Stream) -> None:
        self._real = real
        self.push = real.push
        self.close = real.close

    async def hypotheses(self) -> AsyncIterator[asr.engine.Hypothesis]:
        """Yield what of the agreed words was said by then, whenever the real one changed."""
        async for real in self._real.hypotheses():
            yield _agreed(real, int(real.end / asr.engine.RATE / WORD))

    async def settle(self, deadline: float) -> asr.engine.Hypothesis:
        """Let the real one settle."""
        return _agreed(await self._real.settle(deadline))

    async def finish(self, deadline: float) -> asr.engine.Hypothesis:
        """Let the real one finish."""
        return _agreed(await self._real.finish(deadline))


def _agreed(real: asr.engine.Hypothesis, count: int | None = None) -> asr.engine.Hypothesis:
    """Return the first `count` words of `TRANSCRIPT`, spread over a real hypothesis' audio."""
    words = TRANSCRIPT.split()[:count]
    step = real.end / asr.engine.RATE / max(1, len(words))
    timed = (asr.engine.Word(word, n * step, (n + 1) * step) for n, word in enumerate(words))
    return asr.engine.Hypothesis(tuple(timed), end=real.end)


class Mind:
    """A language model that answers `REPLY`, a token whenever its own model has written one."""

    def __init__(self, real: llm.engine.Engine) -> None:
        self.name, self.about = f"bench:{real.name}", real.about
        self._real = real

    @property
    def prefills(self) -> bool:
        """Whether the real one gains by reading a caller's words early; see `voice.prefill`."""
        return bool(getattr(self._real, "prefills", False))

    async def start(self) -> None:
        """Start the real one."""
        await self._real.start()

    def open(
        self, items: Sequence[llm.engine.Item], tools: Sequence[llm.engine.ToolSpec]
    ) -> "Thread":
        """Begin one answer."""
        return Thread(self._real.open(items, tools))

    async def stop(self) -> None:
        """Stop the real one."""
        await self._real.stop()


class Thread:
    """One answer; see `llm.engine.Thread`."""

    def __init__(self, real: llm.engine.Thread) -> None:
        self._real = real
        self.append = real.append
        self.close = real.close

    async def generate(
        self, params: llm.engine.Params, deadline: float
    ) -> AsyncGenerator[llm.engine.Text | llm.engine.ToolCall | llm.engine.Usage, None]:
        """Yield the next of `REPLY` for each piece of the real answer, and stop it after the last.

        A tokeniser may hold tokens back until they make a character; the piece that comes then
        counts as one.
        """
        script = iter(tokens(REPLY))
        async with aclosing(self._real.generate(params, deadline)) as pieces:
            async for piece in pieces:
                if isinstance(piece, llm.engine.Usage):
                    yield piece
                elif (token := next(script, None)) is not None:
                    yield token
                else:
                    return
