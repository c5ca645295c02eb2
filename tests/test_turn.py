from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice.settings import TurnSettings
from voice.turn import (
    BACK_OFF,
    CALM,
    FREE,
    GOES_ON,
    REPLYING,
    Action,
    CallerLeft,
    CallStarted,
    CancelReply,
    Cause,
    DropSpeculation,
    EndCall,
    Event,
    Floor,
    JudgeSound,
    PauseReply,
    ReplyFailed,
    ReplyPlayed,
    ReplyProgressed,
    ResumeReply,
    Ruled,
    SoundHeard,
    SoundPassed,
    Speculate,
    SpeechStarted,
    SpeechStopped,
    StartReply,
    Turn,
    Typed,
    WaitRevised,
)

SETTINGS = TurnSettings(
    shortest_wait=0.2,
    longest_wait=1.5,
    speculations=5,
    speculation_lead=0.5,
    longest_contest=1.5,
    idle=10,
    idle_prompts=1,
    longest_speech=30,
    longest_stall=8,
)


def turn_after(*events: Event) -> Turn:
    """A call to which `events` happened, 1 s apart from second 0 on; its actions are taken."""
    turn = Turn(SETTINGS)
    turn.receive(CallStarted(), 0.0)
    for now, event in enumerate(events, 1):
        turn.receive(event, float(now))
    turn.actions()
    return turn


def greeted() -> tuple[Event, ...]:
    return (ReplyProgressed(1, 1.5), ReplyPlayed(1))


def test_a_call_begins_with_a_greeting() -> None:
    turn = Turn(SETTINGS)
    turn.receive(CallStarted(), 0.0)
    assert turn.actions() == [StartReply(1, Cause.GREETING)]


def test_silence_counted_from_the_last_speech_sample_starts_a_reply() -> None:
    turn = turn_after(*greeted(), SpeechStarted(), SpeechStopped(3.9, 0.5))
    assert turn.deadline == pytest.approx(4.4)
    turn.tick(4.3)
    assert turn.actions() == []
    turn.tick(4.4)
    assert turn.actions() == [StartReply(2, Cause.SPOKEN, 3.9)]


def test_a_caller_who_goes_on_is_not_answered() -> None:
    turn = turn_after(*greeted(), SpeechStarted(), SpeechStopped(3.9, 0.5), SpeechStarted())
    turn.tick(5.5)
    assert turn.floor is Floor.USER


def test_of_a_caller_about_whom_nothing_is_known_the_longest_wait_is_waited() -> None:
    turn = turn_after(*greeted(), SpeechStarted(), SpeechStopped(3.9))
    turn.tick(5.39)
    assert turn.floor is Floor.PENDING
    turn.tick(5.4)
    assert turn.floor is Floor.THINKING


def test_the_wait_follows_what_is_known_of_the_words() -> None:
    turn = turn_after(*greeted(), SpeechStarted(), SpeechStopped(3.9, 1.5))
    turn.receive(WaitRevised(0.2), 4.05)
    turn.tick(4.1)
    assert StartReply(2, Cause.SPOKEN, 3.9) in turn.actions()


# Answers before the decision.


def silent(wait: float = 0.3, at: float = 3.95) -> Turn:
    """The caller of turn 2 fell silent at `at`; it is second 4."""
    return turn_after(*greeted(), SpeechStarted(), SpeechStopped(at, wait))


def heard(*events: Event) -> Turn:
    """As `silent`, with its actions still to be taken."""
    turn = turn_after(*greeted(), SpeechStarted())
    turn.receive(SpeechStopped(3.95, 0.3), 4.0)
    return turn


def test_the_first_silence_has_the_answer_made_and_the_decision_lets_it_go() -> None:
    turn = heard()
    assert turn.actions() == [Speculate(2)]
    turn.tick(4.25)
    assert turn.actions() == [StartReply(2, Cause.SPOKEN, 3.95)]


