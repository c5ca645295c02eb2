"""A mind in an engine process; see `voice.engine_remote`."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from time import monotonic

from llm.engine import EngineError, Item, Json, Params, Text, ToolCall, ToolSpec, Usage
from voice.engine_process import EngineProcess
from voice.engine_remote import Flow, Remote
from voice.engine_wire import PIECES_AHEAD, Kind, tagged, untagged

FIRST = 0.03
"""Seconds that a first token is expected to take before one was awaited."""

LEARNING = 0.2
"""Share of the latest in what is expected."""


class RemoteMind(Remote):
    """A language model in an engine process; see `llm.engine.Engine`."""

    def __init__(
        self, process: EngineProcess, name: str, beside: EngineProcess | None = None
    ) -> None:
        """Use the mind in `process`.

        `beside` is a process whose engines share the device with it: while a first token is
        awaited, they leave the device to it, unless what they do is more urgent.
        """
        super().__init__(process, name, "mind")
        self.prefills = False
        """Whether the model gains by reading a caller's words early; known once it is loaded."""
        self.beside = beside
        self.first = FIRST
        """Seconds that a first token is expected to take."""

    async def start(self) -> None:
        """Start the process and wait until it has loaded.

        Raises:
            EngineError: If it cannot; the message names the remedy.
        """
        said = await self._start(EngineError)
        self.prefills = said.get("prefills", False)

    def open(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> "RemoteThread":
        """Begin one answer; never blocks."""
        return RemoteThread(self, self._process, items, tools)

    def waited(self, seconds: float) -> None:
        """Learn what a first token took."""
        self.first += LEARNING * (seconds - self.first)


class RemoteThread:
    """One answer in the making, in an engine process; see `llm.engine.Thread`."""

    def __init__(
        self,
        mind: RemoteMind,
        process: EngineProcess,
        items: Sequence[Item],
        tools: Sequence[ToolSpec],
    ) -> None:
        self._mind = mind
        self._process = process
        self.failed = ""
        """Why it will never be written, "" if it may: what was read for it is lost."""
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
        if self.failed:
            raise EngineError(self.failed)
        if self._closed:
            return
        mind, beside = self._mind, self._mind.beside
        flow = Flow(self._process, EngineError, PIECES_AHEAD)
        flow.begin(Kind.GENERATE, [self._number, params, deadline])
        began: float | None = monotonic()
        if beside is not None:
            beside.reserve(flow.number, deadline, mind.first)
        try:
            async with aclosing(flow.results()) as results:
                async for piece, _ in results:
                    if began is not None:
                        mind.waited(monotonic() - began)
                        began = None
                        if beside is not None:
                            beside.release(flow.number)
                    yield untagged(piece)
        finally:
            if began is not None and beside is not None:
                beside.release(flow.number)

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
        self.failed = reason
