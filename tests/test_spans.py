import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency.spans import AHEAD, ORDER, REST, Segment, hidden, rows, segments, waited

from records import record


def closes(cut: list[Segment], total: float) -> None:
    """Check that what was waited for is one stretch from 0 to `total`."""
    path = [segment for segment in cut if segment.waited]
    at = 0.0
    for segment in path:
        assert segment.begin == at
        at = segment.end
    assert at == total


def test_what_was_waited_for_fills_the_gap_and_agrees_with_the_stages() -> None:
    turn = record()
    cut = segments(turn)
    closes(cut, 0.3)
    for stage, seconds in turn["stages"].items():
        assert waited(cut, stage) == pytest.approx(seconds)


def test_work_behind_the_wait_is_hidden() -> None:
    cut = segments(record())
    assert waited(cut, "llm") == 0
    assert hidden(cut, "llm") == pytest.approx(0.05)
    assert waited(cut, "first_phrase") == pytest.approx(0.02)  # 40 ms of it came before
    assert hidden(cut, "first_phrase") == pytest.approx(0.04)


def test_an_answer_that_was_never_heard_was_not_waited_for() -> None:
    cut = segments(record(total=None))
    assert {segment.waited for segment in cut} == {False}


def test_work_that_began_before_the_caller_was_silent_is_hidden() -> None:
    spans = [["llm", -0.1, 0.15], ["vad", 0.0, 0.06], ["endpoint", 0.06, 0.2]]
    assert segments(record(spans=spans, total=0.2)) == [
        Segment("llm", -0.1, 0.15, False),
        Segment("vad", 0.0, 0.06, True),
        Segment("endpoint", 0.06, 0.2, True),
    ]


def test_work_after_the_first_sound_is_not_waited_for() -> None:
    cut = segments(record(spans=[["tts", 0.1, 0.5]], total=0.3))
    assert cut == [
        Segment(REST, 0.0, 0.1, True),
        Segment("tts", 0.1, 0.3, True),
        Segment("tts", 0.3, 0.5, False),
    ]


def test_without_spans_stages_are_laid_end_to_end() -> None:
    event = {
        "type": "turn",
        "turn": 1,
        "total": 0.3,
        "stages": {"framing": 0.02, "endpoint": 0.2, "tts": 0.08, "unattributed": -0.0001},
        "overlapped": 0.1,
    }
    assert segments(event) == [
        Segment("framing", 0.0, 0.02, True),
        Segment("endpoint", 0.02, 0.22, True),
        Segment("tts", 0.22, pytest.approx(0.3), True),
        Segment(AHEAD, pytest.approx(0.12), 0.22, False),
    ]
    assert rows(segments(event)) == ["framing", "endpoint", "tts", AHEAD]


def test_stages_come_in_their_order_and_the_remainder_last() -> None:
    cut = segments(record(spans=[["tts", 0, 0.1], ["asr", 0, 0.05], ["odd", 0.2, 0.3]]))
    assert rows(cut) == ["asr", "tts", "odd", REST]


times = st.integers(0, 400).map(lambda n: n / 1000)


@given(st.lists(st.tuples(st.sampled_from(ORDER), times, times), max_size=20), times)
def test_every_set_of_spans_closes_and_loses_nothing(
    spans: list[tuple[str, float, float]], total: float
) -> None:
    spans = [(stage, min(a, b), max(a, b)) for stage, a, b in spans]
    cut = segments({"spans": spans or [("vad", 0.0, 0.0)], "total": total})
    closes(cut, total)
    for stage in ORDER:
        work = sum(end - begin for name, begin, end in spans if name == stage)
        assert waited(cut, stage) + hidden(cut, stage) == pytest.approx(work)
