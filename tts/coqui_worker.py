"""The one thread's work: which step of the model comes next, for whom, and what if it fails.

Always the step whose audio is wanted first, and with it whatever other calls wait for the
same kind of step: nobody waits for a batch to fill. A step that fails is halved until only
who is to blame has failed.
"""

import math
import random
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tts.chunking import Piece
from tts.coqui_options import CoquiOptions
from tts.engine import Chunk, EngineError, Pcm, Turns
from tts.torch_device import out_of_memory
from tts.voice_output import Output


class Model(Protocol):
    """A voice model, driven in steps by one thread; see `tts.vits` and `tts.xtts`.

    Attributes:
        rate: Of its audio, in hertz.
        voices: Names of its speakers.
        longest: Characters that it takes at once.
        adjustable: Names of the settings that `adjust` changes.
    """

    name: str
    rate: int
    voices: tuple[str, ...]
    longest: int
    adjustable: tuple[str, ...]

    def adjust(self, options: CoquiOptions) -> None:
        """Take other settings for speeches that begin from now on; called by any thread."""

    def begin(self, text: str, words: Sequence[str], voice: str, seed: int) -> Any:
        """Return a speech: one piece of text on its way through the model."""

    def kind(self, speech: Any) -> Hashable:
        """Return what its next step is; speeches with the same can take it together."""

    def most(self, speech: Any) -> int:
        """Return how many may share its next step; 1 where sharing makes all of them later."""

    def run(self, speeches: Sequence[Any]) -> list[Pcm | EngineError]:
        """Take the next step of each, all of one kind; return the audio it gave, if any."""

    def end(self, speech: Any) -> None:
        """Forget a speech."""


class Device(Protocol):
    """The part of `tts.torch_device.Device` that the work needs."""

    def stream(self, *, urgent: bool) -> AbstractContextManager[Any]:
        """Return the context of one step."""

    def free(self) -> None:
        """Give back unused memory."""


@dataclass(slots=True, eq=False)
class Job:
    """One piece of text, until its audio has been given out.

    Attributes:
        deadline: When the first audio of its whole `speak` is wanted, monotonic seconds.
        said: Samples of the `speak` before this piece.
        send: Takes chunks, then `None`, or an error instead; called by the thread.
        dropped: Set, by whoever waited, when nobody does any more.
    """

    piece: Piece
    voice: str
    deadline: float
    said: int
    output: Output
    send: Callable[[Chunk | EngineError | None], None]
    speech: Any = None
    dropped: bool = False
    retried: bool = False


