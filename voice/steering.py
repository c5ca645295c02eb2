"""The shell of the loop from budget to knobs: call events in, settings moved, all of it kept.

`latency.tuner` has the rules. This gives it the turns of all calls, sets what it says, writes
every move with its reason into a log of the server, and keeps the latest records for whoever
looks (`/dashboard`). It has no task and no timer: it runs when a call tells something.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic, time
from typing import Any, Literal

from latency.budget import BEFORE, Budget, Floors, at_fault, derived
from latency.trace import percentile
from latency.tuner import Move, Tuner
from voice.calllog import CallLog
from voice.knobs import Knobs, pins
from voice.settings import Settings

log = logging.getLogger(__name__)

EVERY = 0.25
"""Seconds between two decisions, at least: a turn takes longer, and a decision is cheap."""

SPLIT_EVERY = 5.0
"""Seconds after which the budget's split follows the measured floors."""

KEPT = 500
"""Records that are kept: some minutes of fifty calls."""

LOGGED = 200
"""Moves that are, likewise."""

LONGEST_LOG = 10 << 20
"""Bytes of the log of moves from which a new one is begun when the server starts; one old log is
kept. A move is 400 bytes and takes some dozen turns."""

GUARD_LIMITS: Mapping[str, float] = {
    "cut_ins": 0.05,
    "underruns": 0.03,
    "wasted": 0.5,
    "misses": 0.1,
}
"""What a guard rail may come to. `cut_ins` is the false cut rate at which detectors of turn ends
are compared (eot-bench: latency at 5 %); `wasted` a share of the engines' time, the others are a
turn. `underruns` can be heard, and are rarer on a calm machine by far; of `misses` a noisy line
has some whatever the settings are."""

Record = Mapping[str, Any]
"""What `latency.trace.TurnTrace.record` makes of a turn."""


