"""Reads the records of turns back from the call logs, and writes them for other programs.

Call logs are written by a server that may be killed at any moment, and lie in a directory where
anybody may put anything. What cannot be read is counted and left out.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latency.otel import CallFacts, of_call, of_turn, otlp_json
from latency.spans import ORDER, REST, segments
from latency.trace import percentile
from voice import __version__

Record = Mapping[str, Any]

_NAME = re.compile(r"[\w.-]{0,40}")

FIGURES = ("budget", "wasted", "worked", "underruns", "loop_late")
"""Single figures of a record."""

MOST = 1e11
"""What a figure is less than; in seconds, what a calendar can tell."""

FORMATS = ("json", "chrome", "otlp")


@dataclass(slots=True)
class LoggedCall:
    """What the log of one call says.

    Attributes:
        name: Its name, which is that of its file.
        start: Its event "start", {} if there is none.
        began: Unix time of its first line, in seconds, 0.0 if it has none.
        ended: That of its last.
        reason: Why it ended, "" if it has not, or not well.
        turns: The records of its turns, in order.
        broken: Lines that could not be read.
    """

    name: str
    start: Record = field(default_factory=dict)
    began: float = 0.0
    ended: float = 0.0
    reason: str = ""
    turns: list[Record] = field(default_factory=list)
    broken: int = 0

    @property
    def transport(self) -> str:
        """How it came, "" if no turn says so."""
        return next((str(turn.get("transport", "")) for turn in self.turns), "")

    @property
    def totals(self) -> list[float]:
        """The seconds that its caller waited, of every turn that was answered."""
        return [turn["total"] for turn in self.turns if turn["total"] is not None]

    @property
    def over(self) -> int:
        """Turns over budget."""
        return sum(bool(turn.get("over")) for turn in self.turns)

    def worst(self) -> tuple[str, float]:
        """Return the stage whose 95th percentile is the longest, with it; "" if there is none."""
        answered = [turn["stages"] for turn in self.turns if turn["total"] is not None]
        stages = {stage for turn in answered for stage in turn} - {REST}
        if not stages:
            return "", 0.0
        p95 = {s: percentile([turn.get(s, 0.0) for turn in answered], 95) for s in stages}
        worst = max(p95, key=p95.__getitem__)
        return worst, p95[worst]

    def turn(self, number: int) -> Record:
        """Return the record of one turn.

        Raises:
            ValueError: If it has none.
        """
        for turn in self.turns:
            if turn["turn"] == number:
                return turn
        there = ", ".join(str(turn["turn"]) for turn in self.turns) or "none"
        raise ValueError(f"{self.name} has no record of turn {number}; it has {there}")


class Logs:
    """The call logs of one server's data directory."""

    def __init__(self, data: Path) -> None:
        """Read those in `data`/calls."""
        self.directory = data / "calls"

    def files(self) -> list[Path]:
        """Return the files, the latest first."""
        dated = []
        for path in self.directory.glob("*.jsonl"):
            try:
                dated.append((path.stat().st_mtime, path.name, path))
            except OSError:
                continue  # it was removed meanwhile
        return [path for _, _, path in sorted(dated, reverse=True)]

    def calls(self, most: int | None = None) -> Iterator[LoggedCall | None]:
        """Yield the latest calls, None for a file that cannot be read."""
        for path in self.files()[:most]:
            try:
                yield read(path)
            except OSError:
                yield None

    def find(self, name: str) -> LoggedCall:
        """Return the call of this name, or the only one whose name begins so.

        Raises:
            ValueError: If there is none, or more than one.
        """
        names = sorted(path.stem for path in self.files())
        begun = [there for there in names if name in (there, there.removeprefix("call_"))]
        begun = begun or [n for n in names if n.startswith((name, f"call_{name}"))]
        if not name or not begun:
            raise ValueError(f"there is no call {name!r} in {self.directory}: voice trace list")
        if len(begun) > 1:
            some = ", ".join(begun[:3]) + (", …" if len(begun) > 3 else "")
            raise ValueError(f"{len(begun)} calls begin with {name!r}: {some}; give more of it")
        return read(self.directory / f"{begun[0]}.jsonl")


def read(path: Path) -> LoggedCall:
    """Read the log of one call.

    Raises:
        OSError: If the file cannot be read.
    """
    call = LoggedCall(path.stem)
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                call.broken += 1
                continue
            _take(call, event)
    call.turns.sort(key=lambda turn: turn["turn"])
    return call


def _take(call: LoggedCall, event: Any) -> None:
    """Take one line of a log."""
    if not isinstance(event, dict):
        call.broken += 1
        return
    if _number(event.get("time")) and event["time"] >= 0:
        at = float(event["time"])
        call.began, call.ended = call.began or at, max(call.ended, at)
    match event:
        case {"type": "start"}:
            call.start = event
        case {"type": "end", "reason": str(reason)} if _NAME.fullmatch(reason):
            call.reason = reason
        case {"type": "trace"} if usable(event):
            call.turns.append(event)
        case {"type": "trace"}:
            call.broken += 1


