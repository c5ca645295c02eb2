"""faster-whisper: whole utterances, decoded when they are over.

Whisper hears an utterance as one picture, so nothing is known before `finish`,
and what that costs depends on the model and the machine. One thread decodes
for all calls, the most urgent deadline first.
"""

import asyncio
import itertools
import math
import os
import queue
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asr.engine import RATE, EngineError, Hypothesis, Listening, Pcm, Word

SHORTEST = 0.1
"""Seconds under which an utterance is nothing to recognise."""

QUIET = 1e-3
"""RMS below which an utterance is silence (-60 dBFS); Whisper would invent words for it."""


@dataclass(order=True, slots=True)
class _Job:
    """An utterance that waits to be decoded."""

    deadline: float
    number: int
    pcm: Pcm = field(compare=False)
    language: str = field(compare=False)
    answer: Future[Hypothesis] = field(compare=False, default_factory=Future)


class Whisper:
    """faster-whisper on this machine.

    Args:
        model: A directory in CTranslate2 format, or the name of a model on the hub.
        device: "cpu", "cuda" or "auto".
        compute_type: CTranslate2's, for example "int8" or "float16".
        threads: CPU threads of one decoding.
    """

    def __init__(
        self, model: str, device: str = "auto", compute_type: str = "default", threads: int = 4
    ) -> None:
        self.name = f"whisper:{model}"
        self.about = f"Whisper ({model}), which understands free speech once it is over"
        self._source = model
        self._options = {"device": device, "compute_type": compute_type, "cpu_threads": threads}
        self._model: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="whisper")
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._numbers = itertools.count()

    async def start(self) -> None:
        """Load the model and decode a second of noise.

        Raises:
            EngineError: If it cannot; the message names the remedy.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._load)

    def open(self, listening: Listening) -> "WhisperStream":
        """Begin one utterance; never blocks."""
        return WhisperStream(self, listening.language.split("-")[0].lower())

    async def stop(self) -> None:
        """Free the model, after the utterance that is being decoded."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        while not self._jobs.empty():
            self._jobs.get_nowait().answer.cancel()
        self._model = None

    def submit(self, pcm: Pcm, language: str, deadline: float) -> Future[Hypothesis]:
        """Let an utterance be decoded on the thread, when no more urgent one waits."""
        job = _Job(deadline, next(self._numbers), pcm, language)
        self._jobs.put(job)
        self._thread.submit(self._decode)
        return job.answer

    def _load(self) -> None:
        """Load and warm up, on the thread."""
        from faster_whisper import WhisperModel

        folder = Path(self._source).expanduser()
        local = folder.exists() or os.sep in self._source
        if local and not (folder / "model.bin").is_file():
            raise EngineError(
                f"no Whisper model in {folder}: expected a directory in CTranslate2 format "
                "(model.bin, config.json, tokenizer.json), or a model's name such as small"
            )
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
        try:
            self._model = WhisperModel(
                str(folder) if local else self._source,
                local_files_only=offline or local,
                **self._options,
            )
            self._transcribe(_noise(), "en")
        except Exception as error:  # the hub, the file and the device raise what they like
            raise EngineError(
                f"Whisper cannot load {self._source}: {error}. If a download was cut off, delete "
                "the directory and fetch it again; without a hub, give a directory, not a name"
            ) from error

    def _decode(self) -> None:
        """Decode the most urgent utterance, on the thread."""
        job = self._jobs.get()
        if not job.answer.set_running_or_notify_cancel():
            return  # closed while it waited
        try:
            job.answer.set_result(self._transcribe(job.pcm, job.language))
        except Exception as error:  # CTranslate2 raises RuntimeError, ValueError and others
            job.answer.set_exception(EngineError(f"Whisper failed: {error}"))

    def _transcribe(self, pcm: Pcm, language: str) -> Hypothesis:
        """Return the words of an utterance."""
        if len(pcm) < SHORTEST * RATE or float(np.sqrt(np.mean(np.square(pcm)))) < QUIET:
            return Hypothesis(confidence=0.0, end=len(pcm))
        segments, _ = self._model.transcribe(
            pcm,
            language=language if self._model.is_multilingual else "en",
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            initial_prompt=None,
            word_timestamps=True,
        )
        words: list[Word] = []
        doubt = 0.0
        length = 0
        for segment in segments:
            words += [
                Word(word.word.strip(), word.start, word.end, word.probability)
                for word in segment.words or ()
            ]
            doubt += len(segment.tokens) * segment.avg_logprob
            doubt += len(segment.tokens) * math.log(max(1 - segment.no_speech_prob, 1e-6))
            length += len(segment.tokens)
        confidence = math.exp(doubt / length) if words else 0.0
        return Hypothesis(tuple(words), "", confidence, len(pcm))


class WhisperStream:
    """One utterance, kept until it is over."""

    def __init__(self, engine: Whisper, language: str) -> None:
        self._engine = engine
        self._language = language
        self._pieces: list[Pcm] = []
        self._over = asyncio.Event()
        self._answer: Future[Hypothesis] | None = None
        self._closed = False

    def push(self, pcm: Pcm) -> None:
        """Keep a copy of the samples."""
        self._pieces.append(pcm.astype(np.float32, copy=True))

    async def hypotheses(self) -> AsyncIterator[Hypothesis]:
        """Yield the final hypothesis, the only one; end after `finish` or `close`."""
        await self._over.wait()
        answer = self._answer
        if answer and answer.done() and not answer.cancelled() and answer.exception() is None:
            yield answer.result()

    async def settle(self, deadline: float) -> Hypothesis:
        """Decode what there is so far, and keep it.

        Raises:
            EngineError: If the model failed, or the stream was closed.
        """
        if self._closed:
            raise EngineError("the utterance was closed before its end")
        self._pieces = [np.concatenate([*self._pieces, np.zeros(0, np.float32)])]
        answer = self._engine.submit(self._pieces[0], self._language, deadline)
        try:
            return await asyncio.wrap_future(answer)
        finally:
            answer.cancel()  # of no use to anybody if the waiting was cut off

    async def finish(self, deadline: float) -> Hypothesis:
        """Decode and return the words; the most urgent `deadline` of all calls is first.

        Raises:
            EngineError: If the model failed, or the stream was closed.
        """
        if self._closed:
            raise EngineError("the utterance was closed before its end")
        if self._answer is None:
            pcm = np.concatenate([*self._pieces, np.zeros(0, np.float32)])
            self._pieces = []
            self._answer = self._engine.submit(pcm, self._language, deadline)
        try:
            return await asyncio.shield(asyncio.wrap_future(self._answer))
        except asyncio.CancelledError:
            if self._answer.cancelled():
                raise EngineError("the utterance was closed before its end") from None
            raise
        finally:
            self._over.set()

    def close(self) -> None:
        """Forget the utterance; if it is being decoded, its words are dropped."""
        self._closed = True
        self._pieces = []
        if self._answer is not None:
            self._answer.cancel()
        self._over.set()


def _noise() -> Pcm:
    """Return a second of faint noise, to warm up on."""
    return np.random.default_rng(0).normal(0, 0.01, RATE).astype(np.float32)
