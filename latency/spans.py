"""One turn as segments on a line of time: what the caller waited for, and what went on meanwhile.

The record of a turn (see `latency.trace`) names all work as spans that may overlap. The drawing in
the terminal, the OpenTelemetry export and the Chrome trace all need the same cut of them: the
critical path, which is what the caller waited for and adds up to the gap, and the rest, which was
hidden behind it. It is made here once. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ORDER = (
    *("framing", "jitter", "vad", "endpoint", "asr", "llm", "first_phrase"),
    *("tools", "tts", "send", "silence"),
)
"""Stages in the order in which they come to pass."""

REST = "unattributed"
"""What no stage covers."""

AHEAD = "ahead"
"""Work before the decision, where only its length is known and not which stages it was."""

BEFORE_DECISION = ORDER[:4]

Record = Mapping[str, Any]
"""The event "trace" of a call, or its event "turn", which has stages but no spans."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one stage, in seconds after the caller's last speech sample.

    Attributes:
        stage: Its name, `REST` for a stretch that no stage covers.
        begin: When it began.
        end: When it ended.
        waited: Whether the caller waited for it: it lies on the critical path. All others were
            hidden behind the wait, or came after it.
    """

    stage: str
    begin: float
    end: float
    waited: bool

    @property
    def length(self) -> float:
        """Its seconds."""
        return self.end - self.begin


def segments(record: Record) -> list[Segment]:
    """Cut a record into segments, in order of time.

    Those that were waited for neither overlap nor leave a hole, and end at the record's total;
    without one (an answer that was never heard) there are none. A negative remainder, which is
    no stretch of time, has no segment.
    """
    total = record.get("total")
    spans = record.get("spans") or ()
    if not spans and total is not None:
        return _laid(record.get("stages") or {}, float(record.get("overlapped") or 0.0))
    return _cut(spans, 0.0 if total is None else float(total))


def _cut(spans: Iterable[Sequence[Any]], total: float) -> list[Segment]:
    """Give each moment up to `total` to the first span that covers it, as the tracer does.

    The stages in which the caller's turn ends come first: nobody waited for what went on meanwhile.
    """
    cut: list[Segment] = []
    covered = 0.0

    def add(stage: str, begin: float, end: float, waited: bool) -> None:
        if end > begin:
            cut.append(Segment(stage, begin, end, waited))

    for stage, begin, end in sorted(
        spans, key=lambda span: (span[0] not in BEFORE_DECISION, span[1], span[2])
    ):
        first, last = max(begin, covered), min(end, total)
        if last <= first:
            add(stage, begin, end, False)
            continue
        add(stage, begin, first, False)
        add(REST, covered, first, True)
        add(stage, first, last, True)
        add(stage, last, end, False)
        covered = last
    add(REST, covered, total, True)
    return sorted(cut, key=lambda segment: (segment.begin, segment.end))


def _laid(stages: Mapping[str, float], overlapped: float) -> list[Segment]:
    """Lay stages end to end, for a record that does not say when each began."""
    laid: list[Segment] = []
    at = decided = 0.0
    for stage, seconds in stages.items():
        if seconds > 0:
            laid.append(Segment(stage, at, at + seconds, True))
            at += seconds
        if stage in BEFORE_DECISION:
            decided = at
    if 0 < overlapped <= decided:
        laid.append(Segment(AHEAD, decided - overlapped, decided, False))
    return laid


def rows(cut: Iterable[Segment]) -> list[str]:
    """Return the stages that occur: in their order, then unknown ones, then the remainder."""
    there = {segment.stage for segment in cut}
    others = sorted(there - {*ORDER, REST})
    return [stage for stage in (*ORDER, *others, REST) if stage in there]


def waited(cut: Iterable[Segment], stage: str) -> float:
    """Return the seconds that the caller waited for a stage."""
    return sum(s.length for s in cut if s.stage == stage and s.waited)


def hidden(cut: Iterable[Segment], stage: str) -> float:
    """Return the seconds that a stage was at work without being waited for."""
    return sum(s.length for s in cut if s.stage == stage and not s.waited)
