import pytest

from latency.load import HALF_LIFE, LATE, Load


def test_a_loop_that_is_in_time_is_not_over_its_budget() -> None:
    load = Load()
    for tick in range(100):
        load.note(0.002, tick * 0.05)
    assert not load.over


def test_a_delay_counts_until_it_has_faded() -> None:
    load = Load()
    load.note(3 * LATE, 10.0)
    assert load.over
    load.note(0.0, 10.0 + HALF_LIFE)
    assert load.over
    load.note(0.0, 10.0 + 2 * HALF_LIFE)
    assert not load.over
    assert load.late == pytest.approx(0.75 * LATE)


def test_a_timer_that_is_early_is_no_negative_delay() -> None:
    load = Load()
    load.note(-0.001, 1.0)
    assert load.late == 0.0
