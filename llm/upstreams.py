"""Which of several upstreams is asked for an answer, and when another is too.

No I/O, no clock, no tasks: outcomes and times go in, whom to ask comes out. The shell
is `llm.router`. The rules:

* The upstreams have an order of preference; the first one in service is asked.
* One that fails before its first token is replaced by the next. That costs nobody twice
  the work, so it is always allowed; the failed one's breaker bounds how often it happens.
* One that has no first token by its own limit (from what it lately took) is not hung
  up on, but the next is asked as well: whoever answers first is heard. Work done twice
  is paid from a retry budget, and so is asking anybody a second time: when all are
  overloaded, answers must not multiply.
* An upstream that keeps failing or being late is out of service (its breaker is open)
  until a probe has had a token from it: no caller tries it out. Only when none is in
  service is one that is out asked nevertheless.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from llm.engine import EngineError


class UnavailableError(EngineError):
    """An upstream cannot answer now; another one, or the same one later, may.

    Attributes:
        after: Seconds for which it asked to be left alone, None if it named none.
    """

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How patient and how generous a router is. Durations are in seconds.

    Attributes:
        patience: How long the first token of an answer may take, whoever is asked.
        shortest: The least of the limits that an upstream's first token may have.
        longest: The most, and the limit of an upstream not known yet.
        slack: Limit of the first token, in multiples of the upstream's recent p95.
        asks: Requests for one answer, at most.
        ratio: Retries that each answer adds to the budget.
        per_second: Retries that each second adds.
        budget: Retries that the budget holds, at most and at first.
        failures: Failures in a row that put an upstream out of service.
        rest: How long it then is left alone before it is probed.
        longest_rest: The most; `rest` doubles with each probe that fails. Also the most
            that an upstream may ask for by itself.
        backoff: Wait before the same upstream is asked again; it doubles, too.
    """

    patience: float = 8.0
    shortest: float = 0.3
    longest: float = 2.0
    slack: float = 2.0
    asks: int = 4
    ratio: float = 0.2
    per_second: float = 0.5
    budget: float = 10.0
    failures: int = 3
    rest: float = 1.0
    longest_rest: float = 30.0
    backoff: float = 0.1


RECENT = 10
"""Outcomes of an upstream that are looked at: when half of them are failures, it is out."""

TIMES = 100
"""First-token times that an upstream's p95 is taken of."""

NEVER = float("inf")

KNOWN = 8
"""Times from which on that p95 means something."""


class Breaker(Enum):
    """Whether an upstream is in service: closed is yes."""

    CLOSED = "in service"
    OPEN = "out of service"
    HALF_OPEN = "being probed"


@dataclass(slots=True)
class Upstream:
    """What is known of one upstream."""

    policy: Policy
    breaker: Breaker = Breaker.CLOSED
    ready: bool = True
    """Whether it has ever been up; one that has not cannot be asked."""
    busy_until: float = float("-inf")
    """When it may be asked again by its own word."""
    rested: float = float("-inf")
    """When it is to be probed, while out of service."""
    _opened: float = float("-inf")
    _rest: float = 0.0
    _outcomes: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT))
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES))

    def limit(self) -> float:
        """Return how long its first token may take, in seconds."""
        if len(self._times) < KNOWN:
            return self.policy.longest
        p95 = sorted(self._times)[int(0.95 * len(self._times))]
        return min(max(self.policy.slack * p95, self.policy.shortest), self.policy.longest)

    def in_service(self, now: float) -> bool:
        """Whether it may be asked."""
        return self.breaker is Breaker.CLOSED and self.busy_until <= now

    def took(self, seconds: float) -> None:
        """Note the time of a first token, or how long was waited for one in vain."""
        self._times.append(seconds)

    def succeeded(self, asked: float) -> None:
        """Note that what was asked for at `asked` was answered."""
        if asked < self._opened:
            return  # it answers what it had begun; that says nothing about new requests
        if self.breaker is not Breaker.CLOSED:
            self.breaker, self._rest = Breaker.CLOSED, 0.0
            self._outcomes.clear()
        self._outcomes.append(True)

    def failed(self, asked: float, now: float, after: float | None = None) -> None:
        """Note that what was asked for at `asked` failed, or was late."""
        if after is not None:
            self.busy_until = max(self.busy_until, now + min(after, self.policy.longest_rest))
            return  # one that says when to come back is well
        if asked < self._opened or self.breaker is not Breaker.CLOSED:
            return
        self._outcomes.append(False)
        latest = list(self._outcomes)[-self.policy.failures :]
        many = self._outcomes.count(False) >= RECENT / 2
        if many or (len(latest) == self.policy.failures and not any(latest)):
            self.put_out(now)

    def put_out(self, now: float) -> None:
        """Put it out of service, for longer if it just failed a probe."""
        if self.breaker is Breaker.CLOSED:
            self._rest, self._opened = self.policy.rest, now
        else:
            self._rest = min(2 * self._rest, self.policy.longest_rest)
        self.breaker = Breaker.OPEN
        self.rested = max(now + self._rest, self.busy_until)


