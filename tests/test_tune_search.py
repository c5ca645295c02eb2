"""The search of `voice tune`, on surfaces whose optimum is known."""

import math
import random
from collections.abc import Callable, Mapping

import pytest

from voice.tune_front import front
from voice.tune_runs import Goal, Ladder, Outcome, Value
from voice.tune_search import CONFIRMED, LONG, Search, Trial

WAIT = Ladder("wait", (1.0, 0.8, 0.6, 0.4, 0.2), 0)
LEAD = Ladder("lead", (0.1, 0.3, 0.5), 0)
BEAM = Ladder("beam", (5, 3, 1), 0)
DEAD = Ladder("dead", (1, 2, 3), 1)
LADDERS = (WAIT, LEAD, BEAM, DEAD)
GOAL = Goal(calls=20, budget=0.8, seconds=1500.0)

Surface = Callable[[Mapping[str, Value], int], tuple[float, float, float]]
"""p95 in seconds, cost, and share of bad turns, for knobs and a number of calls."""


def surface(knobs: Mapping[str, Value], calls: int) -> tuple[float, float, float]:
    """The wait is heard whole and cuts in below 0.5 s; a lead hides the engines and costs a
    little; a wide beam costs much; the fourth knob does nothing."""
    defaults = {"wait": 0.6, "lead": 0.3, "beam": 1}
    wait, lead, beam = (float(knobs.get(name, value)) for name, value in defaults.items())
    p95 = wait + max(0.0, 0.3 - lead) + 0.02 * beam + 0.0005 * calls**1.5
    cost = 0.5 + 0.1 * beam + 0.3 * lead
    return p95, cost, 0.3 if wait < 0.5 else 0.0


def run(
    search: Search, plant: Surface, noise: float = 0.0, seed: int = 1, most: int = 1000
) -> list[Trial]:
    """Drive a search to its end; `noise` is in seconds, and in shares of the cost."""
    rng, trials = random.Random(seed), list[Trial]()
    while (trial := search.next()) is not None and len(trials) < most:
        trials.append(trial)
        p95, cost, bad = plant(search.results.values(trial.point), trial.calls)
        turns = trial.calls * 3 * (LONG if trial.long else 1)
        shift = rng.gauss(0, noise)
        gaps = tuple(
            p95 + shift - 0.05 * (turns - n) / turns + rng.gauss(0, noise) for n in range(turns)
        )
        search.record(
            Outcome(
                gaps=gaps,
                turns=turns,
                bad=round(bad * turns),
                cut_ins=round(bad * turns),
                cost=cost * (1 + rng.gauss(0, noise)),
                took=50.0 if trial.long else 25.0,
            )
        )
    return trials


def test_the_known_optimum_is_found_within_noise() -> None:
    idle_knob_moved = 0
    for seed in range(25):
        search = Search(GOAL, LADDERS)
        trials = run(search, surface, noise=0.01, seed=seed)
        best = search.results.values(search.results.best.point)
        assert search.results.best.holds(GOAL)
        # Less lead breaks the budget, more of it costs more; a shorter wait cuts in.
        assert (best["wait"], best["lead"], best["beam"]) == (0.6, 0.3, 1)
        assert search.results.best.long >= CONFIRMED
        assert len(trials) <= 55
        idle_knob_moved += best["dead"] != 2
    assert idle_knob_moved <= 2


def test_a_start_that_breaks_the_budget_is_left() -> None:
    search = Search(GOAL, LADDERS)
    run(search, surface)
    assert search.results.of(search.results.start).faults(GOAL) == ["over budget"]
    assert search.results.best.holds(GOAL)


def test_nothing_is_proposed_outside_the_ladders_or_that_is_not_valid() -> None:
    search = Search(GOAL, LADDERS, valid=lambda point: point[0] + point[1] != 2)
    for trial in run(search, surface, noise=0.02):
        for place, ladder in zip(trial.point, LADDERS, strict=True):
            assert 0 <= place < len(ladder.values)
        assert trial.point[0] + trial.point[1] != 2


@pytest.mark.parametrize("seconds", [10.0, 100.0, 300.0, 1500.0])
def test_the_time_is_kept_but_for_the_two_runs_of_the_start(seconds: float) -> None:
    search = Search(Goal(calls=20, budget=0.8, seconds=seconds), LADDERS)
    trials = run(search, surface)
    assert len(trials) >= 2
    assert search.spent <= max(50.0, seconds)
    assert search.results.best.good


