"""Every turn of a live call leaves one record, whatever becomes of its reply."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from asr.fake import Fake as FakeEars
from latency.trace import NAMES
from llm.fake import Fake as FakeMind
from tts.engine import Chunk
from tts.engine import EngineError as MouthError
from tts.fake import Fake as FakeMouth
from voice.client import Caller, Event, dial
from voice.settings import TurnSettings

from helpers import plain_agent, running, voiced

FIXED = TurnSettings(
    shortest_wait=0.3, longest_wait=0.3, speculations=0, idle=30.0, longest_stall=8.0
)
"""No answer before the decision, so that every stage is on the critical path."""


def logged(data: Path, kind: str = "trace") -> list[dict[str, Any]]:
    """Return the events of one kind in the logs of all calls."""
    lines = [line for file in data.glob("calls/*.jsonl") for line in file.read_text().splitlines()]
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def of_type(caller: Caller, kind: str) -> list[Event]:
    return [event for _, event in caller.events if event["type"] == kind]


async def heard(caller: Caller, replies: int) -> None:
    assert await caller.until(lambda: len(caller.heard()) == replies, 20)


def closes(record: dict[str, Any]) -> bool:
    return abs(sum(record["stages"].values()) - record["total"]) < 1e-6


async def test_a_turn_is_recorded_from_the_last_sound_to_the_first(tmp_path: Path) -> None:
    async with (
        running(
            tmp_path,
            ears=FakeEars(always="what is it", delay=0.05),
            mind=FakeMind("Here it is, my friend.", first=0.06, interval=0.01),
            mouth=FakeMouth(first=0.07),
            turn=FIXED,
        ) as live,
        dial(live.url) as caller,
    ):
        await heard(caller, 1)
        await caller.say(voiced(), 16_000)
        await caller.until(lambda: bool(of_type(caller, "turn")), 10)
        for turn in (10**30, -5, 7, 2, 2):  # of no other is there anything to keep
            await caller.socket.send(json.dumps({"type": "played", "turn": turn, "late": 0.0}))
        await heard(caller, 2)
        gap = caller.answer_gap()
        await caller.hang_up()
    (record,) = logged(tmp_path)
    assert record["turn"] == 2
    assert record["outcome"] == "played"
    assert closes(record)
    assert list(record["stages"]) == [n for n in NAMES if n in record["stages"]] + ["unattributed"]
    assert record["stages"]["asr"] >= 0.049
    assert record["stages"]["llm"] >= 0.059
    assert record["stages"]["tts"] >= 0.069
    assert record["stages"]["vad"] + record["stages"]["endpoint"] == pytest.approx(0.3, abs=0.06)
    assert gap is not None
    assert record["total"] == pytest.approx(gap, abs=0.1)
    assert record["llm"]["tokens"] >= 5
    assert record["llm"]["ttft"] >= 0.059
    assert record["marks"]["played"] == record["marks"]["sent"]
    assert record["worked"] > 0.15
    assert record["wasted"] == 0
    turn = of_type(caller, "turn")[-1]
    assert turn["stages"] == record["stages"]
    assert turn["total"] == record["total"]


async def test_a_greeting_has_no_record(tmp_path: Path) -> None:
    async with running(tmp_path) as live, dial(live.url) as caller:
        await heard(caller, 1)
        await caller.hang_up()
    assert logged(tmp_path) == []


async def test_an_interruption_is_timed(tmp_path: Path) -> None:
    story = FakeMind(" ".join(f"word{number}" for number in range(40)) + ".")
    async with (
        running(tmp_path, ears=FakeEars(always="wait a moment"), mind=story) as live,
        dial(live.url) as caller,
    ):
        await heard(caller, 1)
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: bool(of_type(caller, "turn")), 10)
        await asyncio.sleep(1.0)
        await caller.say(voiced(1.5), 16_000)
        assert await caller.until(lambda: len(of_type(caller, "turn")) == 2, 10)
        await caller.hang_up()
    cut, last = logged(tmp_path)
    assert cut["outcome"] == "interrupted"
    assert not cut["cut_in"]
    began, stopped = cut["barge_in"]["heard"], cut["barge_in"]["stopped"]
    assert cut["marks"]["heard"] + 0.9 < began < stopped < began + 0.5
    assert last["outcome"] == "hung_up"
    assert last["turn"] == cut["turn"] + 1
    assert closes(cut)
    assert closes(last)


async def test_a_caller_who_was_not_done_is_a_false_end_of_turn(tmp_path: Path) -> None:
    async with (
        running(
            tmp_path,
            ears=FakeEars(always="so on"),
            mind=FakeMind("Well then.", first=1.0),
            turn=FIXED,
        ) as live,
        dial(live.url) as caller,
    ):
        await heard(caller, 1)
        await caller.say(voiced(), 16_000)
        await asyncio.sleep(0.55)  # the end of the turn was decided a quarter of a second ago
        await caller.say(voiced(), 16_000)
        await heard(caller, 2)
        await caller.hang_up()
    first, last = logged(tmp_path)
    assert (first["outcome"], first["total"], first["cut_in"]) == ("unheard", None, True)
    assert first["stages"] == {}
    assert (last["outcome"], last["cut_in"]) == ("played", False)


class Broken(FakeMouth):
    """Says the first phrase it is given, and then no other."""

    async def speak(
        self, phrases: AsyncIterator[str], voice: str, deadline: float
    ) -> AsyncGenerator[Chunk, None]:
        if self.phrases:
            raise MouthError("hoarse")
        async for chunk in super().speak(phrases, voice, deadline):
            yield chunk


async def test_a_reply_that_fails_is_recorded_as_failed(tmp_path: Path) -> None:
    async with (
        running(tmp_path, ears=FakeEars(always="hello"), mouth=Broken(), turn=FIXED) as live,
        dial(live.url) as caller,
    ):
        await heard(caller, 1)
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: bool(logged(tmp_path)), 10)
        await caller.hang_up()
    assert logged(tmp_path)[0]["outcome"] == "failed"
    assert logged(tmp_path)[0]["total"] is None


async def test_a_dropped_answer_is_counted_and_its_work_is_no_stage(tmp_path: Path) -> None:
    patient = TurnSettings(shortest_wait=0.8, longest_wait=0.8, idle=30.0, longest_stall=8.0)
    async with (
        running(
            tmp_path,
            ears=FakeEars(["hello"] + [f"number {n}" for n in range(100)], delay=0.02),
            turn=patient,
        ) as live,
        dial(live.url) as caller,
    ):
        live.server.load.note = lambda *_: None  # type: ignore[method-assign]
        await heard(caller, 1)
        await caller.say(voiced(), 16_000)
        await asyncio.sleep(0.4)
        await caller.say(voiced(), 16_000)
        await heard(caller, 2)
        await caller.hang_up()
    (record,) = logged(tmp_path)
    told = record["speculations"]
    assert told["begun"] == told["dropped"] + told["kept"]
    assert told["dropped"] >= 1
    assert record["marks"]["speculation"] < 0  # before the caller's last sound
    assert record["wasted"] > 0
    assert closes(record)
    for _, begin, _ in record["spans"]:
        assert begin >= 0, "work on the dropped answer is told"


async def test_typed_words_are_answered_and_recorded(tmp_path: Path) -> None:
    async with running(tmp_path) as live, dial(live.url) as caller:
        await heard(caller, 1)
        await caller.type("hello")
        await heard(caller, 2)
        await caller.hang_up()
    (record,) = logged(tmp_path)
    assert "endpoint" not in record["stages"]
    assert closes(record)


async def test_a_call_has_its_own_budget_and_the_agent_its(tmp_path: Path) -> None:
    slow = FakeMind("Yes.", first=0.4)
    agent = plain_agent()
    object.__setattr__(agent, "budget", 0.55)
    async with running(
        tmp_path, ears=FakeEars(always="hello"), mind=slow, agent=agent, turn=FIXED
    ) as live:
        for choice in ({}, {"budget": 5}):
            async with dial(live.url) as caller:
                await heard(caller, 1)
                await caller.socket.send(json.dumps({"type": "session", **choice}))
                await caller.say(voiced(), 16_000)
                await heard(caller, 2)
                await caller.hang_up()
    records = sorted(logged(tmp_path), key=lambda record: record["wall"])
    assert [record["budget"] for record in records] == [0.55, 5.0]
    assert [record["over"] for record in records] == ["llm", ""]
    (over,) = logged(tmp_path, "over_budget")
    assert over["stage"] == "llm"
    assert over["total"] > over["budget"] == 0.55


async def test_without_tracing_nothing_is_recorded(tmp_path: Path) -> None:
    async with running(tmp_path, trace=False) as live, dial(live.url) as caller:
        await heard(caller, 1)
        await caller.say(voiced(), 16_000)
        await heard(caller, 2)
        await caller.hang_up()
    assert logged(tmp_path) == logged(tmp_path, "turn") == []
