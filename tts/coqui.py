"""Coqui's neural voices: VITS and XTTS, one model for all calls.

Audio is given out while its sentence is still being made, so the first chunk comes early,
and a call that hangs up costs no more than the step that is running.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress

from tts import coqui_load, licences
from tts.chunking import Piece, pieces
from tts.coqui_options import CoquiOptions
from tts.coqui_worker import Job, Model, Worker
from tts.engine import Chunk, EngineError, Turns
from tts.loudness import LeadingSilence, Leveller
from tts.torch_device import Device
from tts.voice_output import Output

SENTENCE_PAUSE = 0.1
"""Silence between a sentence and what follows, in seconds, on top of the model's own."""

_SHOWN = 20  # voices named in an error


class Coqui:
    """Speak with a Coqui model from a folder.

    Attributes:
        licence: Of the model, as far as its folder tells.
    """

    name = "coqui"

    def __init__(
        self, model: str, options: CoquiOptions | None = None, turns: Turns | None = None
    ) -> None:
        """Choose a model's folder, which `start` will load; `turns` shares the device.

        Raises:
            EngineError: If the folder is no model's.
        """
        self._folder = coqui_load.look(model)
        self._options = options or CoquiOptions()
        self._turns = turns
        self.rate = self._folder.rate
        self.licence = licences.licence(self._folder.path)
        self.about = (
            f"A neural voice ({self._folder.kind.upper()}, {self.rate / 1000:g} kHz), as good as"
            f" what {self._folder.path.name} was trained on; licence: {self.licence}."
        )
        self._model: Model | None = None
        self._worker: Worker | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._gains: dict[str, float] = {}  # of each voice, as last used

    @property
    def voices(self) -> tuple[str, ...]:
        """The model's speakers, the first is the default; known once it has started."""
        return self._model.voices if self._model else ()

    @property
    def adjustable(self) -> tuple[str, ...]:
        """Names of the settings that `adjust` changes; known once it has started."""
        return self._model.adjustable if self._model else ()

    def adjust(self, name: str, value: float) -> None:
        """Change one of `adjustable`, from the next phrase on; never blocks.

        Raises:
            ValueError: If that cannot be changed, or not to this.
        """
        model = self._model
        if model is None or name not in model.adjustable:
            known = ", ".join(self.adjustable) or "nothing"
            raise ValueError(f"{self.name} cannot change {name} while it runs, but {known}")
        self._options = self._options.adjusted(name, value)
        model.adjust(self._options)

    async def start(self) -> None:
        """Load the model and speak a sentence; raises `EngineError` if it cannot."""
        if self._thread is not None:
            return
        self._stopping = False
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def tell(error: Exception | None) -> None:
            def done() -> None:
                if ready.done():
                    return
                if error is not None:
                    ready.set_exception(error)
                else:
                    ready.set_result(None)

            with suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(done)

        def work() -> None:
            options = self._options
            try:
                device = Device(options.device, half=options.half, threads=options.threads)
                with device.enter():
                    self._model = model = coqui_load.load(self._folder, device, options)
                    self._worker = worker = Worker(model, device, options.seed, self._turns)
                    if self._stopping:
                        worker.stop()
                    tell(None)
                    worker.run()
            except Exception as error:
                tell(error)

        self._thread = threading.Thread(target=work, name="coqui", daemon=True)
        self._thread.start()
        try:
            await ready
            async with aclosing(self.speak(_once("This voice is ready."), "", 0.0)) as chunks:
                async for _ in chunks:
                    pass
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the thread and free the model; what is being spoken ends with an `EngineError`."""
        thread, self._thread = self._thread, None
        self._stopping = True  # before the worker is looked for, which the thread makes
        if self._worker is not None:
            self._worker.stop()
        if thread is not None:
            await asyncio.to_thread(thread.join)
        self._worker = self._model = None

    async def speak(
        self, phrases: AsyncIterator[str], voice: str, deadline: float
    ) -> AsyncGenerator[Chunk, None]:
        """Yield chunks of growing length; see `tts.engine.Engine`.

        A phrase without a letter or digit yields nothing.
        """
        model = self._model
        if model is None:
            raise EngineError("coqui is not running; await start() first")
        voice = voice or model.voices[0]
        if voice not in model.voices:
            more = len(model.voices) - _SHOWN
            raise EngineError(
                f"no voice {voice!r} in {self._folder.path.name}; it has"
                f" {', '.join(model.voices[:_SHOWN])}{f' and {more} more' if more > 0 else ''}"
            )
        leveller = None
        if self._options.normalise:
            leveller = Leveller(self.rate, self._options.loudness, self._gains.get(voice))
        said, pause = 0, 0
        async for phrase in phrases:
            for piece in pieces(phrase, model.longest):
                trim = LeadingSilence(self.rate) if self._options.trim else None
                output = Output(said, pause, trim, leveller)
                async with aclosing(self._say(piece, voice, deadline, said, output)) as chunks:
                    async for chunk in chunks:
                        said += chunk.pcm.size
                        yield chunk
                if leveller is not None and leveller.gain_db is not None:
                    self._gains[voice] = leveller.gain_db
                if output.given:
                    ends = piece.text.rstrip("\"'”’)")[-1:] in ".!?…"
                    pause = round(SENTENCE_PAUSE * self.rate) if ends else 0

    async def _say(
        self, piece: Piece, voice: str, deadline: float, said: int, output: Output
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the chunks of one piece of text, `said` samples into the whole."""
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[Chunk | EngineError | None] = asyncio.Queue()

        def send(chunk: Chunk | EngineError | None) -> None:
            with suppress(RuntimeError):  # the loop has closed: nobody listens
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)

        if self._worker is None:
            raise EngineError("coqui is not running; await start() first")
        job = Job(piece, voice, deadline, said, output, send)
        self._worker.add(job)
        try:
            while (chunk := await chunks.get()) is not None:
                if isinstance(chunk, EngineError):
                    raise chunk
                yield chunk
        finally:
            job.dropped = True


async def _once(phrase: str) -> AsyncIterator[str]:
    yield phrase
