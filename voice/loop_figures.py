"""What a control loop was worth, from the turns of a run and what it did. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latency.trace import percentile
from voice.closing import ON_TIME
from voice.talker import Turn

WINDOW = 60
"""Turns over which a percentile is taken: of 95 %, three of them may be over."""


@dataclass(frozen=True, slots=True)
class Span:
    """A phase of a run.

    Attributes:
        name: What it is.
        begin: When it began, in monotonic seconds.
        end: When it ended.
    """

    name: str
    begin: float
    end: float

    def turns(self, every: Iterable[Turn]) -> list[Turn]:
        """Return the turns in which the caller fell silent in this phase, in that order."""
        within = [turn for turn in every if turn.silent is not None and self.holds(turn.silent)]
        return sorted(within, key=lambda turn: turn.silent or 0.0)

    def records(self, every: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the server's records of those turns."""
        return [record for record in every if self.holds(record["began"])]

    def holds(self, at: float) -> bool:
        """Tell whether a moment lies in this phase."""
        return self.begin <= at < self.end


def gaps(turns: Sequence[Turn]) -> list[float]:
    """Return what callers waited, in seconds, where they were answered and let finish."""
    return [turn.gap for turn in turns if turn.gap is not None]


def at_percentile(gaps: Sequence[float], percent: float = 95.0) -> float | None:
    """Return a percentile, None of nothing."""
    return percentile(gaps, percent) if gaps else None


def back_after(gaps: Sequence[float], budget: float, percent: float = 95.0) -> int | None:
    """Return after how many turns those that follow keep the budget, None if they never do.

    Every `WINDOW` turns from there on are within it at the percentile: what comes back once
    and leaves again is not back.
    """
    last = len(gaps) - WINDOW
    if last < 0:
        return None
    over = [n for n in range(last + 1) if percentile(gaps[n : n + WINDOW], percent) > budget]
    after = over[-1] + 1 if over else 0
    return after if after <= last else None


def guard_rails(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what guard rails show: a share of the turns, or of the engines' seconds."""
    turns = max(1, len(records))
    worked = sum(record["worked"] for record in records)
    return {
        "cut_ins": round(sum(record["cut_in"] for record in records) / turns, 4),
        "underruns": round(sum(record["underruns"] for record in records) / turns, 4),
        "misses": round(sum(record["missed"] for record in records) / turns, 4),
        "wasted": round(sum(record["wasted"] for record in records) / max(1e-9, worked), 4),
    }


def phase(
    span: Span, turns: Sequence[Turn], records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return one phase's figures, times in milliseconds."""
    within = span.turns(turns)
    waited = gaps(within)
    told = sorted(span.records(records), key=lambda record: record["began"])
    return {
        "turns": len(within),
        "p95_first": milliseconds(at_percentile(waited[:WINDOW])),
        "p95_last": milliseconds(at_percentile(waited[-WINDOW:])),
        "unanswered": sum(turn.reply is None for turn in within),
        "talked_over": sum(turn.talked_over for turn in within),
        "caller_late": round(share_late(within), 4),
        **guard_rails(told),
        "cut_ins_last": guard_rails(told[-WINDOW:])["cut_ins"],
    }


def share_late(turns: Sequence[Turn]) -> float:
    """Return in which share of the turns the caller itself was late: its machine has no time."""
    return sum(turn.late > ON_TIME for turn in turns) / max(1, len(turns))


def milliseconds(seconds: float | None) -> float | None:
    """Return seconds as milliseconds, as they are printed."""
    return None if seconds is None else round(1000 * seconds, 1)


def table_row(row: Mapping[str, Any]) -> str:
    """Return one run as a row of the table in the documentation; `TABLE` is its head."""
    before, during, after = (row[name] for name in ("undisturbed", "disturbed", "recovered"))
    moved = ", ".join(
        f"{name} {' → '.join(map(_short, way))}" for name, way in row["moved"].items()
    )
    back, returned = row["back_after_turns"], row["returned_after_turns"]
    return (
        f"| {row['disturbance']} | {row['tuner']} | {before['p95_first']} | {during['p95_first']} "
        f"| {during['p95_last']} | {'never' if back is None else back} | {after['p95_last']} "
        f"| {moved or 'none'} | {'never' if returned is None else returned} "
        f"| {during['cut_ins']:.1%}, {during['cut_ins_last']:.0%} "
        f"| {during['underruns']:.1%} | {during['wasted']:.0%} "
        f"| {row['said'] or ''} |"
    )


TABLE = (
    "| disturbance | tuner | p95 before, ms | disturbed, first 60 turns | last 60 "
    "| within budget after turns | p95 after | knobs | all back after turns "
    "| cut-ins, in the last 60 | underruns | wasted | it says |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def _short(value: float) -> str:
    return f"{value:.3g}"
