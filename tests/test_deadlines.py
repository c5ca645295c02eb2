"""When each engine is told that its result is wanted: now, or when the turn will be decided."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from asr.engine import Hypothesis, Listening
from asr.fake import Fake as FakeEars
from llm.engine import Item, Params
from llm.fake import Fake as FakeMind
from llm.script import Thread
from tts.engine import Chunk
from tts.fake import Fake as FakeMouth
from voice.client import Caller, dial
from voice.settings import TurnSettings

from helpers import Running, running, voiced

WAIT = 1.0

Asked = list[tuple[str, float, float]]
"""What was asked for, when, and by when it is wanted."""


class Ears(FakeEars):
    def __init__(self, asked: Asked) -> None:
        super().__init__(always="what time is it")
        self._asked = asked

    def open(self, listening: Listening) -> Any:
        stream, asked = super().open(listening), self._asked
        settle, finish = stream.settle, stream.finish

        async def noted_settle(deadline: float) -> Hypothesis:
            asked.append(("settle", monotonic(), deadline))
            return await settle(deadline)

        async def noted_finish(deadline: float) -> Hypothesis:
            asked.append(("finish", monotonic(), deadline))
            stream.settle = settle  # type: ignore[method-assign]
            return await finish(deadline)

        stream.settle, stream.finish = noted_settle, noted_finish  # type: ignore[method-assign]
        return stream


class Mind(FakeMind):
    def __init__(self, asked: Asked) -> None:
        super().__init__("It is ten. It is late.")
        self._asked = asked

    def open(self, items: Sequence[Item], tools: Any) -> Thread:
        thread, asked = super().open(items, tools), self._asked
        generate = thread.generate

        def noted(params: Params, deadline: float) -> AsyncGenerator[Any, None]:
            asked.append(("generate", monotonic(), deadline))
            return generate(params, deadline)

        thread.generate = noted  # type: ignore[method-assign]
        return thread


class Mouth(FakeMouth):
    def __init__(self, asked: Asked) -> None:
        super().__init__(character=0.03)
        self._asked = asked

    def speak(
        self, phrases: AsyncIterator[str], voice: str, deadline: float
    ) -> AsyncGenerator[Chunk, None]:
        self._asked.append(("speak", monotonic(), deadline))
        return super().speak(phrases, voice, deadline)


async def a_turn(tmp_path: Path, asked: Asked, speculations: int) -> float:
    """Hold a call of one turn; return when it was decided."""
    turn = TurnSettings(
        shortest_wait=WAIT,
        longest_wait=WAIT,
        speculations=speculations,
        speculation_lead=0.8 * WAIT,
        longest_stall=8.0,
        idle=30.0,
    )
    async with running(
        tmp_path, ears=Ears(asked), mind=Mind(asked), mouth=Mouth(asked), turn=turn
    ) as live:
        live.server.load.note = lambda *_: None  # type: ignore[method-assign]
        async with dial(live.url) as caller:
            return await spoken(live, caller, asked)


async def spoken(live: Running, caller: Caller, asked: Asked) -> float:
    assert await caller.until(lambda: bool(caller.heard()), 10)
    (greeting,) = asked
    assert greeting[0] == "speak"
    assert greeting[2] <= greeting[1]  # the caller waits for it now
    asked.clear()
    await caller.say(voiced(), 16_000)
    assert await caller.until(lambda: len(caller.heard()) == 2, 10)
    assert live.server.steering is not None
    (record,) = live.server.steering.snapshot()["records"]
    return float(record["began"] + record["marks"]["decided"])


async def test_what_is_made_early_is_wanted_when_the_turn_will_be_decided(tmp_path: Path) -> None:
    asked: Asked = []
    decided = await a_turn(tmp_path, asked, speculations=8)
    assert [kind for kind, _, _ in asked] == ["settle", "generate", "speak"]
    wanted = {deadline for _, _, deadline in asked}
    assert len(wanted) == 1  # one moment for all of them
    assert abs(decided - wanted.pop()) < 0.5 * WAIT
    assert all(deadline - at > 0.2 * WAIT for _, at, deadline in asked)


async def test_what_the_caller_waits_for_is_wanted_now(tmp_path: Path) -> None:
    asked: Asked = []
    decided = await a_turn(tmp_path, asked, speculations=0)
    assert [kind for kind, _, _ in asked] == ["finish", "generate", "speak"]
    assert all(decided - 1e-3 <= deadline <= at for _, at, deadline in asked)
