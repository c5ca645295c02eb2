"""The model reads while the caller speaks, and never what the conversation does not hold."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.engine import RATE, Hypothesis, Listening, Word
from asr.fake import Fake as FakeEars
from asr.fake import FakeStream
from llm.engine import EngineError, Item, Message, ToolSpec
from llm.prompt import add_words
from llm.script import Script
from llm.script import Thread as ScriptThread
from voice.client import dial
from voice.prefill import Prefill, words_between
from voice.server import Server
from voice.session import Session
from voice.settings import TurnSettings

from helpers import Running, running, voiced

SYSTEM = Message("system", "Be brief.")
HELLO = Message("assistant", "Hello there.")
ASKED = [SYSTEM, HELLO]


def user(text: str) -> Message:
    return Message("user", text)


class Notes:
    """A thread that notes what it is given."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items, self.appended, self.closed = list(items), list[str](), False

    def append(self, words: str) -> None:
        self.appended.append(words)
        self.items = add_words(self.items, words)

    def close(self) -> None:
        self.closed = True


class Noting:
    """A mind of such threads."""

    def __init__(self, prefills: bool = True) -> None:
        self.prefills = prefills
        self.threads: list[Notes] = []

    def open(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> Notes:
        self.threads.append(Notes(items))
        return self.threads[-1]


def reading(mind: Noting) -> Prefill:
    return Prefill(mind)  # type: ignore[arg-type]


def test_words_are_appended_as_they_come_and_the_rest_when_it_is_known() -> None:
    mind = Noting()
    prefill = reading(mind)
    for words in ("i", "i would", "i would", "i would like to"):
        prefill.read(ASKED, (), words)
    thread = prefill.take([*ASKED, user("i would like to come in")], ())
    assert [thread] == mind.threads
    assert mind.threads[0].appended == ["i", "would", "like to", "come in"]
    assert mind.threads[0].items == [*ASKED, user("i would like to come in")]
    assert not mind.threads[0].closed


def test_the_thread_is_used_as_it_is_where_every_word_was_read() -> None:
    mind = Noting()
    prefill = reading(mind)
    prefill.read(ASKED, (), "on monday")
    assert prefill.take([*ASKED, user("on monday")], ()) is mind.threads[0]
    assert mind.threads[0].appended == ["on monday"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ([*ASKED, user("on mondays")], "a word that went on"),
        ([*ASKED, user("On monday please")], "another letter"),
        ([*ASKED, user("on  monday")], "another space"),
        ([*ASKED, user("please")], "other words"),
        ([SYSTEM, Message("assistant", "Hello"), user("on monday")], "what was heard was cut"),
        ([*ASKED, HELLO, user("on monday")], "something was said meanwhile"),
        ([*ASKED, user("on monday"), HELLO], "something was said since"),
        ([*ASKED, Message("assistant", "on monday")], "somebody else's words"),
        ([user("on monday")], "the conversation was forgotten"),
        ([], "nothing is asked"),
    ],
)
def test_a_thread_that_has_read_anything_else_is_closed(asked: list[Item], why: str) -> None:
    mind = Noting()
    prefill = reading(mind)
    prefill.read(ASKED, (), "on monday")
    thread = prefill.take(asked, ())
    assert mind.threads[0].closed, why
    assert thread is mind.threads[1]
    assert mind.threads[1].items == asked


def test_words_join_those_that_got_no_answer() -> None:
    mind = Noting()
    prefill = reading(mind)
    before = [*ASKED, user("i need")]
    prefill.read(before, (), "an appointment")
    thread = prefill.take([*ASKED, user("i need an appointment today")], ())
    assert thread is mind.threads[0]
    assert mind.threads[0].items == [*ASKED, user("i need an appointment today")]


def test_words_that_change_after_all_are_read_anew() -> None:
    mind = Noting()
    prefill = reading(mind)
    prefill.read(ASKED, (), "on monday")
    prefill.read(ASKED, (), "on sunday")
    assert [thread.closed for thread in mind.threads] == [True, False]
    prefill.close()
    assert all(thread.closed for thread in mind.threads)


def test_other_tools_need_another_thread() -> None:
    mind = Noting()
    prefill = reading(mind)
    look = ToolSpec("look", "Look.", {"type": "object"})
    prefill.read(ASKED, [look], "on monday")
    assert prefill.take([*ASKED, user("on monday")], ()) is not mind.threads[0]
    assert mind.threads[0].closed


def test_a_mind_that_gains_nothing_is_not_read_to() -> None:
    mind = Noting(prefills=False)
    prefill = reading(mind)
    prefill.read(ASKED, (), "on monday")
    assert mind.threads == []
    del mind.prefills  # most do not say
    prefill.read(ASKED, (), "on monday")
    assert mind.threads == []


def test_a_mind_that_is_down_is_asked_again_when_the_answer_is_needed() -> None:
    mind = Noting()
    prefill, opens = reading(mind), mind.open

    def fails(items: Sequence[Item], tools: Sequence[ToolSpec]) -> Notes:
        raise EngineError("it is starting again")

    mind.open = fails  # type: ignore[method-assign]
    prefill.read(ASKED, (), "on monday")
    mind.open = opens  # type: ignore[method-assign]
    assert prefill.take([*ASKED, user("on monday")], ()) is mind.threads[0]


ITEMS = st.lists(
    st.builds(Message, st.sampled_from(["user", "assistant"]), st.text("ab ", max_size=4)),
    max_size=3,
)


