import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice.settings import TurnSettings
from voice.turn import (
    REPLYING,
    Action,
    CallerLeft,
    CallStarted,
    CancelReply,
    Cause,
    EndCall,
    Event,
    Floor,
    ReplyFailed,
    ReplyPlayed,
    ReplyProgressed,
    SpeechStarted,
    SpeechStopped,
    StartReply,
    Turn,
    Typed,
)

SETTINGS = TurnSettings(silence=0.5, idle=10, idle_prompts=1, longest_speech=30, longest_stall=8)


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
    turn = turn_after(*greeted(), SpeechStarted(), SpeechStopped(3.9))
    assert turn.deadline == pytest.approx(4.4)
    turn.tick(4.3)
    assert turn.actions() == []
    turn.tick(4.4)
    assert turn.actions() == [StartReply(2, Cause.SPOKEN, 3.9)]


def test_a_caller_who_goes_on_is_not_answered() -> None:
    turn = turn_after(*greeted(), SpeechStarted(), SpeechStopped(3.9), SpeechStarted())
    turn.tick(5.5)
    assert turn.actions() == []
    assert turn.floor is Floor.USER


def test_barge_in_cancels_the_reply() -> None:
    turn = turn_after(ReplyProgressed(1, 4.0))
    turn.receive(SpeechStarted(), 2.0)
    assert turn.actions() == [CancelReply(1)]
    assert turn.floor is Floor.USER


def test_speech_while_the_answer_is_made_cancels_it() -> None:
    turn = turn_after(SpeechStarted())
    assert turn.floor is Floor.USER


def test_a_stale_result_changes_nothing() -> None:
    turn = turn_after(ReplyProgressed(1, 4.0), SpeechStarted())
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
    turn.receive(SpeechStopped(13.0), 13.1)
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
    assert turn.actions() == [CancelReply(1), StartReply(2, Cause.FAILURE)]


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
    st.just("speech"),
    st.just("stop"),
    st.just("typed"),
    st.just("tick"),
    st.tuples(st.sampled_from(["progress", "played", "failed"]), st.integers(0, 12)),
)


@given(st.lists(st.tuples(EVENTS, st.floats(0.0, 20.0)), max_size=60))
def test_whatever_the_order_of_events_the_call_is_never_stuck(
    script: list[tuple[object, float]],
) -> None:
    turn = Turn(SETTINGS)
    now, replying = 0.0, 0
    turn.receive(CallStarted(), now)

    def check() -> None:
        """Replies start one after the other, each once; every floor but OVER has a deadline."""
        nonlocal replying
        for action in turn.actions():
            match action:
                case StartReply(number, _, _):
                    assert number == replying + 1
                    replying = number
                case CancelReply(number):
                    assert number == replying
        assert (turn.deadline is None) == (turn.floor is Floor.OVER)
        assert turn.deadline is None or turn.deadline <= now + 30 + 20

    check()
    for event, gap in script:
        now += gap
        match event:
            case "speech":
                turn.receive(SpeechStarted(), now)
            case "stop":
                turn.receive(SpeechStopped(now - 0.1), now)
            case "typed":
                turn.receive(Typed(), now)
            case "tick":
                turn.tick(now)
            case ("progress", int(back)):
                turn.receive(ReplyProgressed(turn.number - back, now + 5), now)
            case ("played", int(back)):
                turn.receive(ReplyPlayed(turn.number - back), now)
            case ("failed", int(back)):
                turn.receive(ReplyFailed(turn.number - back), now)
        check()
    # Left alone from here on, it asks, says goodbye and hangs up.
    for _ in range(20):
        if turn.deadline is None:
            break
        now = max(now, turn.deadline)
        turn.tick(now)
        if turn.floor in REPLYING:
            turn.receive(ReplyPlayed(turn.number), now)
        check()
    assert turn.floor is Floor.OVER


@given(st.lists(st.sampled_from(["speech", "stop", "typed", "tick"]), max_size=30))
def test_no_reply_starts_while_another_has_not_been_cancelled(script: list[str]) -> None:
    turn = Turn(SETTINGS)
    now = 0.0
    turn.receive(CallStarted(), now)
    live: set[int] = set()
    for step in script:
        now += 0.3
        match step:
            case "speech":
                turn.receive(SpeechStarted(), now)
            case "stop":
                turn.receive(SpeechStopped(now), now)
            case "typed":
                turn.receive(Typed(), now)
            case _:
                now += 40
                turn.tick(now)
        actions: list[Action] = turn.actions()
        for action in actions:
            if isinstance(action, StartReply):
                live.add(action.turn)
            elif isinstance(action, CancelReply):
                live.discard(action.turn)
        assert len(live) <= 1