class Upstreams:
    """The upstreams of one router and what they share."""

    def __init__(self, count: int, policy: Policy) -> None:
        self.policy = policy
        self.all = [Upstream(policy) for _ in range(count)]
        self._budget = policy.budget
        self._earned = float("inf")
        self._spread = 0.0

    @property
    def probe_at(self) -> float | None:
        """When to call `probe`, None if all are in service or being probed."""
        open_ = [each.rested for each in self.all if each.breaker is Breaker.OPEN]
        return min(open_, default=None)

    def probe(self, now: float) -> list[int]:
        """Return whom to probe; each needs a `succeeded` or `put_out` then."""
        due = [
            place
            for place, each in enumerate(self.all)
            if each.breaker is Breaker.OPEN and each.rested <= now
        ]
        for place in due:
            self.all[place].breaker = Breaker.HALF_OPEN
        return due

    def best(self, now: float) -> int:
        """Return whom an answer would be asked of first."""
        places = range(len(self.all))
        return next((place for place in places if self.all[place].in_service(now)), 0)

    def answer(self, now: float) -> "Answer":
        """Begin an answer."""
        self._earn(now, self.policy.ratio)
        return Answer(self, now)

    def spend(self, now: float) -> bool:
        """Take a retry from the budget; tell whether there was one."""
        self._earn(now, 0.0)
        if self._budget < 1.0:
            return False
        self._budget -= 1.0
        return True

    def backoff(self, times: int) -> float:
        """Return how long to wait before an upstream is asked for the `times`th time again.

        Between half and all of the doubled `Policy.backoff`, so that those who failed
        together do not return together: steps of the golden ratio never fall together.
        """
        self._spread = (self._spread + 0.618034) % 1.0
        return self.policy.backoff * 2.0 ** (times - 1) * (0.5 + self._spread / 2)

    def _earn(self, now: float, more: float) -> None:
        more += max(now - self._earned, 0.0) * self.policy.per_second
        self._budget = min(self._budget + more, self.policy.budget)
        self._earned = now


class Answer:
    """Who is asked for one answer, and when.

    Call `tick` at `deadline` and after every event, until it returns None.

    Attributes:
        asked: Whom it was asked of, in that order.
        running: Who has neither begun to answer nor failed, and when they were asked.
        deadline: When to call `tick` next, in seconds of the caller's clock.
        over: Whether nobody will answer any more.
    """

    def __init__(self, upstreams: Upstreams, now: float) -> None:
        self.asked: list[int] = []
        self.running: dict[int, float] = {}
        self.deadline: float | None = now
        self.over = False
        self._upstreams = upstreams
        self._until = now + upstreams.policy.patience
        self._due: dict[int, float] = {}  # of `running`; NEVER: late already, or it writes
        self._writing: set[int] = set()
        self._again = now
        self._refused = False

    def tick(self, now: float) -> int | None:
        """Return the upstream to ask now, if one is."""
        if now >= self._until:
            self.deadline, self.over = None, True
            return None
        for late in [place for place, due in self._due.items() if due <= now]:
            upstream = self._upstreams.all[late]
            upstream.took(now - self.running[late])
            upstream.failed(self.running[late], now)
            self._due[late] = NEVER
        if (due := min(self._due.values(), default=NEVER)) < NEVER:
            self.deadline = min(due, self._until)
            return None
        if self._writing or self._refused or len(self.asked) >= self._upstreams.policy.asks:
            self._wait(self._until)
            return None
        place, at, is_retry = self._next(now)
        if place is None or at >= self._until:
            self._wait(self._until)
            return None
        if at > now:
            self.deadline = at
            return None
        if is_retry and not self._upstreams.spend(now):
            # Whoever is late may be out of service in a moment: then it costs nothing.
            self._wait(min(now + self._upstreams.policy.shortest, self._until))
            return None
        self.asked.append(place)
        self.running[place] = self.deadline = now
        self._due[place] = now + self._upstreams.all[place].limit()
        return place

    def began(self, place: int, at: float) -> None:
        """Note that `place` writes since `at`, though nothing has come of it yet.

        A tool call comes whole: its first token is long past by then.
        """
        if place in self.running and self._due[place] < NEVER:
            self._upstreams.all[place].took(at - self.running[place])
            self._due[place] = NEVER
            self._writing.add(place)

    def answered(self, place: int, now: float) -> float:
        """Note that the first piece came from `place`; return when that was asked."""
        asked = self.running[place]
        if self._due[place] < NEVER:
            self._upstreams.all[place].took(now - asked)
        self.running.clear()
        self.deadline = None
        return asked

    def failed(self, place: int, now: float, after: float | None = None) -> None:
        """Note that `place` failed before its first piece; call `tick` next."""
        self._upstreams.all[place].failed(self._forget(place, now), now, after)
        self._again = now + self._upstreams.backoff(self.asked.count(place))

    def refused(self, place: int, now: float) -> None:
        """Note that `place` found the request itself at fault: nobody else is asked."""
        self._forget(place, now)
        self._refused = True

    def _forget(self, place: int, now: float) -> float:
        self._writing.discard(place)
        del self._due[place]
        self.deadline = now
        return self.running.pop(place)

    def _wait(self, until: float) -> None:
        """Wait for those who are late, if anybody runs."""
        self.over = not self.running
        self.deadline = until if self.running else None

    def _next(self, now: float) -> tuple[int | None, float, bool]:
        """Return whom to ask next, when, and whether it is to be paid for as a retry."""
        every = self._upstreams.all
        twice = any(every[place].breaker is Breaker.CLOSED for place in self.running)
        for place, each in enumerate(every):
            if place not in self.asked and each.in_service(now):
                return place, now, twice
        if twice:
            return None, now, True  # one that works, though late, is better than one that is out
        free = [
            (max(now if place not in self.asked else self._again, each.busy_until, now), place)
            for place, each in enumerate(every)
            if each.ready and place not in self.running
        ]
        if not free:
            return None, now, True
        at, first = min(free)
        return first, at, bool(self.asked)
