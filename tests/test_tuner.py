from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from heapq import heappop, heappush

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency.budget import Budget
from latency.knob import BACK_OFF, LONGEST_BACK_OFF, Bar
from latency.tuner import Knob, Mode, Move, Tuner
from latency.window import EVENTS, KEPT, exceeds
from voice.knobs import EFFECTS

BUDGET = Budget(0.5, 95.0, {"endpoint": 0.2, "llm": 0.1, "tts": 0.1})
LEAD = Knob("lead", ("llm",), (0.1, 0.3, 0.5), 0, ("wasted",))
WAIT = Knob("wait", ("endpoint",), (0.8, 0.4, 0.2, 0.1), 2, ("cut_ins",))
FIRST = Knob("first", ("tts",), (24.0, 8.0), 0, ("underruns",))
RAILS = {"cut_ins": 0.05, "underruns": 0.05, "wasted": 0.5}


class Line:
    """Turns at one a second, of which the test says how long they take."""

    def __init__(
        self, knobs: Sequence[Knob] = (LEAD, WAIT, FIRST), mode: Mode = "on", pinned: str = ""
    ) -> None:
        self.tuner = Tuner(knobs, BUDGET, RAILS, mode, pinned.split(","))
        self.now = 0.0

    def turns(
        self,
        count: int,
        llm: float = 0.1,
        endpoint: float = 0.14,
        guard: str = "",
        spared: float | None = None,
    ) -> list[Move]:
        """Answer `count` turns; return the moves."""
        moves = []
        for _ in range(count):
            self.now += 1.0
            stages = {"vad": 0.06, "endpoint": endpoint, "llm": llm, "tts": 0.05}
            total = sum(stages.values())
            self.tuner.answered(stages, total, self.now, self.now + total)
            self.tuner.worked(0.3, self.now)
            if guard:
                self.tuner.strained(guard, 1.0, self.now, spared)
            moves += self.tuner.decide(self.now + total)
        return moves

    def until(self, kind: str, **turns: float) -> Move:
        """Answer such turns until there is a move, which has to be of that kind; return it."""
        for _ in range(400):
            for move in self.turns(1, **turns):  # type: ignore[arg-type]
                assert move.kind == kind, move
                return move
        raise AssertionError(f"no {kind} in 400 turns")


class Busy:
    """Many turns a second, which strain guard rails; that is told when their replies are over."""

    def __init__(self, rate: int, reply: float) -> None:
        early = Knob("first", ("tts",), (24.0, 8.0), 1, ("underruns",))
        self.tuner = Tuner((WAIT, early), BUDGET, RAILS, "on")
        self.rate, self.reply = rate, reply
        self.answered = 0
        self.ends: list[tuple[float, float, str]] = []

    def turns(self, count: int, endpoint: float = 0.2, **strains: float) -> list[Move]:
        """Answer `count` turns; of each `1 / share` of them, one strains that rail."""
        tuner, moves = self.tuner, []
        for _ in range(count):
            now = self.answered / self.rate
            broke = next((g for g, of in strains.items() if self.answered % round(1 / of) == 1), "")
            self.answered += 1
            heappush(self.ends, (now + (0.8 if broke == "cut_ins" else self.reply), now, broke))
            stages = {"endpoint": endpoint, "llm": 0.1, "tts": 0.1}
            tuner.answered(stages, sum(stages.values()), now, now + 0.4)
            while self.ends[0][0] <= now:
                _, began, guard = heappop(self.ends)
                tuner.worked(0.3, began)
                if guard:
                    tuner.strained(guard, 1.0, began)
            moves += tuner.decide(now)
        return moves


# One decision after the other.


def test_turns_within_the_budget_move_nothing() -> None:
    assert Line().turns(500) == []


def test_few_turns_over_the_budget_move_nothing() -> None:
    line = Line()
    for _ in range(40):
        assert line.turns(3, llm=1.0) == []
        line.now += 100.0


def test_the_stage_at_fault_has_its_knob_tried_and_kept() -> None:
    line = Line()
    line.turns(30)
    move = line.until("try", llm=0.35)
    assert (move.knob, move.before, move.after, move.applied) == ("lead", 0.1, 0.3, True)
    assert move.reason == (
        "p95 600 ms over 500 ms; llm at fault (+250 ms over its share); trying lead 0.1 -> 0.3"
    )
    assert line.tuner.state == "trying lead"
    move = line.until("keep", llm=0.2)
    assert (move.before, move.after) == (0.3, 0.3)
    assert move.p95_before == pytest.approx(0.6)
    assert move.p95_after == pytest.approx(0.45)
    line.turns(30, llm=0.2)
    assert line.tuner.values["lead"] == 0.3
    assert line.tuner.state == "within budget"