def test_a_caller_who_goes_on_has_the_held_answer_dropped() -> None:
    turn = silent()
    turn.receive(SpeechStarted(), 4.1)
    assert turn.actions() == []
    assert turn.deadline == pytest.approx(4.1 + GOES_ON)
    turn.tick(4.1 + GOES_ON)
    assert turn.actions() == [DropSpeculation(2)]
    assert turn.floor is Floor.USER


def test_after_a_sound_too_short_for_a_word_the_held_answer_is_looked_at_again() -> None:
    turn = silent()
    turn.receive(SpeechStarted(), 4.1)
    turn.receive(SpeechStopped(4.12, 0.3), 4.15)
    assert turn.actions() == [Speculate(2)]
    turn.tick(4.5)
    assert turn.actions() == [StartReply(2, Cause.SPOKEN, 4.12)]


def test_a_better_end_of_speech_moves_the_decision_and_begins_nothing_anew() -> None:
    turn = silent()
    turn.receive(SpeechStopped(3.90, 0.3), 4.05)
    assert turn.actions() == []
    assert turn.deadline == pytest.approx(4.2)


def test_of_a_caller_who_is_surely_not_done_the_answer_is_begun_late() -> None:
    turn = silent(wait=1.5)
    assert turn.deadline == pytest.approx(3.95 + 1.5 - 0.5)
    turn.tick(4.95)
    assert turn.actions() == [Speculate(2)]


def test_words_that_say_the_caller_is_done_begin_the_answer_at_once() -> None:
    turn = silent(wait=1.5)
    turn.receive(WaitRevised(0.25), 4.06)
    assert turn.actions() == [Speculate(2)]


def test_a_gap_inside_a_word_drops_what_has_hardly_begun() -> None:
    turn = silent()
    turn.receive(SpeechStarted(), 4.03)
    assert turn.actions() == [DropSpeculation(2)]


def test_a_turn_with_many_gaps_begins_only_so_many_answers_the_later_ones_later() -> None:
    turn, now, patience = silent(), 4.0, [0.0]
    for _ in range(6):
        turn.receive(SpeechStarted(), now + 0.2)
        turn.tick(now + 0.2 + GOES_ON)
        now += 1.0
        turn.actions()
        turn.receive(SpeechStopped(now, 0.3), now)
        if not turn.actions() and turn.deadline is not None and turn.deadline < now + 0.29:
            patience.append(turn.deadline - now)
            turn.tick(turn.deadline)
            assert turn.actions() == [Speculate(2)]
        elif turn._held:
            patience.append(0.0)
    assert patience == pytest.approx([0.0] * FREE + [BACK_OFF, 2 * BACK_OFF])
    assert len(patience) == SETTINGS.speculations


def test_after_an_interruption_of_a_few_words_the_agent_stays_calm() -> None:
    turn = turn_after(ReplyProgressed(1, 9.0), SpeechStarted(), Ruled(True))
    turn.receive(SpeechStopped(2.6, 0.2), 3.0)
    assert turn.deadline is not None
    turn.tick(2.6 + CALM - 0.01)
    assert turn.floor is Floor.PENDING
    turn.tick(2.6 + CALM)
    assert turn.floor is Floor.THINKING


def test_a_held_answer_that_was_not_looked_at_again_is_not_given() -> None:
    turn = silent()
    turn.receive(SpeechStarted(), 4.1)
    turn.tick(4.15)
    turn.receive(SpeechStopped(4.12, 1.2), 4.16)  # begun late: this caller may go on
    turn.actions()
    turn.tick(9.0)  # this process was away
    assert turn.actions() == [DropSpeculation(2), StartReply(2, Cause.SPOKEN, 4.12)]


def test_typing_drops_the_held_answer() -> None:
    turn = silent()
    turn.receive(Typed(), 4.1)
    assert turn.actions() == [DropSpeculation(2), StartReply(2, Cause.TYPED)]


# Sounds during a reply.


def speaking(until: float = 9.0) -> Turn:
    """The agent speaks; it is second 1."""
    return turn_after(ReplyProgressed(1, until))


