"""espeak-ng: a voice that needs nothing but pip.

One thread makes all calls to the library, one phrase at a time, the most urgent
first: a sentence takes 3 to 8 ms of CPU, so no caller waits long. The library names
the sample at which every word begins, which is what lets a reply stop at a word
and resume there.
"""

import asyncio
import queue
import threading
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate, count, pairwise

import numpy as np

from tts import speak_lib
from tts.engine import Chunk, EngineError, Pcm, Word
from tts.speak_lib import RATE, VOICES

SENTENCE_PAUSE = 0.14
"""Silence between a sentence and the next phrase, in seconds; espeak-ng's own is 0.25 s."""

CLAUSE_PAUSE = 0.07
"""Silence after a phrase that ends at a comma or nowhere in particular, in seconds."""

SILENCE = 0.003
"""Amplitude below which the beginning of a phrase counts as silence and is cut."""


class Espeak:
    """Speak with espeak-ng."""

    name = "espeak"
    about = "A formant synthesiser: clear, instant and tireless, and it sounds like a robot."
    rate = RATE
    voices = VOICES

    def __init__(self, speed: int = 165) -> None:
        """Choose the speed, in words per minute, 80 to 450."""
        if not 80 <= speed <= 450:
            raise ValueError(f"speed is {speed} words per minute, expected 80 to 450")
        self._speed = speed
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._numbers = count(1)
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Load the library and speak a word; raises `EngineError` if it cannot."""
        if self._thread is not None:
            return
        await asyncio.to_thread(speak_lib.load)
        self._thread = threading.Thread(target=self._work, name="espeak", daemon=True)
        self._thread.start()
        async for _ in self.speak(_once("ready"), "", 0.0):
            pass

    async def stop(self) -> None:
        """End the thread; what is being spoken ends with an `EngineError`."""
        thread, self._thread = self._thread, None
        if thread:
            self._jobs.put(_Job(float("-inf"), 0))
            await asyncio.to_thread(thread.join)

    async def speak(
        self, phrases: AsyncIterator[str], voice: str, deadline: float
    ) -> AsyncGenerator[Chunk, None]:
        """Yield one chunk a word (or a few words it runs together); see `tts.engine.Engine`."""
        if voice and voice not in VOICES:
            raise EngineError(f"no voice {voice!r} in espeak; it has {', '.join(VOICES)}")
        loop = asyncio.get_running_loop()
        said, pause = 0, 0.0
        async for phrase in phrases:
            words = phrase.split()
            if not words:
                continue
            if self._thread is None:
                raise EngineError("espeak is not running; await start() first")
            chunks: asyncio.Queue[Chunk | EngineError | None] = asyncio.Queue()

            def send(
                chunk: Chunk | EngineError | None,
                put: Callable[[Chunk | EngineError | None], None] = chunks.put_nowait,
            ) -> None:
                with suppress(RuntimeError):  # the loop has closed: nobody listens
                    loop.call_soon_threadsafe(put, chunk)

            base = said
            # A later phrase is wanted when what was said so far has been heard.
            due = deadline + said / RATE
            job = _Job(due, next(self._numbers), words, voice or VOICES[0], pause, send)
            self._jobs.put(job)
            try:
                while (chunk := await chunks.get()) is not None:
                    if isinstance(chunk, EngineError):
                        raise chunk
                    for word in chunk.words:
                        word.start += base
                        word.end += base
                    said += chunk.pcm.size
                    yield chunk
            finally:
                job.dropped = True
            pause = SENTENCE_PAUSE if words[-1].rstrip("\"'”’)")[-1:] in ".!?…" else CLAUSE_PAUSE

    def _work(self) -> None:
        """Speak one phrase after the other; the thread's main function."""
        while (job := self._jobs.get()).words:
            if not job.dropped:
                self._speak(job)
        with suppress(queue.Empty):
            while True:
                self._jobs.get_nowait().send(EngineError("espeak was stopped"))

    def _speak(self, job: "_Job") -> None:
        """Synthesise one phrase and send its chunks, unless it is dropped meanwhile."""
        slicer = Slicer(job.words, job.pause)

        def receive(pcm: Pcm, begins: Sequence[tuple[int, int]]) -> bool:
            if job.dropped or self._thread is None:
                return False
            for chunk in slicer.add(pcm, begins):
                job.send(chunk)
            return True

        try:
            speak_lib.synthesise(" ".join(job.words), job.voice, self._speed, receive)
            job.send(slicer.end() if self._thread else EngineError("espeak was stopped"))
            job.send(None)
        except EngineError as error:
            job.send(error)
        except Exception as error:  # or else every call would wait for this thread for ever
            job.send(EngineError(f"espeak failed: {error!r}"))


