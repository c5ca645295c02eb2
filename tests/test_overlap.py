"""Answers before the decision, and sounds during a reply, on a live server."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from asr.fake import Fake as FakeEars
from asr.vad import SpeechStarted, SpeechStopped
from llm.engine import Message, ToolSpec
from llm.fake import Fake as FakeMind
from llm.script import Call, Rule, Script
from tts.espeak import Espeak
from tts.fake import Fake as FakeMouth
from voice.client import Caller, Event, dial
from voice.server import Server
from voice.session import Session
from voice.settings import TurnSettings
from voice.tools import Outcome
from voice.turn import Floor

from helpers import NoTools, Running, plain_agent, running, voiced

SLOW = TurnSettings(
    shortest_wait=2.0, longest_wait=2.0, speculation_lead=1.8, longest_stall=8.0, idle=30.0
)
"""Time enough to look at an answer before the decision."""

SHORT = TurnSettings(shortest_wait=0.5, longest_wait=0.5, longest_stall=8.0, idle=30.0)
"""Time for an answer to be begun before the decision, and for a sound or two."""

STORY = " ".join(f"word{number}" for number in range(12)) + "."


def idle(live: Running, late: float = 0.0) -> None:
    """Let the server believe that its loop is `late`, whatever this machine does meanwhile."""
    live.server.load.note = lambda *_: None  # type: ignore[method-assign]
    live.server.load.late = late


def only(server: Server) -> Session:
    (session,) = server.sessions.values()
    return session


def notice(session: Session, kind: type[SpeechStarted | SpeechStopped]) -> None:
    """Let the detector of a call have found this, now."""
    session._noticed(kind(session._ears.samples))


async def sound(session: Session, seconds: float) -> None:
    """Let the detector of a call have found a sound of so many seconds."""
    notice(session, SpeechStarted)
    await asyncio.sleep(seconds)
    notice(session, SpeechStopped)


async def greeted(caller: Caller) -> None:
    assert await caller.until(lambda: bool(caller.heard()), 10)


async def until(happened: Callable[[], bool], seconds: float = 5.0) -> bool:
    for _ in range(round(seconds / 0.01)):
        if happened():
            return True
        await asyncio.sleep(0.01)
    return False


def logged(data: Path) -> list[Event]:
    """Return the records of turns in the logs of all calls."""
    lines = [line for file in data.glob("calls/*.jsonl") for line in file.read_text().splitlines()]
    return [event for event in map(json.loads, lines) if event["type"] == "trace"]


def of_type(caller: Caller, kind: str) -> list[Event]:
    return [event for _, event in caller.events if event["type"] == kind]


async def test_the_answer_is_made_before_the_decision_and_heard_with_it(tmp_path: Path) -> None:
    mind = FakeMind("Here it is.", first=0.1)
    async with (
        running(
            tmp_path,
            ears=FakeEars(always="what is it", delay=0.1),
            mind=mind,
            mouth=FakeMouth(first=0.1),
            turn=SLOW,
        ) as live,
        dial(live.url) as caller,
    ):
        idle(live)
        await greeted(caller)
        since = len(caller.audio)
        await caller.say(voiced(), 16_000)
        session = only(live.server)
        assert await until(lambda: session._replies.speaker.began)
        assert len(caller.audio) == since  # made, and held
        assert session._turn.number == 1
        assert of_type(caller, "captions")[-1]["text"] != "what is it"
        assert await caller.until(lambda: len(caller.heard()) == 2, 5)
        turn = of_type(caller, "turn")[-1]
        assert turn["overlapped"] > 0.3
        assert sum(turn["stages"].get(stage, 0.0) for stage in ("asr", "llm", "tts")) < 0.1
        assert len(mind.prompts) == 1
        assert (session.tally.starts, session.tally.kept) == (1, 1)
        assert session.tally.wasted_seconds == 0


async def test_a_caller_who_goes_on_leaves_no_trace_of_the_held_answer(tmp_path: Path) -> None:
    mind = FakeMind("Here it is.")
    async with running(
        tmp_path, ears=FakeEars(always="on monday", delay=0.05), mind=mind, turn=SLOW
    ) as live:
        async with dial(live.url) as caller:
            idle(live)
            await greeted(caller)
            await caller.say(voiced(), 16_000)
            session = only(live.server)
            before = len(session.context.entries)
            assert await until(lambda: session._replies.speaker.began)
            assert len(session.context.entries) == before + 2
            await caller.say(voiced(), 16_000)
            assert await until(lambda: session._replies.attempt is None or session.tally.starts > 1)
            assert await caller.until(lambda: len(caller.heard()) == 2, 5)
            said = [entry.item for entry in session.context.entries][1:]
            assert said == [
                Message("assistant", "Hello there."),
                Message("user", "on monday"),
                Message("assistant", "Here it is."),
            ]
            assert session.tally.starts >= 2
            assert session.tally.kept == 1
            assert session.tally.wasted_seconds > 0.04
            assert mind.generating == 0
        text = live.server.metrics.text().decode()
        wasted = [
            float(line.split()[1])
            for line in text.splitlines()
            if line.startswith("voice_speculation_wasted_seconds_total")
        ]
        assert sum(wasted) > 0.04
        assert 'voice_speculations_total{outcome="kept"} 1.0' in text


class Counting(NoTools):
    specs = (ToolSpec("look", "Look.", {"type": "object", "properties": {}}),)

    def __init__(self) -> None:
        self.calls = 0

    async def call(self, name: str, arguments: object, turn: int) -> Outcome:
        self.calls += 1
        return Outcome(say="I found three.")


async def test_a_caller_who_goes_on_while_words_are_looked_at_again_is_heard(
    tmp_path: Path,
) -> None:
    """The turn was taken to be over before the recogniser had looked: no answer to half of it."""
    ears = FakeEars(always="on monday", delay=0.02)
    async with running(tmp_path, ears=ears, turn=SHORT) as live, dial(live.url) as caller:
        idle(live)
        await greeted(caller)
        session = only(live.server)

        await sound(session, 0.2)
        assert await until(lambda: session._replies.speaker.began)
        await asyncio.sleep(0.1)  # it is worth keeping
        ears.delay = 0.8
        await sound(session, 0.02)  # too short for a word
        assert await until(lambda: session._turn.floor is Floor.THINKING)
        notice(session, SpeechStarted)  # they were not done
        assert session._turn.floor is Floor.USER
        since = len(caller.audio)
        await asyncio.sleep(1.0)
        assert len(caller.audio) == since, "the agent speaks into the caller's words"
        assert session._replies.attempt is None
        assert session._ears.utterance is not None
        notice(session, SpeechStopped)
        assert await caller.until(lambda: len(caller.heard()) == 2, 5)
        await caller.hang_up()
        said = [entry.item for entry in session.context.entries][1:]
        assert said == [
            Message("assistant", "Hello there."),
            Message("user", "on monday"),
            Message("assistant", "Good morning to you."),
        ]
    unheard, answered = logged(tmp_path)
    assert (unheard["outcome"], unheard["cut_in"]) == ("unheard", True)
    assert unheard["speculations"] == {"begun": 1, "kept": 0, "dropped": 1}
    assert answered["outcome"] == "played"


async def test_of_two_looks_at_the_words_the_later_one_counts(tmp_path: Path) -> None:
    ears = FakeEars(always="on monday", delay=0.02)
    async with running(tmp_path, ears=ears, turn=SHORT) as live, dial(live.url) as caller:
        idle(live)
        await greeted(caller)
        session = only(live.server)
        await sound(session, 0.2)
        assert await until(lambda: session._replies.speaker.began)
        for delay in (0.3, 1.2):
            await asyncio.sleep(0.1)
            ears.delay = delay
            await sound(session, 0.02)  # too short for a word
        assert await until(lambda: session._turn.floor is Floor.THINKING)
        since = len(caller.audio)
        await asyncio.sleep(0.2)
        assert len(caller.audio) == since, "answered before the second sound was looked at"
        assert await caller.until(lambda: len(caller.heard()) == 2, 5)


async def test_no_tool_runs_before_the_decision(tmp_path: Path) -> None:
    tools = Counting()
    mind = Script([Rule("look", Call("look"))])
    async with (
        running(
            tmp_path,
            ears=FakeEars(always="look it up"),
            mind=mind,
            agent=plain_agent(tools),
            turn=SLOW,
        ) as live,
        dial(live.url) as caller,
    ):
        idle(live)
        await greeted(caller)
        await caller.say(voiced(), 16_000)
        assert await until(lambda: bool(mind.prompts))
        await asyncio.sleep(0.2)
        assert only(live.server)._turn.number == 1
        assert tools.calls == 0
        assert await caller.until(lambda: "I found three." in caller.heard(), 5)
        assert tools.calls == 1
        assert len(mind.prompts) == 1


async def test_nothing_is_begun_early_where_that_is_switched_off_or_there_is_no_time(
    tmp_path: Path,
) -> None:
    off = TurnSettings(shortest_wait=0.5, longest_wait=0.5, speculations=0, longest_stall=8.0)
    for turn, late in ((off, 0.0), (SLOW, 9e9)):
        mind = FakeMind("Here it is.")
        async with (
            running(tmp_path / str(late), ears=FakeEars(always="hi"), mind=mind, turn=turn) as live,
            dial(live.url) as caller,
        ):
            await greeted(caller)
            idle(live, late)
            await caller.say(voiced(), 16_000)
            await asyncio.sleep(0.25)
            assert mind.prompts == []
            assert await caller.until(lambda: len(caller.heard()) == 2, 5)
            assert only(live.server).tally.starts == 0


async def test_after_a_cough_the_reply_goes_on_from_the_paused_word(tmp_path: Path) -> None:
    async with (
        running(
            tmp_path,
            ears=FakeEars(["hello", ""]),
            mind=FakeMind(STORY),
            mouth=FakeMouth(word=0.3),
        ) as live,
        dial(live.url) as caller,
    ):
        await greeted(caller)
        greeting = len(caller.audio)
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: "word3" in str(caller.events[-1][1]), 10)
        before = len(caller.events)
        await caller.say(voiced(0.25), 16_000)
        assert await caller.until(lambda: len(caller.heard()) == 2, 15)
        kinds = [event["type"] for _, event in caller.events[before:]]
        assert kinds.index("clear") < kinds.index("resume")
        assert caller.heard()[-1] == STORY
        assert not any(event.get("interrupted") for _, event in caller.events)
        # The same reply, and at most one word of it twice.
        assert only(live.server)._turn.number == 2
        sound = sum(len(pcm) for _, pcm in caller.audio[greeting:]) / caller.rate
        assert 12 * 0.3 < sound < 13 * 0.3 + 0.1


async def test_a_back_channel_does_not_end_a_reply_and_other_words_do(tmp_path: Path) -> None:
    for words, ended in (("mhm", False), ("stop", True)):
        async with (
            running(
                tmp_path / words,
                ears=FakeEars(["hello", words, words]),
                mind=FakeMind(STORY),
                mouth=FakeMouth(word=0.25),
            ) as live,
            dial(live.url) as caller,
        ):
            await greeted(caller)
            await caller.say(voiced(), 16_000)
            assert await caller.until(lambda: "word3" in str(caller.events[-1][1]), 10)
            await caller.say(voiced(0.3), 16_000)
            assert await caller.until(lambda: len(caller.heard()) >= 2, 15)
            interrupted = [event for _, event in caller.events if event.get("interrupted")]
            assert bool(interrupted) is ended
            said = [m.item for m in only(live.server).context.entries if m.item.role == "user"]  # type: ignore[union-attr]
            assert Message("user", "mhm") not in said


async def test_the_agents_own_echo_does_not_interrupt_it(tmp_path: Path) -> None:
    delay, loudness = 0.12, 0.3
    story = "Once upon a time there was a small clinic by a lake, and many people came to see it."
    async with (
        running(
            tmp_path, ears=FakeEars(["hello"] + [""] * 50), mind=FakeMind(story), mouth=Espeak()
        ) as live,
        dial(live.url) as caller,
    ):
        await greeted(caller)
        await caller.say(voiced(), 16_000)
        fed, loop = len(caller.audio), asyncio.get_running_loop()
        while len(caller.heard()) < 2 and loop.time() - caller.stopped_speaking < 40:
            while fed < len(caller.audio) and caller.audio[fed][0] + delay <= loop.time():
                caller.hear_microphone((loudness * caller.audio[fed][1]).astype(np.float32))
                fed += 1
            await asyncio.sleep(0.005)
        # How often it is paused meanwhile is counted on a steady path (tests/test_echo.py): this
        # test plays both ends, and where a busy machine is late the path moves, as none does.
        assert caller.heard()[-1] == story
        assert not any(event.get("interrupted") for _, event in caller.events)
