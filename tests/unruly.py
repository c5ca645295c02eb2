"""Engines that do as they are told, also badly; for tests of engine processes.

They count what they do. The mind tells the counts to whoever asks it for "counts".
"""

import asyncio
import json
import logging
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

import asr.engine
import llm.engine
import tts.engine
from asr.engine import Hypothesis, Listening, Pcm
from llm.engine import Item, Message, Params, Text, ToolCall, ToolSpec, Usage
from tts.engine import Chunk

counts: Counter[str] = Counter()

RATE = 16_000


class Turns:
    """Stands for a device that ears and mouth share, and keep for a mind."""

    def reserve(self, work: int, deadline: float, cost: float) -> None:
        """Count."""
        counts["reserved"] += 1

    def release(self, work: int) -> None:
        """Count."""
        counts["reserved"] -= 1


@dataclass(frozen=True)
class Options:
    """What `Ears` can change while it runs: two bounds."""

    low: float = 1.0
    high: float = 2.0

    def __post_init__(self) -> None:
        """Refuse bounds that are crossed."""
        if self.low > self.high:
            raise ValueError(f"low is {self.low}; expected at most {self.high}")

    def adjusted(self, name: str, value: float) -> "Options":
        """Return these with another bound."""
        return replace(self, **{name: value})


class Ears:
    """Believe that every push was a word; `expects` says what goes wrong."""

    name = "unruly ears"
    about = "They hear how much they heard."
    adjustable = ("low", "high")

    def __init__(
        self, start: str = "", turns: Turns | None = None, options: Options | None = None
    ) -> None:
        self._start = start
        self._options = options or Options()
        if turns is not None:
            self.about = f"They share device {id(turns)}."

    async def start(self) -> None:
        """Start, or do as `start` said."""
        match self._start:
            case "fail":
                raise asr.engine.EngineError("no such model: fetch it")
            case "fault":
                raise RuntimeError("cannot allocate a tensor")
            case "die":
                print("the last thing it said", flush=True)
                os._exit(3)
            case "hang":
                await asyncio.sleep(1000)
            case "talk":
                print("loading shard 1 of 2\rloading shard 2 of 2")
                print("(EngineCore pid=7) WARNING 11-23 [x.py:1] the cache is small")
                logging.getLogger("library").warning("an old file")
                logging.getLogger("library").info("nothing to see")

    async def stop(self) -> None:
        """Free nothing."""

    def adjust(self, name: str, value: float) -> None:
        """Note the value, in thousandths."""
        self._options = self._options.adjusted(name, value)
        counts[name] = round(1000 * value)

    def open(self, listening: Listening) -> "Stream":
        """Begin an utterance."""
        if listening.expects == "refuse":
            raise asr.engine.EngineError("nobody listens")
        return Stream(listening)


class Stream:
    """One utterance."""

    def __init__(self, listening: Listening) -> None:
        self._expects = listening.expects
        self._language = listening.language
        self._samples = 0
        self._pushes = 0
        self._changed = asyncio.Event()
        self._over = False
        counts["streams"] += 1

    def push(self, pcm: Pcm) -> None:
        """Count."""
        if self._expects == "break":
            raise ValueError("what is this sound")
        self._samples += len(pcm)
        self._pushes += 1
        self._changed.set()

    async def hypotheses(self) -> AsyncIterator[Hypothesis]:
        """Tell the pushes so far."""
        while not self._over:
            await self._changed.wait()
            self._changed.clear()
            yield Hypothesis(tentative=f"{self._pushes} pushes", end=self._samples)

    async def settle(self, deadline: float) -> Hypothesis:
        """Tell the samples so far."""
        counts["settling"] += 1
        try:
            if self._expects == "slow":
                await asyncio.sleep(1000)
            if self._expects == "fail":
                raise asr.engine.EngineError("it broke")
            words = (
                asr.engine.Word(f"{self._samples}", 0.0, 0.5, 0.9),
                asr.engine.Word(self._language, 0.5, 1.0),
            )
            return Hypothesis(words, "", 0.5, self._samples)
        finally:
            counts["settling"] -= 1

    async def finish(self, deadline: float) -> Hypothesis:
        """Tell the samples."""
        return await self.settle(deadline)

    def close(self) -> None:
        """End it."""
        if not self._over:
            self._over = True
            counts["streams"] -= 1
            self._changed.set()


