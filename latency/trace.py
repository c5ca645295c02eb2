"""Where the time of one turn went.

Shells call `mark` with a moment's name; nothing else in the house knows about
stages. A turn's gap runs from the last sample of the caller's speech to the
first frame of the answer on the wire. Stages are the spans between two marks;
what no stage covers is stated as `unattributed`, so the parts always add up to
the gap, and a delay nobody thought of shows instead of hiding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Moment = Literal[
    "speech_end",
    "decided",
    "asr_final",
    "llm_start",
    "llm_first",
    "phrase",
    "tool_start",
    "tool_end",
    "tts_first",
    "sent",
]
"""The moments of a turn, each in seconds of the loop's clock."""

Mark = Callable[[Moment, int, float], None]
"""`mark(moment, turn, now)`: how shells tell the time of a moment."""

STAGES: tuple[tuple[str, Moment, Moment], ...] = (
    ("endpoint", "speech_end", "decided"),
    ("asr", "decided", "asr_final"),
    ("llm", "llm_start", "llm_first"),
    ("first_phrase", "llm_first", "phrase"),
    ("tools", "tool_start", "tool_end"),
    ("tts", "phrase", "tts_first"),
    ("send", "tts_first", "sent"),
)
"""Each stage with the moment that begins it and the one that ends it."""


@dataclass(slots=True)
class TurnTrace:
    """The marks of one turn, in the order they were made.

    Attributes:
        turn: Its number.
        marks: Moments and their times, seconds of one monotonic clock.
    """

    turn: int
    marks: list[tuple[Moment, float]] = field(default_factory=list)

    def at(self, moment: Moment) -> float | None:
        """When `moment` first happened, None if it did not."""
        return next((time for name, time in self.marks if name == moment), None)

    @property
    def total(self) -> float | None:
        """The gap the caller waited, in seconds; None while there is no answer yet."""
        start, end = self.at("speech_end"), self.at("sent")
        return None if start is None or end is None else end - start

    def stages(self) -> dict[str, float]:
        """Return seconds by stage and `unattributed`; they add up to `total`.

        A stage that ran more than once (the model before and after a tool) counts
        every time. Spans never overlap: one that begins before the previous ended
        counts from that end. Empty while there is no total.
        """
        start, total = self.at("speech_end"), self.total
        if start is None or total is None:
            return {}
        spans = sorted(self._spans(), key=lambda span: span[1:])
        stages: dict[str, float] = {}
        covered, end = start, start + total
        for name, begin, finish in spans:
            begin, finish = max(begin, covered), min(finish, end)
            if finish > begin:
                stages[name] = stages.get(name, 0.0) + finish - begin
                covered = finish
        stages["unattributed"] = total - sum(stages.values())
        return stages

    def _spans(self) -> list[tuple[str, float, float]]:
        """Pair each end with the latest beginning before it."""
        spans = []
        for name, first, last in STAGES:
            begin: float | None = None
            for moment, time in self.marks:
                if moment == first:
                    begin = time
                elif moment == last and begin is not None:
                    spans.append((name, begin, time))
                    begin = None
        return spans


class CallTrace:
    """The marks of one call, turn by turn; `mark` is the callable that shells get."""

    KEPT = 8
    """Turns kept; older ones were reported long ago."""

    def __init__(self) -> None:
        self._turns: dict[int, TurnTrace] = {}

    def mark(self, moment: Moment, turn: int, now: float) -> None:
        """Note that `moment` of `turn` happened at `now`."""
        self.of(turn).marks.append((moment, now))

    def forget(self, turn: int) -> None:
        """Forget the marks of `turn`, whose answer was dropped before it was given."""
        self._turns.pop(turn, None)

    def of(self, turn: int) -> TurnTrace:
        """Return the trace of `turn`, a new one if it has none."""
        trace = self._turns.setdefault(turn, TurnTrace(turn))
        for old in sorted(self._turns)[: -self.KEPT]:
            del self._turns[old]
        return trace


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the `percent` percentile of `values` by nearest rank.

    Raises:
        ValueError: If there are no values.
    """
    if not values:
        raise ValueError("no values to take a percentile of")
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]
