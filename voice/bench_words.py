"""Engines that do all their work and say agreed words: calls with models of random weights.

A model whose weights are random costs what a trained one costs, but what it makes up would not be
a conversation: the agent would ask again for ever. So a benchmark wraps it. Ears decode every
utterance and hear `TRANSCRIPT`; a mind generates token by token, and each becomes the next token
of `REPLY`. A mouth needs no words and is left as it is.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import cast

import asr.engine
import llm.engine
from llm.script import tokens
from voice.knobs import Adjustable
from voice.stubs import REPLY, TRANSCRIPT

WORD = 0.3
"""Seconds of an utterance after each of which one more word of `TRANSCRIPT` counts as said."""

LAG = 1.0
"""Seconds from a word to its being sure: two looks, half a second apart, must agree on it."""


class Ears:
    """A recogniser that hears `TRANSCRIPT` in every utterance, in the time its own words take."""

    def __init__(self, real: asr.engine.Engine) -> None:
        self.name, self.about = f"bench:{real.name}", real.about
        self._real = real

    @property
    def adjustable(self) -> tuple[str, ...]:
        """Names of the settings that `adjust` changes."""
        return tuple(getattr(self._real, "adjustable", ()))

    def adjust(self, name: str, value: float) -> None:
        """Change a setting of the real one."""
        cast(Adjustable, self._real).adjust(name, value)

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
        self._samples = 0
        self._over = False
        self._changed = asyncio.Event()

    def push(self, pcm: asr.engine.Pcm) -> None:
        """Give the real one samples."""
        self._real.push(pcm)
        self._samples += len(pcm)
        self._changed.set()

    async def hypotheses(self) -> AsyncIterator[asr.engine.Hypothesis]:
        """Yield what of the agreed words is sure by then, whenever it is one more.

        The real one looks for words all the while, but of those that random weights make up it
        believes none: it may have nothing to tell until the end.
        """
        known = 0
        while not self._over:
            sure = int((self._samples / asr.engine.RATE - LAG) / WORD)
            if known < min(sure, len(TRANSCRIPT.split())):
                known = sure
                yield _agreed(self._samples, sure)
            self._changed.clear()
            await self._changed.wait()

    async def settle(self, deadline: float) -> asr.engine.Hypothesis:
        """Let the real one settle."""
        return _agreed((await self._real.settle(deadline)).end)

    async def finish(self, deadline: float) -> asr.engine.Hypothesis:
        """Let the real one finish."""
        final = await self._real.finish(deadline)
        self._end()
        return _agreed(final.end)

    def close(self) -> None:
        """Stop the real one."""
        self._real.close()
        self._end()

    def _end(self) -> None:
        self._over = True
        self._changed.set()


def _agreed(samples: int, count: int | None = None) -> asr.engine.Hypothesis:
    """Return the first `count` words of `TRANSCRIPT`, spread over `samples`."""
    words = TRANSCRIPT.split()[:count]
    step = samples / asr.engine.RATE / max(1, len(words))
    timed = (asr.engine.Word(word, n * step, (n + 1) * step) for n, word in enumerate(words))
    return asr.engine.Hypothesis(tuple(timed), end=samples)


class Mind:
    """A language model that answers `REPLY`, a token whenever its own model has written one."""

    def __init__(self, real: llm.engine.Engine) -> None:
        self.name, self.about = f"bench:{real.name}", real.about
        self._real = real

    @property
    def prefills(self) -> bool:
        """Whether the real one gains by reading a caller's words early; see `voice.prefill`."""
        return bool(getattr(self._real, "prefills", False))

    @property
    def adjustable(self) -> tuple[str, ...]:
        """Names of the settings that `adjust` changes."""
        return tuple(getattr(self._real, "adjustable", ()))

    def adjust(self, name: str, value: float) -> None:
        """Change a setting of the real one."""
        cast(Adjustable, self._real).adjust(name, value)

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
