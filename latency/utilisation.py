"""How busy everything is that calls share, and what each call adds to that. Pure.

Calls count from the moment they are taken, at the cost that was learned of others: their own
work is measured only once they speak, and fifty a second would be in before that.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

COST = 0.08
"""Utilisation that a call is expected to take before any was measured: 10 calls at once get into
an idle machine then, and hundreds within seconds if they turn out to be cheap."""

CERTAIN = 2.0
"""Calls' worth of trust in `COST` beside one call, half of it beside two, and so on. A few calls
tell little: 1 takes 3.5 % of a core, 50 take 0.9 % each (profile "bench", 2 cores, 2026-11-25)."""

SETTLED = 10.0
"""Seconds after which a call's work is all in what is measured: it has had its first turns. Half of
that time it may be silent, or be greeted."""

SMOOTH, LEARNED = 2.0, 3.0
"""Seconds over which utilisation is averaged, and what a call costs."""

LATE = 0.002, 0.005
"""Seconds of mean lateness that every loop has, and those at which one is half busy."""

MUCH = 1.25
"""Factor between what is expected and what was measured from which it is not known yet."""

USUAL = 0.05
"""Weight of the latest answer in an engine's usual time."""

VAGUE, SEVERAL = 0.5, 10
"""How busy an engine must seem before it counts, since phrases and prompts differ in length; and
the calls, at the least, that it then seems to be busy with."""

ALONE = 1
"""Calls that wait for nobody: what an engine takes then is the least it needs."""

MOST = 1_000_000
"""Calls that there is room for at most."""

DRIFT = 1.001
"""Factor by which an engine's least time grows with every answer: it forgets lucky ones."""


@dataclass(slots=True)
class Resource:
    """Something that calls share.

    Attributes:
        utilisation: Share of the time in which it is busy, smoothed.
        cost: What each call adds to that.
        idle: What it is without calls.
    """

    utilisation: float = 0.0
    cost: float = COST
    idle: float = 0.0

    def learn(self, share: float, calls: int, settled: float, passed: float) -> None:
        """Take the `share` of the `passed` seconds in which it was busy for `calls`.

        `settled` is the part of their work that has surely begun, 0 to 1. The rest may be in
        what was measured or not: what a call costs lies between.
        """
        self.utilisation += _part(passed, SMOOTH) * (share - self.utilisation)
        part = _part(passed, LEARNED)
        if not calls:
            self.idle += part * (self.utilisation - self.idle)
            return
        self.idle = min(self.idle, self.utilisation)  # it did something else, and has ended
        doubt = CERTAIN / calls
        used = max(0.0, self.utilisation - self.idle) + doubt * COST
        least, most = used / (calls + doubt), used / (calls * settled + doubt)
        self.cost += part * (min(max(self.cost, least), most) - self.cost)

    def with_calls(self, calls: int, measured: int) -> float:
        """Return its utilisation with `calls`; it was measured with so many."""
        added = self.utilisation + self.cost * (calls - measured)
        return max(added, self.idle + self.cost * calls)


class Utilisation:
    """Everything that calls share."""

    def __init__(self) -> None:
        self.resources: dict[str, Resource] = {"loop": Resource()}
        self.calls = 0
        """How many went on when it was measured last."""
        self._late = 0.0
        self._measured_at: float | None = None
        self._young: deque[tuple[float, int]] = deque()
        self._engines: dict[str, tuple[float, float]] = {}

    def measured(self, shares: Mapping[str, float], late: float, calls: int, now: float) -> None:
        """Take the share of time in which each resource was busy since this was called last.

        `late` is by how many seconds the event loop was late meanwhile, on average: it tells how
        busy the loop is where others take its processor, too.
        """
        passed = SMOOTH if self._measured_at is None else max(1e-3, now - self._measured_at)
        self._measured_at = now
        if calls > self.calls:
            self._young.append((now, calls - self.calls))
        self.calls = calls
        self._late += _part(passed, SMOOTH) * (late - self._late)
        settled = self._settled(now)
        for name, share in shares.items():
            self.resources.setdefault(name, Resource()).learn(share, calls, settled, passed)
        for name, (least, usual) in self._engines.items():
            busy = 1 - least / usual
            if busy > VAGUE and calls > ALONE:
                self.resources[name] = Resource(busy, busy / max(SEVERAL, calls))
            else:
                self.resources.pop(name, None)

    def worked(self, seconds: Mapping[str, float]) -> None:
        """Note how long each engine took for one answer.

        An engine that serves many takes longer for each. It is as busy as that part of its time
        which is beyond the least it needs, 1 - least / usual (the response time of a queue is
        s / (1 - u)); an engine on another machine tells nothing else.
        """
        for name, time in seconds.items():
            if time > 0:
                least, usual = self._engines.get(name, (time, time))
                usual += USUAL * (time - usual)
                least = usual if self.calls <= ALONE else min(least * DRIFT, usual)
                self._engines[name] = least, usual

    def busiest(self, calls: int) -> tuple[str, float]:
        """Return the resource that is busiest with `calls`, and how busy it is."""
        used = {name: one.with_calls(calls, self.calls) for name, one in self.resources.items()}
        usual, half = LATE
        late = max(0.0, self._late - usual)
        used["loop"] = max(used["loop"], late / (late + half - usual))
        name = max(used, key=used.__getitem__)
        return name, used[name]

    def assumed(self, calls: int) -> bool:
        """Tell whether what is expected of `calls` is much more than was measured so far."""
        one = max(self.resources.values(), key=lambda one: one.with_calls(calls, self.calls))
        return one.with_calls(calls, self.calls) > MUCH * one.utilisation

    def room(self, most: float, calls: int) -> int:
        """Return how many calls more than `calls` keep every resource below `most`."""
        if self.busiest(calls)[1] > most:
            return 0
        left = (
            (most - one.with_calls(calls, self.calls)) / one.cost
            for one in self.resources.values()
            if one.cost > 0
        )
        return math.floor(min((MOST, *left)) + 1e-9)

    def _settled(self, now: float) -> float:
        """Return how far the work of all calls is in what was measured, 0 to 1."""
        while self._young and self._young[0][0] <= now - SETTLED:
            self._young.popleft()
        missing = sum(n * min(1.0, 2 - 2 * (now - at) / SETTLED) for at, n in self._young)
        return max(0.0, 1 - missing / self.calls) if self.calls else 1.0


def _part(passed: float, over: float) -> float:
    """Return the weight of what `passed` seconds brought, in an average over so many."""
    return 1 - math.exp(-passed / over)
