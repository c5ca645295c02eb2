"""Settings that change in the middle of live calls, and what a server keeps of their turns."""

import json
from pathlib import Path

import pytest

from asr.fake import Fake as FakeEars
from llm.fake import Fake as FakeMind
from tts.fake import Fake as FakeMouth
from voice.client import Caller, Event, dial
from voice.server import BusyError
from voice.settings import BudgetSettings, TurnSettings

from helpers import running, voiced

FIXED = TurnSettings(
    shortest_wait=0.3, longest_wait=0.3, speculations=0, idle=30.0, longest_stall=8.0
)


async def ask(caller: Caller) -> Event:
    """Say something and hear the answer to its end; return where its time went."""
    heard = len(caller.heard())
    await caller.say(voiced(), 16_000)
    assert await caller.until(lambda: len(caller.heard()) > heard, 20)
    return [event for _, event in caller.events if event["type"] == "turn"][-1]


def waited(turn: Event) -> float:
    return float(turn["stages"]["vad"] + turn["stages"]["endpoint"])


async def test_a_call_that_goes_on_takes_the_next_turn_as_is_said_by_then(tmp_path: Path) -> None:
    mouth = FakeMouth(character=0.02)
    async with (
        running(
            tmp_path,
            ears=FakeEars(always="hello"),
            mind=FakeMind("All of it, I believe, is said."),
            mouth=mouth,
            turn=FIXED,
        ) as live,
        dial(live.url) as caller,
    ):
        assert await caller.until(lambda: bool(caller.heard()), 20)
        assert waited(await ask(caller)) < 0.4
        live.server.knobs.set("turn.wait", 0.66)
        live.server.knobs.set("phrases.first", 8)
        assert waited(await ask(caller)) > 0.5
        live.server.knobs.set("turn.wait", 0.3)
        assert waited(await ask(caller)) < 0.4
    assert mouth.phrases[1:] == [
        "All of it, I believe, is said.",
        *("All of it,", "I believe, is said."),
        *("All of it,", "I believe, is said."),
    ]


async def test_fewer_calls_are_taken_and_those_that_go_on_stay(tmp_path: Path) -> None:
    async with running(tmp_path, max_calls=2, admission=False) as live, dial(live.url) as caller:
        assert await caller.until(lambda: bool(caller.heard()), 20)
        live.server.admit()
        live.server.knobs.set("max_calls", 1)
        with pytest.raises(BusyError, match="all 1 lines are busy"):
            live.server.admit()
        assert (await ask(caller))["turn"] == 2


async def test_turns_are_kept_with_what_a_page_shows(tmp_path: Path) -> None:
    budget = BudgetSettings(total=0.25)
    async with running(
        tmp_path, ears=FakeEars(always="hello"), turn=FIXED, tuner="on", budget=budget
    ) as live:
        async with dial(live.url) as caller:
            assert await caller.until(lambda: bool(caller.heard()), 20)
            at_fault = [(await ask(caller))["over"] for _ in range(2)]
            assert "endpoint" in at_fault
            assert None not in at_fault
            steering = live.server.steering
            assert steering is not None
            shown = steering.snapshot()
            await caller.hang_up()
        assert (shown["calls"]["active"], shown["calls"]["max"]) == (1, 32)
        assert (shown["budget"]["total"], shown["tuner"]["mode"]) == (0.25, "on")
        assert shown["tuner"]["values"]["turn.wait"]["value"] == 0.3
        assert [record["turn"] for record in shown["records"]] == [2, 3]
        json.dumps(shown)


async def test_without_records_nothing_is_steered(tmp_path: Path) -> None:
    async with running(tmp_path, trace=False) as live, dial(live.url) as caller:
        assert await caller.until(lambda: bool(caller.heard()), 20)
        assert live.server.steering is None
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: len(caller.heard()) > 1, 20)
