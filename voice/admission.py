"""Whether this server takes one more call: measures, asks `latency.prediction`, says so.

It looks some times a second, from the server's own timer: the event loop's thread and this process
with its engine processes tell what of the processor they used, the calls tell how long callers
waited. An answer is then a matter of microseconds, before anything is done for the call.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from latency.metrics import Metrics
from latency.prediction import Forecast, Predictor
from voice.settings import Settings

log = logging.getLogger(__name__)

LOOK = 0.25
"""Seconds between two measurements; the processor's clock ticks every 0.01 s."""

LINE = 0.1
"""Seconds that a caller's packets may take and still be the machine's matter: a late loop reads
them late, and every network has some jitter."""

WHOLE = 4
"""Measurements of the loop between two of all processes, which reads a file for each thread."""


class Processors:
    """How much of the processors this process and those below it use.

    Reading that takes 25 µs for each of their threads, of which engines have hundreds.
    """

    def __init__(self) -> None:
        self._used: dict[int, float] = {}
        self._at = time.monotonic()
        self._tick = os.sysconf("SC_CLK_TCK")

    def share(self) -> float:
        """Return the share that was used since the last call, 0 to 1."""
        before, then, self._at = self._used, self._at, time.monotonic()
        self._used = self._read()
        used = sum(seconds - before.get(pid, seconds) for pid, seconds in self._used.items())
        return max(0.0, used) / max(1e-3, self._at - then) / cores()

    def _read(self) -> dict[int, float]:
        """Return processor seconds by process; only this one's where the system has no /proc."""
        own = os.getpid()
        used, family = {own: time.process_time()}, [own]
        while family:
            place = Path(f"/proc/{family.pop()}")
            with suppress(OSError, ValueError, IndexError):  # it has just ended
                if (pid := int(place.name)) != own:
                    stat = (place / "stat").read_text().rsplit(")", 1)[1].split()
                    used[pid] = (int(stat[11]) + int(stat[12])) / self._tick
                for task in (place / "task").iterdir():
                    with suppress(OSError):  # that thread has; the others have children, too
                        family += map(int, (task / "children").read_text().split())
        return used


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Admission:
    """The door of one server; for the thread of its event loop."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Refuse nobody if `settings.admission` is off; predict all the same."""
        self.on = settings.admission
        self._budget = settings.budget
        self._metrics = metrics
        self.predictor = Predictor(settings.budget.total, settings.budget.percentile)
        """What it knows of this machine."""
        self._processors = Processors()
        self._reader = ThreadPoolExecutor(1, "processors")
        self._read: Future[float] | None = None
        self._thread = 0
        self._looked_at = self._worked = 0.0
        self._looks = 0
        self._late: list[float] = []
        self._shares: dict[str, float] = {}
        self._calls = self._refused = 0
        self._saturated_at: float | None = None

    def look(self, late: float, calls: int, now: float) -> None:
        """Note that the loop came `late` by so many seconds, while `calls` go on."""
        self._calls = calls
        self._late.append(max(0.0, late))
        passed, worked = now - self._looked_at, time.thread_time()
        if self._thread != threading.get_ident():
            self._thread = threading.get_ident()
        elif passed < LOOK:
            return
        else:
            self._shares["loop"] = (worked - self._worked) / passed
            self._look_around()
            self.predictor.measured(self._shares, sum(self._late) / len(self._late), calls, now)
            self._tell(now)
        self._looked_at, self._worked = now, worked
        self._late.clear()

    def _look_around(self) -> None:
        """Have it read what all processes used, beside the loop; take what was read before."""
        if self._read is not None and self._read.done():
            self._shares["processors"], self._read = self._read.result(), None
        if self._looks % WHOLE == 0 and self._read is None:
            self._read = self._reader.submit(self._processors.share)
        self._looks += 1

    def take(self, event: Mapping[str, Any], now: float) -> None:
        """Take what a call tells of itself."""
        match event:
            case {"type": "turn", "total": float(total), "stages": stages}:
                line = stages.get("framing", 0.0) + stages.get("jitter", 0.0)
                total -= max(0.0, line - LINE)  # fewer calls would not mend a line that stalls
                # A caller with a budget of its own counts by the share of it that it waited.
                own = event.get("budget") or self._budget.total
                self.predictor.answered(total * self._budget.total / own, now)
            case {"type": "work", "seconds": seconds, "wasted": wasted}:
                self.predictor.worked(seconds, wasted)

    def ended(self, now: float) -> None:
        """Note that a call has ended."""
        self.predictor.ended(now)

    def refusal(self, calls: int, now: float) -> Forecast | None:
        """Return why one more call beside `calls` is not taken, None if it is."""
        if not self.on:
            return None
        forecast = self.predictor.decide(calls, now)
        if forecast.admitted:
            return None
        self._calls = calls
        self._refused += 1
        self._tell(now, forecast)
        return forecast

    def reason(self, forecast: Forecast) -> str:
        """Say in words why a call is not taken."""
        if forecast.p95 is None:
            return (
                f"saturated: with one more call the {forecast.resource} would be "
                f"{forecast.utilisation:.0%} busy"
            )
        return (
            f"saturated: with more calls {self._budget.percentile:g} % of the answers would take "
            f"up to {forecast.p95:.3f} s, more than {forecast.limit:.3f} s; the budget is "
            f"{self._budget.total:g} s"
        )

    @property
    def sheds(self) -> bool:
        """Whether no answers are made any more that may be dropped."""
        return self.on and self.predictor.sheds

    @property
    def predicted_p95(self) -> float | None:
        """Seconds that the budget's percentile would be with one more call, None if unknown."""
        return self.predictor.forecast(self._calls, time.monotonic()).p95

    def describe(self) -> dict[str, Any]:
        """Return what is known and predicted, for a page."""
        return {"on": self.on} | self.predictor.describe(self._calls, time.monotonic())

    def _tell(self, now: float, forecast: Forecast | None = None) -> None:
        """Count and log the begin of a saturation, and log its end."""
        if self.predictor.saturated and self._saturated_at is None:
            self._saturated_at = now
            self._metrics.saturations.inc()
            known = forecast or self.predictor.forecast(self._calls, now)
            log.warning(
                "%s (%d calls go on; one more takes the %s to %.0f %%)",
                self.reason(known),
                self._calls,
                known.resource,
                100 * known.utilisation,
            )
        elif self._saturated_at is not None and not self.predictor.saturated:
            log.warning(
                "no longer saturated, after %.0f s in which %d calls were refused; %d go on",
                now - self._saturated_at,
                self._refused,
                self._calls,
            )
            self._saturated_at, self._refused = None, 0
