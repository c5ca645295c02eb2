"""Whether one more call is taken: literal numbers, properties, and a server of hidden speed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency.prediction import AIM, HOLD, SLACK, Forecast, Predictor, margin
from latency.queueing import CALM, USABLE
from latency.trace import percentile
from latency.utilisation import Resource

from queue_server import HIDDEN, QueueServer, capacity, run, storm


def predictor(
    used: float, calls: int, *, idle: float = 0.3, steepness: float = 0.02, budget: float = 0.8
) -> Predictor:
    """A machine that is so busy with so many calls, all of which are settled."""
    made = Predictor(budget)
    made.utilisation.calls = calls
    made.utilisation.resources = {"loop": Resource(used, used / max(1, calls))}
    made.curve.idle, made.curve.calmest, made.curve.steepness = idle, idle, steepness
    return made


def test_the_first_calls_of_an_idle_machine_are_taken_before_anything_is_known() -> None:
    assert Predictor(0.8).decide(0, 100.0) == Forecast(
        admitted=True,
        p95=None,
        limit=pytest.approx(0.72),
        resource="loop",
        utilisation=pytest.approx(0.08),
        more=10,
        retry_after=0,
    )


def test_fifty_calls_in_one_second_do_not_get_in_before_anything_was_measured() -> None:
    made, calls = Predictor(0.8), 0
    for number in range(50):
        calls += made.decide(calls, 100.0 + number / 50).admitted
    assert calls == 10


def test_a_burst_is_counted_at_the_cost_that_was_learned() -> None:
    made, calls = predictor(0.5, 10), 10  # 5 % each; the limit is met at 0.926
    for _ in range(50):
        calls += made.decide(calls, 100.0).admitted
    assert calls == 18


def test_one_more_call_is_refused_where_it_takes_the_percentile_over_the_limit() -> None:
    # 0.72 = 0.3 + 0.02 * 21: the limit is met at 0.97 * 21 / 22 = 0.926.
    assert predictor(0.90, 50).decide(50, 100.0).admitted
    refused = predictor(0.91, 50).decide(50, 100.0)
    assert not refused.admitted
    assert refused.p95 == pytest.approx(0.3 + 0.02 * 0.9282 / (USABLE - 0.9282))
    assert refused.p95 > refused.limit == pytest.approx(AIM * 0.8)
    assert refused.utilisation == pytest.approx(0.9282)
    assert refused.more == 0
    assert refused.retry_after >= 1


def test_the_busiest_resource_decides() -> None:
    made = predictor(0.5, 50)
    made.utilisation.resources["processors"] = Resource(0.92, 0.0184)
    assert made.decide(50, 100.0).resource == "processors"
    assert made.saturated


def test_a_machine_that_never_holds_the_budget_still_takes_calls_until_load_counts() -> None:
    for used, admitted in ((0.2, True), (0.75, False)):
        made = predictor(used, 20, idle=1.2)
        assert made.limit == pytest.approx(1.2 + SLACK)
        assert made.decide(20, 100.0).admitted == admitted


def test_callers_who_are_slow_for_other_reasons_do_not_close_the_door_of_a_calm_machine() -> None:
    made = Predictor(0.8)
    for second in range(120):  # then a line of one of them stalls, or they hesitate
        calls, waited = (3, 0.4) if second < 60 else (4, 3.0 if second % 4 else 0.4)
        made.answered(waited, 100.0 + second)
        made.measured({"loop": 0.02 * calls}, 0.001, calls, 100.0 + second)
    assert made.decide(4, 220.0).admitted


def test_the_only_caller_is_never_refused() -> None:
    assert predictor(0.99, 0).decide(0, 100.0).admitted


def test_refused_callers_come_back_one_after_the_other() -> None:
    made = predictor(0.95, 60)
    for second in range(60):  # one call ends every second
        made.ended(100.0 + second)
    made._began = 0.0
    waits = [made.decide(60, 160.0).retry_after for _ in range(20)]
    assert waits == sorted(waits)
    assert waits[0] <= 6
    assert 15 <= waits[-1] <= 40
    assert all(1 <= wait <= 30 for wait in waits)


def test_a_refused_caller_comes_back_soon_where_the_calls_cost_is_about_to_be_known() -> None:
    made = Predictor(0.8)
    made.measured({"loop": 0.1}, 0.001, 10, 100.0)
    assert made.decide(10, 100.2).retry_after == 5


def test_not_more_than_ten_of_them_come_back_in_a_second() -> None:
    made = Predictor(0.8)
    made.measured({"loop": 0.1}, 0.001, 10, 100.0)
    waits = [made.decide(10, 100.2).retry_after for _ in range(200)]
    assert (waits[0], waits[100], waits[199]) == (5, 15, 25)


def test_a_full_machine_takes_calls_again_once_there_is_room_for_a_few() -> None:
    made = predictor(0.92, 50)
    assert not made.decide(50, 100.0).admitted
    assert margin(50) == 2
    loop = made.utilisation.resources["loop"]
    loop.utilisation, loop.cost = 0.90, 0.0180  # room for one
    assert not made.decide(50, 101.0).admitted
    loop.utilisation, loop.cost = 0.86, 0.0172  # for three: one, and two besides
    assert made.decide(50, 102.0).admitted
    assert not made.decide(51, 102.0).admitted
    assert predictor(0.86, 50).decide(52, 102.0).admitted  # where it was not saturated


def test_saturation_is_over_when_there_was_room_for_long() -> None:
    made = predictor(0.95, 50)
    assert not made.decide(50, 100.0).admitted
    for tick in range(200):
        made.measured({"loop": 0.2}, 0.001, 10, 100.25 + tick / 4)
        if not made.saturated:
            break
    assert not made.saturated
    assert HOLD <= tick / 4 < HOLD + 10


def test_saturation_is_over_at_once_when_the_last_caller_has_gone() -> None:
    made = predictor(0.95, 50)
    made.decide(50, 100.0)
    made.measured({"loop": 0.9}, 0.001, 0, 100.25)
    assert not made.saturated


def wasteful(used: float, calls: int, kept: int = 1) -> Predictor:
    """The same machine, where one answer of `kept` + 1 is dropped."""
    made = predictor(used, calls)
    for _ in range(60):
        made.worked({"llm": 0.1}, wasted=True)
        for _ in range(kept):
            made.worked({"llm": 0.1}, wasted=False)
    return made


def look(made: Predictor, used: float, calls: int, now: float, waited: float = 0.3) -> None:
    """Let it see all settled calls at once, and what 30 of them waited."""
    made.utilisation.resources["loop"] = Resource(used, used / calls)
    for _ in range(30):
        made.answered(waited, now)
    made.utilisation.calls = calls
    made.measured({"loop": used}, 0.001, calls, now)


def test_speculation_is_shed_before_calls_are_refused() -> None:
    made = wasteful(0.5, 50)
    look(made, 0.5, 50, 100.0)
    assert not made.sheds
    look(made, 0.85, 50, 102.0)
    assert made.sheds
    assert made.decide(50, 102.0).admitted
    look(made, 0.6, 50, 104.0)
    assert not made.sheds


def test_speculation_that_is_hardly_ever_in_vain_is_not_shed() -> None:
    made = wasteful(0.85, 50, kept=20)
    look(made, 0.85, 50, 100.0)
    assert not made.sheds


def test_shedding_that_makes_callers_wait_is_taken_back() -> None:
    made = wasteful(0.85, 50)
    look(made, 0.85, 50, 100.0)
    look(made, 0.85, 50, 102.0)
    assert made.sheds
    for second in range(104, 116, 2):
        look(made, 0.85, 50, float(second), waited=0.45)
        assert made.sheds
    look(made, 0.85, 50, 118.0, waited=0.45)
    assert not made.sheds
    for second in range(120, 700, 4):
        look(made, 0.85, 50, float(second))
        assert not made.sheds
    for second in range(700, 740, 4):
        look(made, 0.85, 50, float(second))
    assert made.sheds


def test_shedding_that_takes_answers_over_the_limit_is_taken_back_at_once() -> None:
    made = wasteful(0.85, 50)
    look(made, 0.85, 50, 100.0)
    look(made, 0.85, 50, 102.0)
    look(made, 0.85, 50, 104.0, waited=0.9)
    assert not made.sheds


STATE = {
    "used": st.floats(0, 1.2),
    "cost": st.floats(0.0, 0.2),
    "idle": st.floats(0.0, 2.0),
    "steepness": st.floats(0.003, 0.5),
    "calls": st.integers(0, 200),
}


@given(**STATE)
def test_more_calls_never_make_it_faster(
    used: float, cost: float, idle: float, steepness: float, calls: int
) -> None:
    made = predictor(used, calls, idle=idle, steepness=steepness)
    made.utilisation.resources["loop"].cost = cost
    one, two = made.forecast(calls, 1.0), made.forecast(calls + 1, 1.0)
    assert one.p95 is not None
    assert two.p95 is not None
    assert one.p95 <= two.p95
    assert one.more >= two.more


@given(**STATE)
def test_what_is_taken_is_what_is_predicted_to_stay_within_the_limit(
    used: float, cost: float, idle: float, steepness: float, calls: int
) -> None:
    made = predictor(used, calls, idle=idle, steepness=steepness)
    made.utilisation.resources["loop"].cost = cost
    verdict = made.decide(calls, 1.0)
    assert verdict.p95 is not None
    if verdict.admitted and calls and verdict.utilisation > CALM:
        assert verdict.p95 <= verdict.limit + 1e-6
    if not verdict.admitted:
        assert verdict.p95 >= verdict.limit - 1e-6
        assert 1 <= verdict.retry_after <= 30


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.floats(0, 20), st.integers(0, 300), st.floats(0, 30)),
        max_size=60,
    )
)
def test_whatever_happened_the_first_call_is_taken_and_load_that_goes_is_forgotten(
    events: list[tuple[int, float, int, float]],
) -> None:
    made, now = Predictor(0.8), 100.0
    for kind, value, calls, passed in events:
        now += passed
        match kind:
            case 0:
                made.measured({"loop": value / 20}, value / 100, calls, now)
            case 1:
                made.answered(value, now)
            case 2:
                made.decide(calls, now)
            case _:
                made.worked({"llm": value}, wasted=calls % 2 == 0)
        assert made.forecast(0, now).admitted
    for _ in range(400):
        now += 0.25
        made.measured({"loop": 0.0}, 0.0, 0, now)
    assert not made.saturated
    assert made.forecast(1, now).admitted


# A server whose speed nobody told.


@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
@pytest.mark.parametrize("rate", [5, 50])
def test_the_callers_of_a_server_of_unknown_speed_are_answered_in_time(
    hidden: dict[str, float], rate: int
) -> None:
    """Calls come without end, and end after 90 s: p95 keeps the budget, and few are turned away
    that would have fitted."""
    server, made = QueueServer(**hidden), Predictor(0.8)  # type: ignore[arg-type]
    seen = run(
        server,
        made,
        180.0,
        offered=storm(rate),
        ending=lambda passed: (
            round(passed) * len(server.calls) // 90 - round(passed - 0.25) * len(server.calls) // 90
        ),
        measured_after=60.0,
    )
    fits = capacity(0.8, **hidden)
    assert percentile(seen.waits, 95) < 0.85
    assert seen.most > 0.6 * fits
    assert seen.episodes <= 6
    refused = [verdict for verdict in seen.verdicts if not verdict.admitted]
    assert all(1 <= verdict.retry_after <= 30 for verdict in refused)


def test_a_server_that_gets_slow_takes_fewer_calls_and_more_when_it_is_fast_again() -> None:
    server, made = QueueServer(service=0.05), Predictor(0.8)

    def hour(seconds: float) -> int:
        run(
            server,
            made,
            seconds,
            offered=lambda _: 2,
            ending=lambda passed: passed % 1 < 0.25,
            measured_after=0.0,
        )
        return len(server.calls)

    fast = hour(120)
    server.service = 0.1
    slow = hour(150)
    server.service = 0.05
    again = hour(150)
    assert slow < 0.7 * fast
    assert again > 0.7 * fast
