"""What a speech synthesiser must do to be used by `voice`."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.float32]
"""Mono samples in [-1, 1], shape (n,)."""


@dataclass(slots=True)
class Word:
    """One word as it is spoken.

    Attributes:
        text: The word as it stands in the phrase, its punctuation included:
            the words of a phrase joined by spaces are the phrase.
        start: Its first sample, counted at `Engine.rate` from the first sample
            of the whole `speak`.
        end: The sample after its last, likewise.
    """

    text: str
    start: int
    end: int


@dataclass(slots=True)
class Chunk:
    """Some audio and the words that begin in it; the receiver owns `pcm`."""

    pcm: Pcm
    words: tuple[Word, ...]


class Engine(Protocol):
    """A synthesiser, loaded once and shared by all calls.

    Attributes:
        name: What the user chose, for example "espeak".
        about: One honest sentence on what this voice sounds like.
        rate: Sample rate of every chunk, in hertz.
        voices: Names that `speak` takes; the first is the default.
    """

    name: str
    about: str
    rate: int

    @property
    def voices(self) -> tuple[str, ...]:
        """Names that `speak` takes."""

    async def start(self) -> None:
        """Load and warm up; on return a phrase costs no first-time work.

        Raises:
            EngineError: If it cannot; the message names the remedy.
        """

    def speak(
        self, phrases: AsyncIterator[str], voice: str, deadline: float
    ) -> AsyncGenerator[Chunk, None]:
        """Yield audio for phrases as they arrive; closing the generator stops the work.

        `voice` is one of `voices`, "" for the default. `deadline` (loop time,
        seconds) is when the first chunk is wanted; it orders the work among calls.

        Raises:
            EngineError: If the synthesis failed.
        """

    async def stop(self) -> None:
        """Free everything."""


class Turns(Protocol):
    """A device that engines share: who may work on it, and when."""

    def turn(
        self, kind: str, deadline: float | Callable[[], float], cost: float
    ) -> AbstractContextManager[None]:
        """Block this thread until the device may do work of `kind`; hold the device inside.

        `deadline` (`time.monotonic` seconds) is when its result is wanted, or a quick function
        that tells it, asked again in any thread while this one waits: what is queued meanwhile
        may be more urgent. `cost` is about how many seconds the work takes, 0 for unknown.
        """


class EngineError(RuntimeError):
    """A synthesiser cannot start or failed while working."""
