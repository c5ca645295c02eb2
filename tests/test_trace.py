import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency.trace import STAGES, CallTrace, Moment, Pace, percentile


def traced(*marks: tuple[Moment, float]) -> CallTrace:
    trace = CallTrace()
    for moment, time in marks:
        trace.mark(moment, 1, time)
    return trace


FULL: tuple[tuple[Moment, float], ...] = (
    ("speech_end", 0.0),
    ("arrived", 0.01),
    ("released", 0.03),
    ("vad_end", 0.1),
    ("decided", 0.5),
    ("asr_start", 0.5),
    ("asr_final", 0.51),
    ("llm_start", 0.52),
    ("llm_first", 0.54),
    ("phrase", 0.56),
    ("tts_start", 0.56),
    ("tts_first", 0.57),
    ("let_go", 0.57),
    ("sent", 0.575),
    ("heard", 0.58),
)


def test_stages_and_the_remainder_add_up_to_the_gap() -> None:
    turn = traced(*FULL).of(1)
    stages = turn.stages()
    assert turn.total == pytest.approx(0.58)
    assert stages["framing"] == pytest.approx(0.01)
    assert stages["jitter"] == pytest.approx(0.02)
    assert stages["vad"] == pytest.approx(0.07)
    assert stages["endpoint"] == pytest.approx(0.4)
    assert stages["silence"] == pytest.approx(0.005)
    assert stages["unattributed"] == pytest.approx(0.01)  # asr_final to llm_start
    assert sum(stages.values()) == pytest.approx(0.58)


def test_a_model_that_is_asked_twice_counts_twice() -> None:
    stages = (
        traced(
            *FULL[:9],
            ("tool_start", 0.54),
            ("tool_end", 0.64),
            ("llm_start", 0.64),
            ("llm_first", 0.68),
            ("phrase", 0.70),
            ("heard", 0.71),
        )
        .of(1)
        .stages()
    )
    assert stages["llm"] == pytest.approx(0.06)
    assert stages["tools"] == pytest.approx(0.1)


def test_a_tool_that_is_waited_for_is_not_the_first_phrase() -> None:
    """The model called a tool, and the tool's outcome is what is said."""
    turn = traced(*FULL[:9], ("tool_start", 0.541), ("tool_end", 1.541), ("phrase", 1.542)).of(1)
    turn.marks += [("tts_start", 1.542), ("tts_first", 1.6), ("let_go", 1.6), ("sent", 1.6)]
    turn.marks.append(("heard", 1.6))
    stages = turn.stages()
    assert stages["tools"] == pytest.approx(1.0)
    assert "first_phrase" not in stages


def test_work_that_began_before_the_caller_was_silent_is_hidden() -> None:
    """An answer was begun in a pause, and kept after a sound that added no word."""
    before: list[tuple[Moment, float]] = [
        *(("speculation", -0.2), ("asr_start", -0.2), ("asr_final", -0.15)),
        *(("llm_start", -0.15), ("llm_first", 0.2), ("phrase", 0.25)),
    ]
    turn = traced(*before, *FULL[:5], ("let_go", 0.5), ("sent", 0.5), ("heard", 0.5)).of(1)
    assert turn.stages() == pytest.approx(
        {"framing": 0.01, "jitter": 0.02, "vad": 0.07, "endpoint": 0.4, "unattributed": 0.0}
    )


def test_a_turn_without_an_answer_has_no_stages() -> None:
    assert traced(("speech_end", 1.0), ("decided", 1.5)).of(1).stages() == {}


def test_turns_do_not_mix() -> None:
    trace = traced(*FULL)
    trace.mark("speech_end", 2, 10.0)
    trace.mark("heard", 2, 11.0)
    assert trace.of(1).total == pytest.approx(0.58)
    assert trace.of(2).total == pytest.approx(1.0)


def test_who_speaks_right_after_typing_was_not_cut_off() -> None:
    assert traced(*FULL, ("barge_in", 0.9)).of(1).cut_in
    typed = [mark for mark in FULL if mark[0] not in ("arrived", "released", "vad_end")]
    assert not traced(*typed, ("barge_in", 0.9)).of(1).cut_in


MOMENTS = sorted({moment for _, first, last in STAGES for moment in (first, last)} - {"heard"})


@given(st.lists(st.tuples(st.sampled_from(MOMENTS), st.floats(0.001, 0.2)), max_size=40))
def test_every_order_of_marks_closes(script: list[tuple[Moment, float]]) -> None:
    trace, now = CallTrace(), 0.0
    trace.mark("speech_end", 1, now)
    for moment, gap in script:
        now += gap
        trace.mark(moment, 1, now)
    trace.mark("heard", 1, now + 0.01)
    turn = trace.of(1)
    stages = turn.stages()
    assert turn.total is not None
    assert sum(stages.values()) == pytest.approx(turn.total)
    assert all(seconds >= 0 for name, seconds in stages.items() if name != "unattributed")
    assert stages["unattributed"] >= -1e-9


def test_percentile_is_by_nearest_rank() -> None:
    assert percentile([3, 1, 2], 50) == 2
    assert percentile(range(1, 101), 95) == 95
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_the_pace_of_a_model_is_told_without_the_time_that_nobody_asked() -> None:
    pace = Pace()
    for asked, now in ((0.0, 0.1), (0.1, 0.11), (0.11, 0.12)):
        pace.came(asked, now)
    pace.came(2.0, 2.0)  # a phrase was spoken meanwhile; these were there already
    pace.came(2.0, 2.0001)
    pace.came(2.0001, 2.005)  # nobody knows since when this was in the making
    pace.came(2.005, 2.015)
    assert pace.tokens == 7
    assert pace.gaps == pytest.approx([0.01, 0.01, 0.01])


def test_a_model_that_is_asked_twice_has_two_paces_and_its_first_delay() -> None:
    trace = traced(("speech_end", 0.0), ("llm_start", 0.1), ("llm_first", 0.2))
    trace.pace(1).came(0.1, 0.2)
    trace.pace(1).came(0.2, 0.21)
    for moment, at in (("tool_start", 0.3), ("tool_end", 1.3)):
        trace.mark(moment, 1, at)  # type: ignore[arg-type]
    trace.pace(1).came(1.3, 1.5)
    trace.pace(1).came(1.5, 1.51)
    told = trace.of(1).record("played")["llm"]
    assert told == {
        "ttft": 0.1,
        "tokens": 4,
        "tokens_per_second": 100.0,
        "itl_p50": 0.01,
        "itl_p95": 0.01,
    }
