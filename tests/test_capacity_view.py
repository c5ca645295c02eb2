"""What is seen of a search: a picture on a terminal, lines elsewhere."""

import io

import pytest
from rich.console import Console

from voice.capacity import Goal, Level, Used, Verdict
from voice.capacity_search import Status
from voice.capacity_view import View

STATUS = Status(
    doing="ramp: adding 6 calls in 5 s, to 17",
    then="then: runs of fresh calls",
    left=162.0,
    calls=11,
    p50=0.297,
    tail=0.911,
    bad={"underruns": 2},
    used=Used(0.41, 1, 123.4, 0.07),
)
LEVEL = Level(calls=9, turns=20, p50=0.297, tail=0.311, used=Used(0.2, 1, 120.0))
SLOW = Level(calls=14, turns=20, p50=0.5, tail=0.9)
FAILED = Verdict(False, "latency", "p95 900 ms > 800 ms")


def shown(*, terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=110, height=40, color_system=None)
    with View(console, "finding the calls", Goal(budget=0.8)) as view:
        for _ in range(8):
            view.show(STATUS)
        view.take(LEVEL, Verdict(True))
        view.take(SLOW, FAILED)
    return out.getvalue()


def test_a_terminal_shows_figures_curves_and_a_drawing() -> None:
    last = shown(terminal=True).rpartition("finding the calls")[2]
    assert "about 2:42 left" in last
    assert "ramp: adding 6 calls in 5 s, to 17" in last
    for row in (
        "11",
        "297 ms",
        "911 ms",
        "of 800 ms",
        "41 %",
        "others 7 %",
        "123 MB",
        "2 underruns",
    ):
        assert row in last
    assert "××" in last  # p95 is over the budget
    assert "800 ms ┤╌" in last
    assert "14 calls" in last
    assert "failed: p95 900 ms > 800 ms" in last


def test_elsewhere_a_step_is_a_line_and_is_said_once() -> None:
    lines = shown(terminal=False).splitlines()
    assert [line[:24] for line in lines] == [
        "finding the calls",
        "ramp: adding 6 calls in ",
        "ramp    9 calls  p50  29",
        "ramp   14 calls  p50  50",
    ]
    assert lines[1].endswith("about 2:42 left")


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_shown_before_anything_was_heard_is_no_error(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=110, color_system=None)
    with View(console, "finding the calls", Goal()) as view:
        for _ in range(8):
            view.show(Status(doing="one call alone"))
        view.take(Level(calls=1, turns=0, p50=None, tail=None), Verdict(False, "unanswered", "no"))
    assert "one call alone" in out.getvalue()
