"""Whether a number of calls passes and what is said of it: measurements in, words out."""

from collections.abc import Sequence
from math import inf
from typing import Any

import pytest

from voice.capacity import Goal, Level, Refusal, Tally, Used, Verdict, judge, level
from voice.capacity_view import plot, spark, told
from voice.found import Found

GOAL = Goal(budget=0.8, percentile=95.0)


def measured(**given: Any) -> Level:
    chosen: dict[str, Any] = {"calls": 100, "turns": 300, "p50": 0.3, "tail": 0.4, "steady": True}
    return Level(**(chosen | given))


@pytest.mark.parametrize(
    ("given", "limit", "words"),
    [
        ({}, "", ""),
        ({"tail": 0.8}, "", ""),
        ({"tail": 0.81}, "latency", "p95 810 ms > 800 ms"),
        ({"tail": inf, "bad": {"unanswered": 20}}, "unanswered", "20 turns were not answered"),
        ({"tail": None, "p50": None}, "unanswered", "no turn was answered"),
        ({"spoilt": 6, "bad": {"underruns": 6}}, "", ""),
        ({"spoilt": 7, "bad": {"underruns": 7}}, "underruns", "7 of 300 turns bad (at most 2 %)"),
        ({"turns": 5, "spoilt": 1, "bad": {"underruns": 1}}, "", ""),
        ({"turns": 5, "spoilt": 2, "bad": {"underruns": 2}}, "underruns", "2 of 5 turns bad"),
        (
            {"spoilt": 30, "bad": {"talked over": 28, "in part": 2}},
            "talked over",
            "28 talked over",
        ),
        ({"lost": {"closed": 2}}, "lost", "2 lost, 2 because closed"),
        ({"refusals": [Refusal("over_budget", 0.01, 3)]}, "refused", "admits 100 and refused"),
        ({"late": 0.03}, "", ""),
        ({"tail": 0.9, "late": 0.03}, "callers", "callers' own machine was 30 ms late"),
        ({"tail": 0.9, "used": Used(0.5, 1, 90, 0.4)}, "others", "others took 40 %"),
        ({"tail": 0.9, "used": Used(0.9, 1, 90, 0.1)}, "latency", "p95 900 ms"),
        ({"used": Used(0.5, 1, 90, 0.4)}, "", ""),
        (
            {"refusals": [Refusal("busy", 0.01, 5)], "late": 0.5, "used": Used(0, 1, 90, 0.9)},
            "refused",
            "(busy)",
        ),
    ],
)
def test_a_number_of_calls_passes_or_it_is_said_what_is_too_much(
    given: dict[str, Any], limit: str, words: str
) -> None:
    verdict = judge(measured(**given), GOAL)
    assert (verdict.passed, verdict.limit) == (not limit, limit)
    assert words in verdict.reason


@pytest.mark.parametrize("budget", [0.0, -1.0, 0.049, 31.0, float("nan")])
def test_a_budget_is_a_time(budget: float) -> None:
    with pytest.raises(ValueError, match=r"expected 0\.05 to 30 s"):
        Goal(budget=budget)


def test_a_percentile_is_one() -> None:
    with pytest.raises(ValueError, match=r"percentile is 100; expected 50 to 99\.9"):
        Goal(percentile=100.0)


def test_the_goal_of_the_comparison_follows_from_one_call() -> None:
    assert Goal.beside(0.3).budget == pytest.approx(0.55)


def test_a_level_counts_turns_that_nobody_answered_and_those_that_wait_too_long() -> None:
    tally = Tally()
    for gap in [0.3] * 18 + [inf]:
        tally.add(Tally(gaps=[gap]))
        tally.close_turn([] if gap < inf else ["unanswered"])
    tally.add(Tally(waiting=[0.5, 1.5], late=[0.001] * 19 + [0.02]))
    got = level(tally, GOAL, 10, 5.0, None, steady=True)
    assert (got.turns, got.p50, got.tail) == (20, 0.3, 1.5)
    assert (got.bad, got.spoilt, got.late) == ({"unanswered": 1}, 1, 0.001)


def found(*levels: tuple[Level, Verdict], idle: float | None = 100.0) -> Found:
    """Return a search in which one call was answered in 0.3 s, and then came these."""
    alone = measured(calls=1, turns=6, tail=0.31, used=Used(0.02, 1, 100.5))
    result = Found(goal=GOAL, alone=alone, idle=idle, seconds=200.4)
    for pair in ((alone, Verdict(True)), *levels):
        result.take(*pair)
    return result


def curve(*points: tuple[int, float]) -> Sequence[tuple[Level, Verdict]]:
    """Return windows of a ramp with these calls and percentiles."""
    return [
        (
            measured(calls=calls, tail=tail, steady=False, used=Used(0.9, 1, 100 + 0.5 * calls)),
            Verdict(tail <= 0.8, "" if tail <= 0.8 else "latency"),
        )
        for calls, tail in points
    ]


