"""A mind that keeps the device free for its first tokens, where other engines share it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import count
from time import monotonic
from typing import Protocol

from llm.engine import Engine, Item, Params, Text, Thread, ToolCall, ToolSpec, Usage

LEARNING = 0.2
"""Share of the latest measurement in what a first token is expected to take."""


class Reservations(Protocol):
    """The device, or who tells it."""

    def reserve(self, name: str, deadline: float, cost: float) -> None:
        """Note work of about `cost` seconds whose result is wanted by `deadline`; never blocks."""

    def release(self, name: str) -> None:
        """Note that this work has ended; safe at any time, also twice."""


class Reserving:
    """A mind like `mind`, that reserves the device from each question to its first token.

    Attributes:
        seconds: What a first token is expected to take, learned.
    """

    def __init__(self, mind: Engine, device: Reservations, owner: str) -> None:
        """Reserve under names that begin with `owner`: that of this process, say."""
        self.name, self.about = mind.name, mind.about
        self.prefills = getattr(mind, "prefills", False)
        self.seconds = 0.0
        self.device = device
        self._mind, self._owner, self._numbers = mind, owner, count(1)

    async def start(self) -> None:
        """Start the mind.

        Raises:
            EngineError: If it cannot; the message names the remedy.
        """
        await self._mind.start()

    async def stop(self) -> None:
        """Free everything."""
        await self._mind.stop()

    def open(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> "ReservingThread":
        """Begin one answer to `items`; never blocks."""
        name = f"{self._owner}:{next(self._numbers)}"
        return ReservingThread(self, self._mind.open(items, tools), name)

    def learn(self, seconds: float) -> None:
        """Take what a first token took."""
        self.seconds += LEARNING * (seconds - self.seconds) if self.seconds else seconds


class ReservingThread:
    """One answer."""

    def __init__(self, mind: Reserving, thread: Thread, name: str) -> None:
        self._mind, self._thread, self._name = mind, thread, name

    def append(self, words: str) -> None:
        """Add words to the user's last message."""
        self._thread.append(words)

    async def generate(
        self, params: Params, deadline: float
    ) -> AsyncGenerator[Text | ToolCall | Usage, None]:
        """Yield the answer; see `llm.engine.Thread`."""
        device, began, first = self._mind.device, monotonic(), True
        device.reserve(self._name, deadline, self._mind.seconds)
        try:
            async with aclosing(self._thread.generate(params, deadline)) as pieces:
                async for piece in pieces:
                    if first:
                        first = False
                        device.release(self._name)
                        self._mind.learn(monotonic() - began)
                    yield piece
        finally:
            device.release(self._name)

    def close(self) -> None:
        """Stop the work, also inside the model."""
        self._thread.close()
