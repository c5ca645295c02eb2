"""64 calls on one device: the order of service, and that nothing starves."""

from functools import cache

from simulation import TIMES, Fifo, Simulation

from voice.schedule import Schedule

CALLS = 64
SECONDS = 60.0

URGENT = ("final", "settle", "phrase", "early phrase", "prompt", "early prompt")


@cache
def by_deadline(calls: int = CALLS, slots: int = 1) -> Simulation:
    return Simulation(Schedule(slots)).run(calls, SECONDS)


@cache
def first_come() -> Simulation:
    return Simulation(Fifo(), by_deadline=False).run(CALLS, SECONDS)


def test_the_recorded_times_say_where_they_are_from() -> None:
    assert TIMES["source"]
    assert TIMES["scaled"]
    assert 0 < TIMES["scale"] <= 1


def test_the_device_is_well_loaded() -> None:
    assert 0.6 < by_deadline().busy / SECONDS < 0.95
    assert len(by_deadline().answers) > 200


def test_nothing_begins_while_more_urgent_work_waits() -> None:
    assert by_deadline().inversions == {}
    assert first_come().inversions != {}  # it would be seen


def test_final_words_come_before_partial_ones() -> None:
    pairs = [("partial", "final"), ("partial", "settle")]
    assert all(by_deadline().left.get(pair, 0) == 0 for pair in pairs[:1])
    assert by_deadline().waits["partial"]
