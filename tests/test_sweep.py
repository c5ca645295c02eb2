"""The search for the most calls that pass: its ramp and its halving."""

import pytest

from voice.capacity import Goal, Level, Refusal, Tally, Used
from voice.sweep import Ramp, Sweep

GOAL = Goal(budget=0.8)


def swept(limit: int, first: int, beyond: int | None, most: int = 1000) -> tuple[Sweep, list[int]]:
    """Search where up to `limit` calls pass; return what was tried, too."""
    sweep, tried = Sweep(first, beyond, most), []
    sweep.record(1, True)
    while (count := sweep.next()) is not None:
        tried.append(count)
        sweep.record(count, count <= limit)
    return sweep, tried


def test_between_what_the_ramp_found_a_few_runs_are_enough() -> None:
    sweep, tried = swept(limit=111, first=100, beyond=120)
    assert tried == [100, 120, 110, 115]
    assert sweep.passed == 110


def test_a_ramp_that_was_too_hopeful_is_corrected_downwards() -> None:
    sweep, tried = swept(limit=41, first=100, beyond=120)
    assert tried == [100, 80, 64, 51, 40, 45, 42]
    assert sweep.passed == 40


def test_a_ramp_that_was_too_careful_is_corrected_upwards() -> None:
    sweep, tried = swept(limit=170, first=100, beyond=110)
    assert tried[:5] == [100, 110, 138, 173, 155]
    assert 160 <= sweep.passed <= 170


@pytest.mark.parametrize(("limit", "passed"), [(1, 1), (2, 2), (3, 3), (4, 4)])
def test_few_calls_are_counted_one_by_one(limit: int, passed: int) -> None:
    assert swept(limit, first=3, beyond=4)[0].passed == passed


def test_the_search_ends_at_the_most_calls_it_may_try() -> None:
    sweep, tried = swept(limit=1000, first=400, beyond=None, most=500)
    assert tried == [400, 500]
    assert (sweep.passed, sweep.failed) == (500, None)


def test_the_runs_that_are_left_are_about_right() -> None:
    sweep = Sweep(100, 120, 1000)
    assert sweep.runs_left() == 4
    sweep.record(100, True)
    sweep.record(120, False)
    assert sweep.runs_left() == 2


def alone(share: float = 0.01) -> Level:
    return Level(calls=1, turns=5, p50=0.3, tail=0.3, used=Used(share, 1, 100.0))


def tally(*gaps: float, bad: int = 0) -> Tally:
    met = Tally(gaps=list(gaps), turns=len(gaps))
    for _ in range(bad):
        met.close_turn(["underruns"])
    return met


def window(ramp: Ramp, *gaps: float, share: float = 0.1) -> int | None:
    """Grow, meet `gaps`, and end the window with all calls going on."""
    if ramp.grow() is None:
        return None
    ramp.receive(tally(*gaps))
    ramp.close(ramp.calls, 5.0, Used(share, 1, 100.0))
    return ramp.calls


def test_calls_grow_by_half_far_from_any_limit() -> None:
    ramp = Ramp(GOAL, alone(), most=500)
    assert [window(ramp, 0.3, 0.3) for _ in range(8)] == [2, 3, 5, 7, 11, 17, 25, 37]


def test_calls_grow_slowly_once_latency_is_half_way_to_the_budget() -> None:
    ramp = Ramp(GOAL, alone(), most=500, calls=20)
    window(ramp, 0.56)
    assert ramp.calls == 30
    window(ramp, 0.3)
    assert ramp.calls == 36  # 0.56 s is more than half of the way from 0.3 to 0.8
    window(ramp, 0.3)
    assert ramp.calls == 54


def test_calls_grow_slowly_once_the_server_is_busy() -> None:
    ramp = Ramp(GOAL, alone(), most=500, calls=20)
    window(ramp, 0.3, share=0.61)
    window(ramp, 0.3)
    assert ramp.calls == 36


def test_the_ramp_ends_at_once_when_too_many_turns_are_slow() -> None:
    ramp = Ramp(GOAL, alone(), most=500, calls=20, passed=20)
    assert ramp.grow() == 10
    assert not ramp.receive(tally(0.9, 0.9))
    assert ramp.receive(tally(0.9))
    level = ramp.close(30, 1.0, None)
    assert (ramp.passed, ramp.failed, ramp.grow()) == (20, 30, None)
    assert (level.calls, level.tail) == (25, 0.9)


def test_turns_that_still_wait_are_seen_before_they_are_answered() -> None:
    ramp = Ramp(GOAL, alone(), most=500, calls=20)
    ramp.grow()
    assert not ramp.receive(Tally(waiting=[0.7] * 5))
    assert ramp.receive(Tally(waiting=[0.9] * 3))
    assert ramp.close(30, 1.0, None).tail == 0.9


def test_one_slow_turn_of_two_calls_ends_no_ramp_but_both_do() -> None:
    ramp = Ramp(GOAL, alone(), most=500)
    ramp.grow()
    assert not ramp.receive(tally(0.9, 0.3))
    assert ramp.receive(tally(0.9))


def test_two_slow_turns_of_six_calls_are_chance() -> None:
    ramp = Ramp(GOAL, alone(), most=500, calls=4)
    ramp.grow()
    assert not ramp.receive(tally(0.9, 0.9, 0.3, 0.3))
    assert ramp.receive(tally(0.9))


def test_underruns_end_the_ramp() -> None:
    ramp = Ramp(GOAL, alone(), most=500, calls=10)
    ramp.grow()
    assert ramp.receive(tally(bad=3))
    assert ramp.close(15, 1.0, None).bad == {"underruns": 3}


def test_refused_calls_end_the_ramp_with_those_that_were_taken() -> None:
    ramp = Ramp(GOAL, alone(), most=500, calls=10, passed=10)
    assert ramp.grow() == 5
    met = tally(0.3)
    met.refusals = [Refusal("busy", 0.01, 5.0)]
    assert ramp.receive(met)
    ramp.close(12, 1.0, None)
    assert (ramp.passed, ramp.failed) == (12, 15)


def test_the_ramp_ends_at_the_most_calls() -> None:
    ramp = Ramp(GOAL, alone(), most=25, calls=20)
    assert window(ramp, 0.3) == 25
    assert ramp.grow() is None
    assert (ramp.passed, ramp.failed, ramp.windows_left()) == (25, None, 0)


def test_the_windows_that_are_left_follow_from_what_a_call_costs() -> None:
    ramp = Ramp(GOAL, alone(share=0.1), most=500)
    assert ramp.windows_left() == 9  # to 15 calls: fast to 9, slowly from there
    assert Ramp(GOAL, alone(share=0.01), most=500).windows_left() == 17
