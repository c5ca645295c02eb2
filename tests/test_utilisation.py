import pytest

from latency.utilisation import COST, Resource, Utilisation


def measured(shares: list[float], calls: int, late: float = 0.001) -> Utilisation:
    """What is known after measuring `shares` of the loop, a second each, with `calls`."""
    known = Utilisation()
    for second, share in enumerate(shares):
        known.measured({"loop": share}, late, calls, 100.0 + second)
    return known


def test_a_call_counts_before_its_work_is_measured() -> None:
    assert Utilisation().busiest(4) == ("loop", pytest.approx(4 * COST))


def test_what_a_call_costs_is_learned_of_those_that_go_on() -> None:
    known = measured([0.4] * 60, calls=40)
    assert known.resources["loop"].cost == pytest.approx(0.01, rel=0.02)
    assert known.busiest(50)[1] == pytest.approx(0.5, rel=0.02)


def test_what_the_machine_does_without_calls_is_not_their_cost() -> None:
    known = measured([0.3] * 60, calls=0)
    for second in range(60):
        known.measured({"loop": 0.5}, 0.001, 20, 200.0 + second)
    assert known.resources["loop"].cost == pytest.approx(0.01, rel=0.05)


def test_what_the_machine_does_no_more_is_forgotten_though_calls_go_on() -> None:
    known = measured([0.8] * 60, calls=0)
    for second in range(60):
        known.measured({"loop": 0.2}, 0.001, 10, 200.0 + second)
    assert known.busiest(11)[1] < 0.25


def test_callers_who_are_silent_yet_do_not_make_calls_cheap() -> None:
    known = measured([0.0] * 3, calls=0)
    for second in range(4):
        known.measured({"loop": 0.02}, 0.001, 40, 103.0 + second)
    assert known.busiest(40)[1] > 0.5
    for second in range(30):
        known.measured({"loop": 0.02}, 0.001, 40, 107.0 + second)
    assert known.busiest(40)[1] < 0.15


def test_that_calls_cost_more_is_learned_before_they_have_settled() -> None:
    known = measured([0.0], calls=0)
    for second in range(6):
        known.measured({"loop": 0.9}, 0.001, 6, 101.0 + second)
    assert known.resources["loop"].cost > 0.09


def test_a_late_loop_is_busy_whoever_has_its_processor() -> None:
    assert measured([0.1] * 20, calls=2, late=0.001).busiest(2)[1] < 0.2
    name, used = measured([0.1] * 20, calls=2, late=0.03).busiest(2)
    assert (name, used) == ("loop", pytest.approx(0.028 / 0.031, rel=0.01))


def test_an_engine_that_takes_ten_times_as_long_is_nine_tenths_busy() -> None:
    known = Utilisation()
    for _ in range(20):
        known.worked({"llm": 0.1, "tts": 0.1})
    known.calls = 30
    for _ in range(200):
        known.worked({"llm": 1.0, "tts": 0.11})
    known.measured({"loop": 0.3}, 0.001, 30, 100.0)
    known.resources["loop"].cost = 0.01
    name, used = known.busiest(30)
    assert (name, used) == ("llm", pytest.approx(0.88, abs=0.02))
    assert "tts" not in known.resources  # a longer phrase is no load


def test_there_is_room_until_the_first_resource_is_full() -> None:
    known = Utilisation()
    known.calls = 10
    known.resources = {"loop": Resource(0.2, 0.02), "processors": Resource(0.5, 0.05)}
    assert known.room(0.8, 10) == 6
    assert known.room(0.8, 13) == 3
    assert known.room(0.8, 17) == 0


def test_an_engine_of_one_call_is_busy_with_nobody_else() -> None:
    known = Utilisation()
    known.worked({"llm": 0.01})
    for _ in range(100):
        known.worked({"llm": 2.0})
    known.measured({"loop": 0.1}, 0.001, 1, 100.0)
    assert "llm" not in known.resources


def test_what_was_not_measured_yet_is_assumed() -> None:
    known = measured([0.1], calls=2)
    assert known.assumed(6)
    assert not measured([0.1] * 60, calls=10).assumed(10)
    assert not measured([0.1] * 60, calls=10, late=0.1).assumed(10)  # the lateness was measured
