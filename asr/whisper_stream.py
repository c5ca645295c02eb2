"""One utterance that Whisper hears: its window of sound, and who waits for its words.

A stream lives on the loop. Its window belongs to the engine's thread, which takes
it when the model is free, so that it holds all the sound there is by then. Between
the two are the jobs: an utterance has one at most that waits, and one being decoded.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from time import monotonic

import numpy as np

from asr.agreement import LONGEST, Agreement, Heard
from asr.engine import RATE, EngineError, Hypothesis, Pcm
from asr.latest import Latest
from asr.loudness import Loudness
from asr.whisper_decoder import FULL, Decoder, Window
from asr.whisper_options import WhisperOptions

SHORTEST = 0.1
"""Seconds under which an utterance is nothing to recognise."""

TAIL = 0.2
"""Seconds of what comes after the last sound that the model hears, too."""

PARTIAL_WITHIN = 0.5
"""Seconds within which partial words are wanted: their deadline."""

CLOSED = "the utterance was closed before its end"


@dataclass(slots=True, eq=False)
class Job:
    """A window that waits to be decoded, or is being; see `asr.batching.Waiting`.

    Attributes:
        end: Samples of the utterance that were there when it was taken.
        waiters: Who is to be told; the loop's own.
    """

    stream: "WhisperStream"
    deadline: float
    asked: bool
    end: int = -1
    waiters: list[asyncio.Future[Hypothesis]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long its window is."""
        return self.stream.window.seconds

    def answer(self, full: Hypothesis) -> None:
        """Tell who waits what the words are."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(full)

    def fail(self, reason: str) -> None:
        """Tell who waits that there are no words."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(EngineError(reason))


class Jobs:
    """The jobs that wait, between the loop and the thread.

    Attributes:
        closed: Why nothing is decoded any more; "" while it is.
    """

    def __init__(self) -> None:
        self.closed = ""
        self._waiting: list[Job] = []
        self._changed = threading.Condition()

    def ask(self, stream: "WhisperStream", deadline: float, asked: bool) -> Job:
        """Let the window of `stream` be decoded; `asked` if somebody waits for it.

        What is being decoded already and has all its sound is not decoded again.

        Raises:
            EngineError: If nothing is decoded any more.
        """
        with self._changed:
            if self.closed:
                raise EngineError(self.closed)
            if (job := stream.running) is not None and job.end >= stream.sound.until:
                return job
            if (job := stream.queued) is None:
                job = stream.queued = Job(stream, deadline, asked)
                self._waiting.append(job)
            job.deadline = min(job.deadline, deadline)
            job.asked = job.asked or asked
            self._changed.notify()
        return job

    def withdraw(self, job: Job) -> None:
        """Leave out work that has not begun."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                job.stream.queued = None

    def wait(self) -> bool:
        """Wait until there is work; return False when there will be none any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.closed)
            return not self.closed

    def waiting(self) -> list[Job]:
        """Return what waits."""
        with self._changed:
            return list(self._waiting)

    def take(self, choose: Callable[[list[Job]], list[Job]]) -> list[Job]:
        """Return what `choose` takes of what waits, of which there may be nothing left."""
        with self._changed:
            jobs = choose(self._waiting) if self._waiting else []
            for job in jobs:
                self._waiting.remove(job)
                job.stream.queued, job.stream.running = None, job
                job.end = job.stream.sound.samples
            return jobs

    def close(self, reason: str) -> None:
        """Decode nothing any more; what waits fails."""
        with self._changed:
            self.closed = self.closed or reason
            left, self._waiting = self._waiting, []
            self._changed.notify()
        for job in left:
            job.stream.queued = None
            job.stream.tell(job.fail, self.closed)


