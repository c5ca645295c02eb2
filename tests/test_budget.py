import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency.budget import FEWEST, STAGES, Budget, Floors, at_fault, derived

seconds = st.floats(0.0, 2.0)


def test_stages_that_nobody_gave_a_share_divide_the_rest_by_their_floors() -> None:
    split = derived(0.8, {"vad": 0.06, "endpoint": 0.14, "tts": 0.1}, {"tts": 0.3})
    assert split["tts"] == 0.3
    assert split["vad"] == pytest.approx(0.15)
    assert split["endpoint"] == pytest.approx(0.35)
    assert split["tools"] == 0.0


def test_without_floors_the_rest_is_divided_evenly() -> None:
    split = derived(1.0, {}, {"endpoint": 0.5})
    assert split["asr"] == pytest.approx(0.5 / (len(STAGES) - 1))


@given(
    total=st.floats(0.1, 5.0),
    floors=st.dictionaries(st.sampled_from(STAGES), seconds),
    given_=st.dictionaries(st.sampled_from(STAGES[:-1]), st.floats(0.0, 0.009)),
)
def test_shares_add_up_to_the_total(
    total: float, floors: dict[str, float], given_: dict[str, float]
) -> None:
    split = derived(total, floors, given_)
    assert tuple(split) == STAGES
    assert sum(split.values()) == pytest.approx(total)


def test_more_than_the_total_cannot_be_given() -> None:
    with pytest.raises(ValueError, match=r"add up to 0\.9 s, more than budget\.total \(0\.8 s\)"):
        derived(0.8, {}, {"llm": 0.5, "tts": 0.4})


def test_an_unknown_stage_is_named() -> None:
    with pytest.raises(ValueError, match="no stage 'lmm'"):
        derived(0.8, {}, {"lmm": 0.5})


def test_the_stage_at_fault_is_furthest_over_its_share() -> None:
    split = {"endpoint": 0.4, "llm": 0.1, "tts": 0.1}
    assert at_fault({"endpoint": 0.45, "llm": 0.3, "tts": 0.05}, split) == "llm"
    assert at_fault({"endpoint": 0.2, "unattributed": 0.1}, split) == "unattributed"
    assert at_fault({"endpoint": 0.4, "llm": 0.1}, split) == ""
    assert at_fault({}, split) == ""


def test_floors_are_what_stages_take_at_their_best() -> None:
    floors = Floors()
    for turn in range(100):
        floors.note({"llm": 0.05 + 0.001 * turn, "jitter": -0.01})
    assert floors.values()["llm"] == pytest.approx(0.06)
    assert floors.values()["jitter"] == 0.0
    assert floors.values()["tts"] == 0.0


def test_few_turns_tell_no_floor() -> None:
    floors = Floors()
    for _ in range(FEWEST - 1):
        floors.note({"llm": 0.05})
    assert floors.values() == {}


@pytest.mark.parametrize(
    ("total", "percentile"), [(0.0, 95.0), (-1.0, 95.0), (0.8, 100.0), (0.8, 5.0)]
)
def test_a_budget_that_nothing_can_keep_is_refused(total: float, percentile: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        Budget(total, percentile)