def test_the_next_step_goes_as_far_as_the_latest_tells() -> None:
    line = Line((replace(LEAD, values=(0.1, 0.2, 0.3, 0.4, 0.5)),))
    line.turns(30)
    assert line.until("try", llm=0.33).after == 0.2
    line.until("keep", llm=0.30)
    assert line.until("try", llm=0.30).after == 0.4  # 50 ms over the budget, 30 gained


def test_a_knob_that_makes_turns_slower_is_taken_back() -> None:
    line = Line()
    line.until("try", llm=0.35)
    move = line.until("roll_back", llm=0.4)
    assert (move.knob, move.before, move.after) == ("lead", 0.3, 0.1)
    assert "gained -50 ms" in move.reason
    assert line.until("try", llm=0.35).knob != "lead"


def test_a_knob_that_makes_turns_much_slower_is_taken_back_after_four_turns() -> None:
    line = Line()
    line.until("try", llm=0.35)
    assert [move.kind for move in line.turns(4, llm=1.0)] == ["roll_back"]


def test_turns_that_began_before_a_move_do_not_count_for_it() -> None:
    line = Line()
    moved = line.until("try", llm=0.35).at
    for _ in range(100):
        line.tuner.answered({"llm": 0.0}, 0.2, moved - 0.1, moved + 1)
        line.tuner.strained("wasted", 9.0, moved - 0.1)
        assert line.tuner.decide(moved + 1) == []
    assert line.tuner.state == "trying lead"


def test_a_guard_rail_that_breaks_ends_the_trial_at_once_and_bars_the_value() -> None:
    line = Line((WAIT,))
    assert line.until("try", endpoint=0.35).after == 0.1
    moves = line.turns(3, endpoint=0.05, guard="cut_ins")
    assert [(move.kind, move.after) for move in moves] == [("roll_back", 0.2)]
    assert moves[0].reason == "cut_ins at 100% of turns, over 5%; back: wait 0.1 -> 0.2"
    moves = line.turns(2 * BACK_OFF - 1, endpoint=0.35)
    assert [move.kind for move in moves] == ["give_up"]
    assert "wait is held by cut_ins" in moves[0].reason


def test_a_guard_rail_that_breaks_without_a_trial_makes_its_knob_safer() -> None:
    line = Line((Knob("wait", ("endpoint",), (0.8, 0.2, 0.1), 1, ("cut_ins",)),))
    line.turns(60)
    move = line.until("relieve", guard="cut_ins")
    assert (move.knob, move.before, move.after) == ("wait", 0.2, 0.8)
    assert line.turns(30, endpoint=0.74)[0].kind == "give_up"  # the rail wins over the budget


@pytest.mark.parametrize("rate", [1, 10, 50])
def test_a_guard_rail_is_seen_however_many_turns_are_answered_before_a_reply_is_over(
    rate: int,
) -> None:
    line = Busy(rate, reply=5.0)
    assert line.turns(400 + 10 * rate, underruns=0.15)[0].kind == "relieve"


@pytest.mark.parametrize("rate", [1, 10, 50])
def test_replies_that_were_cut_off_and_so_are_over_first_are_not_all_replies(rate: int) -> None:
    assert Busy(rate, reply=5.0).turns(30 * rate + 200, cut_ins=0.04) == []


def test_a_knob_that_strains_a_rail_is_not_kept_before_replies_with_it_are_over() -> None:
    line = Busy(50, reply=5.0)
    while not (moves := line.turns(1, endpoint=0.35)):
        pass
    assert [move.kind for move in moves] == ["try"]
    assert line.turns(5 * 50, endpoint=0.2) == []
    assert [move.kind for move in line.turns(20, endpoint=0.2)] == ["keep"]


def test_what_broke_a_rail_is_barred_for_half_a_minute_at_least() -> None:
    line = Busy(50, reply=5.0)
    while not (moves := line.turns(1, endpoint=0.35)):
        pass
    assert (moves[0].kind, moves[0].knob) == ("try", "wait")
    while (move := next(iter(line.turns(1, endpoint=0.25, cut_ins=0.2)), None)) is None:
        pass
    assert move.kind == "roll_back"
    moves = line.turns(29 * 50, endpoint=0.35)
    assert [move.kind for move in moves if move.knob == "wait"] == []


def test_a_guard_rail_that_is_far_over_has_its_knob_at_its_safest_at_once() -> None:
    line = Line()
    assert line.until("relieve", guard="cut_ins").after == 0.8
    assert line.until("restore").after == 0.4  # nothing is known against this one
    moves = line.turns(3, guard="cut_ins")
    assert [(move.kind, move.after) for move in moves] == [("roll_back", 0.8)]