def test_a_sound_during_a_reply_pauses_it_and_is_judged() -> None:
    turn = speaking()
    turn.receive(SoundHeard(), 2.0)
    assert turn.actions() == [PauseReply(1)]
    turn.tick(2.0)
    assert turn.actions() == [JudgeSound(1)]


def test_a_sound_that_was_nothing_lets_the_reply_go_on() -> None:
    turn = speaking()
    turn.receive(SoundHeard(), 2.0)
    turn.receive(SoundPassed(), 2.03)
    assert turn.actions() == [PauseReply(1), ResumeReply(1)]
    assert turn.floor is Floor.AGENT


def test_an_interruption_cancels_the_reply_and_the_caller_has_the_floor() -> None:
    turn = speaking()
    turn.receive(SoundHeard(), 2.0)
    turn.receive(SpeechStarted(), 2.03)
    turn.receive(Ruled(True), 2.3)
    assert turn.actions() == [PauseReply(1), CancelReply(1)]
    assert turn.floor is Floor.USER


def test_an_interruption_that_is_over_when_it_is_known_as_one_is_answered_after_the_wait() -> None:
    turn = speaking()
    turn.receive(SpeechStarted(), 2.0)
    turn.receive(SpeechStopped(2.3, 0.4), 2.4)
    turn.receive(Ruled(True), 2.45)
    assert turn.actions() == [PauseReply(1), CancelReply(1), Speculate(2)]
    turn.tick(2.3 + CALM)
    assert turn.actions() == [StartReply(2, Cause.SPOKEN, 2.3)]


def test_what_was_no_interruption_lets_the_reply_go_on() -> None:
    turn = speaking()
    turn.receive(SpeechStarted(), 2.0)
    turn.receive(SpeechStopped(2.2, 0.4), 2.3)
    turn.receive(Ruled(False), 2.35)
    assert turn.actions() == [PauseReply(1), ResumeReply(1)]
    turn.receive(ReplyPlayed(1), 9.0)
    assert turn.floor is Floor.NOBODY


@pytest.mark.parametrize("ended", [True, False])
def test_a_sound_that_nobody_judges_is_ruled_on_in_the_end(ended: bool) -> None:
    turn = speaking()
    turn.receive(SpeechStarted(), 2.0)
    if ended:
        turn.receive(SpeechStopped(2.2, 0.4), 2.3)
    turn.tick(3.5)
    assert turn.actions()[-1] == (ResumeReply(1) if ended else CancelReply(1))


def test_a_caller_who_speaks_on_while_the_reply_goes_on_is_judged_again() -> None:
    turn = speaking()
    turn.receive(SpeechStarted(), 2.0)
    turn.receive(Ruled(False), 2.1)  # the agent's own voice, it seemed
    turn.actions()
    turn.tick(2.2)
    assert turn.actions() == [JudgeSound(1)]
    turn.receive(Ruled(False), 2.2)
    assert turn.actions() == []
    turn.receive(Ruled(True), 2.4)
    assert turn.actions() == [CancelReply(1)]
    assert turn.floor is Floor.USER


def test_what_seems_to_be_an_echo_pauses_nothing_and_is_judged_as_long_as_it_lasts() -> None:
    turn = speaking()
    turn.receive(SpeechStarted(echo=True), 2.0)
    assert turn.actions() == []
    assert turn.floor is Floor.AGENT
    turn.tick(2.1)
    assert turn.actions() == [JudgeSound(1)]
    turn.receive(SoundHeard(), 2.1)  # not the agent's voice alone, it turns out
    assert turn.actions() == [PauseReply(1)]
    turn.receive(Ruled(True), 2.5)
    assert turn.actions() == [CancelReply(1)]
    assert turn.floor is Floor.USER


def test_an_echo_that_ends_is_judged_no_more() -> None:
    turn = speaking()
    turn.receive(SpeechStarted(echo=True), 2.0)
    turn.receive(SpeechStopped(2.3, 0.3), 2.4)
    turn.tick(2.5)
    assert turn.actions() == []
    assert turn.deadline == 9.0 + SETTINGS.longest_stall


