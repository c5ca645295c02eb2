"""64 calls on one device, as `voice.schedule` has it: the order of service; nothing starves."""

from functools import cache
from statistics import median

import pytest
from simulation import PARTIAL, TIMES, Fifo, Simulation, p95

from voice.schedule import Schedule

CALLS = 64
SECONDS = 60.0

ORDER = [
    ("partial", "final"),
    ("partial", "phrase"),
    ("chunk", "final"),
    ("chunk", "phrase"),
    ("settle", "final"),
    ("early phrase", "phrase"),
    ("early phrase", "final"),
]
"""Kinds of work, and what never waits while they begin: what the caller waits for."""


@cache
def by_deadline(calls: int = CALLS, slots: int = 1, hold: float | None = None) -> Simulation:
    schedule = Schedule(slots) if hold is None else Schedule(slots, hold)
    return Simulation(schedule).run(calls, SECONDS)


@cache
def first_come(calls: int = CALLS) -> Simulation:
    return Simulation(Fifo(), by_deadline=False).run(calls, SECONDS)


def test_the_recorded_times_say_where_they_are_from() -> None:
    assert TIMES["source"]
    assert TIMES["scaled"]


def test_the_device_is_well_loaded_and_all_calls_are_answered() -> None:
    for simulation in (by_deadline(), first_come()):
        assert 0.8 < simulation.busy / SECONDS < 0.95
        assert len(simulation.answers) > 3 * CALLS


@pytest.mark.parametrize("slots", [1, 2])
def test_nothing_begins_while_more_urgent_work_waits(slots: int) -> None:
    assert by_deadline(slots=slots).inversions == {}
    assert len(first_come().inversions) > 5  # it would be seen


@pytest.mark.parametrize("slots", [1, 2])
def test_what_the_caller_waits_for_comes_before_everything_else(slots: int) -> None:
    assert {pair: by_deadline(slots=slots).left[pair] for pair in ORDER} == dict.fromkeys(ORDER, 0)
    assert sum(first_come().left[pair] for pair in ORDER) > 50


@pytest.mark.parametrize("slots", [1, 2])
def test_no_kind_of_work_starves(slots: int) -> None:
    simulation = by_deadline(slots=slots)
    longest = {kind: max(waits) for kind, waits in simulation.waits.items()}
    for kind in ("final", "phrase", "prompt", "token"):
        assert longest[kind] < 0.05, kind
    for kind in ("settle", "early phrase", "early prompt", "early token"):
        assert longest[kind] < 0.15, kind
    assert longest["partial"] < PARTIAL
    assert simulation.gaps == []  # the voice never runs dry
    for engine in (simulation.ears, simulation.voice):
        assert all(SECONDS - work.asked < 2.0 for work in engine.queue)


def test_every_partial_is_served_or_superseded() -> None:
    simulation = by_deadline()
    waiting = sum(work.kind == "partial" for work in simulation.ears.queue)
    served = len(simulation.waits["partial"])
    assert served + simulation.superseded + waiting == simulation.partials
    assert simulation.superseded < 0.02 * served


def test_first_phrases_and_finals_wait_less_than_where_whoever_came_first_is_first() -> None:
    ours, theirs = by_deadline(), first_come()
    assert ours.p95("phrase") < theirs.p95("phrase") / 3
    assert ours.p95("early phrase") < theirs.p95("early phrase") / 3
    assert ours.p95("final") < theirs.p95("final") / 1.4
    assert p95(ours.answers) < p95(theirs.answers)
    spare = by_deadline(slots=2)  # a place is kept for them
    assert spare.p95("final") < theirs.p95("final") / 2
    assert spare.p95("phrase") <= ours.p95("phrase")


def test_too_many_calls_delay_what_can_wait_and_not_what_the_caller_waits_for() -> None:
    ours, theirs = by_deadline(84, slots=2), first_come(84)
    assert ours.p95("phrase") < theirs.p95("phrase") / 5
    assert p95(ours.answers) < p95(theirs.answers) / 2
    assert ours.p95("partial") > by_deadline(slots=2).p95("partial")


def test_first_tokens_come_sooner_where_they_reserve_the_device() -> None:
    reserving, not_reserving = by_deadline(), by_deadline(hold=0.0)
    assert median(reserving.waits["token"]) < 0.9 * median(not_reserving.waits["token"])
    assert reserving.gaps == []


def test_a_run_is_the_same_every_time() -> None:
    first, second = (Simulation(Schedule()).run(8, 10.0) for _ in range(2))
    assert first.waits == second.waits
    assert first.answers == second.answers
