"""A mind in an engine process; see `voice.engine_remote`."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from llm.engine import EngineError, Item, Json, Params, Text, ToolCall, ToolSpec, Usage
from voice.engine_process import EngineProcess
from voice.engine_remote import Flow, Remote
from voice.engine_wire import PIECES_AHEAD, Kind, tagged, untagged


class RemoteMind(Remote):
    """A language model in an engine process; see `llm.engine.Engine`."""

    def __init__(self, process: EngineProcess, name: str) -> None:
        super().__init__(process, name, "mind")

    async def start(self) -> None:
        """Start the process and wait until it has loaded.

        Raises:
            EngineError: If it cannot; the message names the remedy.
        """
        await self._start(EngineError)

    def open(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> "RemoteThread":
        """Begin one answer; never blocks."""
        return RemoteThread(self._process, items, tools)


class RemoteThread:
    """One answer in the making, in an engine process; see `llm.engine.Thread`."""

    def __init__(
        self, process: EngineProcess, items: Sequence[Item], tools: Sequence[ToolSpec]
    ) -> None:
        self._process = process
        self._failure = ""
        self._closed = False
        opened = [[tagged(item) for item in items], list(tools)]
        self._number = process.begin(self, Kind.OPEN, opened)

    def append(self, words: str) -> None:
        """Add words to the user's last message."""
        self._process.send(Kind.APPEND, self._number, words)

    async def generate(
        self, params: Params, deadline: float
    ) -> AsyncGenerator[Text | ToolCall | Usage, None]:
        """Yield the answer; closing the generator stops the model; see `llm.engine.Thread`.

        At most `PIECES_AHEAD` pieces are written ahead of those that were taken.
        """
        if self._failure:
            raise EngineError(self._failure)
        if self._closed:
            return
        flow = Flow(self._process, EngineError, PIECES_AHEAD)
        flow.begin(Kind.GENERATE, [self._number, params, deadline])
        async with aclosing(flow.results()) as results:
            async for piece, _ in results:
                yield untagged(piece)

    def close(self) -> None:
        """Stop the work, also inside the model. Safe at any time, also twice."""
        self._closed = True
        self._process.close(self._number)

    # What the process calls.

    def item(self, value: Json, raw: bytearray) -> None:
        """Answers come by their generations."""

    def want(self) -> None:
        """Answers want nothing."""

    def done(self, value: Json) -> None:
        """Answers are never done of their own accord."""

    def fail(self, reason: str) -> None:
        """Fail generations that begin from now on; each under way is told by itself."""
        self._failure = reason
