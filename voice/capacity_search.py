"""The search for how many calls a server carries within a budget, on live calls.

One call alone, then a ramp that adds calls to those that go on until callers meet what they
should not, then runs of their own with fresh calls, halving, until the limit is known to a
twentieth (`voice.sweep`). What counts is what callers hear, in real time.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic

import httpx

from latency.trace import percentile
from voice.bench_server import Measured, Meter
from voice.capacity import Goal, Level, Tally, Used, Verdict, judge, level
from voice.crowd import Crowd, join
from voice.found import NOT_THE_SERVER, Found
from voice.sweep import SLOW, Ramp, Sweep

LOOK = 0.25
"""Seconds between two looks at what callers met."""

ENOUGH = 120
"""Turns of a run that give its percentile."""

FEWEST = 3
"""Turns of each call in a run, at the least."""

TRIES = 2
"""Times that a number is tried where it is not the server that fails."""

EMPTY_WITHIN = 15.0
"""Seconds in which a server is rid of calls that have hung up; it is measured again then."""

Make = Callable[[], Crowd]
"""Makes calls that nobody has placed yet."""


@dataclass(slots=True)
class Status:
    """What is going on, to be shown.

    Attributes:
        doing: In a few words.
        then: What comes next.
        left: Seconds until the result, about.
        calls: Calls that go on.
        p50: Median of the last turns in seconds, None before the first.
        tail: The goal's percentile of them.
        bad: Turns with a fault so far, by the fault.
        used: What the server uses, None where that cannot be seen.
    """

    doing: str = ""
    then: str = ""
    left: float = 0.0
    calls: int = 0
    p50: float | None = None
    tail: float | None = None
    bad: dict[str, int] = field(default_factory=dict)
    used: Used | None = None


class Watcher:
    """Is told how the search goes; this one does not care."""

    def show(self, status: Status) -> None:
        """Take what is going on now."""

    def take(self, measured: Level, verdict: Verdict) -> None:
        """Take what a number of calls gave."""


async def steady(
    make: Make,
    count: int,
    turns: int,
    goal: Goal,
    meter: Meter | None = None,
    look: Callable[[Crowd, Tally], None] = lambda crowd, tally: None,
) -> Level:
    """Hold `count` fresh calls, each for about `turns` turns; return what they met.

    They join over one period and are measured when all have. Calls that are refused are not
    replaced: the level has those that were taken, and the refusals. `look` is called some times a
    second with what came since. Ends early once `goal` is lost.
    """
    crowd = make()
    early, tally = Tally(), Tally()
    spread = crowd.period if count > 1 else 0.0
    joining = asyncio.create_task(join(crowd, count, spread))

    async def watch(seconds: float, into: Tally) -> bool:
        """Watch for `seconds`; return whether the goal was lost meanwhile."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            await asyncio.sleep(min(LOOK, left))
            came = crowd.take()
            into.add(came)
            look(crowd, came)
            if into.failing(goal, turns * count, count):
                return True
        return False

    def start() -> float:
        if meter is not None:
            meter.start()
        return monotonic()

    try:
        began = start()
        if not await watch(spread + crowd.settle, early):
            await joining
            tally.lost, tally.refusals = early.lost, early.refusals
            began = start()
            await watch(turns * crowd.period, tally)
        else:
            tally = early
        seconds, used = monotonic() - began, meter.read() if meter is not None else None
        calls = crowd.calls if tally.refusals else count
    finally:
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)
        await crowd.hang_up()
    return level(tally, goal, calls, seconds, used, steady=True)