def test_a_reply_that_ends_while_the_caller_speaks_leaves_them_the_floor() -> None:
    turn = speaking(2.2)
    turn.receive(SpeechStarted(), 2.0)
    turn.receive(Ruled(False), 2.1)
    turn.receive(ReplyPlayed(1), 2.2)
    assert turn.floor is Floor.USER


def test_a_reply_that_fails_while_the_caller_speaks_is_not_apologised_for() -> None:
    turn = speaking()
    turn.receive(SpeechStarted(), 2.0)
    turn.receive(ReplyFailed(1), 2.1)
    assert turn.actions() == [PauseReply(1), CancelReply(1)]
    assert turn.floor is Floor.USER


def test_audio_made_while_the_reply_is_paused_does_not_resume_it() -> None:
    turn = speaking()
    turn.receive(SpeechStarted(), 2.0)
    turn.receive(ReplyProgressed(1, 11.0), 2.1)
    assert turn.floor is Floor.CONTESTED


def test_speech_while_the_answer_is_made_cancels_it() -> None:
    turn = turn_after(SpeechStarted())
    assert turn.floor is Floor.USER


def test_a_stale_result_changes_nothing() -> None:
    turn = turn_after(ReplyProgressed(1, 4.0), SpeechStarted(), Ruled(True))
    for stale in (ReplyProgressed(1, 9.0), ReplyPlayed(1), ReplyFailed(1)):
        turn.receive(stale, 3.0)
    assert turn.floor is Floor.USER
    assert turn.actions() == []


def test_a_result_of_the_last_reply_is_none_of_this_one() -> None:
    turn = turn_after(ReplyProgressed(1, 4.0), Typed())
    for stale in (ReplyProgressed(1, 9.0), ReplyPlayed(1), ReplyFailed(1)):
        turn.receive(stale, 3.0)
        assert turn.floor is Floor.THINKING
    assert turn.actions() == []


def test_typing_takes_the_floor_from_the_agent() -> None:
    turn = turn_after(ReplyProgressed(1, 4.0))
    turn.receive(Typed(), 2.0)
    assert turn.actions() == [CancelReply(1), StartReply(2, Cause.TYPED)]


def test_a_silent_caller_is_asked_and_then_the_call_ends() -> None:
    turn = turn_after(*greeted())
    turn.tick(12.0)
    assert turn.actions() == [StartReply(2, Cause.SILENCE)]
    turn.receive(ReplyPlayed(2), 13.0)
    turn.tick(23.0)
    assert turn.actions() == [StartReply(3, Cause.GOODBYE)]
    turn.receive(ReplyPlayed(3), 25.0)
    assert turn.actions() == [EndCall("silence")]
    assert turn.floor is Floor.OVER


def test_a_caller_who_speaks_is_not_counted_silent() -> None:
    turn = turn_after(*greeted())
    turn.tick(12.0)
    turn.receive(SpeechStarted(), 12.5)
    turn.receive(SpeechStopped(13.0, 0.5), 13.1)
    turn.tick(13.5)
    turn.receive(ReplyPlayed(3), 14.0)
    turn.actions()
    turn.tick(24.0)
    assert turn.actions() == [StartReply(4, Cause.SILENCE)]


def test_a_failed_reply_is_apologised_for_once() -> None:
    turn = turn_after()
    turn.receive(ReplyFailed(1), 1.0)
    assert turn.actions() == [StartReply(2, Cause.FAILURE)]
    turn.receive(ReplyFailed(2), 2.0)
    assert turn.actions() == []
    assert turn.floor is Floor.NOBODY


def test_a_reply_that_stalls_is_cancelled() -> None:
    turn = turn_after()
    turn.tick(8.0)
    assert turn.actions() == [CancelReply(1, stalled=True), StartReply(2, Cause.FAILURE)]


def test_a_long_reply_is_no_stall_while_it_plays() -> None:
    turn = turn_after(ReplyProgressed(1, 60.0))
    turn.tick(59.0)
    assert turn.actions() == []


