"""What the records of one call say of its turns, event by event."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from voice.hearing import FellSilent
from voice.recording import Recording
from voice.speculation import Spent

from helpers import plain_agent


def recording(codec_delay: float = 0.0) -> tuple[Recording, list[dict[str, Any]]]:
    """Return what records a call, and its events."""
    events: list[Any] = []
    line: Any = SimpleNamespace(transport="websocket", codec_delay=codec_delay)
    made = Recording(
        "call_1", line, events.append, events.append, lambda: 0.0, lambda *_: "llm", True
    )
    return made, events


def silence(
    speech_end: float = 1.0, arrived: float = 1.01, released: float = 1.02
) -> Callable[[], FellSilent]:
    return lambda: FellSilent(speech_end, arrived, released)


def answered(call: Recording, turn: int, at: float) -> None:
    """Answer `turn`, decided at `at`, 0.1 s later."""
    call.decided(turn, at, typed=False)
    call.trace.mark("sent", turn, at + 0.1)
    call.heard(turn, at + 0.1, 0.8, at + 0.1)


def test_what_came_after_a_failure_does_not_take_back_what_was_counted() -> None:
    call, events = recording()
    call.fell_silent(silence(), 1.1)
    answered(call, 2, 1.5)
    call.over(2, "failed", 3, None)
    assert events[-1]["underruns"] == 3
    # A reply that is being made yet is told twice: it has failed, and makes way for the apology.
    answered(call, 3, 2.5)
    told: list[Any] = []
    making: Any = SimpleNamespace(done=lambda: False, add_done_callback=told.append)
    call.over(3, "failed", 5, making)
    call.over(3, "interrupted", 5, making)
    for tell in told:
        tell(making)
    assert [event["turn"] for event in events if event["type"] == "trace"] == [2, 3]
    assert (events[-1]["outcome"], events[-1]["underruns"]) == ("failed", 2)


@pytest.mark.parametrize("outcome", ["interrupted", "played"])
def test_an_answer_without_a_sound_was_not_heard(outcome: Any) -> None:
    """It made way for a typed message, or a noise was answered with nothing."""
    call, events = recording()
    call.decided(2, 1.5, typed=True)
    call.over(2, outcome, 0, None)
    assert events[-1]["outcome"] == "unheard"


def test_the_head_start_of_an_answer_that_nobody_heard_is_not_the_next_one_s() -> None:
    call, events = recording()
    call.fell_silent(silence(), 1.1)
    call.decided(2, 1.5, typed=False)
    call.overlapped = 0.4
    call.over(2, "interrupted", 0, None)
    answered(call, 3, 2.5)
    assert [event["overlapped"] for event in events if event["type"] == "turn"] == [0.0]


def test_an_end_of_speech_that_is_revised_is_not_told_before_it_came() -> None:
    call, events = recording()
    call.fell_silent(silence(), 1.1)
    call.fell_silent(silence(speech_end=1.09, arrived=1.11, released=1.12), 1.2)
    answered(call, 2, 1.5)
    call.over(2, "played", 0, None)
    assert events[-1]["stages"]["endpoint"] == pytest.approx(0.38)
    for _, begin, end in events[-1]["spans"]:
        assert begin <= end


def test_a_codec_delays_what_either_side_says() -> None:
    call, events = recording(codec_delay=0.006)
    call.fell_silent(silence(), 1.1)
    answered(call, 2, 1.5)
    call.disturbed(3.0, 3.1)
    call.over(2, "interrupted", 0, None)
    told = events[-1]
    assert told["began"] == pytest.approx(0.994)
    assert told["total"] == pytest.approx(0.6 + 2 * 0.006)
    assert told["barge_in"] == pytest.approx({"heard": 2.0, "stopped": 2.106})


@pytest.mark.parametrize("budget", [-1.0, 0.0, float("nan"), 1000.0])
def test_an_agent_s_budget_is_one(budget: float) -> None:
    with pytest.raises(ValueError, match="budget"):
        replace(plain_agent(), budget=budget)


def test_all_work_of_a_turn_is_counted_and_what_was_dropped_is_wasted() -> None:
    call, events = recording()
    call.spent(2, Spent(wasted=True, asr=0.1, llm=0.2))
    call.spent(2, Spent(llm=0.3))
    answered(call, 2, 1.5)
    call.over(2, "played", 0, None)
    assert (events[-1]["worked"], events[-1]["wasted"]) == (0.6, 0.3)


@pytest.mark.parametrize(("late", "played"), [(0.0, 0.2), (0.05, 0.25), (-0.04, 0.16)])
def test_what_a_client_plays_counts_from_when_it_was_told(late: float, played: float) -> None:
    call, events = recording()
    call.decided(2, 1.0, typed=False)
    call.trace.mark("sent", 2, 1.1)  # silence at first
    call.heard(2, 1.2, 0.8, 1.2)
    call.acknowledged(2, 1.9, late)
    call.over(2, "played", 0, None)
    assert events[-1]["marks"]["played"] == pytest.approx(played)


@pytest.mark.parametrize("late", [float("nan"), float("inf"), -5.0, 1e300, None])
def test_what_a_client_cannot_know_is_the_time_of_its_word(late: float | None) -> None:
    call, events = recording()
    answered(call, 2, 1.0)
    call.acknowledged(2, 1.9, late)
    call.acknowledged(2, 1.95, 0.0)  # only the first counts
    call.acknowledged(7, 1.95, 0.0)  # of no other turn anything is kept
    call.over(2, "played", 0, None)
    assert events[-1]["marks"]["played"] == pytest.approx(0.9)
    assert call.trace.known(7) is None
