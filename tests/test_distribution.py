from hypothesis import given
from hypothesis import strategies as st

from latency.distribution import EDGES, Distribution
from latency.trace import percentile


def test_nothing_is_known_of_no_values() -> None:
    spread = Distribution(10)
    spread.add(None)
    assert spread.percentile(50) is None
    assert spread.counts() == [0] * (len(EDGES) + 1)


def test_a_value_is_in_the_bin_between_its_borders() -> None:
    spread = Distribution(10)
    for value in (-0.001, 0.0049, 0.005, 0.8, 0.99, 7.0):
        spread.add(value)
    counts = spread.counts()
    assert (counts[0], counts[1], counts[-1]) == (2, 1, 1)
    assert counts[EDGES.index(0.8) + 1] == 2


def test_the_oldest_is_forgotten_also_one_that_was_none() -> None:
    spread = Distribution(3)
    for value in (5.0, None, 1.0, 2.0):
        spread.add(value)
    assert (len(spread), spread.percentile(100)) == (2, 2.0)
    spread.add(3.0)
    assert (len(spread), spread.percentile(1)) == (3, 1.0)


@given(st.lists(st.none() | st.floats(-1, 10), max_size=60), st.integers(1, 20), st.floats(1, 100))
def test_it_knows_what_the_latest_values_say(
    values: list[float | None], kept: int, percent: float
) -> None:
    spread = Distribution(kept)
    for value in values:
        spread.add(value)
    latest = [value for value in values[-kept:] if value is not None]
    assert spread.percentile(percent) == (percentile(latest, percent) if latest else None)
    assert sum(spread.counts()) == len(latest)
