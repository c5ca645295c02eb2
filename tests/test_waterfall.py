import pytest

from latency.overview import longest_stage, overview
from latency.waterfall import text, waterfall

from records import record


def drawn(turn: dict[str, object], width: int = 80) -> list[str]:
    return [text(line) for line in waterfall(turn, width)]


def row(lines: list[str], name: str) -> str:
    (found,) = [line for line in lines if line.startswith(name.ljust(13))]
    return found


def test_solid_is_what_was_waited_for_and_shaded_what_was_hidden() -> None:
    assert drawn(record()) == [
        "turn 3   300 ms, budget 800                                   websocket · played",
        "             0              100              200             300    wait  hidden",
        "             ┬───────────────┬────────────────┬────────────────┬",
        "framing      █▌                               ┊                     10.0",
        "vad           ▐████████                       ┊                     50.0",
        "endpoint               ███████████████████████▌                    140.0",
        "asr                    ░░░░░░░░░              ┊                        ·    48.0",
        "llm                            ░░░░░░░░░      ┊                        ·    50.0",
        "first phrase                           ░░░░░░░▐██▌                  20.0    40.0",
        "tts                                           ┊  ▐████████          50.0",
        "silence                                       ┊           ▐████     28.0",
        "unattributed                                  ┊           ▌          2.0",
        "total        ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━   300.0",
        "                       ▴ speculation          ▴ decided, let go",
        "             played after 2.40 s · llm ttft 50 ms · 95 tok/s",
        "             itl 10.0/11.0 ms p50/p95 · asr rtf 0.1 · tts rtf 0.05",
        "             speculations 1 of 2 kept · wasted 100 of 300 ms",
    ]


@pytest.mark.parametrize("width", [48, 60, 80, 120, 200])
def test_no_line_is_wider_than_was_asked_for(width: int) -> None:
    long = record(over="first_phrase", budget=0.25, cut_in=True, missed=True, outcome="interrupted")
    for turn in (record(), long, record(total=None), record(total=30.0)):
        assert max(map(len, drawn(turn, width))) <= width


def test_a_turn_over_budget_says_whose_fault_it_is_and_shows_the_line() -> None:
    lines = drawn(record(budget=0.25, over="first_phrase"))
    assert "over: first phrase" in lines[0]
    assert "▴ budget" in "".join(lines)
    line = waterfall(record(budget=0.25, over="first_phrase"))
    assert ("first phrase ", "over") in [pieces[0] for pieces in line]
    total = next(pieces for pieces in line if pieces[0][0].startswith("total"))
    red = [style for piece, style in total if piece == "━"]
    assert red.index("over") == round(len(red) * 0.25 / 0.3)


def test_a_budget_far_away_does_not_squeeze_the_drawing() -> None:
    assert "│" not in "".join(drawn(record(budget=5.0)))
    near = drawn(record(budget=0.5))
    assert row(near, "vad").index("│") == row(near, "tts").index("│")


def test_work_long_after_the_answer_does_not_squeeze_the_drawing() -> None:
    late = record(budget=0.0, spans=[*record()["spans"], ["tools", 1.0, 9.0]])
    assert row(drawn(late), "endpoint").count("█") > 12
    assert "8000.0" in row(drawn(late), "tools")


def test_a_remainder_below_zero_has_a_number_and_no_bar() -> None:
    stages = record()["stages"] | {"unattributed": -0.004}
    spans = [["endpoint", 0.0, 0.1], ["tts", 0.1, 0.3]]
    lines = drawn(record(stages=stages, spans=[*spans, ["llm", 0.0, 0.0]]))
    assert not [line for line in lines if line.startswith("unattributed")]  # nothing is left over
    cut = drawn(record(stages=stages, spans=spans[1:]))
    assert "-4.0" in row(cut, "unattributed")


def test_an_answer_that_was_never_heard_is_drawn_as_hidden_work() -> None:
    lines = drawn(record(total=None, stages={}, outcome="unheard"))
    assert "never heard" in lines[0]
    assert "█" not in "".join(lines)
    assert "░" in row(lines, "llm")


def test_moments_beside_the_axis_are_told_in_words() -> None:
    marks = {"speculation": -0.35, "decided": 0.2, "barge_in": 1.2, "stopped": 1.21}
    lines = drawn(record(marks=marks, barge_in={"heard": 1.2, "stopped": 1.21}))
    told = " ".join(lines)
    assert "speculation 0.35 s before" in told
    assert "barge-in after 1.20 s" in told
    assert "silent 10 ms after barge-in" in told


def test_an_event_without_spans_is_drawn_from_its_stages() -> None:
    event = {
        "type": "turn",
        "turn": 1,
        "total": 0.3,
        "stages": {"endpoint": 0.2, "tts": 0.1},
        "overlapped": 0.15,
        "budget": 0.8,
        "over": "",
    }
    lines = drawn(event, 74)
    assert row(lines, "endpoint").count("█") == pytest.approx(28, abs=1)
    assert row(lines, "tts").count("█") == 14
    assert "150.0" in row(lines, "ahead")
    assert waterfall({"type": "turn", "turn": 1, "total": None, "stages": {}}) == []


def test_an_overview_has_a_row_a_turn_on_one_axis() -> None:
    quick = record(turn=1)
    slow = record(turn=2, total=0.6, spans=[["endpoint", 0.0, 0.2], ["llm", 0.2, 0.6]], over="llm")
    lost = record(turn=3, total=None, outcome="unheard")
    lines = [text(line) for line in overview([("1", quick), ("2", slow), ("3", lost)], 80)]
    assert max(map(len, lines)) <= 80
    bars = [sum(line.count(fill) for fill in "█▓") for line in lines[2:5]]
    assert bars[1] == pytest.approx(2 * bars[0], abs=2)
    assert bars[2] == 0
    assert [line.split()[-1] for line in lines[2:5]] == ["endpoint", "llm", "unheard"]
    assert "■ llm" in lines[5]
    assert len({line.index("│") for line in lines[2:5]}) == 1  # the budget
    assert overview([("3", lost)], 80) == []


def test_neighbours_differ_also_without_colours() -> None:
    (line,) = [text(line) for line in overview([("1", record())], 120) if text(line)[:1] == "1"]
    assert "█▓" in line
    assert "▓█" in line


def test_the_longest_stage_is_never_the_remainder() -> None:
    assert longest_stage(record()) == "endpoint"
    assert longest_stage(record(stages={"unattributed": 0.3})) == ""
