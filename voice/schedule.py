"""Whose work the device does next, by deadline. No clock, no threads, no locks.

Recognition, the language model and the voice of all calls share one device. Work on it is
short and not interrupted once begun, so the order in which it begins is all that can be
decided. Three rules decide it, and each of them has an end, so that nothing waits for ever:

1. The earliest deadline is first, `slots` at once. What waits grows older and so more urgent
   than what is asked for later.
2. Of several slots the last is kept for work that is due soon: what comes next may be a final
   word or a first phrase. Work that waits for that becomes due soon itself.
3. The language model works in a process of its own, and reserves the device for its first
   token. Work that is due later waits meanwhile, unless it is due soon or over in time; it
   waits for `longest_hold` at most.
"""

from collections.abc import Hashable
from dataclasses import dataclass

DUE_SOON = 0.1
"""Seconds before its deadline from which work may have the last slot, and waits for no
reservation."""

LONGEST_HOLD = 0.08
"""Seconds for which reservations keep the device from a job, at most: a first token of an
8 B model at full load takes 40 ms, and a chunk of speech that waits for two is not late yet."""

LEARNING = 0.2
"""Share of the latest measurement in what a kind of work is expected to take."""


@dataclass(slots=True, eq=False)
class Job:
    """Work that waits for the device or is done on it.

    Attributes:
        number: Its place in the order of asking.
        kind: What sort of work it is; costs are learned for each.
        deadline: When its result is wanted, in seconds. May be changed while it waits: whoever
            collects a batch may find more urgent work to put into it.
        cost: Seconds that it takes, as far as whoever asked knows; 0 for unknown.
        size: How many calls' work it is.
        asked: When it was asked for.
        held: When a reservation first kept the device from it.
        began: When it began.
    """

    number: int
    kind: str
    deadline: float
    cost: float
    size: int
    asked: float
    held: float | None = None
    began: float | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """Work that another process does on the same device.

    Attributes:
        deadline: When its result is wanted, in seconds.
        cost: Seconds that it is expected to take.
        until: When it is disregarded, should nobody release it before.
    """

    deadline: float
    cost: float
    until: float


class Costs:
    """What each kind of work takes, learned from what it took.

    Whoever asks for the device says what the work will take and may be wrong, always by about
    the same factor; that factor is learned. Where they say nothing, the time itself is.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, bool], float] = {}

    def expected(self, job: Job) -> float:
        """Return the seconds that `job` will take, as far as can be known."""
        learned = self._known.get(_class(job), 1.0 if job.cost > 0 else 0.0)
        return learned * job.cost if job.cost > 0 else learned

    def learn(self, job: Job, seconds: float) -> None:
        """Take what `job` took."""
        measured = seconds / job.cost if job.cost > 0 else seconds
        known = self._known.get(_class(job), measured)
        self._known[_class(job)] = known + LEARNING * (measured - known)


class Schedule:
    """The order of the work on one device."""

    def __init__(self, slots: int = 1, longest_hold: float = LONGEST_HOLD) -> None:
        """Let `slots` jobs be done at once.

        Raises:
            ValueError: If there is no slot, or `longest_hold` is negative.
        """
        if slots < 1:
            raise ValueError(f"slots is {slots}; expected 1 or more")
        if longest_hold < 0:
            raise ValueError(f"longest_hold is {longest_hold} s; expected 0 or more")
        self.slots, self.longest_hold = slots, longest_hold
        self.costs = Costs()
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self._reserved: dict[Hashable, Reservation] = {}
        self._numbers = 0

    def ask(self, kind: str, deadline: float, cost: float, now: float, size: int = 1) -> Job:
        """Let a job wait for the device; `next` begins it."""
        self._numbers += 1
        job = Job(self._numbers, kind, deadline, cost, size, now)
        self.waiting.append(job)
        return job

    def withdraw(self, job: Job) -> None:
        """Forget a job that waits; nothing happens if it does not."""
        if job in self.waiting:
            self.waiting.remove(job)

    def next(self, now: float) -> Job | None:
        """Begin the job that is next and return it; None if none may begin now.

        Call it again until it returns None: several may begin at once.
        """
        job = self._first()
        if job is None:
            return None
        if job.held is None and self._reserved_until(job, now) > now:
            job.held = now
        if self._waits_until(job, now) > now:
            return None
        job.began = now
        self.waiting.remove(job)
        self.running.append(job)
        return job

    def look_again(self, now: float) -> float | None:
        """Return when `next` may answer otherwise though nothing happens; None if it will not."""
        job = self._first()
        return None if job is None else self._waits_until(job, now)

    def done(self, job: Job, now: float) -> None:
        """Note that a job has ended; what it took is learned."""
        assert job.began is not None, "it never began"
        self.running.remove(job)
        self.costs.learn(job, now - job.began)

    def reserve(self, name: Hashable, deadline: float, cost: float, now: float) -> None:
        """Note that another process works on the device; for the same `name` again: anew."""
        for stale in [key for key, other in self._reserved.items() if other.until <= now]:
            del self._reserved[stale]
        begins = max(now, deadline - cost)
        self._reserved[name] = Reservation(deadline, cost, begins + self.longest_hold)

    def release(self, name: Hashable) -> None:
        """Note that this work has ended; nothing happens if none is reserved."""
        self._reserved.pop(name, None)

    def _first(self) -> Job | None:
        """Return the most urgent job, if a slot is free for it."""
        if len(self.running) >= self.slots:
            return None
        return min(self.waiting, key=self._urgency, default=None)

    def _urgency(self, job: Job) -> tuple[float, int]:
        return job.deadline, job.number

    def _waits_until(self, job: Job, now: float) -> float:
        """Return until when the most urgent job waits although a slot is free; `now` if not."""
        last = 1 < self.slots == len(self.running) + 1
        return max(now, job.deadline - DUE_SOON if last else now, self._reserved_until(job, now))

    def _reserved_until(self, job: Job, now: float) -> float:
        """Return until when reservations keep the device from a job, at the latest."""
        ends = now + self.costs.expected(job)
        kept = [
            other.until
            for other in self._reserved.values()
            if other.deadline < job.deadline and ends > other.deadline - other.cost
        ]
        bound = (now if job.held is None else job.held) + self.longest_hold
        return min(max(kept, default=now), bound, job.deadline - DUE_SOON)


def _class(job: Job) -> tuple[str, int, bool]:
    """Return which jobs' costs are alike: of the same kind and about the same size."""
    return job.kind, max(0, job.size - 1).bit_length(), job.cost > 0
