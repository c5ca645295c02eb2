from dataclasses import dataclass

from asr.batching import Pace, choose


@dataclass(frozen=True)
class Job:
    deadline: float
    asked: bool = True
    seconds: float = 3.0


def chosen(*jobs: Job, limit: int = 8, together: bool = False, pace: Pace | None = None) -> list:
    return choose(jobs, limit, together, pace or Pace(), 0.15)


def partial(deadline: float, seconds: float = 3.0) -> Job:
    return Job(deadline, False, seconds)


def test_everything_that_waits_goes_together_the_most_urgent_first() -> None:
    assert chosen(Job(3), Job(1), Job(2)) == [Job(1), Job(2), Job(3)]


def test_what_does_not_fit_is_what_is_least_urgent() -> None:
    assert chosen(Job(3), Job(1), Job(2), limit=2) == [Job(1), Job(2)]


def test_no_final_waits_behind_partial_words_however_old_they_are() -> None:
    assert chosen(partial(1), Job(9)) == [Job(9)]


def test_partial_words_go_with_a_final_where_they_cost_it_nothing() -> None:
    jobs = (partial(1, 2.0), partial(2, 5.0), Job(9))
    assert chosen(*jobs, together=True) == [Job(9), partial(1, 2.0)]


def test_a_short_window_is_not_padded_to_a_long_one_where_length_costs() -> None:
    short, long = Job(1, seconds=2.0), Job(2, seconds=8.0)
    assert chosen(short, long) == [short]
    assert chosen(short, long, together=True) == [short, long]
    assert chosen(Job(1, seconds=0.5), Job(2, seconds=2.0)) == [
        Job(1, seconds=0.5),
        Job(2, seconds=2.0),
    ]


def test_partial_words_are_no_longer_in_the_way_than_is_allowed() -> None:
    pace = Pace()
    pace.learn(1, 3.0, 0.06)
    partials = [partial(i) for i in range(4)]
    assert chosen(*partials, pace=pace) == partials[:2]
    pace = Pace()
    pace.learn(1, 3.0, 10.0)
    assert chosen(*partials, pace=pace) == partials[:1]


def test_finals_are_not_held_back_by_what_they_will_take() -> None:
    pace = Pace()
    pace.learn(1, 3.0, 10.0)
    assert chosen(Job(1), Job(2), pace=pace) == [Job(1), Job(2)]


def test_what_is_expected_is_what_was_measured() -> None:
    pace = Pace()
    assert pace.estimate(4, 2.0) == 0
    pace.learn(2, 2.0, 0.4)
    assert pace.estimate(4, 2.0) == 0.8
    for _ in range(50):
        pace.learn(2, 2.0, 0.8)
    assert abs(pace.estimate(4, 2.0) - 1.6) < 0.01
