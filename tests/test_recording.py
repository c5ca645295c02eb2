"""Every turn of a live call leaves one record, whatever becomes of its reply."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asr.fake import Fake as FakeEars
from latency.trace import NAMES
from llm.engine import ToolSpec
from llm.fake import Fake as FakeMind
from llm.script import Call, Rule, Script
from tts.engine import Chunk
from tts.engine import EngineError as MouthError
from tts.fake import Fake as FakeMouth
from voice.client import Caller, Event, dial
from voice.disturbance import Disturbances
from voice.interruption import Ruling
from voice.reply import PATIENCE
from voice.settings import TurnSettings
from voice.tools import Outcome

from helpers import NoTools, plain_agent, running, voiced

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


async def ask(caller: Caller) -> None:
    """Say something once greeted, hear the answer to its end, and hang up."""
    await heard(caller, 1)
    await caller.say(voiced(), 16_000)
    await heard(caller, 2)
    await caller.hang_up()


def closes(record: dict[str, Any]) -> bool:
    return abs(sum(record["stages"].values()) - record["total"]) < 1e-6


async def test_a_turn_is_recorded_from_the_last_sound_to_the_first(tmp_path: Path) -> None:
    speech = voiced()  # its making would hold up packets
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
        await caller.say(speech, 16_000)
        await caller.until(lambda: bool(of_type(caller, "turn")), 10)
        for turn in (10**30, -5, 7):  # of no other is there anything to keep
            await caller.socket.send(json.dumps({"type": "played", "turn": turn, "late": 0.0}))
        await asyncio.sleep(0.2)
        for late in (0, 10**400, "0", None):  # a page's 0.0; only the first counts
            await caller.socket.send(json.dumps({"type": "played", "turn": 2, "late": late}))
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
    decided = sum(record["stages"].get(s, 0.0) for s in ("framing", "jitter", "vad", "endpoint"))
    assert decided == pytest.approx(0.3, abs=0.06)
    assert gap is not None
    assert record["total"] == pytest.approx(gap, abs=0.1)
    assert record["llm"]["tokens"] >= 5
    assert record["llm"]["ttft"] >= 0.059
    assert record["marks"]["sent"] <= record["marks"]["played"] < record["marks"]["sent"] + 0.15
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


async def test_an_interruption_that_seemed_an_echo_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It silences the answer not when it begins but when it is judged."""
    monkeypatch.setattr(Disturbances, "is_echo", lambda *_: True)
    monkeypatch.setattr(Disturbances, "judge", lambda *_: Ruling.INTERRUPT)
    story = FakeMind(" ".join(f"word{number}" for number in range(40)) + ".")
    async with (
        running(tmp_path, ears=FakeEars(always="wait a moment"), mind=story) as live,
        dial(live.url) as caller,
    ):
        await heard(caller, 1)
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: bool(of_type(caller, "turn")), 10)
        await asyncio.sleep(1.0)
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: bool(logged(tmp_path)), 10)
        await caller.hang_up()
    (cut, *_) = logged(tmp_path)
    assert cut["outcome"] == "interrupted"
    assert cut["marks"]["heard"] + 0.9 < cut["barge_in"]["heard"] < cut["barge_in"]["stopped"]


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


async def test_a_reply_that_stalls_is_recorded_as_failed(tmp_path: Path) -> None:
    hung = FakeMind("Never said.", first=60.0)
    impatient = replace(FIXED, longest_stall=1.0)
    async with (
        running(
            tmp_path,
            ears=FakeEars(always="hello"),
            mind=hung,
            turn=impatient,
            tool_timeout=0.9,
        ) as live,
        dial(live.url) as caller,
    ):
        await heard(caller, 1)
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: bool(logged(tmp_path)), 10)
        await caller.hang_up()
    assert logged(tmp_path)[0]["outcome"] == "failed"


async def test_a_call_that_fails_keeps_the_record_of_its_turn(tmp_path: Path) -> None:
    class Wrong(FakeMouth):
        """Has a defect that nothing expects, after its first word."""

        async def speak(
            self, phrases: AsyncIterator[str], voice: str, deadline: float
        ) -> AsyncGenerator[Chunk, None]:
            async for chunk in super().speak(phrases, voice, deadline):
                yield chunk
                if len(self.phrases) > 1:
                    await asyncio.sleep(0.1)
                    raise ZeroDivisionError

    async with (
        running(tmp_path, ears=FakeEars(always="hello"), mouth=Wrong(), turn=FIXED) as live,
        dial(live.url) as caller,
    ):
        await heard(caller, 1)
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: bool(caller.ended), 10)
        assert caller.ended == "error"
    (record,) = logged(tmp_path)
    assert record["outcome"] == "failed"
    assert closes(record)


