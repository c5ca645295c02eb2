"""One device for all engines of a process: `voice.schedule` for their threads, and how each
kind of work has fared."""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from voice.schedule import Job, Schedule

KEPT = 1000
"""Waits of each kind that `stats` looks at, the latest."""

ASK_AGAIN = 0.01
"""Seconds after which deadlines that may have changed are looked at again, while the device is
kept free for somebody."""

Deadline = float | Callable[[], float]
"""When a result is wanted, in `time.monotonic` seconds; or what tells it."""


@dataclass(frozen=True, slots=True)
class Fared:
    """How one kind of work has fared.

    Attributes:
        served: How often it had the device.
        late: How often it ended after its deadline only because it had to wait.
        waited_p50: Seconds that it waited for the device, of the latest.
        waited_p95: Likewise.
        busy: Seconds that it had the device, all together.
    """

    served: int
    late: int
    waited_p50: float
    waited_p95: float
    busy: float


class Device:
    """What engines share; every method may be called from any thread.

    Satisfies `Turns` of `asr.engine` and of `tts.engine`.
    """

    def __init__(
        self, schedule: Schedule | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        """Serve in the order of `schedule`, which is nobody else's; by default one job at once."""
        self._schedule = schedule or Schedule()
        self._clock = clock
        self._changed = threading.Condition()
        self._deadlines: dict[Job, Callable[[], float]] = {}
        self._tallies: dict[str, _Tally] = {}

    @contextmanager
    def turn(self, kind: str, deadline: Deadline, cost: float, size: int = 1) -> Iterator[None]:
        """Block this thread until the device may do work of `kind`; hold the device inside.

        `deadline` is when its result is wanted. Where it is a function, that is asked whenever
        the device is about to choose, in any thread: an engine's queue may have got more urgent
        meanwhile. It must be quick, not fail, and not use the device. `cost` is about how many
        seconds the work takes, 0 for unknown, `size` of how many calls it is. A thread that holds
        the device must not ask for it again.
        """
        job = self._begin(kind, deadline, cost, size)
        try:
            yield
        finally:
            self._end(job)

    def reserve(self, name: Hashable, deadline: float, cost: float) -> None:
        """Note that another process works on the device, and wants its result by `deadline`.

        Work that is due later waits for `release`, a little (`Schedule.longest_hold`).
        """
        with self._changed:
            self._schedule.reserve(name, deadline, cost, self._clock())

    def release(self, name: Hashable) -> None:
        """Note that this work has ended; safe at any time, also twice."""
        with self._changed:
            self._schedule.release(name)
            self._choose()

    def stats(self) -> Mapping[str, Fared]:
        """Return how each kind of work has fared."""
        with self._changed:
            return {kind: tally.fared() for kind, tally in self._tallies.items()}

    def _begin(self, kind: str, deadline: Deadline, cost: float, size: int) -> Job:
        with self._changed:
            due = deadline() if callable(deadline) else deadline
            job = self._schedule.ask(kind, due, cost, self._clock(), size)
            if callable(deadline):
                self._deadlines[job] = deadline
            try:
                self._choose()
                while job.began is None:
                    self._changed.wait(self._patience())
                    self._choose()
            except BaseException:  # a signal; whoever waits next must not wait for this one
                self._deadlines.pop(job, None)
                self._schedule.withdraw(job)
                if job.began is not None:
                    self._schedule.done(job, self._clock())
                self._choose()
                raise
            self._deadlines.pop(job, None)
        return job

    def _end(self, job: Job) -> None:
        with self._changed:
            now = self._clock()
            self._schedule.done(job, now)
            self._tallies.setdefault(job.kind, _Tally()).add(job, now)
            self._choose()

    def _choose(self) -> None:
        """Let all begin that may."""
        for job, deadline in self._deadlines.items():
            if job.began is None:
                job.deadline = deadline()
        began = False
        while self._schedule.next(self._clock()) is not None:
            began = True
        if began:
            self._changed.notify_all()

    def _patience(self) -> float | None:
        """Return the seconds after which to choose again though nothing happens."""
        now = self._clock()
        then = self._schedule.look_again(now)
        if then is None:
            return None
        return min(max(0.0, then - now), ASK_AGAIN if self._deadlines else threading.TIMEOUT_MAX)


@dataclass(slots=True)
class _Tally:
    """How one kind of work fares."""

    served: int = 0
    late: int = 0
    busy: float = 0.0
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def add(self, job: Job, now: float) -> None:
        """Add a job that has ended."""
        assert job.began is not None
        waited = job.began - job.asked
        self.served += 1
        self.late += now > job.deadline >= now - waited
        self.busy += now - job.began
        self.waits.append(waited)

    def fared(self) -> Fared:
        """Return it, added up."""
        waits = sorted(self.waits)
        middle, most = len(waits) // 2, min(len(waits) - 1, int(len(waits) * 0.95))
        return Fared(self.served, self.late, waits[middle], waits[most], self.busy)
