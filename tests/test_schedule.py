"""Who has the device next: by deadline, and nothing waits for ever."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice.schedule import DUE_SOON, Costs, Job, Schedule

HOLD = 0.08


def kinds(schedule: Schedule, now: float) -> list[str]:
    """Begin all that may; return what began, in order."""
    began = []
    while (job := schedule.next(now)) is not None:
        began.append(job.kind)
    return began


def ends(schedule: Schedule, now: float) -> None:
    """End the job that began first."""
    schedule.done(schedule.running[0], now)


def test_the_earliest_deadline_is_first_whoever_asked_first() -> None:
    schedule = Schedule()
    schedule.ask("chunk", 3.0, 0.1, now=0.0)
    assert kinds(schedule, 0.0) == ["chunk"]  # nobody else is there
    for kind, deadline in (("partial", 0.6), ("early phrase", 0.4), ("final", 0.1)):
        schedule.ask(kind, deadline, 0.1, now=0.1)
    order = []
    for now in (0.2, 0.3, 0.4):
        ends(schedule, now)
        order += kinds(schedule, now)
    assert order == ["final", "early phrase", "partial"]


def test_of_equal_deadlines_who_asked_first_is_first() -> None:
    schedule = Schedule(slots=3)
    for kind in "abc":
        schedule.ask(kind, 0.0, 0.1, now=0.0)
    assert kinds(schedule, 0.0) == ["a", "b", "c"]


def test_work_that_waits_comes_before_urgent_work_that_is_younger() -> None:
    schedule = Schedule()
    schedule.ask("long", 0.0, 1.0, now=0.0)
    kinds(schedule, 0.0)
    schedule.ask("partial", 0.5, 0.1, now=0.0)
    schedule.ask("final", 0.9, 0.1, now=0.9)
    ends(schedule, 1.0)
    assert kinds(schedule, 1.0) == ["partial"]


def test_a_job_that_became_more_urgent_is_first() -> None:
    schedule = Schedule()
    schedule.ask("running", 0.0, 0.1, now=0.0)
    kinds(schedule, 0.0)
    batch = schedule.ask("partial", 0.5, 0.1, now=0.0)
    schedule.ask("phrase", 0.2, 0.1, now=0.0)
    batch.deadline = 0.1  # a final joined what the recogniser will do
    ends(schedule, 0.1)
    assert kinds(schedule, 0.1) == ["partial"]


def test_no_more_than_the_slots_and_the_last_one_for_what_is_due_soon() -> None:
    schedule = Schedule(slots=2)
    schedule.ask("chunk", 1.0, 0.3, now=0.0)
    schedule.ask("chunk", 1.1, 0.3, now=0.0)
    assert kinds(schedule, 0.0) == ["chunk"]
    schedule.ask("final", 0.1, 0.05, now=0.1)
    assert kinds(schedule, 0.1) == ["final"]
    schedule.ask("final", 0.1, 0.05, now=0.1)
    assert kinds(schedule, 0.1) == []  # both are taken
    assert schedule.look_again(0.1) is None


def test_the_last_slot_is_anybodys_who_has_waited_long_enough() -> None:
    schedule = Schedule(slots=2)
    schedule.ask("chunk", 1.0, 9.0, now=0.0)
    schedule.ask("chunk", 1.1, 0.3, now=0.0)
    kinds(schedule, 0.0)
    again = schedule.look_again(0.0)
    assert again == pytest.approx(1.1 - DUE_SOON)
    assert kinds(schedule, again - 0.01) == []
    assert kinds(schedule, again) == ["chunk"]


def test_later_work_waits_while_a_first_token_is_pending() -> None:
    schedule = Schedule(longest_hold=HOLD)
    schedule.reserve("call 1", 0.0, 0.03, now=0.0)
    schedule.ask("partial", 0.5, 0.05, now=0.01)
    assert kinds(schedule, 0.01) == []
    schedule.release("call 1")
    assert kinds(schedule, 0.02) == ["partial"]


def test_more_urgent_work_does_not_wait_for_it() -> None:
    schedule = Schedule(longest_hold=HOLD)
    schedule.reserve("early", 1.0, 1.0, now=0.0)
    schedule.ask("partial", 0.5, 0.05, now=0.05)
    assert kinds(schedule, 0.05) == ["partial"]


def test_nor_does_work_that_is_due_soon() -> None:
    schedule = Schedule(longest_hold=HOLD)
    schedule.reserve("call 1", 0.0, 0.03, now=0.0)
    schedule.ask("final", 0.01, 0.02, now=0.01)
    assert kinds(schedule, 0.01) == ["final"]
    ends(schedule, 0.03)
    schedule.ask("partial", 0.15, 0.02, now=0.03)
    assert kinds(schedule, 0.03) == []
    assert schedule.look_again(0.03) == pytest.approx(0.15 - DUE_SOON)
    assert kinds(schedule, 0.051) == ["partial"]


def test_work_that_is_over_in_time_does_not_wait_either() -> None:
    schedule = Schedule(longest_hold=HOLD)
    schedule.reserve("early", 0.5, 0.1, now=0.0)
    schedule.ask("short", 0.6, 0.3, now=0.05)
    assert kinds(schedule, 0.05) == ["short"]
    ends(schedule, 0.35)
    schedule.ask("long", 0.7, 0.3, now=0.36)  # 0.66 would be too late for what is due at 0.5
    assert kinds(schedule, 0.36) == []


def test_a_hold_ends_although_nobody_releases_it() -> None:
    schedule = Schedule(longest_hold=HOLD)
    schedule.reserve("lost", 0.0, 0.03, now=0.0)
    schedule.ask("partial", 0.5, 0.05, now=0.01)
    kinds(schedule, 0.01)
    assert schedule.look_again(0.01) == pytest.approx(HOLD)
    assert kinds(schedule, HOLD - 0.001) == []
    assert kinds(schedule, HOLD) == ["partial"]


def test_one_job_is_not_held_by_one_reservation_after_the_other() -> None:
    schedule = Schedule(longest_hold=HOLD)
    schedule.ask("chunk", 9.0, 0.05, now=0.0)
    for turn in range(8):
        schedule.reserve(turn, 0.01 * turn, 0.03, now=0.01 * turn)
        assert kinds(schedule, 0.01 * turn) == []
    schedule.reserve(8, 0.08, 0.03, now=0.08)
    assert kinds(schedule, HOLD) == ["chunk"]


def test_a_reservation_that_is_made_again_is_anew_and_released_once() -> None:
    schedule = Schedule(longest_hold=HOLD)
    schedule.reserve("call", 0.0, 0.03, now=0.0)
    schedule.reserve("call", 0.0, 0.03, now=0.05)
    schedule.ask("chunk", 1.0, 0.05, now=0.09)
    assert kinds(schedule, 0.09) == []
    schedule.release("call")
    schedule.release("call")
    assert kinds(schedule, 0.09) == ["chunk"]


def test_a_job_that_is_not_wanted_any_more_is_not_begun() -> None:
    schedule = Schedule()
    job = schedule.ask("partial", 0.5, 0.05, now=0.0)
    schedule.withdraw(job)
    schedule.withdraw(job)
    assert kinds(schedule, 0.0) == []
    assert schedule.look_again(0.0) is None


def test_costs_are_learned_for_each_kind_and_about_each_size() -> None:
    costs = Costs()

    def job(kind: str, cost: float, size: int = 1) -> Job:
        return Job(0, kind, 0.0, cost, size, 0.0)

    assert costs.expected(job("final", 0.1)) == 0.1  # what is said
    assert costs.expected(job("final", 0.0)) == 0.0  # nothing is known
    for _ in range(50):
        costs.learn(job("final", 0.1), 0.2)
        costs.learn(job("final", 0.1, size=8), 0.05)
        costs.learn(job("chunk", 0.0), 0.07)
    assert costs.expected(job("final", 0.3)) == pytest.approx(0.6)
    assert costs.expected(job("final", 0.3, size=7)) == pytest.approx(0.15)
    assert costs.expected(job("chunk", 0.0)) == pytest.approx(0.07)
    assert costs.expected(job("phrase", 0.3)) == 0.3


def test_work_that_takes_longer_than_was_said_waits_for_a_reservation_it_would_delay() -> None:
    schedule = Schedule(longest_hold=HOLD)
    schedule.ask("chunk", 0.0, 0.1, now=0.0)
    kinds(schedule, 0.0)
    ends(schedule, 0.5)
    schedule.reserve("early", 0.8, 0.1, now=0.5)
    schedule.ask("chunk", 0.9, 0.1, now=0.5)  # said: over at 0.6; learned: at 1.0
    assert kinds(schedule, 0.5) == []


@pytest.mark.parametrize(("slots", "hold"), [(0, 0.1), (1, -0.1)])
def test_a_schedule_that_makes_no_sense_is_refused(slots: int, hold: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        Schedule(slots, hold)


# Whatever comes, in whatever order.


@dataclass
class Driven:
    """A schedule with jobs and reservations that come and go, and what was seen of it.

    Attributes:
        began: Each job that began, in order.
        passed_over: Jobs that began while a more urgent one waited.
        idle: How long each job was the next one, and a slot was free.
    """

    schedule: Schedule
    began: list[Job] = field(default_factory=list)
    passed_over: list[Job] = field(default_factory=list)
    idle: dict[Job, float] = field(default_factory=dict)

    def run(
        self,
        jobs: Sequence[tuple[float, float, float]],
        reservations: Sequence[tuple[float, float, float, float | None]] = (),
    ) -> "Driven":
        """Take jobs (asked, slack, cost) and reservations (made, slack, cost, kept for)."""
        schedule, events, numbers = self.schedule, list[tuple[float, int, object]](), count()

        def at(when: float, what: object) -> None:
            heappush(events, (when, next(numbers), what))

        for asked, slack, cost in jobs:
            at(asked, ("job", asked + slack, cost))
        for number, (made, slack, cost, kept) in enumerate(reservations):
            at(made, ("reserve", number, made + slack, cost))
            if kept is not None:
                at(made + kept, ("release", number))
        costs: dict[Job, float] = {}
        now = 0.0
        while events:
            before, (now, _, what) = now, heappop(events)
            first = min(schedule.waiting, key=lambda job: (job.deadline, job.number), default=None)
            if first is not None and len(schedule.running) < schedule.slots:
                self.idle[first] = self.idle.get(first, 0.0) + now - before
            match what:
                case ("job", float(deadline), float(cost)):
                    costs[schedule.ask("job", deadline, cost, now)] = cost
                case ("reserve", int(number), float(deadline), float(cost)):
                    schedule.reserve(number, deadline, cost, now)
                case ("release", int(number)):
                    schedule.release(number)
                case Job() as done:
                    schedule.done(done, now)
            while (job := schedule.next(now)) is not None:
                self.began.append(job)
                if any(other.deadline < job.deadline for other in schedule.waiting):
                    self.passed_over.append(job)
                assert len(schedule.running) <= schedule.slots
                at(now + costs[job], job)
            if (again := schedule.look_again(now)) is not None:
                assert again > now, "it could have begun now"
                at(again, None)
        assert schedule.waiting == [], "something waits for ever"
        return self


TIME = st.floats(0, 3)
JOBS = st.lists(st.tuples(TIME, st.floats(0, 2), st.floats(0.001, 0.5)), max_size=25)
RESERVATIONS = st.lists(
    st.tuples(TIME, st.floats(0, 1), st.floats(0, 0.3), st.none() | st.floats(0, 1)), max_size=25
)


@given(st.integers(1, 3), JOBS, RESERVATIONS)
def test_whatever_begins_is_the_most_urgent_and_everything_begins(
    slots: int, jobs: list[tuple[float, float, float]], reservations: list[tuple[float, ...]]
) -> None:
    driven = Driven(Schedule(slots, HOLD)).run(jobs, reservations)  # type: ignore[arg-type]
    assert driven.passed_over == []
    assert len(driven.began) == len(jobs)


@given(JOBS)
def test_the_device_never_rests_while_work_waits_and_nothing_is_reserved(
    jobs: list[tuple[float, float, float]],
) -> None:
    driven = Driven(Schedule()).run(jobs)
    assert sum(driven.idle.values()) == 0


@given(JOBS, RESERVATIONS)
def test_reservations_keep_no_job_for_longer_than_the_longest_hold(
    jobs: list[tuple[float, float, float]], reservations: list[tuple[float, ...]]
) -> None:
    driven = Driven(Schedule(1, HOLD)).run(jobs, reservations)  # type: ignore[arg-type]
    assert all(idle <= HOLD + 1e-9 for idle in driven.idle.values())


@given(st.integers(2, 3), JOBS)
def test_the_last_slot_is_kept_from_no_job_that_is_due_soon(
    slots: int, jobs: list[tuple[float, float, float]]
) -> None:
    driven = Driven(Schedule(slots)).run(jobs)
    for job, idle in driven.idle.items():
        assert idle <= max(0.0, job.deadline - DUE_SOON - job.asked) + 1e-9


LOADS = st.lists(
    st.tuples(st.floats(0.05, 1.0), st.floats(0.05, 1.0), st.floats(0, 2)), min_size=1, max_size=5
)


@given(LOADS)
def test_no_job_waits_for_ever_where_the_load_is_below_one(
    sources: list[tuple[float, float, float]],
) -> None:
    """Work that comes again and again (period, share of the device, slack), 90 % of its time."""
    shares = sum(share for _, share, _ in sources)
    load = 0.9
    costs = [period * load * share / shares for period, share, _ in sources]
    jobs = [
        (turn * period, slack, cost)
        for (period, _, slack), cost in zip(sources, costs, strict=True)
        for turn in range(int(20 / period))
    ]
    driven = Driven(Schedule()).run(jobs)
    # The longest time for which such a device is busy without a break.
    longest = sum(costs) / (1 - load)
    assert all((job.began or 0.0) - job.asked <= longest + 1e-6 for job in driven.began)