def usable(event: Record) -> bool:
    """Tell whether an event "trace" has what is drawn, counted and exported of it."""
    total, marks = event.get("total"), event.get("marks") or {}
    spans, stages = event.get("spans"), event.get("stages")
    figures = (event.get(name) or {} for name in ("llm", "asr", "tts", "speculations", "barge_in"))
    return (
        "total" in event
        and isinstance(event.get("turn"), int)
        and _number(event.get("wall"))
        and (total is None or _number(total))
        and _numbers(stages)
        and _numbers(marks)
        and isinstance(spans, list)
        and all(map(_is_span, spans))
        and all(_numbers({k: v for k, v in f.items() if v is not None}) for f in figures)
        and all(_number(event.get(name, 0)) for name in FIGURES)
        and all(isinstance(event.get(name, False), bool) for name in ("cut_in", "missed"))
        and all(
            isinstance(value := event.get(name) or "", str) and bool(_NAME.fullmatch(value))
            for name in ("transport", "outcome", "over", "call")
        )
    )


def _is_span(span: Any) -> bool:
    match span:
        case [str(stage), begin, end]:
            return bool(_NAME.fullmatch(stage)) and _number(begin) and _number(end)
    return False


def _numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _NAME.fullmatch(name) and _number(number) for name, number in value.items()
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST


def slowest(calls: Iterable[LoggedCall], count: int) -> list[tuple[LoggedCall, Record]]:
    """Return the turns of all calls whose callers waited longest, the longest first."""
    turns = [(call, turn) for call in calls for turn in call.turns if turn["total"] is not None]
    return sorted(turns, key=lambda each: -each[1]["total"])[:count]


def exported(call: LoggedCall, form: str) -> str:
    """Return a call in one of `FORMATS`.

    Raises:
        ValueError: If there is no such format.
    """
    match form:
        case "json":
            whole = {"call": call.name, "start": call.start, "began": call.began}
            whole |= {"ended": call.ended, "reason": call.reason, "turns": call.turns}
            return json.dumps(whole, indent=1)
        case "chrome":
            return json.dumps({"traceEvents": _chrome(call), "displayTimeUnit": "ms"}, indent=1)
        case "otlp":
            facts = CallFacts(call.name, call.transport, call.start, call.began)
            spans = [of_call(facts, call.ended, call.reason or "lost", len(call.turns))]
            spans += [span for turn in call.turns for span in of_turn(facts, turn)]
            return otlp_json(spans, __version__)
    raise ValueError(f"--format is {form!r}; expected {', '.join(FORMATS)}")


LANES: Sequence[str] = ("turns", "waited for", *ORDER, REST)
"""Rows of the Chrome trace: all turns, the critical path, then each stage's work."""


def _chrome(call: LoggedCall) -> list[dict[str, Any]]:
    """Return a call as events of the Trace Event Format, which Perfetto and Chrome open.

    (Complete events "X" and instants "i", in microseconds; "M" names the rows.)
    """
    lanes = {name: place for place, name in enumerate(LANES, 1)}
    events: list[dict[str, Any]] = [{"ph": "M", "pid": 1, "name": "process_name"}]
    events[0]["args"] = {"name": call.name}
    for name, lane in lanes.items():
        named = {"ph": "M", "pid": 1, "tid": lane}
        events.append(named | {"name": "thread_name", "args": {"name": name}})
        events.append(named | {"name": "thread_sort_index", "args": {"sort_index": lane}})

    def add(turn: Record, lane: str, name: str, begin: float, end: float, **more: Any) -> None:
        there = lanes.setdefault(lane, len(lanes) + 1)
        at = {"ts": round((turn["wall"] + begin) * 1e6, 1), "dur": round((end - begin) * 1e6, 1)}
        args = {"turn": turn["turn"], **more}
        events.append({"ph": "X", "pid": 1, "tid": there, "name": name, **at, "args": args})

    for turn in call.turns:
        cut = segments(turn)
        if turn["total"] is not None:
            told = {name: turn.get(name) for name in ("outcome", "over", "budget", "speculations")}
            add(turn, "turns", f"turn {turn['turn']}", 0.0, turn["total"], **told)
        for segment in cut:
            if segment.waited:
                add(turn, "waited for", segment.stage, segment.begin, segment.end)
            if segment.stage != REST:
                hidden = not segment.waited
                add(turn, segment.stage, segment.stage, segment.begin, segment.end, hidden=hidden)
        for mark, at in (turn.get("marks") or {}).items():
            when = {"ts": round((turn["wall"] + at) * 1e6, 1), "s": "p"}
            events.append({"ph": "i", "pid": 1, "tid": lanes["turns"], "name": mark, **when})
    return events
