"""Engines that share a device and say how they fare; for tests of what is told of them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

import asr.fake
import llm.fake
from llm.engine import Item, Params, Text, ToolCall, ToolSpec, Usage
from llm.upstreams import UnavailableError
from voice.device import Device


class Ears(asr.fake.Fake):
    """Have used their device three times when they have started."""

    def __init__(self, turns: Device) -> None:
        super().__init__()
        self._turns = turns

    async def start(self) -> None:
        """Use the device."""
        for _ in range(3):
            with self._turns.turn("asr final", 0.0, 0.0):
                await asyncio.sleep(0)


@dataclass
class Load:
    """What a batching model says of itself."""

    running: int = 2
    waiting: int = 1
    kv_usage: float = 0.25
    asked: int = 10
    hits: int = 4


class Mind(llm.fake.Fake):
    """Have a load."""

    load = Load()


@dataclass
class Refusing:
    """A mind that is out of service."""

    name: str = "refusing"
    about: str = "It never answers."
    asked: list[Sequence[Item]] = field(default_factory=list)

    async def start(self) -> None:
        """Start well."""

    async def stop(self) -> None:
        """Free nothing."""

    def open(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> "Refusal":
        """Begin an answer that will not come."""
        self.asked.append(items)
        return Refusal()


class Refusal:
    """An answer that does not come."""

    def append(self, words: str) -> None:
        """Take words."""

    async def generate(
        self, params: Params, deadline: float
    ) -> AsyncGenerator[Text | ToolCall | Usage, None]:
        """Fail."""
        raise UnavailableError("out of service")
        yield Text("")

    def close(self) -> None:
        """Free nothing."""
