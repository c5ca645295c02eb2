"""The rules of fail-over, with literal times."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.upstreams import Answer, Breaker, Policy, Upstreams

POLICY = Policy()


def upstreams(count: int = 2, **policy: float) -> Upstreams:
    return Upstreams(count, Policy(**policy))  # type: ignore[arg-type]


def asks(answer: Answer, now: float) -> list[int]:
    """Return whom the answer is asked of now."""
    places = []
    while (place := answer.tick(now)) is not None:
        places.append(place)
    return places


def begun(some: Upstreams, now: float = 0.0) -> Answer:
    """Return an answer that was asked of the first in service."""
    answer = some.answer(now)
    assert asks(answer, now) == [some.best(now)]
    return answer


def out(some: Upstreams, place: int, now: float = 0.0) -> None:
    """Let `place` fail until it is out of service."""
    for _ in range(POLICY.failures):
        some.all[place].failed(now, now)
    assert some.all[place].breaker is Breaker.OPEN


def known(some: Upstreams, place: int, seconds: float) -> None:
    """Let `place` have taken `seconds` for many first tokens."""
    for _ in range(100):
        some.all[place].took(seconds)


def test_the_first_in_order_is_asked_and_nobody_else_while_it_is_in_time() -> None:
    answer = begun(upstreams(3))
    assert asks(answer, 1.9) == []
    assert answer.deadline == POLICY.longest
    answer.answered(0, 1.9)
    assert (answer.deadline, answer.over) == (None, False)


def test_one_that_fails_is_replaced_at_once_and_at_no_cost() -> None:
    some = upstreams(3, budget=0.0, ratio=0.0, per_second=0.0)
    answer = begun(some)
    answer.failed(0, 0.1)
    assert asks(answer, 0.1) == [1]
    answer.failed(1, 0.2)
    assert asks(answer, 0.2) == [2]
    answer.failed(2, 0.3)
    assert asks(answer, 0.3) == []
    assert answer.deadline is not None
    assert asks(answer, answer.deadline) == []  # to ask one again would be a retry
    assert answer.over


def test_one_that_is_late_runs_on_beside_the_next() -> None:
    answer = begun(upstreams())
    assert asks(answer, POLICY.longest) == [1]
    assert answer.running.keys() == {0, 1}
    assert answer.answered(1, 2.5) == POLICY.longest


def test_how_late_depends_on_what_it_lately_took() -> None:
    some = upstreams()
    assert some.all[0].limit() == POLICY.longest
    for seconds, limit in ((0.01, POLICY.shortest), (0.4, 0.8), (9.0, POLICY.longest)):
        known(some, 0, seconds)
        assert some.all[0].limit() == pytest.approx(limit)


def test_an_upstream_that_became_slower_is_not_late_for_ever() -> None:
    some = upstreams(1, failures=1000)
    known(some, 0, 0.1)
    for now in range(20):
        answer = begun(some, float(now))
        assert asks(answer, now + 0.5) == []
        answer.answered(0, now + 0.5)
    assert some.all[0].limit() > 0.5


def test_work_done_twice_is_paid_from_the_budget() -> None:
    some = upstreams(budget=1.0, ratio=0.0, per_second=0.0, failures=1000)
    some.all[0].succeeded(0.0)
    first, second = begun(some), begun(some)
    assert asks(first, POLICY.longest) == [1]
    assert asks(second, POLICY.longest) == []
    assert not second.over  # the late one may still answer
    assert second.answered(0, 3.0) == 0.0


def test_the_budget_grows_with_answers_and_with_time() -> None:
    some = upstreams(budget=2.0, ratio=0.5, per_second=0.1)
    assert [some.spend(0.0) for _ in range(3)] == [True, True, False]
    for _ in range(2):
        some.answer(0.0)
    assert [some.spend(0.0) for _ in range(2)] == [True, False]
    assert [some.spend(10.0) for _ in range(2)] == [True, False]
    assert [some.spend(1000.0) for _ in range(3)] == [True, True, False]


def test_when_one_hangs_on_everybody_all_move_on_whatever_the_budget() -> None:
    some = upstreams(budget=2.0, ratio=0.0, per_second=0.0)
    answers = [begun(some) for _ in range(64)]
    assert [asks(answer, POLICY.longest) for answer in answers] == [[1]] * 64
    assert some.all[0].breaker is Breaker.OPEN


def test_one_that_was_denied_another_gets_it_once_the_late_one_is_out_of_service() -> None:
    some = upstreams(budget=0.0, ratio=0.0, per_second=0.0)
    answer = begun(some)
    assert asks(answer, POLICY.longest) == []
    out(some, 0, POLICY.longest)
    assert answer.deadline is not None
    assert asks(answer, answer.deadline) == [1]


def test_the_only_one_is_asked_again_after_a_while_that_doubles_and_is_spread() -> None:
    some = upstreams(1, failures=1000)
    waits: list[list[float]] = []
    for _ in range(50):
        answer, now = begun(some), 0.0
        waits.append([])
        for _ in range(2):
            answer.failed(0, now)
            assert asks(answer, now) == []
            assert answer.deadline is not None
            waits[-1].append(answer.deadline - now)
            now = answer.deadline
            if not asks(answer, now):
                break
    firsts = sorted(wait[0] for wait in waits)
    assert 0.05 <= firsts[0] < firsts[-1] <= 0.1
    assert max(b - a for a, b in pairwise(firsts)) < 0.01
    assert all(0.1 <= wait[1] <= 0.2 for wait in waits if len(wait) > 1)


def test_one_that_names_a_time_is_left_alone_until_then() -> None:
    some = upstreams(1)
    answer = begun(some)
    answer.failed(0, 1.0, after=2.0)
    assert asks(answer, 1.0) == []
    assert answer.deadline == 3.0
    assert asks(answer, 3.0) == [0]
    assert some.all[0].breaker is Breaker.CLOSED  # it was never at fault
    other = upstreams(2)
    other.all[0].failed(0.0, 0.0, after=5.0)
    assert begun(other, 4.9).asked == [1]
    assert begun(other, 5.0).asked == [0]


def test_a_time_beyond_the_patience_is_not_waited_for() -> None:
    answer = begun(upstreams(1))
    answer.failed(0, 0.0, after=POLICY.patience)
    assert asks(answer, 0.0) == []
    assert answer.over


def test_nobody_is_left_alone_for_ever_by_its_own_word() -> None:
    some = upstreams()
    some.all[0].failed(0.0, 0.0, after=1e9)
    assert some.all[0].in_service(POLICY.longest_rest)


def test_an_answer_is_given_up_when_patience_ends() -> None:
    answer = begun(upstreams(1))
    assert asks(answer, POLICY.longest) == []
    assert answer.deadline == POLICY.patience
    assert asks(answer, POLICY.patience) == []
    assert answer.over


def test_a_request_that_is_at_fault_is_not_sent_again() -> None:
    answer = begun(upstreams())
    answer.refused(0, 0.1)
    assert asks(answer, 0.1) == []
    assert answer.over
    answer = begun(upstreams())
    assert asks(answer, POLICY.longest) == [1]
    answer.refused(1, 2.1)
    assert asks(answer, 2.1) == []
    assert not answer.over  # the late one has not said so
    answer.failed(0, 2.2)
    assert asks(answer, 2.2) == []
    assert answer.over


def test_one_that_writes_a_tool_call_is_not_late_but_replaced_when_it_breaks_off() -> None:
    some = upstreams()
    answer = begun(some)
    answer.began(0, 0.3)
    assert asks(answer, POLICY.longest) == []
    assert answer.running.keys() == {0}
    answer.failed(0, 3.0)
    assert asks(answer, 3.0) == [1]


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ("..--", Breaker.CLOSED),
        ("..---", Breaker.OPEN),
        ("-.-.-.-", Breaker.CLOSED),
        ("-.-.-.-.-", Breaker.OPEN),
        ("--.--.......-", Breaker.CLOSED),
        ("--.--..-", Breaker.OPEN),
    ],
)
def test_three_failures_in_a_row_or_half_of_ten_put_it_out(outcomes: str, state: Breaker) -> None:
    upstream = upstreams().all[0]
    for now, outcome in enumerate(outcomes):
        if outcome == "-":
            upstream.failed(now, now)
        else:
            upstream.succeeded(now)
    assert upstream.breaker is state


def test_one_that_is_out_is_not_asked_while_another_is_in_service() -> None:
    some = upstreams()
    out(some, 0)
    answer = begun(some, 0.5)
    assert answer.asked == [1]
    assert asks(answer, 3.0) == []  # the second is late, which is better than out
    answer.failed(1, 3.1)
    assert asks(answer, 3.1) == [0]  # the last resort


def test_one_that_was_never_up_is_no_last_resort() -> None:
    some = upstreams(1)
    some.all[0].ready = False
    some.all[0].put_out(0.0)
    answer = some.answer(0.0)
    assert asks(answer, 0.0) == []
    assert answer.over


def test_it_is_probed_after_a_rest_that_doubles_until_a_probe_succeeds() -> None:
    some = upstreams()
    out(some, 0)
    rests, now = [], 0.0
    for _ in range(7):
        assert some.probe_at is not None
        rests.append(some.probe_at - now)
        assert some.probe(some.probe_at - 0.01) == []
        now = some.probe_at
        assert some.probe(now) == [0]
        assert (some.probe(now), some.probe_at) == ([], None)  # one probe at a time
        some.all[0].put_out(now)
    assert rests == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    some.probe(now + 30)
    some.all[0].succeeded(now + 30)
    assert some.all[0].breaker is Breaker.CLOSED
    out(some, 0, now + 31)
    assert some.probe_at == now + 32


def test_what_was_asked_before_it_went_out_says_nothing_of_it_now() -> None:
    some = upstreams()
    out(some, 0, 5.0)
    rested = some.probe_at
    some.all[0].failed(4.0, 6.0)
    some.all[0].succeeded(4.0)
    assert (some.all[0].breaker, some.probe_at) == (Breaker.OPEN, rested)
    some.all[0].succeeded(5.5)  # asked as a last resort
    assert some.all[0].breaker is Breaker.CLOSED
    for _ in range(64):
        some.all[0].failed(4.0, 7.0)  # what the crash cut off ends only now
    assert some.all[0].breaker is Breaker.CLOSED


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "answer", "fail", "busy", "refuse", "write", "drop", "probe"]),
        st.integers(0, 5),
        st.floats(0.0, 3.0),
    ),
    max_size=60,
)


class Counting(Upstreams):
    """Upstreams that count the retries they allow."""

    spent = 0

    def spend(self, now: float) -> bool:
        allowed = super().spend(now)
        self.spent += allowed
        return allowed


@given(st.integers(1, 4), EVENTS)
def test_whatever_happens_answers_end_and_work_is_not_multiplied(
    count: int, events: list[tuple[str, int, float]]
) -> None:
    some = Counting(count, POLICY)
    answers: dict[Answer, float] = {}
    now, began = 0.0, 0
    for what, which, passed in [*events, *[("pass", 0, 3.0)] * 4]:
        now += passed
        if what == "begin":
            answers[some.answer(now)] = now
            began += 1
        elif what == "probe":
            for place in some.probe(now):
                if which % 2:
                    some.all[place].succeeded(now)
                else:
                    some.all[place].put_out(now)
        elif answers and (answer := list(answers)[which % len(answers)]).running:
            place = list(answer.running)[which % len(answer.running)]
            match what:
                case "answer":
                    some.all[place].succeeded(answer.answered(place, now))
                    del answers[answer]
                case "fail":
                    answer.failed(place, now)
                case "busy":
                    answer.failed(place, now, passed)
                case "refuse":
                    answer.refused(place, now)
                case "write":
                    answer.began(place, now)
                case "drop":
                    del answers[answer]
        for answer, start in list(answers.items()):
            while True:
                places = [place for place in range(count) if place not in answer.asked]
                fresh = [place for place in places if some.all[place].in_service(now)]
                is_first, spent = not answer.asked, some.spent
                place = answer.tick(now)
                if place is None:
                    break
                if fresh:
                    assert place == fresh[0]  # in order of preference
                else:
                    assert is_first or some.spent == spent + 1
            assert len(answer.asked) <= POLICY.asks
            if answer.over:
                del answers[answer]
            else:  # never stuck
                assert answer.deadline is not None
                assert now < answer.deadline <= start + POLICY.patience
        for upstream in some.all:
            assert POLICY.shortest <= upstream.limit() <= POLICY.longest
    assert some.spent <= POLICY.budget + POLICY.ratio * began + POLICY.per_second * now
    assert not answers


def test_backoffs_never_fall_together() -> None:
    some = upstreams()
    waits = sorted(some.backoff(1) for _ in range(64))
    assert min(b - a for a, b in pairwise(waits)) > 1e-4