RAMP = curve((10, 0.3), (50, 0.31), (100, 0.33), (120, 0.9))
BEST = measured(calls=110, p50=0.32, tail=0.52, used=Used(0.97, 1, 160.0), late=0.002)
WORST = measured(calls=115, tail=0.85)


def test_what_was_found_is_said_number_first() -> None:
    result = found(*RAMP, (BEST, Verdict(True)), (WORST, judge(WORST, GOAL)))
    assert result.sentences(per_hour=0.04) == [
        "110 calls at p95 ≤ 800 ms",
        "there: p50 320 ms, p95 520 ms, 0 bad of 300 turns; one call alone: p50 300 ms",
        "limit: latency; 115 calls: p95 850 ms > 800 ms",
        "knee: p95 begins to bend at about 100 calls",
        "server: 97.0 % of a core (it may use 1), 0.882 % a call; 160.0 MB, 0.5 MB a call",
        "cost: 0.5291 core-seconds a call-minute",
        "cost: 0.00000606 a call-minute, at 0.04 an hour for what the server runs on",
    ]


def test_what_was_found_is_a_row_for_machines() -> None:
    row = found(*RAMP, (BEST, Verdict(True)), (WORST, judge(WORST, GOAL))).row()
    assert (row["calls"], row["limit"], row["knee"], row["p95_ms"]) == (110, "latency", 100, 520.0)
    assert row["failed"] == {"calls": 115, "why": "p95 850 ms > 800 ms"}
    assert row["points"][-1] == [115, 300.0, 850.0, "run"]
    assert row["took_s"] == 200
    assert "cost_per_call_minute" not in row


def test_a_limit_that_is_not_the_servers_makes_the_number_a_least_one() -> None:
    shared = measured(calls=115, tail=1.6, used=Used(0.5, 1, 160.0, 0.5))
    result = found(*RAMP, (BEST, Verdict(True)), (shared, judge(shared, GOAL)))
    assert result.sentences()[0] == "at least 110 calls at p95 ≤ 800 ms"
    assert "limit: something else on the server's cores, not the server; 115 calls" in str(
        result.sentences()
    )
    assert (115.0, 1.6) not in result.points  # it says nothing of where the server bends
    assert result.row()["at_least"]


def test_only_a_run_of_its_own_makes_a_number() -> None:
    assert found(*RAMP).calls == 1


def test_a_limit_by_admission_is_said_with_its_answer() -> None:
    refused = measured(calls=40, refusals=(Refusal("busy", 0.012, 5.0),))
    result = found(
        (measured(calls=32), Verdict(True)),
        (refused, judge(measured(calls=32, refusals=refused.refusals), GOAL)),
    )
    row = result.row()
    assert (row["calls"], row["limit"]) == (32, "refused")
    assert row["failed"]["why"] == "the server admits 32 and refused one more (busy)"
    assert (row["failed"]["refused_within_ms"], row["failed"]["retry_after_s"]) == (12.0, 5.0)


def test_a_server_that_cannot_be_seen_costs_what_it_is_said_to() -> None:
    result = found((measured(calls=20), Verdict(True)), idle=None)
    said = result.sentences(per_hour=3.0)
    assert said[0] == "at least 20 calls at p95 ≤ 800 ms"
    assert "limit: not found, nothing was too much up to --most" in said
    assert "knee: none, p95 does not bend in what was measured" in said
    assert "server: its CPU and memory cannot be seen from here" in said
    assert said[-1] == "cost: 0.0025 a call-minute, at 3 an hour for what the server runs on"


def test_nothing_that_passed_is_zero_calls() -> None:
    alone = measured(calls=1, tail=0.9)
    result = Found(goal=GOAL, alone=alone)
    result.take(alone, judge(alone, GOAL))
    assert result.sentences()[:2] == [
        "0 calls at p95 ≤ 800 ms",
        "limit: latency; 1 call: p95 900 ms > 800 ms",
    ]
    assert result.row()["limit"] == "latency"


def test_what_never_came_is_no_number_in_json() -> None:
    level = measured(calls=5, p50=inf, tail=inf, bad={"unanswered": 9})
    assert found((level, judge(level, GOAL))).row()["points"][-1] == [5, None, None, "run"]


def test_a_curve_shows_what_is_above_the_budget() -> None:
    assert spark([0.0, 0.1, 0.4, 0.8, 0.81], 0.8) == "▁▂▅█×"


def test_a_drawing_has_the_budget_as_a_line_and_runs_as_dots() -> None:
    drawn = plot([(1.0, 0.3, True), (50.0, 0.3, False), (100.0, inf, True)], 0.8)
    assert "800 ms ┤╌╌╌" in drawn[3]
    assert drawn[0].endswith("●")
    low = next(line for line in drawn if "·" in line)
    assert low.index("●") < low.index("·")
    assert drawn[-1].endswith("100 calls")


def test_a_line_for_each_number_says_why_it_failed() -> None:
    line = told(WORST, judge(WORST, GOAL), 95.0)
    assert (
        line
        == "run   115 calls  p50  300 ms  p95  850 ms  0 bad of 300  failed: p95 850 ms > 800 ms"
    )