def test_speech_without_end_is_answered_in_the_end() -> None:
    turn = turn_after(*greeted(), SpeechStarted())
    for second in range(4, 40, 2):  # pauses do not reset the limit
        turn.tick(float(second))
        if turn.floor is Floor.USER:
            turn.receive(SpeechStopped(second + 0.9), second + 1.0)
            turn.receive(SpeechStarted(), second + 1.2)
    assert StartReply(2, Cause.SPOKEN) in turn.actions()


def test_a_reply_may_end_the_call() -> None:
    turn = turn_after(ReplyProgressed(1, 2.0))
    turn.receive(ReplyPlayed(1, "transfer"), 2.0)
    assert turn.actions() == [EndCall("transfer")]


def test_a_caller_who_leaves_ends_everything() -> None:
    turn = turn_after(ReplyProgressed(1, 4.0))
    turn.receive(CallerLeft("lost"), 2.0)
    assert turn.actions() == [CancelReply(1), EndCall("lost")]
    assert turn.deadline is None


EVENTS = st.one_of(
    st.sampled_from(["sound", "passed", "speech", "echo", "stop", "typed", "tick"]),
    st.tuples(st.just("revised"), st.floats(0.1, 1.5)),
    st.tuples(st.just("ruled"), st.booleans()),
    st.tuples(st.sampled_from(["progress", "played", "failed"]), st.integers(0, 12)),
    st.builds(
        partial(replace, SETTINGS),
        shortest_wait=st.floats(0.1, 0.5),
        longest_wait=st.floats(0.5, 5.0),
        speculations=st.integers(0, 20),
        speculation_lead=st.floats(0.05, 3.0),
    ),
)
"""What can happen to a turn, in any order; settings that are replaced among it."""

LONGEST = 30 + 20
"""Seconds within which a call listens or speaks, whatever happens: the longest speech, and the
sound that was made ahead in these tests."""


def feed(turn: Turn, event: object, now: float) -> None:
    """Let an event of `EVENTS` happen."""
    match event:
        case "sound":
            turn.receive(SoundHeard(), now)
        case "passed":
            turn.receive(SoundPassed(), now)
        case "speech":
            turn.receive(SpeechStarted(), now)
        case "echo":
            turn.receive(SpeechStarted(echo=True), now)
        case "stop":
            turn.receive(SpeechStopped(now - 0.1, 0.3), now)
        case "typed":
            turn.receive(Typed(), now)
        case "tick":
            turn.tick(now)
        case ("revised", float(wait)):
            turn.receive(WaitRevised(wait), now)
        case ("ruled", bool(interruption)):
            turn.receive(Ruled(interruption), now)
        case ("progress", int(back)):
            turn.receive(ReplyProgressed(turn.number - back, now + 5), now)
        case ("played", int(back)):
            turn.receive(ReplyPlayed(turn.number - back), now)
        case ("failed", int(back)):
            turn.receive(ReplyFailed(turn.number - back), now)
        case TurnSettings():
            turn.settings = event


class Watch:
    """Checks that actions make sense in their order."""

    def __init__(self) -> None:
        self.replying = 0
        self.held = 0
        self.paused = False

    def check(self, turn: Turn) -> None:
        """Replies start one after the other, each once; what is held or paused is let go once."""
        for action in turn.actions():
            match action:
                case StartReply(number, _, _):
                    assert number == self.replying + 1
                    assert self.held in (0, number)
                    self.replying, self.held, self.paused = number, 0, False
                case CancelReply(number):
                    assert number == self.replying
                    self.paused = False
                case Speculate(number):
                    assert number == self.replying + 1
                    assert turn.floor in (Floor.PENDING, Floor.OVER)
                    self.held = number
                case DropSpeculation(number):
                    assert self.held == number
                    self.held = 0
                case PauseReply(number):
                    assert (number, self.paused) == (self.replying, False)
                    self.paused = True
                case ResumeReply(number):
                    assert (number, self.paused) == (self.replying, True)
                    self.paused = False
                case JudgeSound(number):
                    assert number == self.replying
        assert self.paused == (turn.floor is Floor.CONTESTED)
        assert not self.held or turn.floor in (Floor.USER, Floor.PENDING)
        assert (turn.deadline is None) == (turn.floor is Floor.OVER)


