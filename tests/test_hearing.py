import pytest

from voice.hearing import LATE, SampleClock


def test_audio_that_comes_late_keeps_its_place() -> None:
    clock = SampleClock()
    assert clock.place(0.02, 10.02) == pytest.approx(10.0)
    assert clock.place(0.02, 10.09) == pytest.approx(10.02)  # 50 ms late
    assert clock.place(0.02, 10.09) == pytest.approx(10.04)  # and caught up


def test_the_earliest_arrival_is_the_measure() -> None:
    clock = SampleClock()
    clock.place(0.02, 10.05)  # the very first was late
    assert clock.place(0.02, 10.04) == pytest.approx(10.02)
    assert clock.place(0.02, 10.06) == pytest.approx(10.04)


def test_after_a_gap_time_begins_anew() -> None:
    clock = SampleClock()
    clock.place(0.02, 10.02)
    assert clock.place(0.02, 10.04 + LATE + 0.01) == pytest.approx(10.02 + LATE + 0.01)