@given(
    st.lists(st.tuples(ITEMS, st.text("ab ", max_size=5)), max_size=5),
    ITEMS,
)
def test_what_the_thread_holds_is_what_is_asked(
    reads: list[tuple[list[Item], str]], asked: list[Item]
) -> None:
    mind = Noting()
    prefill = reading(mind)
    for items, words in reads:
        prefill.read(items, (), words)
        assert sum(not thread.closed for thread in mind.threads) <= 1
    thread = prefill.take(asked, ())
    assert isinstance(thread, Notes)
    assert thread.items == asked
    assert [other for other in mind.threads if not other.closed] == [thread]


@given(ITEMS, st.lists(st.sampled_from(["on", "monday", "at", "ten"]), min_size=1))
def test_words_that_were_added_are_found_again(items: list[Item], words: list[str]) -> None:
    before = add_words(items, words[0])
    after = add_words(before, " ".join(words[1:]))
    assert words_between(before, after) == " ".join(words[1:])


# On a live server.


class Ears(FakeEars):
    """Ears that commit one more of the words with every tenth of a second of sound."""

    def open(self, listening: Listening) -> "Stream":
        stream = super().open(listening)
        return Stream(self, stream._text, self._confidence, True)


class Stream(FakeStream):
    async def hypotheses(self) -> AsyncIterator[Hypothesis]:
        known, texts = 0, self._text.split()
        while not self._over:
            await self._sound.wait()
            self._sound.clear()
            number = min(len(texts), self._samples * 10 // RATE)
            if number > known:
                known = number
                yield Hypothesis(tuple(Word(text, 0, 0) for text in texts[:number]))


class Reader(Script):
    """A mind that reads ahead; it keeps its threads."""

    prefills = True

    def __init__(self, reply: str = "Here it is.") -> None:
        super().__init__([], otherwise=reply)
        self.threads: list[ReaderThread] = []

    def open(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> "ReaderThread":
        self.threads.append(ReaderThread(self, items))
        return self.threads[-1]

    @property
    def open_threads(self) -> int:
        return sum(not thread.closed for thread in self.threads)


class ReaderThread(ScriptThread):
    def __init__(self, mind: Reader, items: Sequence[Item]) -> None:
        super().__init__(mind, items)
        self.appended: list[str] = []
        self.closed = False

    def append(self, words: str) -> None:
        self.appended.append(words)
        super().append(words)

    def close(self) -> None:
        self.closed = True
        super().close()


def idle(live: Running) -> None:
    """Let the server believe that its loop is in time, whatever this machine does meanwhile."""
    live.server.load.note = lambda *_: None  # type: ignore[method-assign]


def only(server: Server) -> Session:
    (session,) = server.sessions.values()
    return session


async def until(happened: Callable[[], bool], seconds: float = 5.0) -> bool:
    for _ in range(round(seconds / 0.01)):
        if happened():
            return True
        await asyncio.sleep(0.01)
    return False


LATE = TurnSettings(
    shortest_wait=1.0, longest_wait=1.0, speculation_lead=0.5, longest_stall=8.0, idle=30.0
)


async def test_the_model_has_read_most_of_it_when_the_caller_is_done(tmp_path: Path) -> None:
    mind = Reader()
    ears = Ears(always="could you please tell me what time it is")
    async with running(tmp_path, ears=ears, mind=mind, turn=LATE) as live:
        async with dial(live.url) as caller:
            idle(live)
            assert await caller.until(lambda: bool(caller.heard()), 10)
            await caller.say(voiced(0.6), 16_000)
            assert mind.threads, "it was not read to while the caller spoke"
            assert mind.prompts == []
            assert await caller.until(lambda: len(caller.heard()) == 2, 5)
            (thread,) = mind.threads
            assert len(thread.appended) > 1
            assert " ".join(thread.appended) == "could you please tell me what time it is"
            said = [entry.item for entry in only(live.server).context.entries]
            assert list(mind.prompts[-1]) == said[:-1]
            # And the next turn, in the same way, over what has been said since.
            await caller.say(voiced(0.6), 16_000)
            assert await caller.until(lambda: len(caller.heard()) == 3, 5)
            assert list(mind.prompts[-1])[:-1] == said
        assert await until(lambda: not live.server.sessions)
    assert mind.open_threads == 0


async def test_a_caller_who_goes_on_is_read_anew_and_one_who_hangs_up_forgotten(
    tmp_path: Path,
) -> None:
    mind = Reader()
    async with running(
        tmp_path, ears=Ears(always=" ".join(["on"] * 20)), mind=mind, turn=LATE
    ) as live:
        async with dial(live.url) as caller:
            idle(live)
            assert await caller.until(lambda: bool(caller.heard()), 10)
            await caller.say(voiced(0.6), 16_000)
            session = only(live.server)
            assert await until(lambda: session._replies.attempt is not None and bool(mind.prompts))
            await caller.say(voiced(0.6), 16_000)
            assert await until(lambda: len(mind.threads) > 1)
            assert mind.threads[0].closed
            assert mind.open_threads == 1
        assert await until(lambda: not live.server.sessions)
    assert mind.open_threads == 0


async def test_what_was_not_understood_or_is_typed_over_is_forgotten(tmp_path: Path) -> None:
    mind = Reader()
    ears = Ears(always="on monday", confidence=0.1)
    async with running(tmp_path, ears=ears, mind=mind, turn=LATE) as live, dial(live.url) as caller:
        idle(live)
        assert await caller.until(lambda: bool(caller.heard()), 10)
        await caller.say(voiced(0.6), 16_000)
        assert mind.open_threads == 1
        assert await caller.until(lambda: "Please say that again." in caller.heard(), 5)
        assert mind.prompts == []
        assert mind.open_threads == 0
        await caller.say(voiced(0.4), 16_000)
        assert mind.open_threads == 1
        await caller.type("at ten")
        assert await until(lambda: bool(mind.prompts))
        assert mind.prompts[-1][-1] == user("at ten")
        await asyncio.sleep(0.1)
        assert mind.open_threads == 0