class Search:
    """One search for the most calls that hold a goal."""

    def __init__(
        self,
        server: Measured,
        make: Make,
        goal: Goal | None,
        *,
        period: float,
        most: int,
        turns: int,
        watcher: Watcher | None = None,
    ) -> None:
        """Call `server` with what `make` makes, up to `most` calls, `turns` turns each in a run.

        Each caller speaks every `period` seconds. Without a `goal` it is `Goal.beside` one call.
        """
        self._server, self._make, self._most, self._turns = server, make, most, turns
        self._goal = goal or Goal(budget=30.0)
        self._relative = goal is None
        self._watcher = watcher or Watcher()
        self._meter = Meter(server.seen) if server.seen is not None else None
        self._show_meter = Meter(server.seen) if server.seen is not None else None
        self._status = Status()
        self._latest: deque[tuple[float, float]] = deque()
        self._period = period
        self._looked = 0.0

    async def run(self) -> Found:
        """Search; this takes minutes.

        Raises:
            RuntimeError: If the server goes away meanwhile.
        """
        began = monotonic()
        idle = self._meter.read().memory if self._meter is not None else None
        alone, verdict = await self._alone()
        found = Found(goal=self._goal, alone=alone, idle=idle, relative=self._relative)
        found.take(alone, verdict)
        if verdict.passed:
            ramp = await self._ramp(alone, found)
            await self._confirm(ramp, found)
        found.seconds = monotonic() - began
        return found

    async def _alone(self) -> tuple[Level, Verdict]:
        turns = self._turns_of(1)
        windows = math.ceil(math.log(self._most) / math.log(1 + SLOW))
        left = self._period * (1 + turns + windows) + self._runs_seconds(self._most, 3)
        self._say("one call alone", "then: calls are added until they are too many", left)
        return await self._run(1)

    async def _ramp(self, alone: Level, found: Found) -> Ramp:
        """Add calls until they are too many."""
        ramp = Ramp(self._goal, alone, self._most)
        crowd = self._make()
        try:
            await crowd.add()
            while (more := ramp.grow()) is not None:
                left = crowd.period * (1 + ramp.windows_left()) + self._runs_seconds(ramp.calls, 3)
                self._say(
                    f"ramp: adding {more} calls in {crowd.period:.0f} s, to {ramp.calls}",
                    f"then: runs of fresh calls, from {ramp.passed} or more",
                    left,
                )
                measured = await self._window(crowd, ramp, more)
                verdict = Verdict(True) if ramp.failed is None else judge(measured, self._goal)
                found.take(measured, verdict)
                self._watcher.take(measured, verdict)
        finally:
            await crowd.hang_up()
        tried = ramp.failed or ramp.calls
        await self._check(f"with {tried} calls going on; {ramp.passed} had gone well")
        return ramp

    async def _window(self, crowd: Crowd, ramp: Ramp, more: int) -> Level:
        """Add `more` calls over one period; return what callers met meanwhile."""
        if self._meter is not None:
            self._meter.start()
        began, over = monotonic(), False
        joining = asyncio.create_task(join(crowd, more, crowd.period))
        try:
            while not over and monotonic() < began + crowd.period:
                await asyncio.sleep(LOOK)
                tally = crowd.take()
                over = ramp.receive(tally)
                self._look(crowd, tally)
        finally:
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
        used = self._meter.read() if self._meter is not None else None
        return ramp.close(max(crowd.calls, 1), monotonic() - began, used)

    async def _confirm(self, ramp: Ramp, found: Found) -> None:
        """Find the limit by runs of fresh calls."""
        sweep = Sweep(ramp.passed, ramp.failed, self._most)
        sweep.record(1, True)
        while (count := sweep.next()) is not None:
            self._say(
                f"a run of {count} fresh calls",
                f"known: {sweep.passed} passes, {sweep.failed or 'nothing'} fails",
                self._runs_seconds(count, sweep.runs_left()),
            )
            measured, verdict = await self._run(count)
            sweep.record(count, verdict.passed)
            if measured.refusals and measured.calls:
                taken = replace(measured, refusals=())
                sweep.record(measured.calls, judge(taken, self._goal).passed)
                found.take(taken, judge(taken, self._goal))
            found.take(replace(measured, calls=count), verdict)

    async def _run(self, count: int) -> tuple[Level, Verdict]:
        """Hold `count` fresh calls; once more if it was not the server that failed."""
        for _ in range(TRIES):
            await self._empty()
            turns = self._turns_of(count)
            measured = await steady(self._make, count, turns, self._goal, self._meter, self._look)
            if self._relative and count == 1 and measured.p50 and math.isfinite(measured.p50):
                self._goal = Goal.beside(measured.p50)
            verdict = judge(measured, self._goal)
            self._watcher.take(measured, verdict)
            if measured.lost or measured.tail is None or math.isinf(measured.tail):
                await self._check(f"with {measured.calls} calls going on")
            if verdict.limit not in NOT_THE_SERVER:
                break
        return measured, verdict

    def _turns_of(self, count: int) -> int:
        """Return how many turns each call of a run has: the more calls, the fewer."""
        return min(self._turns, max(FEWEST, math.ceil(ENOUGH / count)))

    def _runs_seconds(self, count: int, runs: int) -> float:
        turns = self._turns_of(count)
        return runs * (self._period * (2 + turns) + 2.0)

    # The server.

    async def _check(self, when: str) -> None:
        """Raise RuntimeError unless the server is there."""
        async with httpx.AsyncClient(timeout=10) as http:
            try:
                await http.get(f"{self._server.url}/healthz")
            except httpx.TransportError as error:
                raise RuntimeError(
                    f"the server at {self._server.url} went away {when}: {error}. Its log says why"
                ) from error

    async def _empty(self) -> None:
        """Wait until the server is rid of the calls before, as far as it tells."""
        end = monotonic() + EMPTY_WITHIN
        async with httpx.AsyncClient(timeout=5) as http:
            while monotonic() < end:
                try:
                    text = (await http.get(f"{self._server.url}/metrics")).text
                except httpx.TransportError:
                    return
                active = [row for row in text.splitlines() if row.startswith("voice_calls_active ")]
                if not active or float(active[0].split()[1]) == 0:
                    return
                await asyncio.sleep(0.5)

    # What is shown.

    def _say(self, doing: str, then: str, left: float) -> None:
        self._status = replace(self._status, doing=doing, then=then, left=left)
        self._latest.clear()
        self._status.bad = {}
        self._watcher.show(self._status)

    def _look(self, crowd: Crowd, tally: Tally) -> None:
        """Show what goes on."""
        now, status = monotonic(), self._status
        status.left = max(0.0, status.left - LOOK)
        status.calls = crowd.calls
        self._latest.extend((now, gap) for gap in tally.gaps)
        while self._latest and now - self._latest[0][0] > crowd.period:
            self._latest.popleft()
        if gaps := [gap for _, gap in self._latest]:
            status.p50 = percentile(gaps, 50)
            status.tail = percentile(gaps, self._goal.percentile)
        for fault, times in tally.bad.items():
            status.bad[fault] = status.bad.get(fault, 0) + times
        if self._show_meter is not None and now - self._looked > 1.0:
            status.used, self._looked = self._show_meter.read(), now
            self._show_meter.start()
        self._watcher.show(status)
