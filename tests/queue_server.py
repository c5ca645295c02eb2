"""A simulated server that answers one turn after the other. What it needs for a turn is hidden
from who is tested: only what a real server shows is seen."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from latency.prediction import Forecast, Predictor
from latency.trace import percentile

LOOK = 0.25
"""Seconds between two measurements."""


@dataclass
class QueueServer:
    """Calls that ask about every `period` seconds, and one server that takes `service` for each.

    Attributes:
        service: Seconds of work in a turn, on average.
        idle: Seconds that a turn takes besides.
        media: Share of the server's time that each call takes without asking anything.
        spread: How much the work differs between turns: 0 not at all, 1 from nothing to double.
        noise: Seconds by which `idle` differs.
        silent: Seconds for which a call that was taken says nothing yet.
    """

    service: float
    idle: float = 0.3
    media: float = 0.0
    spread: float = 0.5
    noise: float = 0.04
    period: float = 5.0
    silent: float = 1.0
    seed: int = 1
    now: float = 100.0
    calls: list[float] = field(default_factory=list)
    free_at: float = 0.0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._work: list[tuple[float, float, float]] = []

    def take(self) -> None:
        """One more call."""
        self.calls.append(self.now + self.silent + self._random.uniform(0, self.period))

    def hang_up(self, count: int) -> None:
        """The oldest calls end."""
        del self.calls[:count]

    def step(self) -> tuple[float, list[float]]:
        """Let `LOOK` seconds pass; return how busy it was and how long the answered waited."""
        end, waits = self.now + LOOK, []
        media = min(0.95, self.media * len(self.calls))
        for due, number in sorted((due, n) for n, due in enumerate(self.calls) if due < end):
            work = self.service * (1 + self.spread * self._random.uniform(-1, 1))
            begin = max(due, self.free_at)
            self.free_at = begin + work / (1 - media)  # it has what the media leave
            self._work.append((begin, self.free_at, due))
            self.calls[number] = due + self.period * self._random.uniform(0.8, 1.2)
        busy = 0.0
        for begin, done, due in self._work:
            busy += max(0.0, min(done, end) - max(begin, self.now))
            if done < end:
                spread = self._random.uniform(-self.noise, self.noise)
                waits.append(done - due + self.idle + spread)
        self._work = [work for work in self._work if work[1] >= end]
        self.now = end
        return media + (1 - media) * busy / LOOK, waits


@dataclass
class Seen:
    """What happened in a run."""

    most: int = 0
    refused: int = 0
    episodes: int = 0
    waits: list[float] = field(default_factory=list)
    verdicts: list[Forecast] = field(default_factory=list)


def run(
    server: QueueServer,
    predictor: Predictor,
    seconds: float,
    offered: Callable[[float], int],
    ending: Callable[[float], int] = lambda _: 0,
    measured_after: float = 0.0,
) -> Seen:
    """Offer so many calls in each step, take what `predictor` lets in; return what happened."""
    seen, began = Seen(), server.now
    while server.now < began + seconds:
        passed = server.now - began
        for _ in range(offered(passed)):
            was = predictor.saturated
            verdict = predictor.decide(len(server.calls), server.now)
            seen.verdicts.append(verdict)
            seen.episodes += predictor.saturated and not was
            if verdict.admitted:
                server.take()
            else:
                seen.refused += 1
        leaving = min(ending(passed), len(server.calls))
        server.hang_up(leaving)
        for _ in range(leaving):
            predictor.ended(server.now)
        busy, waits = server.step()
        for wait in waits:
            predictor.answered(wait, server.now)
            if passed >= measured_after:
                seen.waits.append(wait)
        predictor.measured({"loop": busy}, 0.001, len(server.calls), server.now)
        seen.most = max(seen.most, len(server.calls))
    return seen


def capacity(budget: float, **hidden: float) -> int:
    """Return the most calls that hold `budget` at the 95th percentile, found by trying."""
    calls = 1
    while True:
        server = QueueServer(**hidden)  # type: ignore[arg-type]
        for _ in range(calls):
            server.take()
        waits = [wait for _ in range(600) for wait in server.step()[1]]
        if percentile(waits[len(waits) // 5 :], 95) > budget:
            return calls - 1
        calls += max(1, calls // 20)


HIDDEN: tuple[dict[str, float], ...] = (
    {"service": 0.1},
    {"service": 0.05, "silent": 5.0},
    {"service": 0.05, "noise": 0.15},
    {"service": 0.02, "media": 0.002},
    {"service": 0.02},
    {"service": 0.005, "media": 0.003},
)
"""Servers that hold from 30 to 250 calls."""


def storm(rate: int) -> Callable[[float], int]:
    """Return how many want a call in a step, `rate` a second."""
    return lambda passed: int((passed + LOOK) * rate) - int(passed * rate)


def main() -> None:
    """Print what each server can hold, and what was taken when too many came."""
    for hidden in HIDDEN:
        fits = capacity(0.8, **hidden)
        for rate in (5, 50):
            server, ends = QueueServer(**hidden), random.Random(3)  # type: ignore[arg-type]
            seen = run(
                server,
                Predictor(0.8),
                240.0,
                storm(rate),
                ending=partial(_ending, server, ends),
                measured_after=60.0,
            )
            print(
                f"{hidden} holds {fits}; {rate}/s: at most {seen.most}, {len(server.calls)} in the "
                f"end, p95 {percentile(seen.waits, 95):.2f} s, {seen.episodes} saturations"
            )


def _ending(server: QueueServer, ends: random.Random, passed: float) -> int:
    """Return how many calls of 90 s end in a step."""
    return int(ends.random() < len(server.calls) / 90 * LOOK)


if __name__ == "__main__":
    main()