class Worker:
    """Runs a model for many jobs; `add` and `stop` may be called by any thread."""

    def __init__(
        self, model: Model, device: Device, seed: int = 0, turns: Turns | None = None
    ) -> None:
        """Speak with `model`; `seed` 0 lets each phrase sound different."""
        self._model = model
        self._device = device
        self._seed = seed
        self._turns = turns
        self._changed = threading.Condition()
        self._jobs: list[Job] = []
        self._stopping = False
        self._costs: dict[str, float] = {}

    def add(self, job: Job) -> None:
        """Queue a job; raises `EngineError` if the thread has ended."""
        with self._changed:
            if self._stopping:
                raise EngineError("coqui is not running; await start() first")
            self._jobs.append(job)
            self._changed.notify()

    def stop(self) -> None:
        """Let the thread end after the step that is running."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def run(self) -> None:
        """Work until `stop`; the thread's main function."""
        why = "coqui was stopped"
        try:
            while self._wait():
                self.step()
        except Exception as error:  # or else every call would wait for this thread for ever
            why = f"coqui failed: {error!r}"
        self.stop()
        with self._changed:
            jobs, self._jobs = self._jobs, []
        for job in jobs:
            self._end(job, EngineError(why))

    def step(self) -> None:
        """Take the most urgent step there is."""
        first = min(self._waiting(), key=self._due, default=None)
        if first is None:
            return
        name = self._name(first)
        turn: AbstractContextManager[None] = nullcontext()
        if self._turns is not None:
            kind = "chunk" if first.output.given else "phrase"
            turn = self._turns.turn(kind, self._soonest, self._costs.get(name, 0.0))
        answers: list[tuple[Job, Pcm | EngineError]] = []
        with turn:
            # Chosen now, as others may have come while the device was somebody else's.
            if jobs := self._together():
                name, begun = self._name(jobs[0]), time.monotonic()
                with self._device.stream(urgent=any(not job.output.given for job in jobs)):
                    answers = self._attempt(jobs)
                took = time.monotonic() - begun
                self._costs[name] = 0.8 * self._costs.get(name, took) + 0.2 * took
        for job, answer in answers:
            self._deliver(job, answer)

    def _wait(self) -> bool:
        """Wait for a job; return whether to go on."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopping)
            return not self._stopping

    def _due(self, job: Job) -> float:
        """Return when its next audio is wanted: when what was given will have been heard."""
        return job.deadline + (job.said + job.output.given) / self._model.rate

    def _soonest(self) -> float:
        """Return when the most urgent audio is wanted; called by any thread."""
        with self._changed:
            return min((self._due(job) for job in self._jobs if not job.dropped), default=math.inf)

    def _name(self, job: Job) -> str:
        kind = self._model.kind(job.speech)
        return str(kind[0] if isinstance(kind, tuple) else kind)

    def _waiting(self) -> list[Job]:
        """Return the jobs that somebody waits for, each with its text read."""
        with self._changed:
            jobs = list(self._jobs)
        for job in jobs:
            if job.dropped:
                self._end(job, None)
            elif job.speech is None:
                self._begin(job)
        with self._changed:
            return [job for job in self._jobs if job.speech is not None]

    def _together(self) -> list[Job]:
        """Return the most urgent job and those that can take the same step with it."""
        jobs = sorted(self._waiting(), key=self._due)
        if not jobs:
            return []
        kind = self._model.kind(jobs[0].speech)
        same = [job for job in jobs if self._model.kind(job.speech) == kind]
        return same[: self._model.most(jobs[0].speech)]

    def _begin(self, job: Job) -> None:
        piece = job.piece
        seed = self._seed or random.getrandbits(31)
        try:
            job.speech = self._model.begin(piece.text, piece.words, job.voice, seed)
        except EngineError as error:
            self._end(job, error)
        except Exception as error:  # a cleaner, a tokenizer: this text alone is to blame
            self._end(job, EngineError(f"the model cannot read {piece.text[:60]!r}: {error!r}"))
        else:
            if not job.speech.speakable:
                self._end(job, None)

    def _attempt(self, jobs: Sequence[Job]) -> list[tuple[Job, Pcm | EngineError]]:
        """Run a step; if it fails, halve it until only who is to blame fails."""
        model = self._model
        try:
            return list(zip(jobs, model.run([job.speech for job in jobs]), strict=True))
        except Exception as error:
            full = out_of_memory(error)
            why = f"the model failed on {jobs[0].piece.text[:60]!r}: {error!r}"
        if full:
            self._device.free()
            why = (
                "no memory left on the device for another phrase; admit fewer calls, set"
                " coqui.batch or coqui.longest lower, or leave this engine more of it"
            )
        if len(jobs) > 1:
            answers: list[tuple[Job, Pcm | EngineError]] = []
            for half in (jobs[: len(jobs) // 2], jobs[len(jobs) // 2 :]):
                # A step that failed half-way may have left them before different ones.
                kinds = {job: model.kind(job.speech) for job in half}
                for kind in dict.fromkeys(kinds.values()):
                    answers += self._attempt([job for job in half if kinds[job] == kind])
            return answers
        if full and not jobs[0].retried:
            jobs[0].retried = True
            return self._attempt(jobs)
        return [(jobs[0], EngineError(why))]

    def _deliver(self, job: Job, answer: Pcm | EngineError) -> None:
        """Send what a step gave to who waits for it."""
        if not isinstance(answer, EngineError) and not np.isfinite(answer).all():
            answer = EngineError(
                f"the model gave samples that are not numbers for {job.piece.text[:60]!r};"
                " its weights are damaged, or do not bear half precision (coqui.half = false)"
            )
        if isinstance(answer, EngineError):
            self._end(job, answer)
            return
        ended = job.speech.ended
        if answer.size or ended:
            chunk = job.output.push(answer, job.speech.times, ended=ended)
            if chunk.pcm.size or chunk.words:
                job.send(chunk)
        if ended:
            self._end(job, None)

    def _end(self, job: Job, last: EngineError | None) -> None:
        """Take a job out of the queue and tell who waits, with an error or none."""
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
        if job.speech is not None:
            self._model.end(job.speech)
        job.send(last)
