"""The server's record of a turn, held against what its caller measured. Pure.

The caller's gap runs from its last speech sample to the first audible sample it received.
A record closes if its total is that gap, and if its stages, without what they leave
unattributed, leave next to nothing of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from latency.spans import REST
from latency.trace import percentile
from voice.talker import Turn

SAME = 0.25
"""Seconds between the ends of speech that caller and server found, of the same turn."""

ON_TIME = 0.015
"""Seconds by which a caller may be late for its figures to be exact: less than a packet. One that
reads later gets several messages as one, with the stamp of the last (`voice.arrivals`)."""


@dataclass(frozen=True, slots=True)
class Held:
    """One turn, as its caller and as the server saw it; seconds.

    Attributes:
        turn: The caller's side.
        record: The server's.
        gap: The caller's gap.
        difference: The server's total less the gap.
        unattributed: The gap less all stages.
        began: The server's end of speech less the caller's.
        heard: The server's first audible sample less the caller's.
        remainder: What the record's own sum is off by: nothing but rounding.
    """

    turn: Turn
    record: Mapping[str, Any]
    gap: float
    difference: float
    unattributed: float
    began: float
    heard: float
    remainder: float


@dataclass(slots=True)
class Comparison:
    """All turns of a run.

    Attributes:
        held: Those that both sides have.
        unanswered: Turns without an answer.
        talked_over: Turns in which the agent spoke before their end.
        unrecorded: Answered turns without a record.
        records: All records of the calls.
    """

    held: list[Held] = field(default_factory=list)
    unanswered: int = 0
    talked_over: int = 0
    unrecorded: int = 0
    records: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def turns(self) -> int:
        """Turns in all."""
        return len(self.held) + self.unanswered + self.talked_over + self.unrecorded

    def add(self, turns: Iterable[Turn], records: Sequence[Mapping[str, Any]]) -> None:
        """Hold the turns of one call against its records."""
        self.records += records
        free = [record for record in records if record["total"] is not None]
        for turn in turns:
            if turn.talked_over:
                self.talked_over += 1
            elif turn.silent is None or turn.gap is None:
                self.unanswered += 1
            elif (record := _nearest(turn.silent, free)) is None:
                self.unrecorded += 1
            else:
                free.remove(record)
                self.held.append(hold_against(turn, record))

    def row(self) -> dict[str, Any]:
        """Return the run's figures, times in milliseconds."""
        spec = [record["speculations"] for record in self.records]
        on_time = [held for held in self.held if held.turn.late <= ON_TIME]
        return {
            "turns": self.turns,
            "held": len(self.held),
            "unanswered": self.unanswered,
            "talked_over": self.talked_over,
            "unrecorded": self.unrecorded,
            "interruptions": sum(held.turn.interrupting for held in self.held),
            "speculations": {
                name: sum(entry[name] for entry in spec) for name in ("begun", "kept", "dropped")
            },
            "gap_ms": spread([held.gap for held in self.held]),
            **figures(self.held),
            "caller_on_time": {"held": len(on_time), **figures(on_time)},
        }


def figures(every: Sequence[Held]) -> dict[str, Any]:
    """Return how far turns are from closing, times in milliseconds."""
    differences = [abs(held.difference) for held in every]
    return {
        "difference_ms": spread(differences),
        "within_1ms": share(differences, 0.001),
        "within_5ms": share(differences, 0.005),
        "unattributed_ms": spread([abs(held.unattributed) for held in every]),
        "began_ms": spread([held.began for held in every], (1, 50, 99)),
        "heard_ms": spread([held.heard for held in every], (1, 50, 99)),
        "remainder_ms": spread([abs(held.remainder) for held in every], ()),
    }


def hold_against(turn: Turn, record: Mapping[str, Any]) -> Held:
    """Hold one record against its turn, which was answered."""
    assert turn.silent is not None and turn.reply is not None and turn.gap is not None
    stages: Mapping[str, float] = record["stages"]
    covered = sum(seconds for stage, seconds in stages.items() if stage != REST)
    total, began = float(record["total"]), float(record["began"])
    return Held(
        turn,
        record,
        turn.gap,
        total - turn.gap,
        turn.gap - covered,
        began - turn.silent,
        began + total - turn.reply.audible,
        covered + stages.get(REST, 0.0) - total,
    )


def spread(seconds: Sequence[float], percents: Sequence[int] = (50, 99)) -> dict[str, float]:
    """Return percentiles and the largest, in milliseconds; nothing of nothing."""
    if not seconds:
        return {}
    named = {f"p{n}": round(1000 * percentile(seconds, n), 2) for n in percents}
    return named | {"max": round(1000 * max(seconds), 2)}


def share(seconds: Sequence[float], most: float) -> float | None:
    """Return which share is at most `most`, None of nothing."""
    if not seconds:
        return None
    return round(sum(value <= most for value in seconds) / len(seconds), 4)


def _nearest(silent: float, records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the record whose speech ended nearest to `silent`, None if none did within `SAME`."""
    near = min(records, key=lambda record: abs(record["began"] - silent), default=None)
    if near is None or abs(near["began"] - silent) > SAME:
        return None
    return near