def test_where_nothing_holds_the_nearest_is_the_best() -> None:
    def slow(knobs: Mapping[str, Value], calls: int) -> tuple[float, float, float]:
        p95, cost, _ = surface(knobs, calls)
        return p95 + 1.0, cost, 0.0

    search = Search(GOAL, LADDERS)
    run(search, slow)
    assert not search.results.best.holds(GOAL)
    assert search.results.held(search.results.best.point) == 0
    best = search.results.values(search.results.best.point)
    assert (best["wait"], best["beam"]) == (0.2, 1)


def test_a_knob_without_effect_stays_where_it_was() -> None:
    search = Search(GOAL, (DEAD,))
    run(search, lambda knobs, calls: (0.5, 1.0, 0.0), noise=0.01)
    assert search.results.best.point == search.results.start


def test_a_configuration_that_fails_is_not_the_best_and_is_not_tried_again() -> None:
    search, failed = Search(GOAL, LADDERS), list[Trial]()
    while (trial := search.next()) is not None:
        knobs = search.results.values(trial.point)
        if knobs["beam"] == 1:
            failed.append(trial)
            search.record(Outcome(failed="the server ended with status 1", took=3.0))
            continue
        p95, cost, bad = surface(knobs, trial.calls)
        took = 50.0 if trial.long else 25.0
        search.record(Outcome(gaps=(p95,) * 60, turns=60, bad=int(60 * bad), cost=cost, took=took))
    assert failed
    assert len({trial.point for trial in failed}) == len(failed)
    assert search.results.best.holds(GOAL)
    assert search.results.values(search.results.best.point)["beam"] == 3


def test_a_search_whose_every_run_fails_ends() -> None:
    search = Search(GOAL, LADDERS)
    count = 0
    while search.next() is not None:
        search.record(Outcome(failed="no", took=0.0))
        count += 1
    assert 2 <= count < 200
    assert search.results.best.point == search.results.start
    assert search.results.best.failed == "no"


def test_a_step_that_only_makes_worse_ends_its_way() -> None:
    search = Search(GOAL, (Ladder("wait", (1.0, 0.8, 0.6, 0.4, 0.2), 2),))
    screened = [t.point[0] for t in run(search, surface) if t.phase == "screen"]
    # 0.4 s cuts in, so 0.2 s need not be tried; 0.8 s is too slow, so 1.0 s need not.
    assert screened == [3, 1]


@pytest.mark.parametrize(("start", "mended"), [(0, [1, 2]), (4, [3, 2])])
def test_a_start_that_breaks_the_budget_is_left_by_the_way_that_mends_it(
    start: int, mended: list[int]
) -> None:
    search = Search(GOAL, (Ladder("wait", (1.0, 0.8, 0.6, 0.4, 0.2), start), DEAD))
    trials = [t for t in run(search, surface) if t.phase == "mend" and t.point[1] == DEAD.start]
    assert [trial.point[0] for trial in trials] == mended
    assert search.results.base == (2, DEAD.start)
    assert [m.point for m in search.results.alone(1)] == [(2, 0), (2, 1), (2, 2)]


def test_a_knob_that_mends_nothing_waits_for_the_others() -> None:
    idle = Ladder("dead", (1, 2, 3, 4, 5, 6), 5)

    def sloping(knobs: Mapping[str, Value], calls: int) -> tuple[float, float, float]:
        wait = float(knobs["wait"])
        return wait, 1.0, max(0.0, 1.2 - 2 * wait)

    search = Search(GOAL, (Ladder("wait", (0.7, 0.6, 0.4, 0.3, 0.2, 0.1), 5), idle))
    trials = [t for t in run(search, sloping) if t.phase == "mend"]
    assert [t.point[1] for t in trials if t.point[0] == 5] == [4, 3]
    assert trials[-1].point == (1, 5)


def test_a_start_that_nothing_seems_to_mend_is_mended_in_the_end() -> None:
    search = Search(GOAL, (Ladder("wait", (0.6, 0.4, 0.35, 0.3, 0.25, 0.2), 5), DEAD))
    trials = [t for t in run(search, surface) if t.phase == "mend"]
    assert trials[-1].point == (0, DEAD.start)


