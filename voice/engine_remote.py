"""What engines in an engine process have in common, on the media process's side.

A call, an utterance or a speech cannot tell them from engines in this process, but that what
it asks arrives some tenths of a millisecond later, and that the engine may die alone: then
whatever is under way raises its room's `EngineError`, and what comes later works again.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from llm.engine import Json
from voice.engine_process import EngineProcess, Room, StartError
from voice.engine_wire import Kind


class Remote:
    """An engine's process and what the engine says of itself."""

    def __init__(self, process: EngineProcess, name: str, room: Room) -> None:
        self.name = name
        self.about = f"{name}, which is not loaded."
        self.process = self._process = process
        self._room = room

    @property
    def alive(self) -> bool:
        """Whether its process runs and has loaded."""
        return self._process.pid != 0

    @property
    def adjustable(self) -> tuple[str, ...]:
        """Names of the settings that `adjust` changes; known once it is loaded."""
        return self._process.adjustable(self._room)

    def adjust(self, name: str, value: float) -> None:
        """Change one of `adjustable`, from the next utterance, answer or phrase on; never blocks.

        It stays changed when the process dies and is started again.

        Raises:
            ValueError: If that cannot be changed, or not to this.
        """
        self._process.adjust(self._room, name, value)

    async def _start(self, error: Callable[[str], Exception]) -> Mapping[str, Json]:
        """Start the process; return what the engine says of itself."""
        try:
            await self._process.start(self)
        except (StartError, OSError) as failure:
            raise error(str(failure)) from failure
        said = self._process.known[self._room]
        self.about = said["about"]
        return said

    async def stop(self) -> None:
        """Free everything; the process ends when nobody else uses it."""
        await self._process.stop(self)


class Flow:
    """Results that come one after the other, and how many may come."""

    def __init__(
        self, process: EngineProcess, error: Callable[[str], Exception], ahead: int
    ) -> None:
        self._process = process
        self._error = error
        self._batch = ahead // 2
        self.number = 0
        self._results: deque[tuple[Json, bytearray]] = deque()
        self._failure: str | None = None
        self._ended = False
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()

    def begin(self, kind: Kind, value: Any) -> None:
        """Begin the work."""
        self.number = self._process.begin(self, kind, value)

    def send(self, kind: Kind, value: Json) -> None:
        """Send it something more."""
        self._process.send(kind, self.number, value)

    async def wanted(self) -> None:
        """Wait until the engine asks for more."""
        await self._wanted.wait()
        self._wanted.clear()

    async def results(self) -> AsyncGenerator[tuple[Json, bytearray], None]:
        """Yield what comes; closed before the end, it stops the work.

        Raises:
            Exception: The room's EngineError, if the work failed.
        """
        taken = 0
        try:
            while True:
                while not self._results:
                    if self._failure is not None:
                        raise self._error(self._failure)
                    if self._ended:
                        return
                    self._changed.clear()
                    await self._changed.wait()
                taken += 1
                if taken == self._batch:
                    self.send(Kind.MORE, taken)
                    taken = 0
                yield self._results.popleft()
        finally:
            self._process.close(self.number)

    # What the process calls.

    def item(self, value: Json, raw: bytearray) -> None:
        """Take the next result."""
        self._results.append((value, raw))
        self._changed.set()

    def want(self) -> None:
        """The engine asks for more."""
        self._wanted.set()

    def done(self, value: Json) -> None:
        """There are no more results."""
        self._ended = True
        self._changed.set()

    def fail(self, reason: str) -> None:
        """There will be no more results, for this reason."""
        self._failure = reason
        self._changed.set()
