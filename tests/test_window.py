"""What a window of turns says, asked between all that it is told."""

import pytest

from latency.window import Answered, Window


def window_of(count: int) -> Window:
    """Return a window of turns of one second each, one a second, whose replies are over."""
    window = Window(0.0)
    for at in range(count):
        window.answered(Answered(at, 1.0, {"llm": 0.6, "tts": 0.4}))
        window.counted("", 1.0, at)
    return window


def test_what_a_turn_strained_since_it_was_last_asked_counts() -> None:
    window = window_of(16)
    assert window.strain("misses", 0.05) == 0.0
    for _ in range(4):
        window.counted("misses", 1.0, 15.0)
    assert window.strain("misses", 0.05) == 4 / 16
    window.forget(16.0)
    assert window.strain("misses", 0.05) == 0.0


def test_turns_answered_since_it_was_last_asked_count() -> None:
    window = window_of(3)
    for _ in range(4):
        window.counted("misses", 1.0, 2.0)
    assert window.strain("misses", 0.05) == 4 / 3
    window.answered(Answered(3.0, 5.0, {"llm": 5.0}))
    assert window.strain("misses", 0.05) == 4 / 4


def test_what_would_have_spared_a_share_of_a_strain_is_told() -> None:
    window = window_of(16)
    assert window.spared("cut_ins", 1.0) is None
    window.counted("cut_ins", 1.0, 3.0)
    assert window.spared("cut_ins", 1.0) is None
    for pause in (0.9, 0.5, 0.7, 0.6):
        window.counted("cut_ins", 1.0, 4.0, pause)
    assert [window.spared("cut_ins", share) for share in (0.0, 0.5, 0.75, 1.0)] == [
        *(0.5, 0.6, 0.7, 0.9)
    ]
    assert window.spared("underruns", 1.0) is None


def test_a_level_is_that_of_the_turns_there_are_and_of_the_stages_asked_for() -> None:
    window = window_of(3)
    assert (window.level().mean, window.level(("llm",)).mean) == (1.0, pytest.approx(0.4))
    window.answered(Answered(3.0, 5.0, {"llm": 5.0}))
    assert (window.level().mean, window.level(("llm",)).mean) == (2.0, pytest.approx(0.3))
    assert window.level().error == pytest.approx((3 / 4) ** 0.5)
    window.forget(3.0)
    assert (window.level().mean, window.level().error) == (5.0, 0.0)