def test_the_ramp_finds_how_many_calls_the_best_and_the_start_hold() -> None:
    goal = Goal(calls=20, budget=0.8, seconds=5000.0)
    search = Search(goal, LADDERS)
    run(search, surface)
    best = search.results.best.point
    knobs = search.results.values(best)
    most = search.results.held(best)
    assert surface(knobs, most)[0] <= 0.8 < surface(knobs, most + 5)[0]
    levels = {calls for point, calls in search.results.measured if point == best}
    assert {
        calls for point, calls in search.results.measured if point == search.results.start
    } == levels


def test_a_repeat_shows_the_noise_and_what_is_within_it_does_not_count() -> None:
    search = Search(GOAL, (BEAM,))
    for cost in (1.0, 1.2):
        assert search.next() is not None
        search.record(Outcome(gaps=(0.5,) * 60, turns=60, cost=cost, took=25.0))
    trial = search.next()
    assert trial is not None
    search.record(Outcome(gaps=(0.5,) * 60, turns=60, cost=0.9, took=25.0))
    results = search.results
    assert results.noise_of(lambda run: run.cost) == pytest.approx(0.1414, abs=1e-3)
    start = results.of(results.start)
    assert results.pick([results.of(trial.point), start]) is start


def test_where_a_percentile_lies_is_told_by_ranks() -> None:
    search = Search(GOAL, (BEAM,))
    search.next()
    search.record(Outcome(gaps=tuple(n / 1000 for n in range(1, 201)), turns=200))
    low, high = search.results.of(search.results.start).span(95.0)
    assert low < search.results.of(search.results.start).at(95.0) < high
    assert (low, high) == (0.184, 0.198)


@pytest.mark.parametrize(
    ("outcome", "faults"),
    [
        (Outcome(gaps=(0.5,) * 60, turns=60), []),
        (Outcome(gaps=(0.9,) * 60, turns=60), ["over budget"]),
        (Outcome(gaps=(0.5,) * 59, turns=60, bad=1), []),
        (Outcome(gaps=(0.5,) * 58, turns=60, bad=2), ["bad turns"]),
        (Outcome(gaps=(0.5,) * 58, turns=60, bad=2, cut_ins=2), ["cuts in"]),
        (Outcome(gaps=(0.5,) * 58, turns=60, underruns=2, bad=1), ["underruns"]),
        (Outcome(gaps=(0.5,) * 60, turns=60, lost=1), ["lost calls"]),
        (Outcome(failed="no"), ["failed"]),
        (Outcome(turns=60, bad=60), ["over budget", "bad turns"]),
    ],
)
def test_what_keeps_a_configuration_from_holding_has_a_name(
    outcome: Outcome, faults: list[str]
) -> None:
    search = Search(GOAL, (BEAM,))
    search.next()
    search.record(outcome)
    assert search.results.of(search.results.start).faults(GOAL) == faults


def test_the_front_is_what_nothing_else_beats() -> None:
    points = [(1, 5), (2, 3), (3, 4), (4, 1), (4, 1), (5, 1)]
    assert front(points) == [0, 1, 3, 4]
    assert front([(1, 2, 3), (1, 2, 4), (0, 9, 9)]) == [0, 2]
    assert front([]) == []
    assert front([(math.inf, 1), (1, math.inf)]) == [0, 1]


def test_a_run_that_other_work_disturbed_is_made_again_and_then_does_not_count() -> None:
    search = Search(GOAL, (BEAM,))
    outcomes = {1: Outcome(gaps=(2.0,) * 60, turns=60, late=0.5, took=25.0)}
    trials = []
    while (trial := search.next()) is not None and len(trials) < 4:
        trials.append(trial.point)
        good = Outcome(gaps=(0.5,) * 60, turns=60, cost=1.0, took=25.0)
        search.record(outcomes.pop(trial.point[0], good))
    assert trials == [(0,), (0,), (1,), (1,)]
    assert search.results.of((1,)).at(95) == 0.5
    assert search.results.of((1,)).turns == 60


def test_a_ramp_that_never_failed_is_told_as_or_more() -> None:
    search = Search(GOAL, (BEAM,))
    results = search.results
    search.next()
    search.record(Outcome(gaps=(0.5,) * 60, turns=60, took=25.0))
    assert results.held_shown(results.start) == "20 or more"
    results.of(results.start, 40).runs.append(Outcome(gaps=(0.9,) * 60, turns=60))
    assert results.held_shown(results.start) == "20"
    results.of((1,)).runs.append(Outcome(gaps=(0.9,) * 60, turns=60))
    assert results.held_shown((1,)) == "none"