class Steering:
    """Watches the turns of all calls of a server, and moves its knobs if it may."""

    def __init__(
        self,
        settings: Settings,
        knobs: Knobs,
        data: Path,
        machine: Callable[[], Mapping[str, Any]] = dict,
        calls: Callable[[], int] = lambda: 0,
        told: Callable[[Mapping[str, Any]], None] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Move `knobs` as `settings.tuner` says; write moves to `data` / tuner.jsonl.

        `machine` tells what else a page shows: its calls, how late its loop is; `calls` how many go
        on. `told` is given every move, too, as an event.

        Raises:
            ValueError: If `settings.pinned` names something that is no knob.
        """
        self.knobs = knobs
        self.floors = Floors()
        self.records: deque[Record] = deque(maxlen=KEPT)
        self.moves: deque[Mapping[str, Any]] = deque(maxlen=LOGGED)
        self._settings = settings
        self._pinned = pins(settings.pinned)
        self._data, self._machine, self._told, self._clock = data, machine, told, clock
        self._calls = calls
        self._log: CallLog | None = None
        self._numbers = 0
        self._decided_at = self._split_at = clock()
        self.budget = self._budget()
        """What turns may take, with the split that follows what they were measured to need."""
        mode: Literal["on", "observe"] = "on" if settings.tuner == "on" else "observe"
        self.tuner: Tuner | None = None
        if settings.tuner != "off":
            self.tuner = Tuner(knobs.ladder(), self.budget, GUARD_LIMITS, mode, self._pinned)

    def take(self, event: Mapping[str, Any]) -> None:
        """Take an event of any call; most of them tell nothing here."""
        match event:
            case {"type": "turn", "stages": stages, "total": total}:
                self._answered(stages, total, event.get("budget") or self.budget.total)
            case {"type": "trace"}:
                self._recorded(event)
            case _:
                return
        now = self._clock()
        if now - self._split_at >= SPLIT_EVERY:
            self._split_at = now
            self.budget = self._budget()
        if self.tuner is not None and now - self._decided_at >= EVERY:
            self._decided_at = now
            self._decide(self.tuner, now)

    def at_fault(self, stages: Mapping[str, float], budget: float) -> str:
        """Return the stage to blame for a turn that took more than `budget` seconds."""
        scale = budget / self.budget.total
        split = {stage: seconds * scale for stage, seconds in self.budget.split.items()}
        return at_fault(stages, split) or max(stages, key=stages.__getitem__)

    def snapshot(self, since: int = 0) -> dict[str, Any]:
        """Return what a page shows; of the records those with a `seq` after `since`.

        Times of moves are on the clock of `now`, in seconds.
        """
        fresh = max(0, min(len(self.records), self._numbers - since))
        records = list(self.records)
        unattributed = [record["stages"]["unattributed"] for record in records if record["stages"]]
        return {
            "now": self._clock(),
            "budget": asdict(self.budget),
            "records": records[len(records) - fresh :],
            "unattributed_p99": percentile(unattributed, 99) if unattributed else None,
            "tuner": {
                "mode": self._settings.tuner,
                "state": "off" if self.tuner is None else self.tuner.state,
                "values": self.values(),
                "moves": list(self.moves),
            },
            **self._machine(),
        }

    def values(self) -> dict[str, dict[str, Any]]:
        """Return what each knob is at, what it was configured to, and what it may be."""
        return {
            knob.name: {
                "value": self.knobs.values[knob.name],
                "start": knob.values[knob.start],
                "values": knob.values,
                "pinned": knob.name in self._pinned,
            }
            for knob in (self.tuner.knobs if self.tuner else self.knobs.ladder())
        }

    def close(self) -> None:
        """Write what is still to be written; blocks until then, some seconds at most."""
        if self._log is not None:
            self._log.close()

    def _answered(self, stages: Mapping[str, float], total: float, budget: float) -> None:
        """Take a turn; one with a budget of its own counts by the share of it that it took."""
        if not BEFORE.isdisjoint(stages):  # what was typed tells nothing of how long one listens
            self.floors.note(stages)
        if self.tuner is None:
            return
        now, scale = self._clock(), self.budget.total / budget
        scaled = {stage: seconds * scale for stage, seconds in stages.items()}
        self.tuner.answered(scaled, total * scale, now - total, now)

    def _recorded(self, record: Record) -> None:
        """Keep the record of a turn; count what it strained."""
        self._numbers += 1
        self.records.append({**record, "seq": self._numbers})
        if self.tuner is None:
            return
        began = record["began"]
        self.tuner.worked(record["worked"], began)
        self.tuner.strained("wasted", record["wasted"], began)
        if record["cut_in"]:  # a wait until they were known to go on would have spared it
            self.tuner.strained("cut_ins", 1.0, began, record["barge_in"]["stopped"])
        for guard, amount in (("underruns", record["underruns"]), ("misses", record["missed"])):
            if amount:
                self.tuner.strained(guard, float(amount), began)

    def _decide(self, tuner: Tuner, now: float) -> None:
        """Let the tuner decide; do what it says."""
        tuner.budget = self.budget
        if "max_calls" in self.knobs.values:
            tuner.relist(self.knobs.admitting(self._calls()))
        for move in tuner.decide(now):
            if move.applied and move.after != move.before:
                try:
                    self.knobs.set(move.knob, move.after)
                except ValueError:  # an engine that was started anew may be able to do less
                    log.exception("the tuner cannot move %s to %g", move.knob, move.after)
                    tuner.lose(move.knob, move.before)
                    move = replace(move, applied=False)
            self._keep(move)

    def _budget(self) -> Budget:
        given = self._settings.budget
        split = derived(given.total, self.floors.values(), given.given)
        return Budget(given.total, given.percentile, split)

    def _keep(self, move: Move) -> None:
        """Note a move for the page, the log and whoever else is told."""
        event = {"type": "tuner", "time": round(time(), 3), **asdict(move)}
        self.moves.append(event)
        if self._log is None:
            self._log = opened(self._data)
        self._log.write("tuner", event)
        if self._told is not None:
            self._told(event)


def opened(data: Path) -> CallLog:
    """Return the log that moves are written to, in `data`; a long old one is put aside."""
    file = data / "tuner.jsonl"
    with suppress(OSError):  # what cannot be written, the log says
        if file.stat().st_size > LONGEST_LOG:
            file.replace(data / "tuner.old.jsonl")
    return CallLog(data)
