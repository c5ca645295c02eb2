"""A mouth in an engine process; see `voice.engine_remote`."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from tts.engine import Chunk, EngineError
from voice.engine_process import EngineProcess
from voice.engine_remote import Flow, Remote
from voice.engine_wire import CHUNKS_AHEAD, Kind, chunk


class RemoteMouth(Remote):
    """A synthesiser in an engine process; see `tts.engine.Engine`."""

    def __init__(self, process: EngineProcess, name: str) -> None:
        super().__init__(process, name, "mouth")
        self.rate = 0  # until it is loaded
        self.voices: tuple[str, ...] = ()

    async def start(self) -> None:
        """Start the process and wait until it has loaded.

        Raises:
            EngineError: If it cannot; the message names the remedy.
        """
        said = await self._start(EngineError)
        self.rate, self.voices = said["rate"], tuple(said["voices"])

    async def speak(
        self, phrases: AsyncIterator[str], voice: str, deadline: float
    ) -> AsyncGenerator[Chunk, None]:
        """Yield audio for phrases as they arrive; see `tts.engine.Engine`.

        At most `CHUNKS_AHEAD` chunks are made ahead of those that were taken.
        """
        flow = Flow(self._process, EngineError, CHUNKS_AHEAD)
        flow.begin(Kind.SPEAK, [voice, deadline])
        feeding = asyncio.create_task(_feed(flow, phrases))
        try:
            async with aclosing(flow.results()) as results:
                async for words, raw in results:
                    yield chunk(words, raw)
            if feeding.done():
                feeding.result()  # what broke the phrases is raised after what they had said
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)


async def _feed(flow: Flow, phrases: AsyncIterator[str]) -> None:
    """Send each phrase once the mouth waits for it, the first unasked."""
    try:
        async for phrase in phrases:
            flow.send(Kind.PHRASE, phrase)
            await flow.wanted()
    finally:
        flow.send(Kind.PHRASE, None)