@given(st.lists(st.tuples(EVENTS, st.floats(0.0, 20.0) | st.floats(0.0, 0.3)), max_size=80))
def test_whatever_the_order_of_events_the_call_is_never_stuck(
    script: list[tuple[object, float]],
) -> None:
    turn, watch, now = Turn(SETTINGS), Watch(), 0.0
    turn.receive(CallStarted(), now)
    watch.check(turn)
    for event, gap in script:
        now += gap
        feed(turn, event, now)
        watch.check(turn)
        assert turn.deadline is None or turn.deadline <= now + LONGEST
    # Left alone from here on, it asks, says goodbye and hangs up; a caller who is speaking
    # falls silent, or is answered all the same.
    for _ in range(2000):
        if turn.deadline is None:
            break
        now = max(now, turn.deadline)
        turn.tick(now)
        if turn.floor in (Floor.THINKING, Floor.AGENT):
            turn.receive(SpeechStopped(now, 0.3), now)
            turn.receive(ReplyPlayed(turn.number), now)
        watch.check(turn)
    assert turn.floor is Floor.OVER


@given(st.lists(st.tuples(EVENTS, st.floats(0.0, 1.0)), max_size=60))
def test_time_alone_leads_every_floor_to_listening_or_speaking(
    script: list[tuple[object, float]],
) -> None:
    turn, now = Turn(SETTINGS), 0.0
    turn.receive(CallStarted(), now)
    for event, gap in script:
        now += gap
        feed(turn, event, now)
    limit = now + LONGEST + SETTINGS.longest_stall
    while turn.floor not in (Floor.NOBODY, Floor.OVER) and turn.deadline is not None:
        now = max(now, turn.deadline)
        if now > limit:
            break
        number = turn.number
        turn.tick(now)
        if turn.number > number:
            return  # it speaks
    assert turn.floor in (Floor.NOBODY, Floor.OVER)


@given(st.lists(st.tuples(EVENTS, st.floats(0.0, 1.0)), max_size=60))
def test_no_reply_starts_while_another_has_not_been_cancelled(
    script: list[tuple[object, float]],
) -> None:
    turn, now = Turn(SETTINGS), 0.0
    turn.receive(CallStarted(), now)
    live = {turn.number}
    turn.actions()
    for event, gap in script:
        now += gap
        number, replying = turn.number, turn.floor in REPLYING
        feed(turn, event, now)
        if event in (("played", 0), ("failed", 0)) and replying:
            live.discard(number)  # it ended by itself
        actions: list[Action] = turn.actions()
        for action in actions:
            if isinstance(action, StartReply):
                live.add(action.turn)
            elif isinstance(action, CancelReply):
                live.discard(action.turn)
        assert len(live) <= 1


def test_the_decision_is_expected_when_the_wait_is_over() -> None:
    turn = turn_after(ReplyPlayed(1), SpeechStarted())
    assert turn.floor is Floor.USER
    assert turn.decides_at(2.5) == 2.5 + SETTINGS.shortest_wait  # not sooner, whatever comes
    turn.receive(SpeechStopped(at=3.0, wait=0.6), 3.05)
    assert turn.decides_at(3.05) == turn.decides_at(3.1) == 3.6
    turn.receive(WaitRevised(0.3), 3.1)
    assert turn.decides_at(3.1) == 3.3
    turn.receive(WaitRevised(0.2), 3.25)
    assert turn.decides_at(3.25) == 3.25
    assert turn.decides_at(3.4) == 3.4  # the tick is late


def test_nobody_waits_for_a_decision_while_the_agent_has_the_floor() -> None:
    turn = turn_after(ReplyProgressed(1, 9.0))
    assert turn.floor is Floor.AGENT
    assert turn.decides_at(1.5) == 1.5
