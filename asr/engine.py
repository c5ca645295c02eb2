"""What a speech recogniser must do to be used by `voice`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.float32]
"""Mono samples in [-1, 1], shape (n,)."""

RATE = 16_000
"""Sample rate of every array an engine receives, in hertz."""


@dataclass(slots=True)
class Word:
    """One recognised word.

    Attributes:
        text: The word, lower case, without punctuation unless the engine has it.
        start: Its first sample, in seconds from the first `push` of the stream.
        end: Its last sample, likewise.
        confidence: Probability that it is right, 0 to 1.
    """

    text: str
    start: float
    end: float
    confidence: float = 1.0


@dataclass(slots=True)
class Hypothesis:
    """What the recogniser believes about the utterance so far.

    Attributes:
        committed: Words that will not change any more, with their times.
        tentative: Text after `committed` that still may.
        confidence: Probability that the words are right *and* were meant for
            this recogniser (in its domain), 0 to 1.
        end: Audio covered, in samples from the first `push`.
    """

    committed: tuple[Word, ...] = ()
    tentative: str = ""
    confidence: float = 1.0
    end: int = 0

    @property
    def text(self) -> str:
        """Everything believed so far, committed and tentative."""
        words = " ".join(word.text for word in self.committed)
        return f"{words} {self.tentative}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """What the recogniser may know before an utterance begins.

    Attributes:
        language: BCP 47 tag of the language spoken.
        expects: Topic that the agent has just asked about ("time", "name",
            "yes_no" …), "" for anything. Topics are the agent's own; an engine
            that does not know one listens for anything.
        call: Which call this is, "" for none: an engine may get used to a
            caller's voice and line.
    """

    language: str = "en"
    expects: str = ""
    call: str = ""


class Stream(Protocol):
    """One utterance. Threads and batching are the engine's own affair."""

    def push(self, pcm: Pcm) -> None:
        """Add samples of any length; never blocks. The engine copies what it keeps."""

    def hypotheses(self) -> AsyncIterator[Hypothesis]:
        """Yield a hypothesis whenever it changed; end after `finish` or `close`."""

    async def settle(self, deadline: float) -> Hypothesis:
        """Return what `finish` would, were the utterance over now; it goes on all the same.

        Samples that are pushed meanwhile may or may not be in it. Asked again, it looks again.
        `deadline` orders the work among calls, as in `finish`. Whoever waits may be cancelled;
        work that has not begun is then left out.

        Raises:
            EngineError: If the engine failed during this utterance.
        """

    async def finish(self, deadline: float) -> Hypothesis:
        """Return the final hypothesis; `tentative` is empty. Nothing is pushed afterwards.

        `deadline` (loop time, seconds) orders the work among calls.

        Raises:
            EngineError: If the engine failed during this utterance.
        """

    def close(self) -> None:
        """Stop the work, also inside the model. Safe at any time, also twice."""


class Engine(Protocol):
    """A recogniser, loaded once and shared by all calls.

    Attributes:
        name: What the user chose, for example "sphinx" or "whisper:small".
        about: One honest sentence on what these ears can do.
    """

    name: str
    about: str

    async def start(self) -> None:
        """Load and warm up; on return a stream costs no first-time work.

        Raises:
            EngineError: If it cannot; the message names the remedy.
        """

    def open(self, listening: Listening) -> Stream:
        """Begin one utterance; never blocks."""

    async def stop(self) -> None:
        """Free everything, child processes included."""


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
    """A recogniser cannot start or failed while working."""
