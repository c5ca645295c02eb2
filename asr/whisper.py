"""Whisper for many calls at once: words while they are spoken, finals within one decoding.

One thread has the model. Whatever waits when it is free is decoded together, the
most urgent first, and nothing is waited for (`asr.batching`). An utterance is a
growing window of sound that the model is asked about again and again
(`asr.whisper_stream`); which words stand is decided by `asr.agreement`. A final costs
one decoding of what the window holds, or none if only silence came after the last one.
"""

import asyncio
import contextlib
import logging
import sys
import threading
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from time import monotonic

import numpy as np

from asr.agreement import Heard
from asr.batching import Pace, choose
from asr.engine import RATE, EngineError, Listening, Pcm, Turns
from asr.whisper_decoder import Decoder, Window
from asr.whisper_options import ADJUSTABLE, WhisperOptions
from asr.whisper_stream import Job, Jobs, WhisperStream

log = logging.getLogger(__name__)

CALLS = 1000
"""Calls whose language is remembered; the longest unheard is forgotten."""

SURE = 0.5
"""Probability from which a language that was found out is kept for the call."""

STOPPED = "the recogniser was stopped, or never started"


class Whisper:
    """Whisper on this machine.

    Attributes:
        name: "whisper:" and what the user chose.
        about: What these ears can do, and once it is loaded, where they run.
        failed: Why it gave up, "" while it works; it must be made anew then.
        adjustable: Names of the settings that `adjust` changes, known once it is loaded.
    """

    def __init__(
        self,
        model: str,
        options: WhisperOptions | None = None,
        turns: Turns | None = None,
    ) -> None:
        """Choose a model.

        Args:
            model: A directory, a name such as "small", or the id of a model on the hub.
            options: How it listens.
            turns: When it may use a device that others use, too; None for a device of its own.
        """
        self.name = f"whisper:{model}"
        self.about = f"Whisper ({model}), which understands free speech while it is spoken"
        self.failed = ""
        self.adjustable: tuple[str, ...] = ()
        self._source = model
        self._options = options or WhisperOptions()
        self._turns = turns
        self._jobs = Jobs()
        self._jobs.closed = STOPPED
        self._thread: threading.Thread | None = None
        self._pace = Pace()
        self._limit = sys.maxsize
        self._failures = 0
        self._languages: dict[str, str] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._given_up = asyncio.Event()

    async def start(self) -> None:
        """Load the model and decode some noise.

        Raises:
            EngineError: If it cannot; the message names the remedy.
        """
        self._jobs = Jobs()
        self._loop = asyncio.get_running_loop()
        loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(loaded,), daemon=True)
        self._thread.name = "whisper"
        self._thread.start()
        await asyncio.wrap_future(loaded)

    def open(self, listening: Listening) -> WhisperStream:
        """Begin one utterance; never blocks."""
        language = self._options.language or listening.language
        if language in ("", "auto"):
            language = self._languages.get(listening.call, "")
        return WhisperStream(self._jobs, self._options, language, listening.call)

    def adjust(self, name: str, value: float) -> None:
        """Change one of `adjustable`, from the next utterance on; never blocks.

        Raises:
            ValueError: If that cannot be changed, or not to this.
        """
        if name not in self.adjustable:
            known = ", ".join(self.adjustable) or "nothing"
            raise ValueError(f"{self.name} cannot change {name} while it runs, but {known}")
        self._options = self._options.adjusted(name, value)

    async def stop(self) -> None:
        """Free the model, after the batch that is being decoded."""
        self._jobs.close(STOPPED)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    async def wait_failed(self) -> str:
        """Wait until it gives up; return why.

        It must be made anew then, in another process if it was the GPU that failed.
        """
        await self._given_up.wait()
        return self.failed

    def _work(self, loaded: "Future[None]") -> None:
        """Load, then decode until it is over; the thread."""
        jobs = self._jobs
        loaded.set_running_or_notify_cancel()
        try:
            decoder = self._load()
        except Exception as error:  # ImportError among others
            jobs.close(f"Whisper did not start: {error}")
            loaded.set_exception(
                error if isinstance(error, EngineError) else EngineError(jobs.closed)
            )
            return
        loaded.set_result(None)
        while jobs.wait():
            with self._turn():
                batch = jobs.take(
                    lambda waiting: choose(
                        waiting,
                        min(self._limit, self._options.batch),
                        decoder.model.together,
                        self._pace,
                        self._options.longest_partial,
                    )
                )
                if batch:
                    self._decode(decoder, batch)

    def _load(self) -> Decoder:
        """Load the model and decode noise in every size that is new to the device.

        Raises:
            EngineError: If it cannot.
        """
        from asr.whisper_model import load

        decoder = Decoder(load(self._source, self._options), self._options)
        try:
            for count, seconds in decoder.model.sizes:
                decoder.decode([Window(_noise(seconds), align=count == 1)] * count)
        except Exception as error:  # the libraries raise what they like
            raise EngineError(
                f"Whisper cannot decode with {self._source} ({decoder.model.about}): {error}"
            ) from error
        self.about = f"{self.about} ({decoder.model.about})"
        self.adjustable = tuple(name for name in ADJUSTABLE if name not in decoder.model.fixed)
        return decoder

    def _turn(self) -> AbstractContextManager[None]:
        """Return what holds the device for the most urgent of what waits."""
        if self._turns is None:
            return nullcontext()
        waiting = self._jobs.waiting()
        kind = "asr final" if any(job.asked for job in waiting) else "asr partial"
        longest = max((job.seconds for job in waiting), default=0.0)
        return self._turns.turn(kind, self._due, self._pace.estimate(1, longest))

    def _due(self) -> float:
        """Return when the most urgent of what waits is due."""
        return min((job.deadline for job in self._jobs.waiting()), default=monotonic() + 1)

    def _decode(self, decoder: Decoder, batch: list[Job]) -> None:
        """Decode a batch and tell its streams."""
        began = monotonic()
        decoder.options = self._options
        try:
            windows = [job.stream.window.take(decoder) for job in batch]
            heard = decoder.decode(windows)
            self._pace.learn(len(batch), decoder.seconds(windows), monotonic() - began)
            for job, one in zip(batch, heard, strict=True):
                self._remember(job.stream, one)
                window = job.stream.window
                while (answer := window.hear(one)) is None:  # longer than the model sees
                    [one] = decoder.decode([window.take(decoder)])
                job.stream.tell(job.stream.hear, job, *answer)
        except Exception as error:  # RuntimeError, ValueError, MemoryError: it differs
            self._fail(batch, error)
        else:
            self._failures = 0

    def _fail(self, batch: list[Job], error: Exception) -> None:
        """Tell the streams of a batch that it failed; give up after too many in a row."""
        reason = f"Whisper failed: {error}"
        log.error("%s (%d utterances)", reason, len(batch))
        if "out of memory" in str(error).lower() and len(batch) > 1:
            self._limit = len(batch) // 2
            log.error("from now on at most %d utterances are decoded together", self._limit)
        self._failures += 1
        for job in batch:
            job.stream.tell(job.stream.lose, job, reason)
        if self._failures >= self._options.failures:
            self.failed = f"{reason}, {self._failures} times in a row: it must be started anew"
            log.error("%s", self.failed)
            self._jobs.close(self.failed)
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
                    self._loop.call_soon_threadsafe(self._given_up.set)

    def _remember(self, stream: WhisperStream, heard: Heard) -> None:
        """Keep the language that was found out, for the rest of the call."""
        if stream.window.language or heard.language_probability < SURE:
            return
        stream.window.language = heard.language
        if stream.call:
            self._languages.pop(stream.call, None)
            self._languages[stream.call] = heard.language
            if len(self._languages) > CALLS:
                del self._languages[next(iter(self._languages))]


def _noise(seconds: float) -> Pcm:
    """Return faint noise, to warm up on."""
    return np.random.default_rng(0).normal(0, 0.01, int(seconds * RATE)).astype(np.float32)
