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


def test_a_sender_whose_clock_is_slow_is_not_late_for_ever() -> None:
    clock, now, began = SampleClock(), 100.0, 0.0
    for _ in range(15_000):  # five minutes
        now += 0.02 * 1.0003
        began = clock.place(0.02, now)
    assert now - 0.02 - began < 0.002


def test_bursts_do_not_move_the_measure() -> None:
    clock = SampleClock()
    for number in range(500):
        late = 0.0 if number % 50 == 0 else 0.01 + 0.04 * (number % 7) / 7
        placed = clock.place(0.02, 10.02 + number * 0.02 + late)
        assert placed == pytest.approx(10.0 + number * 0.02)