def test_a_knob_goes_where_what_broke_its_guard_rail_would_not_have_been() -> None:
    wait = Knob("wait", ("endpoint",), (1.8, 1.2, 0.9, 0.7, 0.5), 4, ("cut_ins",))
    line = Line((wait,))
    assert line.until("relieve", guard="cut_ins", spared=0.8).after == 0.9
    assert line.turns(100) == []  # 0.7 would not do either
    assert line.until("restore").after == 0.7
    assert Line((wait,)).until("relieve", guard="cut_ins", spared=2.0).after == 1.8  # none would do


def test_of_two_that_strain_a_rail_the_one_goes_that_would_have_spared_it() -> None:
    longest = Knob("longest", ("endpoint",), (1.8, 1.2, 0.8), 1, ("cut_ins",))
    shortest = Knob("shortest", ("endpoint",), (0.6, 0.4, 0.2), 2, ("cut_ins",))
    move = Line((longest, shortest)).until("relieve", guard="cut_ins", spared=0.5)
    assert (move.knob, move.after) == ("shortest", 0.6)


def test_a_setting_that_should_have_spared_it_and_did_not_is_made_safer_all_the_same() -> None:
    line = Line((Knob("wait", ("endpoint",), (0.8, 0.4, 0.2), 1, ("cut_ins",)),))
    assert line.until("relieve", guard="cut_ins", spared=0.3).after == 0.8


def test_what_was_made_safer_comes_back_when_its_guard_rail_holds() -> None:
    line = Line()
    line.until("relieve", guard="cut_ins")
    assert [line.until("restore").after for _ in range(2)] == [0.4, 0.2]
    assert line.turns(200) == []


def test_too_few_turns_in_a_long_time_end_a_trial() -> None:
    line = Line()
    line.until("try", llm=0.35)
    line.turns(3, llm=0.2)
    line.now += 301.0
    (move,) = line.tuner.decide(line.now)
    assert (move.kind, move.after) == ("roll_back", 0.1)
    assert "only 0 turns in 300 s" in move.reason


def test_an_idle_machine_stands_where_it_was_configured() -> None:
    line = Line()
    line.until("try", llm=0.35)
    line.until("keep", llm=0.2)
    (move,) = line.tuner.decide(line.now + 302.0)
    assert (move.kind, move.knob, move.after) == ("restore", "lead", 0.1)


def test_knobs_go_back_with_few_callers_who_are_too_many_for_an_idle_machine() -> None:
    line = Line()
    line.until("try", llm=0.35)
    line.until("keep", llm=0.2)
    kinds = []
    for _ in range(400):
        line.now += 14.0  # 20 turns in 300 s
        kinds += [move.kind for move in line.turns(1, llm=0.05)]
    assert line.tuner.values["lead"] == 0.1
    assert kinds == ["restore"]


def test_on_an_idle_machine_all_knobs_go_back_at_once() -> None:
    line = Line((Knob("lead", ("llm",), (0.1, 0.3), 0), Knob("beam", ("llm",), (5, 1), 0)))
    for llm in (0.5, 0.4):
        line.until("try", llm=llm)
        line.until("keep", llm=llm - 0.1)
    assert line.tuner.values == {"lead": 0.3, "beam": 1}
    later = line.now + 302.0
    back = [*line.tuner.decide(later), *line.tuner.decide(later + 1)]
    assert [move.kind for move in back] == ["restore"] * 2
    assert line.tuner.values == {"lead": 0.1, "beam": 5}


def test_knobs_go_back_when_there_is_room_and_stay_where_there_is_none() -> None:
    line = Line()
    line.until("try", llm=0.35)
    line.until("keep", llm=0.2)
    # What helped is left alone for a while, then for twice as long: it is predicted to be missed.
    assert line.turns(BACK_OFF + 2 * BACK_OFF - 1, llm=0.2) == []
    assert line.turns(40, llm=0.2)[0].kind == "restore"  # a prediction is believed once
    line = Line()
    line.until("try", llm=0.35)
    line.until("keep", llm=0.2)
    line.turns(40, llm=0.2)
    assert line.until("restore", llm=0.05).after == 0.1  # conditions changed: at once
    assert line.until("roll_back", llm=0.35).after == 0.3


def test_where_no_setting_helps_it_says_so_once() -> None:
    line = Line(pinned="lead")
    line.turns(30)
    moves = line.turns(600, llm=0.9)
    assert [move.kind for move in moves].count("give_up") == 1
    told = next(move for move in moves if move.kind == "give_up")
    assert not told.applied
    assert told.reason == (
        "p95 1150 ms over 500 ms; llm at fault (+800 ms over its share); "
        "no setting helps: lead is pinned"
    )
    assert line.tuner.state == "no setting helps: llm"
    line.turns(60)
    assert line.tuner.state == "within budget"


