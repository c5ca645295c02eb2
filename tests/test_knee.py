"""Where latency bends: points in, calls out."""

import pytest

from voice.cost import core_seconds, price
from voice.knee import envelope, knee

BENT = [(1, 0.30), (10, 0.30), (25, 0.30), (50, 0.31), (100, 0.32), (150, 0.34), (200, 0.70)]


def test_the_knee_is_where_the_curve_turns_upwards() -> None:
    assert knee(BENT, ceiling=1.6) == 150


def test_the_order_of_the_points_does_not_matter() -> None:
    assert knee(BENT[::-1], ceiling=1.6) == 150


def test_how_far_a_server_was_driven_beyond_its_limit_does_not_move_the_knee() -> None:
    driven = [*BENT, (210.0, 4.0), (220.0, float("inf"))]
    assert knee(driven, ceiling=1.6) == 150
    assert knee([*BENT, (210.0, 1.6), (220.0, 1.6)], ceiling=1.6) == 150


def test_a_peak_that_more_calls_do_not_have_is_no_knee() -> None:
    assert knee([*BENT, (20.0, 0.9)], ceiling=1.6) == 150


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(1, 0.3), (10, 0.5)],
        [(1, 0.30), (10, 0.31), (50, 0.30), (100, 0.32)],
        [(0, 0.3), (50, 0.5), (100, 0.7)],
    ],
    ids=["none", "two", "flat", "straight"],
)
def test_what_does_not_bend_has_no_knee(points: list[tuple[float, float]]) -> None:
    assert knee(points, ceiling=1.6) is None


def test_a_rising_curve_lies_below_all_points() -> None:
    assert envelope([(1, 0.3), (2, 0.5), (3, 0.4), (3, 0.45)]) == [(1, 0.3), (2, 0.4), (3, 0.4)]


def test_a_call_costs_its_part_of_the_cores_or_of_the_price() -> None:
    assert core_seconds(0.9, 100) == pytest.approx(0.54)
    assert price(3.0, 100) == pytest.approx(0.0005)
