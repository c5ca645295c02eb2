"""Engines that lose, delay and repeat their results, on a live server: no call is ever stuck."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

from asr.engine import EngineError as EarsError
from asr.engine import Hypothesis
from asr.fake import Fake as FakeEars
from llm.engine import EngineError as MindError
from llm.fake import Fake as FakeMind
from tts.engine import Chunk
from tts.engine import EngineError as MouthError
from tts.fake import Fake as FakeMouth
from voice.client import Caller, dial
from voice.settings import TurnSettings
from voice.turn import Floor

from helpers import Running, running, voiced

CALLS = 20
TURNS = 10

SETTINGS = TurnSettings(
    shortest_wait=0.2, longest_wait=0.2, longest_stall=0.5, longest_contest=0.5, idle=60.0
)

WITHIN = 0.2 + 2 * 0.5 + 1.0
"""Seconds in which a call listens or speaks after the caller fell silent: the wait, a reply that
stalls and an apology that does, and what a busy machine may add."""


class Chaos:
    """Decides, by a fixed seed, what becomes of each result."""

    def __init__(self) -> None:
        self.on = True
        self.done: dict[str, int] = {}
        self._random = random.Random(7)

    async def pass_on(self, error: type[Exception]) -> int:
        """Return how often a result is passed on; take time first, or fail, or never return."""
        fate = self._random.random() if self.on else 1.0
        for share, what in ((0.06, "lost"), (0.12, "failed"), (0.25, "late"), (0.37, "twice")):
            if fate < share:
                self.done[what] = self.done.get(what, 0) + 1
                break
        else:
            return 1
        match what:
            case "lost":
                await asyncio.Event().wait()
            case "failed":
                raise error("chaos")
            case "late":
                await asyncio.sleep(self._random.uniform(0.05, 0.7))
        return 2 if what == "twice" else 1


class Ears(FakeEars):
    """Ears whose words come late, twice, or never."""

    def __init__(self, chaos: Chaos) -> None:
        super().__init__(always="tell me a story")
        self.chaos = chaos

    def open(self, listening: Any) -> Any:
        stream, chaos = super().open(listening), self.chaos
        settle, hypotheses = stream.settle, stream.hypotheses

        async def chaotic(deadline: float) -> Hypothesis:
            await chaos.pass_on(EarsError)
            return await settle(deadline)

        async def repeated() -> AsyncIterator[Hypothesis]:
            async for hypothesis in hypotheses():
                for _ in range(await chaos.pass_on(EarsError)):
                    yield hypothesis

        stream.settle = chaotic  # type: ignore[method-assign]
        stream.hypotheses = repeated  # type: ignore[method-assign]
        return stream


class Mind(FakeMind):
    """A mind whose words come late, twice, or never."""

    def __init__(self, chaos: Chaos) -> None:
        super().__init__("One two three. Four five six.")
        self.chaos = chaos

    def open(self, items: Any, tools: Any) -> Any:
        thread, chaos = super().open(items, tools), self.chaos
        generate = thread.generate

        async def chaotic(params: Any, deadline: float) -> AsyncGenerator[Any, None]:
            async for piece in generate(params, deadline):
                for _ in range(await chaos.pass_on(MindError)):
                    yield piece

        thread.generate = chaotic  # type: ignore[method-assign]
        return thread


class Mouth(FakeMouth):
    """A mouth whose sound comes late, twice, or never."""

    def __init__(self, chaos: Chaos) -> None:
        super().__init__(word=0.1)
        self.chaos = chaos

    async def speak(self, phrases: Any, voice: str, deadline: float) -> AsyncGenerator[Chunk, None]:
        async for chunk in super().speak(phrases, voice, deadline):
            for _ in range(await self.chaos.pass_on(MouthError)):
                yield chunk


async def a_call(live: Running, number: int) -> int:
    """Hold one call; return how many turns were spoken."""
    await asyncio.sleep(0.11 * number)
    pause = random.Random(number)
    known = set(live.server.sessions)
    async with dial(live.url) as caller:
        await caller.until(lambda: bool(caller.events), 5)
        name = caller.events[0][1]["call"]
        assert name not in known
        for _ in range(TURNS):
            await caller.say(voiced(pause.uniform(0.3, 0.7)), 16_000)
            assert await listens_or_speaks(live, name, caller), f"stuck: {caller.events[-12:]}"
            await asyncio.sleep(pause.uniform(0.0, 0.6))  # in the middle of what the agent says
        return TURNS


async def listens_or_speaks(live: Running, name: str, caller: Caller) -> bool:
    """Wait until the agent makes a sound or has given the floor back."""
    since, loop = len(caller.audio), asyncio.get_running_loop()
    deadline = loop.time() + WITHIN
    while loop.time() < deadline:
        floor = live.server.sessions[name]._turn.floor
        if len(caller.audio) > since or floor is Floor.NOBODY:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_no_call_is_stuck_whatever_engines_do(tmp_path: Path) -> None:
    chaos = Chaos()
    ears, mind, mouth = Ears(chaos), Mind(chaos), Mouth(chaos)
    async with running(
        tmp_path, ears=ears, mind=mind, mouth=mouth, turn=SETTINGS, tool_timeout=0.3
    ) as live:
        turns = await asyncio.gather(*(a_call(live, number) for number in range(CALLS)))
        assert sum(turns) == CALLS * TURNS
        assert set(chaos.done) == {"lost", "failed", "late", "twice"}
        while live.server.sessions:
            await asyncio.sleep(0.02)
        # What was at work has ended with its calls, and the next call is like any other.
        assert (ears.listening, mind.generating, mouth.speaking) == (0, 0, 0)
        chaos.on = False
        async with dial(live.url) as caller:
            await caller.until(lambda: bool(caller.heard()), 5)
            since = len(caller.events)
            await caller.say(voiced(), 16_000)
            assert await caller.until(lambda: bool(caller.heard(since)), 5)
            assert caller.heard(since) == ["One two three. Four five six."]
