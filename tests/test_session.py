"""Races of a call: sounds, typing, tools and late results that come at the wrong moment."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from asr.engine import Hypothesis
from asr.fake import Fake as FakeEars
from llm.engine import EngineError, Message, Params, Text, ToolSpec, Usage
from llm.fake import Fake as FakeMind
from llm.script import Call, Rule, Script
from tts.fake import Fake as FakeMouth
from voice.client import Caller, dial
from voice.tools import Outcome

from helpers import NoTools, plain_agent, running, voiced

STORY = " ".join(f"word{number}" for number in range(12)) + "."
SLOW_EARS = 0.6
"""Seconds that a recogniser takes for the final words here."""


async def settled(caller: Caller, since: int = 0) -> list[str]:
    assert await caller.until(lambda: bool(caller.heard(since)), 20.0), caller.events
    return caller.heard(since)


def log_of(data: Path) -> Path:
    """Return the log of the only call."""
    (log,) = data.resolve().glob("calls/*.jsonl")
    return log


def held_open() -> list[Path]:
    """Return the files that this process has open."""
    return [file.resolve() for file in Path("/proc/self/fd").iterdir()]


async def cough(caller: Caller) -> None:
    await caller.say(voiced(0.3), 16_000)


class Tool(NoTools):
    """One tool that takes its time."""

    specs = (ToolSpec("look", "Look something up.", {"type": "object", "properties": {}}),)

    def __init__(self, seconds: float, end: str = "") -> None:
        self.outcome = Outcome(output={"found": 3}, say="I found three.", end=end)
        self.seconds, self.calls, self.done, self.closed = seconds, 0, 0, 0

    async def call(self, name: str, arguments: Any, turn: int) -> Outcome:
        self.calls += 1
        await asyncio.sleep(self.seconds)
        self.done += 1
        assert not self.closed
        return self.outcome

    def close(self) -> None:
        self.closed += 1


LOOKS = Script([Rule("^look", Call("look"))], otherwise="All right.")


async def test_two_coughs_do_not_silence_the_agent(tmp_path: Path) -> None:
    async with (
        running(
            tmp_path,
            ears=FakeEars(["hello", "", ""], delay=SLOW_EARS),
            mind=FakeMind(STORY),
            mouth=FakeMouth(word=0.25),
        ) as live,
        dial(live.url) as caller,
    ):
        await settled(caller)
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: "word3" in str(caller.events[-1][1]), 10)
        await cough(caller)
        await asyncio.sleep(SLOW_EARS - 0.05)
        await cough(caller)
        assert await caller.until(lambda: any("word11" in line for line in caller.heard()), 10)


@pytest.mark.parametrize("moment", ["at once", "in the middle of the line that bridges it"])
async def test_a_cough_while_a_tool_works_neither_repeats_nor_loses_it(
    tmp_path: Path, moment: str
) -> None:
    tool = Tool(2.0, end="transfer")
    async with (
        running(
            tmp_path,
            ears=FakeEars(["look it up", ""]),
            mind=LOOKS,
            agent=plain_agent(tool),
            mouth=FakeMouth(word=0.4),
        ) as live,
        dial(live.url) as caller,
    ):
        await settled(caller)
        await caller.say(voiced(), 16_000)
        if moment == "at once":
            assert await caller.until(lambda: bool(live.server.sessions), 5)
            while not tool.calls:
                await asyncio.sleep(0.01)
        else:
            assert await caller.until(lambda: "One moment" in str(caller.events[-1][1]), 5)
        await cough(caller)
        assert await caller.until(lambda: bool(caller.ended), 10)
        assert caller.heard()[-1].endswith("I found three.")
        assert caller.ended == "transfer"
        assert tool.calls == 1


async def test_new_words_while_a_tool_works_are_answered_after_it(tmp_path: Path) -> None:
    tool = Tool(2.0)
    async with (
        running(
            tmp_path, ears=FakeEars(["look it up", "thanks"]), mind=LOOKS, agent=plain_agent(tool)
        ) as live,
        dial(live.url) as caller,
    ):
        await settled(caller)
        await caller.say(voiced(), 16_000)
        while not tool.calls:
            await asyncio.sleep(0.01)
        since = len(caller.events)
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: "All right." in str(caller.heard(since)), 10)
        assert "I found three. All right." in caller.heard(since)[-1]
        assert tool.calls == 1


async def test_a_tool_at_work_ends_before_its_call_is_closed(tmp_path: Path) -> None:
    tool = Tool(1.0)
    async with running(tmp_path, mind=LOOKS, agent=plain_agent(tool)) as live:
        async with dial(live.url) as caller:
            await settled(caller)
            await caller.type("look it up")
            while not tool.calls:
                await asyncio.sleep(0.01)
        while live.server.sessions:
            await asyncio.sleep(0.02)
        assert (tool.done, tool.closed) == (1, 1)


async def test_a_tool_that_outlasts_its_call_leaves_no_log_open(tmp_path: Path) -> None:
    tool = Tool(1.0)
    tool.close = lambda: None  # type: ignore[method-assign]
    async with running(tmp_path, mind=LOOKS, agent=plain_agent(tool), tool_timeout=0.3) as live:
        async with dial(live.url) as caller:
            await settled(caller)
            await caller.type("look it up")
            while not tool.calls:
                await asyncio.sleep(0.01)
        while live.server.sessions or not tool.done:
            await asyncio.sleep(0.02)
        while '"type": "tool"' not in log_of(tmp_path).read_text():
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        assert log_of(tmp_path) not in held_open()


async def test_words_taken_back_by_typing_do_not_return(tmp_path: Path) -> None:
    async with (
        running(tmp_path, ears=FakeEars(["book monday", "yes"], delay=SLOW_EARS)) as live,
        dial(live.url) as caller,
    ):
        await settled(caller)
        await caller.say(voiced(), 16_000)
        await asyncio.sleep(SLOW_EARS - 0.05)
        since = len(caller.events)
        await caller.type("never mind")
        await settled(caller, since)
        since = len(caller.events)
        await caller.say(voiced(), 16_000)
        await settled(caller, since)
        said = [
            event["text"]
            for _, event in caller.events
            if event.get("role") == "user" and event["final"]
        ]
        assert said == ["never mind", "yes"]


async def test_words_of_a_cancelled_answer_are_answered_with_the_next(tmp_path: Path) -> None:
    async with (
        running(tmp_path, ears=FakeEars(["on monday", "at ten"], delay=SLOW_EARS)) as live,
        dial(live.url) as caller,
    ):
        await settled(caller)
        await caller.say(voiced(), 16_000)
        await asyncio.sleep(0.45)  # the turn was taken to be over, its words are not final
        since = len(caller.events)
        await caller.say(voiced(), 16_000)
        await settled(caller, since)
        (session,) = live.server.sessions.values()
        assert Message("user", "on monday at ten") in session.context.items()


class Half(FakeMind):
    """Fails after its first sentence."""

    def open(self, items: Any, tools: Any) -> Any:
        thread = super().open(items, tools)
        whole = thread.generate

        async def half(
            params: Params, deadline: float
        ) -> AsyncGenerator[Text | Call | Usage, None]:
            async for piece in whole(params, deadline):
                yield piece  # type: ignore[misc]
            raise EngineError("out of memory")

        thread.generate = half  # type: ignore[method-assign, assignment]
        return thread


async def test_a_failed_reply_is_not_taken_up_again(tmp_path: Path) -> None:
    async with (
        running(
            tmp_path,
            ears=FakeEars(["hello", ""]),
            mind=Half("Alpha bravo charlie. Delta echo. "),
            mouth=FakeMouth(word=0.3),
        ) as live,
        dial(live.url) as caller,
    ):
        await settled(caller)
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: "Something went wrong." in caller.heard(), 8)
        since = len(caller.events)
        await cough(caller)
        await asyncio.sleep(1.5)
        assert caller.heard(since) == []


async def test_a_model_that_answers_nothing_is_apologised_for(tmp_path: Path) -> None:
    async with running(tmp_path, mind=FakeMind("")) as live, dial(live.url) as caller:
        await settled(caller)
        since = len(caller.events)
        await caller.type("hello")
        assert await settled(caller, since) == ["Something went wrong."]


async def test_a_partial_caption_of_a_noise_is_taken_back(tmp_path: Path) -> None:
    class Unsure(FakeEars):
        """Shows a word and then takes it back."""

        def open(self, listening: Any) -> Any:
            stream = super().open(listening)

            async def nothing(deadline: float) -> Any:
                return Hypothesis(confidence=0.0)

            stream.settle = nothing  # type: ignore[method-assign]
            return stream

    async with running(tmp_path, ears=Unsure(["hm"])) as live, dial(live.url) as caller:
        await settled(caller)
        await cough(caller)
        assert await caller.until(
            lambda: any(
                event.get("role") == "user" and event["final"] and event["text"] == ""
                for _, event in caller.events
            ),
            5,
        )


async def test_no_text_stops_the_log_of_other_calls(tmp_path: Path) -> None:
    async with running(tmp_path) as live:
        async with dial(live.url) as caller:
            await settled(caller)
            since = len(caller.events)
            await caller.socket.send('{"type": "text", "text": "hi \\ud800 there"}')
            await settled(caller, since)
        async with dial(live.url) as caller:
            await settled(caller)
    logs = [file.read_text() for file in (tmp_path / "calls").iterdir()]
    assert len(logs) == 2
    assert all('"type": "end"' in log for log in logs)


async def test_typing_without_end_is_slowed_down(tmp_path: Path) -> None:
    mind = FakeMind()
    async with running(tmp_path, mind=mind) as live, dial(live.url) as caller:
        await settled(caller)
        for _ in range(200):
            await caller.type("x" * 2000)
        assert await caller.until(
            lambda: any(event.get("code") == "too_fast" for _, event in caller.events), 5
        )
        await asyncio.sleep(0.5)
        assert len(mind.prompts) <= 3
        assert max(len(str(prompt)) for prompt in mind.prompts) < 6000


async def test_empty_audio_is_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as live, dial(live.url) as caller:
        await settled(caller)
        (session,) = live.server.sessions.values()
        before = session._ears._recent_samples
        for _ in range(500):
            await caller.socket.send(b"")
        await asyncio.sleep(0.2)
        assert len(session._ears._recent) < 200
        assert before <= 32_000


async def test_a_server_that_stops_says_so_to_its_callers(tmp_path: Path) -> None:
    reasons = []
    async with running(tmp_path) as live:
        socket = await connect(f"{live.url.replace('http', 'ws')}/v1/stream")
        await socket.recv()
    try:
        async for message in socket:
            if isinstance(message, str) and json.loads(message)["type"] == "end":
                reasons.append(json.loads(message)["reason"])
    except ConnectionClosed:
        pass
    assert reasons == ["shutdown"]


class Adapted(FakeMind):
    """A mind that notes which adapter is asked for."""

    def __init__(self) -> None:
        super().__init__("Good morning to you.")
        self.adapters: list[str] = []

    def open(self, items: Any, tools: Any) -> Any:
        thread = super().open(items, tools)
        generate = thread.generate

        def noting(params: Params, deadline: float) -> Any:
            self.adapters.append(params.adapter)
            return generate(params, deadline)

        thread.generate = noting  # type: ignore[method-assign]
        return thread


async def test_an_agent_answers_with_its_own_adapter(tmp_path: Path) -> None:
    mind = Adapted()
    agent = replace(plain_agent(), adapter="bank")
    async with running(tmp_path, mind=mind, agent=agent) as live, dial(live.url) as caller:
        await settled(caller, 0)
        await caller.type("hello")
        assert await caller.until(lambda: len(caller.heard()) == 2, 10)
    assert set(mind.adapters) == {"bank"}
