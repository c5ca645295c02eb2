"""A synthesiser for tests: every word is a tone of known length."""

import asyncio
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