@dataclass(slots=True, order=True)
class _Job:
    """One phrase to speak; without words, the end of all work."""

    due: float
    number: int
    words: Sequence[str] = field(default=(), compare=False)
    voice: str = field(default="", compare=False)
    pause: float = field(default=0.0, compare=False)
    send: Callable[[Chunk | EngineError | None], None] = field(
        default=lambda _: None, compare=False
    )
    dropped: bool = field(default=False, compare=False)


class Slicer:
    """Cut the audio of one phrase where its words begin, as both come in.

    A word that espeak-ng reports no beginning of was run together with the one
    before it ("of the") and shares its time by letters; a lone mark takes none.
    """

    def __init__(self, words: Sequence[str], pause: float = 0.0) -> None:
        """Expect the audio of `words`, to be preceded by a `pause` in seconds."""
        self._words = words
        self._places = list(accumulate((len(word) + 1 for word in words), initial=0))[:-1]
        self._pcm: Pcm = np.zeros(round(pause * RATE), np.float32)
        self._pause = self._pcm.size  # leading silence of the next chunk
        self._at = 0  # first sample of self._pcm, in the phrase with its pause
        self._next = 0  # first word that was not given out yet
        self._begun = -1  # last word whose beginning is known
        self._shift = self._pcm.size  # from espeak's samples to ours
        self._silent = True

    def add(self, pcm: Pcm, begins: Sequence[tuple[int, int]]) -> list[Chunk]:
        """Add samples, and of the words that begin in them (position in the text, sample)."""
        if self._silent:
            loud = np.flatnonzero(np.abs(pcm) > SILENCE)
            trim = int(loud[0]) if loud.size else pcm.size
            self._silent = not loud.size
            self._shift -= trim
            pcm = pcm[trim:]
        self._pcm = np.concatenate((self._pcm, pcm))
        chunks = []
        for place, sample in begins:
            word = bisect_right(self._places, place) - 1
            if word > self._begun:
                if self._begun >= 0:
                    earliest, latest = self._at + self._pause, self._at + self._pcm.size
                    chunks.append(
                        self._take(word, min(max(earliest, sample + self._shift), latest))
                    )
                self._begun = word
        return chunks

    def end(self) -> Chunk:
        """Return the audio of the words that are left."""
        if self._silent:  # nothing of it can be spoken
            self._pcm = np.zeros(self._pause + round(CLAUSE_PAUSE * RATE), np.float32)
        return self._take(len(self._words), self._at + self._pcm.size)

    def _take(self, word: int, sample: int) -> Chunk:
        """Give out the words before `word`, whose audio ends at `sample`."""
        texts = self._words[self._next : word]
        weights = [sum(map(str.isalnum, text)) for text in texts]
        if not any(weights):
            weights = [1] * len(texts)
        first = self._at + self._pause
        shares = np.cumsum([0, *weights]) / sum(weights)
        edges = [first + round(share * (sample - first)) for share in shares.tolist()]
        words = (Word(text, *edge) for text, edge in zip(texts, pairwise(edges), strict=True))
        size = sample - self._at
        chunk = Chunk(self._pcm[:size], tuple(words))
        self._pcm = self._pcm[size:]
        self._at, self._next, self._pause = sample, word, 0
        return chunk


async def _once(phrase: str) -> AsyncIterator[str]:
    yield phrase
