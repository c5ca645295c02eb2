import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency.queueing import LONGEST, STEEPNESS, USABLE, Curve, growth


def curve(idle: float = 0.3, steepness: float = 0.02, rest: float = 0.0) -> Curve:
    made = Curve(95.0)
    made.idle, made.steepness, made.rest = idle, steepness, rest
    return made


def observed(*looks: tuple[float, float], answers: int = 30) -> Curve:
    """A curve that observed (seconds, utilisation), 40 s apart, each of so many answers."""
    made = Curve(95.0)
    for number, (seconds, utilisation) in enumerate(looks):
        now = 100.0 + 40 * number
        for _ in range(answers):
            made.answered(seconds, utilisation, now)
        made.look(now + 1)
    return made


def test_nothing_is_predicted_of_a_machine_that_has_answered_nobody() -> None:
    assert Curve(95.0).predicted(0.1) is None


def test_waiting_grows_as_in_a_queue() -> None:
    assert curve().predicted(0.0) == pytest.approx(0.3)
    assert curve().predicted(USABLE / 2) == pytest.approx(0.32)
    assert curve().predicted(0.9 * USABLE) == pytest.approx(0.48)
    assert curve().predicted(USABLE) == LONGEST
    assert curve(rest=0.1).predicted(USABLE / 2) == pytest.approx(0.42)


def test_the_most_utilisation_is_where_the_limit_is_met() -> None:
    assert curve().most(0.34) == pytest.approx(USABLE * 2 / 3)
    assert curve().most(0.29) == 0.0


@given(st.floats(0.05, 0.93), st.floats(0.05, 1.0), st.floats(0.003, 0.5))
def test_most_is_the_inverse_of_predicted(used: float, idle: float, steepness: float) -> None:
    made = curve(idle, steepness)
    limit = made.predicted(used)
    assert limit is not None
    assert made.most(limit) == pytest.approx(used, abs=1e-6) or limit == LONGEST


@given(st.floats(0, 1.5), st.floats(0, 1.5), st.floats(0, 2), st.floats(0.003, 0.5))
def test_nobody_waits_less_on_a_busier_machine(
    one: float, other: float, idle: float, steepness: float
) -> None:
    made = curve(idle, steepness)
    less, more = made.predicted(min(one, other)), made.predicted(max(one, other))
    assert less is not None
    assert more is not None
    assert less <= more


def test_the_first_answers_tell_what_an_idle_machine_takes() -> None:
    made = observed((0.3, 0.1))
    assert made.observed == 0.3
    assert made.idle == pytest.approx(0.3, abs=0.003)
    assert made.steepness == STEEPNESS[0]


def test_the_steepness_is_learned_from_a_busy_machine() -> None:
    looks = [(0.3, 0.05), (0.3 + 0.1 * growth(0.7), 0.7), (0.3 + 0.1 * growth(0.8), 0.8)]
    made = observed(*looks * 8)
    assert made.steepness == pytest.approx(0.1, rel=0.15)
    assert made.idle == pytest.approx(0.3, abs=0.03)


def test_hours_of_load_do_not_wipe_out_what_is_known_of_an_idle_machine() -> None:
    made = observed(*[(0.3, 0.05)] * 20, *[(0.7, 0.8)] * 180)
    assert made.idle == pytest.approx(0.3, abs=0.06)


def test_what_load_does_not_explain_is_added_on_a_busy_machine_only() -> None:
    quiet, loaded = [(0.3, 0.1)] * 20, [(0.32, 0.6)] * 20
    assert observed(*quiet, *loaded, (0.9, 0.6)).rest > 0.2
    assert observed(*quiet, *loaded, (0.9, 0.1)).rest == 0.0
    assert observed(*quiet, *loaded, (0.9, 0.6), (0.32, 0.6)).rest < 0.01


def test_a_handful_of_answers_is_no_percentile() -> None:
    assert observed((0.9, 0.1), answers=4).observed is None


def test_answers_are_forgotten() -> None:
    made = observed((0.3, 0.1))
    made.look(200.0)
    assert made.observed is None