async def test_a_held_answer_that_fails_is_wasted_work(tmp_path: Path) -> None:
    patient = TurnSettings(shortest_wait=0.8, longest_wait=0.8, idle=30.0, longest_stall=8.0)

    class Once(Broken):
        """Fails with the second phrase only."""

        async def speak(
            self, phrases: AsyncIterator[str], voice: str, deadline: float
        ) -> AsyncGenerator[Chunk, None]:
            if len(self.phrases) == 1:
                self.phrases.append(await anext(aiter(phrases)))
                raise MouthError("hoarse")
            async for chunk in FakeMouth.speak(self, phrases, voice, deadline):
                yield chunk

    mind = FakeMind("Here it is.", first=0.1)
    async with (
        running(
            tmp_path, ears=FakeEars(always="hello"), mind=mind, mouth=Once(), turn=patient
        ) as live,
        dial(live.url) as caller,
    ):
        live.server.load.note = lambda *_: None  # type: ignore[method-assign]
        await ask(caller)
    (record,) = logged(tmp_path)
    assert record["outcome"] == "played"
    assert record["speculations"] == {"begun": 1, "kept": 0, "dropped": 1}
    assert record["wasted"] >= 0.09
    assert record["worked"] >= 0.19
    lost = [event for event in logged(tmp_path, "work") if event["wasted"]]
    assert [event["turn"] for event in lost] == [2]


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


async def test_a_held_answer_is_let_go_at_the_decision(tmp_path: Path) -> None:
    patient = TurnSettings(shortest_wait=0.8, longest_wait=0.8, idle=30.0, longest_stall=8.0)
    async with (
        running(tmp_path, ears=FakeEars(always="hello"), turn=patient) as live,
        dial(live.url) as caller,
    ):
        live.server.load.note = lambda *_: None  # type: ignore[method-assign]
        await ask(caller)
    (record,) = logged(tmp_path)
    marks = record["marks"]
    assert record["speculations"]["kept"] == 1
    assert marks["tts_first"] < marks["decided"] <= marks["let_go"] <= marks["sent"]


async def test_the_pace_told_is_the_model_s_and_not_the_speaker_s(tmp_path: Path) -> None:
    story = " ".join(f"Word {n} of it, and then there is some more." for n in range(8))
    async with (
        running(
            tmp_path,
            ears=FakeEars(always="hello"),
            mind=FakeMind(story, first=0.05, interval=0.03),
            mouth=FakeMouth(character=0.02),
            turn=FIXED,
        ) as live,
        dial(live.url) as caller,
    ):
        await ask(caller)
    (record,) = logged(tmp_path)
    told = record["llm"]
    assert 0.5 < told["tokens_per_second"] * told["itl_p50"] < 1.3
    assert told["itl_p95"] < 0.5


class Desk(NoTools):
    """One tool that takes its time, and says what it found."""

    specs = (ToolSpec("look", "Look something up.", {"type": "object", "properties": {}}),)

    def __init__(self, seconds: float) -> None:
        self.seconds, self.calls = seconds, 0

    async def call(self, name: str, arguments: Any, turn: int) -> Outcome:
        self.calls += 1
        await asyncio.sleep(self.seconds)
        return Outcome(output={"found": 3}, say="I found three.")


LOOKS = Script([Rule("^look", Call("look"))], otherwise="All right.", first=0.05)


@pytest.mark.parametrize(("seconds", "waited"), [(0.4, 0.4), (2.0, PATIENCE)])
async def test_a_tool_is_blamed_for_what_the_caller_waited_for_it(
    tmp_path: Path, seconds: float, waited: float
) -> None:
    async with (
        running(
            tmp_path,
            ears=FakeEars(always="look it up"),
            mind=LOOKS,
            mouth=FakeMouth(first=0.07, character=0.02),
            agent=plain_agent(Desk(seconds)),
            turn=FIXED,
        ) as live,
        dial(live.url) as caller,
    ):
        await ask(caller)
    (record,) = logged(tmp_path)
    stages = record["stages"]
    assert closes(record)
    assert stages["tools"] == pytest.approx(waited, abs=0.1)  # from then on a line was made
    assert stages["tts"] >= 0.069
    assert "first_phrase" not in stages  # the model wrote none
    assert record["underruns"] == 0  # no engine was too slow
    assert record["llm"] is None or record["llm"]["ttft"] < 0.3


async def test_a_tool_that_still_works_is_waited_for_in_the_next_turn(tmp_path: Path) -> None:
    desk = Desk(1.6)
    async with (
        running(
            tmp_path,
            ears=FakeEars(["look it up", "thanks"]),
            mind=LOOKS,
            agent=plain_agent(desk),
            turn=FIXED,
        ) as live,
        dial(live.url) as caller,
    ):
        await heard(caller, 1)
        await caller.say(voiced(), 16_000)
        while not desk.calls:
            await asyncio.sleep(0.01)
        await caller.say(voiced(0.4), 16_000)
        assert await caller.until(lambda: "All right." in str(caller.heard()), 10)
        await caller.hang_up()
    first, second = logged(tmp_path)
    assert first["outcome"] == "unheard"
    assert second["stages"]["tools"] > 0.2
    assert second["stages"]["unattributed"] < 0.1


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
    agent = replace(plain_agent(), budget=0.55)
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
        await ask(caller)
    assert logged(tmp_path) == logged(tmp_path, "turn") == []
