"""Synthesisers for tests and benchmarks: tones of known length."""

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator

import numpy as np

from tts.engine import Chunk, EngineError, Word

PITCH = 220.0
"""Of the tone, in hertz."""


class Fake:
    """Speak words as tones that abut: one chunk a word.

    Attributes:
        phrases: Every phrase that was taken, of all calls, in order.
        speaking: How many `speak` are open now.
    """

    name = "fake"
    about = "Hums one tone for every word; for tests."
    voices = ("hum", "hum-low")

    def __init__(
        self,
        character: float = 0.06,
        word: float = 0.0,
        first: float = 0.0,
        interval: float = 0.0,
        rate: int = 24_000,
    ) -> None:
        """Set the pace, all in seconds.

        A word takes `word`, or `character` for each of its characters if that is 0.
        `first` passes before the first chunk of each phrase, `interval` before each other.
        """
        self.rate = rate
        self.phrases: list[str] = []
        self.speaking = 0
        self._character = character
        self._word = word
        self._first = first
        self._interval = interval

    async def start(self) -> None:
        """Do nothing; there is nothing to load."""

    async def stop(self) -> None:
        """Do nothing; there is nothing to free."""

    async def speak(
        self, phrases: AsyncIterator[str], voice: str, deadline: float
    ) -> AsyncGenerator[Chunk, None]:
        """Yield a tone for every word; see `tts.engine.Engine`."""
        if voice and voice not in self.voices:
            raise EngineError(f"no voice {voice!r}; the voices are {', '.join(self.voices)}")
        pitch = PITCH / 2 if voice == "hum-low" else PITCH
        start = 0
        self.speaking += 1
        try:
            async for phrase in phrases:
                self.phrases.append(phrase)
                for place, text in enumerate(phrase.split()):
                    await asyncio.sleep(self._interval if place else self._first)
                    end = start + round((self._word or self._character * len(text)) * self.rate)
                    times = np.arange(start, end) / self.rate
                    tone = 0.3 * np.sin(2 * np.pi * pitch * times)
                    yield Chunk(tone.astype(np.float32), (Word(text, start, end),))
                    start = end
        finally:
            self.speaking -= 1


FIRST = 0.02
"""Seconds of audio in the first chunk of a phrase of `Steady`."""

REST = 0.1
"""Seconds of audio in each other."""


class Steady:
    """Hum every phrase for the same time, in chunks that come at fixed times.

    The times are counted from the moment a phrase is taken, so that a late event loop
    catches up.

    Attributes:
        first: Seconds before the first chunk of a phrase; may change at any time.
    """

    name = "bench"
    about = "Hums one tone for every phrase; to measure everything but the voice."
    voices = ("hum",)

    def __init__(
        self, seconds: float, *, first: float, interval: float, rate: int = 16_000
    ) -> None:
        """Hum a phrase for `seconds`; `first` and `interval` seconds pass before its chunks."""
        self.rate = rate
        self.first, self._interval = first, interval
        times = np.arange(round(seconds * rate)) / rate
        self._tone = (0.2 * np.sin(2 * np.pi * PITCH * times)).astype(np.float32)

    async def start(self) -> None:
        """Do nothing; there is nothing to load."""

    async def stop(self) -> None:
        """Do nothing; there is nothing to free."""

    async def speak(
        self, phrases: AsyncIterator[str], voice: str, deadline: float
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the tone for every phrase; see `tts.engine.Engine`."""
        clock = asyncio.get_running_loop().time
        cuts = [0, *range(round(FIRST * self.rate), len(self._tone), round(REST * self.rate))]
        start = 0
        async for phrase in phrases:
            taken = clock()
            texts = phrase.split()
            begins = [len(self._tone) * place // len(texts) for place in range(len(texts) + 1)]
            for place, cut in enumerate(cuts):
                end = cuts[place + 1] if place + 1 < len(cuts) else len(self._tone)
                due = taken + self.first + place * self._interval
                if due > clock():
                    await asyncio.sleep(due - clock())
                words = tuple(
                    Word(texts[n], start + begins[n], start + begins[n + 1])
                    for n in range(bisect_left(begins, cut), bisect_left(begins, end))
                )
                yield Chunk(self._tone[cut:end], words)
            start += len(self._tone)