class WhisperStream:
    """One utterance, on the loop.

    Attributes:
        call: Which call it is of, "" for none.
        sound: Where there is sound in it.
        window: What the thread has of it.
        queued: The job that waits; it changes under the lock of the jobs.
        running: The job that is being decoded.
    """

    def __init__(self, jobs: Jobs, options: WhisperOptions, language: str, call: str) -> None:
        self.call = call
        self.sound = Loudness(options.quiet_db)
        self.window = GrowingWindow(options, self.sound, language)
        self.queued: Job | None = None
        self.running: Job | None = None
        self._jobs = jobs
        self._interval = (options.interval or LONGEST) * RATE
        self._loop = asyncio.get_running_loop()
        self._full = Hypothesis(confidence=0.0)
        self._latest = Latest(self._full)
        self._covered = 0  # samples of which `_full` tells
        self._finishing = False
        self._failure = ""

    def push(self, pcm: Pcm) -> None:
        """Add samples at 16 kHz, a copy of them."""
        if self._finishing or self._latest.over:
            return
        samples = np.array(pcm, np.float32)
        if not np.isfinite(samples).all():
            self._failure = "the sound has samples that are no numbers: expected -1 to 1"
            return
        self.window.pieces.append(samples)
        self.sound.add(samples)  # last: what it counts is there
        self._look()

    def hypotheses(self) -> AsyncIterator[Hypothesis]:
        """Yield a hypothesis whenever it changed; end after `finish` or `close`."""
        return self._latest.each()

    async def settle(self, deadline: float) -> Hypothesis:
        """Return the words so far as if they were all; it can go on after that.

        Raises:
            EngineError: If the model failed, or the stream was closed.
        """
        if self._failure:
            raise EngineError(self._failure)
        if self._latest.over:
            return self._full
        until = self.sound.until
        if until < SHORTEST * RATE:
            return Hypothesis(confidence=0.0, end=self.sound.samples)
        if self._covered >= until:  # only silence came after what was decoded
            return replace(self._full, end=self.sound.samples)
        job = self._jobs.ask(self, deadline, asked=True)
        waiter: asyncio.Future[Hypothesis] = self._loop.create_future()
        job.waiters.append(waiter)
        try:
            return await waiter
        finally:
            job.waiters.remove(waiter)
            if not job.waiters:
                self._jobs.withdraw(job)  # if it was not begun: nobody waits any more

    async def finish(self, deadline: float) -> Hypothesis:
        """Return the final words; the most urgent `deadline` of all calls is first.

        Raises:
            EngineError: If the model failed, or the stream was closed.
        """
        self._finishing = True
        try:
            final = await self.settle(deadline)
        except EngineError as error:
            self._failure = str(error)
            self._end()
            raise
        if not self._latest.over:
            self._full = final
            self._latest.tell(final)
            self._end()
        return self._full

    def close(self) -> None:
        """Drop what is not decoded yet; words that are on their way are dropped, too."""
        if self._latest.over:
            return
        self._failure = self._failure or CLOSED
        for job in (self.queued, self.running):
            if job is not None:
                self._jobs.withdraw(job)
                job.fail(self._failure)
        self._end()

    def tell(self, what: Callable[..., None], *about: object) -> None:
        """Call `what` on the loop; may be called in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody listens
            self._loop.call_soon_threadsafe(what, *about)

    def hear(self, job: Job, live: Hypothesis, full: Hypothesis) -> None:
        """Take what a decoding found: what is believed, and what would be final."""
        if self.running is job:
            self.running = None
        self._covered, self._full = job.end, full
        known = self._latest.hypothesis
        if (live.committed, live.tentative) != (known.committed, known.tentative):
            self._latest.tell(live)
        job.answer(full)
        self._look()

    def lose(self, job: Job, reason: str) -> None:
        """Take that a decoding failed; the next one may not."""
        if self.running is job:
            self.running = None
        job.fail(reason)

    def _end(self) -> None:
        self._latest.end(dropped=bool(self._failure))

    def _look(self) -> None:
        """Ask for partial words if there is enough new sound, and nothing is asked yet."""
        busy = self.queued or self.running or self._finishing or self._failure
        if not busy and self.sound.until - self._covered >= self._interval:
            with contextlib.suppress(EngineError):  # whoever asks for the words hears of it
                self._jobs.ask(self, monotonic() + PARTIAL_WITHIN, asked=False)


class GrowingWindow:
    """One utterance, on the thread.

    Attributes:
        pieces: Samples that came in; whoever pushes adds to them.
        language: BCP 47 tag or code, "" while the model does not know it.
    """

    def __init__(self, options: WhisperOptions, sound: Loudness, language: str) -> None:
        self.pieces: deque[Pcm] = deque()
        self.language = language
        self._options = options
        self._sound = sound
        self._pcm: Pcm = np.zeros(0, np.float32)
        self._first = 0  # of `_pcm`, in samples of the utterance
        self._end = 0  # of what was taken last, likewise
        self._more = False  # whether there was more than the model sees
        self._samples = 0  # of the utterance, at that time
        self._agreement = Agreement()

    @property
    def seconds(self) -> float:
        """How long it is, about: samples are being added."""
        return min(FULL, max(0, self._sound.until - self._first) / RATE)

    def take(self, decoder: Decoder) -> Window:
        """Return what is to be decoded: up to the last sound, at most what the model sees."""
        until, self._samples = self._sound.until, self._sound.samples  # before the pieces
        pieces = [self._pcm]
        while self.pieces:
            pieces.append(self.pieces.popleft())
        self._pcm = np.concatenate(pieces)
        wanted = max(0, until - self._first) + int(TAIL * RATE)
        length = min(len(self._pcm), wanted, int((FULL - self._options.padding) * RATE))
        self._end = self._first + length
        self._more = self._end < min(until, self._first + len(self._pcm))
        given = [token for piece in self._agreement.given for token in piece.tokens]
        align = self._options.align or length > self._options.cut * RATE
        self.language = decoder.known_language(self.language)
        return Window(self._pcm[:length], given, self.language, align)

    def hear(self, heard: Heard) -> tuple[Hypothesis, Hypothesis] | None:
        """Take what the model heard; return what is believed, and what would be final.

        None if there was more than the model sees: it was cut, and is to be taken again.
        """
        agreement, end = self._agreement, self._end / RATE
        agreement.update(heard, end, self._options)
        if end - agreement.offset > self._options.cut:
            first = round(agreement.cut(end) * RATE)
            self._pcm, self._first = self._pcm[first - self._first :].copy(), first
        if self._more:
            return None
        confidence, samples = heard.confidence, self._samples
        return agreement.live(confidence, samples), agreement.full(confidence, samples)