class Mind:
    """Do what the user's last words say."""

    name = "unruly mind"
    about = "It does as it is told."
    prefills = True

    def __init__(self, child: bool = False) -> None:
        self._child = subprocess.Popen(["sleep", "1000"]) if child else None
        self.broken: asyncio.Future[str] | None = None

    async def start(self) -> None:
        """Get ready to fail."""
        self.broken = asyncio.get_running_loop().create_future()

    async def stop(self) -> None:
        """Free nothing."""
        print("stopped", flush=True)

    async def wait_failed(self) -> str:
        """Return why it will never work again."""
        assert self.broken is not None
        return await self.broken

    def open(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> "Thread":
        """Begin an answer."""
        return Thread(self, items, tools)


class Thread:
    """One answer."""

    def __init__(self, mind: Mind, items: Sequence[Item], tools: Sequence[ToolSpec]) -> None:
        self._mind, self._items, self._tools = mind, items, tools
        self._words: list[str] = []
        counts["threads"] += 1

    def append(self, words: str) -> None:
        """Add words."""
        self._words.append(words)

    async def generate(
        self, params: Params, deadline: float
    ) -> AsyncGenerator[Text | ToolCall | Usage, None]:
        """Do what was said."""
        last = self._items[-1]
        assert isinstance(last, Message)
        counts["generating"] += 1
        try:
            match " ".join([last.text, *self._words]).split():
                case ["counts"]:
                    yield Text(json.dumps(counts))
                case ["say", *words]:
                    for word in words:
                        yield Text(f" {word}")
                case ["everything"]:
                    yield Text(repr((list(self._items), list(self._tools), params, deadline)))
                    yield ToolCall("c1", "book", {"day": "monday", "hours": [9, 10]})
                    yield Usage(prompt=3, cached=1, completion=2)
                case ["endless"]:
                    while True:
                        counts["pieces"] += 1
                        yield Text("x")
                        await asyncio.sleep(0)
                case ["hang"]:
                    await asyncio.sleep(1000)
                case ["fail"]:
                    yield Text("well")
                    raise llm.engine.EngineError("it lost its thread")
                case ["poison"]:
                    raise llm.engine.EngineError("CUDA error: device-side assert triggered")
                case ["fault"]:
                    raise KeyError("logits")
                case ["die"]:
                    os.kill(os.getpid(), signal.SIGKILL)
                case ["break"]:
                    assert self._mind.broken is not None
                    self._mind.broken.set_result("CUDA error: an illegal memory access")
                    await asyncio.sleep(1000)
                case ["child"]:
                    assert self._mind._child is not None
                    yield Text(str(self._mind._child.pid))
        finally:
            counts["generating"] -= 1

    def close(self) -> None:
        """End it."""
        counts["threads"] -= 1


class Mouth:
    """Say every word of a phrase as its length in samples; "endless" never ends."""

    name = "unruly mouth"
    about = "It hums."
    rate = RATE
    voices = ("one", "two")

    def __init__(self, turns: Turns | None = None) -> None:
        if turns is not None:
            self.about = f"They share device {id(turns)}."

    async def start(self) -> None:
        """Load nothing."""

    async def stop(self) -> None:
        """Free nothing."""

    async def speak(
        self, phrases: AsyncIterator[str], voice: str, deadline: float
    ) -> AsyncGenerator[Chunk, None]:
        """Say phrases."""
        if voice not in ("", *self.voices):
            raise tts.engine.EngineError(f"no voice {voice!r}")
        counts["speaking"] += 1
        at = 0
        try:
            async for phrase in phrases:
                counts["phrases"] += 1
                for word in phrase.split():
                    while True:
                        counts["chunks"] += 1
                        pcm = np.full(len(word), 0.5, np.float32)
                        yield Chunk(pcm, (tts.engine.Word(word, at, at + len(word)),))
                        at += len(word)
                        if word != "endless":
                            break
                        await asyncio.sleep(0)
        finally:
            counts["speaking"] -= 1