def test_that_nothing_helps_is_said_before_fewer_calls_are_tried() -> None:
    fewer = Knob("max_calls", ("llm",), (100.0, 50.0), 0, settle=EFFECTS["max_calls"].settle)
    line = Line((fewer,))
    line.turns(30)
    moves = line.turns(45, llm=0.9)
    assert [(move.kind, move.knob) for move in moves] == [("give_up", ""), ("try", "max_calls")]
    assert moves[0].reason.endswith("no setting helps: max_calls comes last")


def test_fewer_calls_are_not_tried_where_all_that_they_may_shorten_is_too_little() -> None:
    fewer = Knob("max_calls", ("llm",), (100.0, 50.0), 0, settle=EFFECTS["max_calls"].settle)
    line = Line((fewer,))
    line.turns(30)
    moves = line.turns(400, endpoint=0.9)  # 600 ms over the budget, of which the model has 100
    assert [(move.kind, move.knob) for move in moves] == [("give_up", "")]


def test_a_knob_has_other_values_from_now_on_unless_it_was_moved() -> None:
    line = Line((LEAD,))
    line.tuner.relist(replace(LEAD, values=(0.1, 0.2)))
    line.turns(30)
    assert line.until("try", llm=0.35).after == 0.2
    line.tuner.relist(LEAD)
    assert line.until("roll_back", llm=0.35).before == 0.2
    line.tuner.relist(LEAD)
    assert line.tuner.knobs == [LEAD]


def test_observing_says_what_it_would_do_and_does_nothing() -> None:
    line = Line(mode="observe")
    moves = line.turns(400, llm=0.35)
    assert [(move.kind, move.knob, move.applied) for move in moves] == [("try", "lead", False)]
    assert line.tuner.values == {"lead": 0.1, "wait": 0.2, "first": 24.0}
    moves = Line(mode="observe").turns(400, guard="cut_ins")
    assert [(move.kind, move.knob, move.applied) for move in moves] == [("relieve", "wait", False)]


def test_observing_it_never_says_that_turns_over_the_budget_are_within() -> None:
    line = Line(mode="observe")
    line.until("try", llm=0.35)
    states = {(line.turns(1, llm=0.35), line.tuner.state)[1] for _ in range(60)}
    assert states == {"over budget: measuring"}


def test_a_bar_doubles_up_to_a_limit() -> None:
    bar = Bar()
    lengths = []
    for _ in range(7):
        bar.close(10)
        lengths.append(bar.until - 10)
    assert lengths == [64, 128, 256, 512, LONGEST_BACK_OFF, LONGEST_BACK_OFF, LONGEST_BACK_OFF]


def test_two_events_are_chance() -> None:
    assert not exceeds(2, 0.1)
    assert exceeds(3, 0.6)
    assert not exceeds(5, 3.2)


# Whatever comes.

guards = st.sampled_from(("", *RAILS))
turn = st.tuples(
    st.floats(0.0, 2.0), st.floats(0.0, 2.0), guards, st.sampled_from((0.1, 1.0, 400.0))
)
phase = st.tuples(turn, st.integers(1, 40))


@settings(max_examples=60, deadline=None)
@given(st.lists(phase, max_size=12), st.sampled_from(("", "lead", "wait,first")))
def test_whatever_comes_values_are_of_the_ladder_and_no_state_lasts(
    phases: list[tuple[tuple[float, float, str, float], int]], pinned: str
) -> None:
    knobs = (LEAD, WAIT, FIRST)
    ladders = {knob.name: knob.values for knob in knobs}
    line = Line(knobs, pinned=pinned)
    in_force = dict(line.tuner.values)
    trial = ""

    def check(moves: Sequence[Move]) -> None:
        nonlocal trial
        for move in moves:
            if move.knob:
                assert move.knob not in pinned.split(",")
                assert in_force[move.knob] == move.before
                assert move.after in ladders[move.knob]
                assert trial in ("", move.knob)  # one in trial at most
                in_force[move.knob] = move.after
            trial = {"try": move.knob, "keep": "", "roll_back": ""}.get(move.kind, trial)
        assert in_force == line.tuner.values

    for (llm, endpoint, guard, pace), count in phases:
        for _ in range(count):
            check(line.turns(1, llm, endpoint, guard))
            line.now += pace
    # Nobody calls: whatever it was at, it ends, and all goes back but what a guard rail holds.
    for _ in range(10):
        line.now += 301.0
        check(line.tuner.decide(line.now))
    assert not trial
    for knob in knobs:
        assert in_force[knob.name] <= knob.values[knob.start] or knob is not LEAD
        assert knob.values.index(in_force[knob.name]) <= knob.start


def test_memory_is_bounded() -> None:
    line = Line()
    for _ in range(3 * EVENTS):
        line.turns(1, llm=0.4, guard="wasted")
    kept = [
        len(value)
        for holder in (line.tuner, line.tuner._window)
        for value in vars(holder).values()
        if isinstance(value, deque | list | set | dict)
    ]
    assert max(kept) <= max(EVENTS, KEPT, 200)
