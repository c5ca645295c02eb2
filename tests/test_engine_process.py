"""Engines in processes of their own, which are killed, stopped and overloaded."""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asr.engine
import llm.engine
import tts.engine
from asr.engine import Hypothesis, Listening
from llm.engine import Message, Params, Text, ToolCall, ToolResult, ToolSpec, Usage
from voice import engine_process
from voice.engine_ears import RemoteEars, RemoteStream
from voice.engine_mind import RemoteMind
from voice.engine_mouth import RemoteMouth
from voice.engine_process import EngineProcess, StartError
from voice.engine_wire import CHUNKS_AHEAD, PIECES_AHEAD, Make
from voice.prefill import Prefill

import unruly

TESTS = Path(__file__).parent
FRAME = np.zeros(320, np.float32)
SOON = 20.0
"""Seconds that nothing here takes but on a machine that is very busy."""


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the child find the engines of these tests."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS))


@dataclass
class Crew:
    """Three engines in one process."""

    process: EngineProcess
    ears: RemoteEars
    mind: RemoteMind
    mouth: RemoteMouth

    async def start(self) -> None:
        await asyncio.gather(self.ears.start(), self.mind.start(), self.mouth.start())

    async def stop(self) -> None:
        await asyncio.gather(self.ears.stop(), self.mind.stop(), self.mouth.stop())

    async def ask(self, text: str) -> str:
        """Return what the mind says to `text`."""
        return "".join([p.text async for p in self.answer(text) if isinstance(p, Text)])

    async def answer(self, text: str) -> AsyncGenerator[Any, None]:
        thread = self.mind.open([Message("user", text)], [])
        try:
            async with aclosing(thread.generate(Params(), time.monotonic())) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            thread.close()

    async def counts(self) -> dict[str, int]:
        """Return what the engines have counted."""
        counted: dict[str, int] = json.loads(await self.ask("counts"))
        return {"generating": 0, "threads": 0, **counted}

    async def until(self, **wanted: int) -> None:
        """Wait until the engines have counted this; the question counts as one answer."""
        async with asyncio.timeout(SOON):
            while True:
                counted = await self.counts()
                if all(counted.get(name, 0) == count for name, count in wanted.items()):
                    return
                await asyncio.sleep(0.02)

    async def restarted(self, old: int) -> None:
        """Wait until another process than `old` runs."""
        async with asyncio.timeout(SOON):
            while self.process.pid in (0, old):
                await asyncio.sleep(0.02)


def crew_of(ears: Make | None = None, mind: Make | None = None, **options: Any) -> Crew:
    process = EngineProcess(
        "unruly",
        {
            "ears": ears or Make("unruly:Ears"),
            "mind": mind or Make("unruly:Mind"),
            "mouth": Make("unruly:Mouth"),
        },
        **options,
    )
    return Crew(
        process,
        RemoteEars(process, "unruly ears"),
        RemoteMind(process, "unruly mind"),
        RemoteMouth(process, "unruly mouth"),
    )


@pytest.fixture
async def crew() -> AsyncIterator[Crew]:
    crew = crew_of()
    await crew.start()
    yield crew
    await crew.stop()


async def said(*phrases: str) -> AsyncIterator[str]:
    for phrase in phrases:
        yield phrase


async def audible(mouth: RemoteMouth, *phrases: str) -> list[str]:
    """Return the words of a speech."""
    async with aclosing(mouth.speak(said(*phrases), "", 0.0)) as chunks:
        return [word.text async for chunk in chunks for word in chunk.words]


def gone(pid: int) -> bool:
    """Whether no such process runs."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def children() -> list[int]:
    """Return the processes that this one has started and that run."""
    return [*map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())]


async def eventually(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not check():
            await asyncio.sleep(0.02)


# What the engines do, seen from here.


async def test_engines_are_known_once_they_have_started() -> None:
    crew = crew_of()
    assert (crew.mouth.rate, crew.mouth.voices) == (0, ())
    assert "not loaded" in crew.ears.about
    await crew.start()
    try:
        assert crew.ears.about == "They hear how much they heard."
        assert (crew.mouth.rate, crew.mouth.voices) == (16_000, ("one", "two"))
        assert crew.mind.prefills
    finally:
        await crew.stop()


async def test_ears_and_mouth_share_a_device() -> None:
    crew = crew_of(turns=Make("unruly:Turns"))
    await crew.start()
    try:
        assert crew.ears.about == crew.mouth.about
        assert "share device" in crew.ears.about
    finally:
        await crew.stop()


async def test_the_device_is_kept_for_a_first_token() -> None:
    crew = crew_of(turns=Make("unruly:Turns"))
    await crew.start()
    try:
        beside = RemoteMind(crew.process, "beside", beside=crew.process)
        thread = beside.open([Message("user", "hang")], [])
        thinking = asyncio.create_task(anext(thread.generate(Params(), 0.0)))
        await crew.until(reserved=1)
        thinking.cancel()
        await asyncio.wait([thinking])
        await crew.until(reserved=0)
        thread = beside.open([Message("user", "endless")], [])
        async with aclosing(thread.generate(Params(), 0.0)) as pieces:
            await anext(pieces)
            await crew.until(reserved=0, generating=2)
    finally:
        await crew.stop()


async def test_an_utterance_is_heard_as_it_is_spoken(crew: Crew) -> None:
    stream = crew.ears.open(Listening(language="de"))
    hypotheses = stream.hypotheses()
    stream.push(FRAME)
    assert await anext(hypotheses) == Hypothesis(tentative="1 pushes", end=320)
    stream.push(FRAME)
    stream.push(FRAME[:100])
    while (await anext(hypotheses)).tentative != "3 pushes":
        pass
    settled = await stream.settle(time.monotonic())
    assert (settled.text, settled.end) == ("740 de", 740)
    assert settled.committed[0] == asr.engine.Word("740", 0.0, 0.5, 0.9)
    stream.push(FRAME)
    final = await stream.finish(time.monotonic())
    assert final.text == "1060 de"
    assert await stream.finish(0.0) is final
    assert [shown.text async for shown in hypotheses][-1] == "1060 de"
    stream.close()
    await crew.until(streams=0)


async def test_an_answer_goes_there_and_back_whole(crew: Crew) -> None:
    items = [
        Message("system", "be brief"),
        ToolCall("c0", "look", {"at": "Ü"}),
        ToolResult("c0", "look", {"found": [1, None]}),
        Message("user", ""),
    ]
    tools = [ToolSpec("book", "Book it.", {"type": "object", "properties": {}})]
    thread = crew.mind.open(items, tools)
    thread.append("everything")
    deadline = time.monotonic()
    params = Params(max_tokens=9, temperature=0.5)
    text, *rest = [piece async for piece in thread.generate(params, deadline)]
    assert text == Text(repr((items, tools, params, deadline)))
    assert rest == [
        ToolCall("c1", "book", {"day": "monday", "hours": [9, 10]}),
        Usage(prompt=3, cached=1, completion=2),
    ]
    thread.close()
    assert [piece async for piece in thread.generate(params, deadline)] == []
    await crew.until(generating=1, threads=1)  # the question itself


async def test_phrases_are_said_as_they_come(crew: Crew) -> None:
    told: asyncio.Queue[str | None] = asyncio.Queue()

    async def phrases() -> AsyncIterator[str]:
        while (phrase := await told.get()) is not None:
            yield phrase

    async with aclosing(crew.mouth.speak(phrases(), "two", time.monotonic())) as chunks:
        told.put_nowait("well then")
        first = await anext(chunks)
        assert first.words == (tts.engine.Word("well", 0, 4),)
        assert first.pcm.tolist() == [0.5] * 4
        first.pcm[:] = 0.0
        assert (await anext(chunks)).words[0].text == "then"
        told.put_nowait("yes")
        assert (await anext(chunks)).words == (tts.engine.Word("yes", 8, 11),)
        told.put_nowait(None)
        assert [chunk async for chunk in chunks] == []


async def test_a_phrase_is_taken_only_when_the_mouth_wants_it(crew: Crew) -> None:
    asked = 0

    async def phrases() -> AsyncIterator[str]:
        nonlocal asked
        for phrase in ("endless", "never"):
            asked += 1
            yield phrase

    async with aclosing(crew.mouth.speak(phrases(), "", 0.0)) as chunks:
        for _ in range(20):
            await anext(chunks)
        assert asked == 1


async def test_what_breaks_the_phrases_comes_after_what_they_said(crew: Crew) -> None:
    async def phrases() -> AsyncIterator[str]:
        yield "one two three four five six"
        raise llm.engine.EngineError("the model is gone")

    heard = []
    with pytest.raises(llm.engine.EngineError, match="the model is gone"):
        async for chunk in crew.mouth.speak(phrases(), "", 0.0):
            heard += [word.text for word in chunk.words]
    assert heard == ["one", "two", "three", "four", "five", "six"]
    await crew.until(speaking=0)


# What is stopped here stops there.


async def test_a_closed_utterance_is_closed_there(crew: Crew) -> None:
    streams = [crew.ears.open(Listening()) for _ in range(3)]
    await crew.until(streams=3)
    streams[0].push(FRAME)
    asking = asyncio.create_task(streams[0].finish(0.0))
    await asyncio.sleep(0)
    for stream in streams:
        stream.close()
        stream.close()
    with pytest.raises(asr.engine.EngineError, match="was closed"):
        await asking
    with pytest.raises(asr.engine.EngineError, match="was closed"):
        await streams[1].settle(0.0)
    await crew.until(streams=0)


async def test_a_question_nobody_waits_for_is_taken_back(crew: Crew) -> None:
    stream = crew.ears.open(Listening(expects="slow"))
    asking = asyncio.create_task(stream.settle(time.monotonic()))
    await crew.until(settling=1)
    asking.cancel()
    await crew.until(settling=0)
    assert crew.process.works.keys() != set()  # the utterance goes on
    stream.close()
    await crew.until(streams=0)
    assert crew.process.works == {}


async def test_a_closed_generation_stops_the_model(crew: Crew) -> None:
    async with aclosing(crew.answer("endless")) as pieces:
        for _ in range(3 * PIECES_AHEAD):
            assert (await anext(pieces)).text == "x"
        await crew.until(generating=2)
    await crew.until(generating=1, threads=1)
    assert crew.process.works == {}


async def test_a_cancelled_reply_stops_mind_and_mouth(crew: Crew) -> None:
    async def reply() -> None:
        async def phrases() -> AsyncIterator[str]:
            yield "endless"

        async with aclosing(crew.mouth.speak(phrases(), "", 0.0)) as chunks:
            async for _ in chunks:
                await asyncio.sleep(0)

    async def think() -> None:
        async with aclosing(crew.answer("hang")) as pieces:
            async for _ in pieces:
                pass

    replies = [asyncio.create_task(reply()), asyncio.create_task(think())]
    await crew.until(speaking=1, generating=2)
    for task in replies:
        task.cancel()
    await asyncio.wait(replies)
    await crew.until(speaking=0, generating=1)


async def test_nothing_is_made_far_ahead_of_who_takes_it(crew: Crew) -> None:
    async with aclosing(crew.mouth.speak(said("endless"), "", 0.0)) as chunks:
        for taken in range(1, 12):
            await anext(chunks)
            await asyncio.sleep(0.02)
            assert (await crew.counts())["chunks"] <= taken + CHUNKS_AHEAD
    async with aclosing(crew.answer("endless")) as pieces:
        await anext(pieces)
        await asyncio.sleep(0.05)
        assert 1 < (await crew.counts())["pieces"] <= 1 + PIECES_AHEAD


# What fails there fails here, alone and with its own words.


@pytest.mark.parametrize(
    ("expects", "message"),
    [
        ("refuse", "nobody listens"),
        ("break", "ValueError: what is this sound"),
        ("fail", "it broke"),
    ],
)
async def test_an_utterance_that_fails_says_why(crew: Crew, expects: str, message: str) -> None:
    good, bad = crew.ears.open(Listening()), crew.ears.open(Listening(expects=expects))
    bad.push(FRAME)
    good.push(FRAME)
    with pytest.raises(asr.engine.EngineError, match=message):
        await bad.finish(0.0)
    bad.close()
    assert (await good.finish(0.0)).text == "320 en"
    await crew.until(streams=0)


async def test_a_generation_that_fails_says_why_after_what_it_said(crew: Crew) -> None:
    pieces = []
    with pytest.raises(llm.engine.EngineError, match="it lost its thread"):
        async for piece in crew.answer("fail"):
            pieces.append(piece)
    assert pieces == [Text("well")]
    with pytest.raises(llm.engine.EngineError, match="KeyError: 'logits'"):
        await crew.ask("fault")
    with pytest.raises(tts.engine.EngineError, match="no voice 'three'"):
        await anext(crew.mouth.speak(said("hello"), "three", 0.0))
    assert await crew.ask("say all is well") == " all is well"


# What may change while it runs.


@pytest.fixture
async def adjusting() -> AsyncIterator[Crew]:
    crew = crew_of(ears=Make("unruly:Ears", keywords={"options": unruly.Options()}))
    await crew.start()
    yield crew
    await crew.stop()


async def test_a_setting_is_changed_there(adjusting: Crew) -> None:
    assert adjusting.ears.adjustable == ("low", "high")
    assert (adjusting.mind.adjustable, adjusting.mouth.adjustable) == ((), ())
    adjusting.ears.adjust("low", 1.5)
    assert (await adjusting.counts())["low"] == 1500


async def test_a_bad_value_is_never_sent(adjusting: Crew) -> None:
    with pytest.raises(ValueError, match=r"low is 2\.5; expected at most 2\.0"):
        adjusting.ears.adjust("low", 2.5)
    with pytest.raises(ValueError, match=r"cannot change middle while it runs, but low, high"):
        adjusting.ears.adjust("middle", 1.0)
    with pytest.raises(ValueError, match=r"cannot change low while it runs, but nothing"):
        adjusting.mouth.adjust("low", 1.0)
    assert "low" not in await adjusting.counts()


async def test_what_was_changed_stays_so_after_a_death(
    adjusting: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    old = adjusting.process.pid
    adjusting.ears.adjust("low", 1.5)
    adjusting.ears.adjust("high", 4.0)
    adjusting.ears.adjust("low", 3.0)  # which is valid only after "high" was changed
    os.kill(old, signal.SIGKILL)
    await eventually(lambda: adjusting.process.pid == 0)
    adjusting.ears.adjust("high", 3.5)  # while it is not there
    await adjusting.restarted(old)
    counted = await adjusting.counts()
    assert (counted["low"], counted["high"]) == (3000, 3500)
    assert "expected at most" not in caplog.text


async def test_before_it_has_loaded_nothing_can_be_changed() -> None:
    crew = crew_of(ears=Make("unruly:Ears", keywords={"options": unruly.Options()}))
    with pytest.raises(ValueError, match=r"cannot change low while it runs, but nothing"):
        crew.ears.adjust("low", 1.5)


# The process dies.


async def test_a_killed_process_fails_what_it_did_and_is_started_again(
    crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    old = crew.process.pid
    stream = crew.ears.open(Listening(expects="slow"))
    stream.push(FRAME)
    shown = stream.hypotheses()
    await anext(shown)
    finals = [asyncio.create_task(stream.finish(0.0)), asyncio.create_task(stream.settle(0.0))]
    thinking = asyncio.create_task(crew.ask("hang"))
    speech = crew.mouth.speak(said("endless"), "", 0.0)
    await anext(speech)
    await crew.until(settling=2, generating=2)
    os.kill(old, signal.SIGKILL)
    async with asyncio.timeout(SOON):
        for final in finals:
            with pytest.raises(asr.engine.EngineError, match="unruly died"):
                await final
        with pytest.raises(llm.engine.EngineError, match="unruly died"):
            await thinking
        with pytest.raises(tts.engine.EngineError, match="unruly died"):
            async for _ in speech:
                pass
        assert [hypothesis async for hypothesis in shown] == []
    assert crew.process.works == {}
    for asked in (
        crew.ears.open(Listening()).finish(0.0),
        crew.ask("counts"),
        audible(crew.mouth, "hello"),
    ):
        with pytest.raises(RuntimeError, match="unruly is being restarted: ask again"):
            await asked
    await crew.restarted(old)
    assert "was killed by SIGKILL; starting it again" in caplog.text
    again = crew.ears.open(Listening())
    again.push(FRAME)
    assert (await again.finish(0.0)).text == "320 en"
    assert await audible(crew.mouth, "hello you") == ["hello", "you"]
    assert await crew.ask("say hi") == " hi"


@pytest.mark.parametrize("read", ["before the death", "during the restart"])
async def test_what_a_dead_mind_has_read_is_read_again(crew: Crew, read: str) -> None:
    prefill, old = Prefill(crew.mind), crew.process.pid
    if read == "before the death":
        prefill.read([], [], "say")
    os.kill(old, signal.SIGKILL)
    await eventually(lambda: crew.process.pid == 0)
    if read == "during the restart":
        prefill.read([], [], "say")
    await crew.restarted(old)
    thread = prefill.take([Message("user", "say hi")], [])
    assert [piece async for piece in thread.generate(Params(), 0.0)] == [Text(" hi")]
    thread.close()
    assert crew.process.works == {}


async def test_an_engine_that_says_it_has_failed_ends_its_process(crew: Crew) -> None:
    old = crew.process.pid
    with pytest.raises(llm.engine.EngineError, match="unruly mind has failed: CUDA error"):
        await crew.ask("break")
    await crew.restarted(old)
    assert gone(old)
    assert await crew.ask("say better") == " better"


async def test_an_error_after_which_cuda_is_of_no_use_ends_the_process(crew: Crew) -> None:
    old = crew.process.pid
    hearing = asyncio.create_task(crew.ears.open(Listening(expects="slow")).finish(0.0))
    await crew.until(settling=1)
    with pytest.raises(llm.engine.EngineError, match="device-side assert"):
        await crew.ask("poison")
    with pytest.raises(asr.engine.EngineError, match="device-side assert"):
        await hearing
    await crew.restarted(old)
    assert await crew.ask("say better") == " better"


async def test_a_process_that_dies_of_its_work_is_started_again(crew: Crew) -> None:
    for _ in range(2):
        old = crew.process.pid
        with pytest.raises(llm.engine.EngineError, match="unruly died"):
            await crew.ask("die")
        await crew.restarted(old)
    assert await crew.ask("say hi") == " hi"


async def test_what_a_process_started_ends_with_it() -> None:
    crew = crew_of(mind=Make("unruly:Mind", (), {"child": True}))
    await crew.start()
    try:
        first, old = int(await crew.ask("child")), crew.process.pid
        os.kill(old, signal.SIGKILL)
        await eventually(lambda: gone(first))
        await crew.restarted(old)
        second = int(await crew.ask("child"))
    finally:
        await crew.stop()
    assert gone(second)


async def test_what_a_dead_process_started_ends_though_the_server_stops_meanwhile() -> None:
    crew = crew_of(mind=Make("unruly:Mind", (), {"child": True}))
    await crew.start()
    child, old = int(await crew.ask("child")), crew.process.pid
    os.kill(child, signal.SIGSTOP)  # it takes no SIGTERM
    os.kill(old, signal.SIGKILL)
    await eventually(lambda: crew.process.pid == 0)
    await asyncio.sleep(0.1)
    await crew.stop()
    try:
        await eventually(lambda: gone(child))
    finally:
        if not gone(child):
            os.kill(child, signal.SIGKILL)


async def test_a_process_is_stopped_at_any_moment_of_its_death() -> None:
    for since in (0.0, 0.002, 0.01, 0.03):
        crew = crew_of()
        await crew.start()
        os.kill(crew.process.pid, signal.SIGKILL)
        await asyncio.sleep(since)
        async with asyncio.timeout(SOON):
            await crew.stop()
        await eventually(lambda: children() == [])


async def test_a_process_that_hangs_is_started_again(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_process, "BEAT", 0.3)
    await crew.stop()
    await crew.start()
    old = crew.process.pid
    hearing = asyncio.create_task(crew.ears.open(Listening()).finish(0.0))
    assert (await hearing).text == "0 en"
    os.kill(old, signal.SIGSTOP)
    with pytest.raises(llm.engine.EngineError, match="unruly hung: no answer for"):
        async with asyncio.timeout(SOON):
            await crew.ask("say hi")
    await crew.restarted(old)
    assert gone(old)
    assert "hung" in caplog.text
    assert await crew.ask("say better") == " better"


async def test_ctrl_c_is_not_for_engines(crew: Crew, caplog: pytest.LogCaptureFixture) -> None:
    assert os.getpgid(crew.process.pid) != os.getpgid(0)
    os.kill(crew.process.pid, signal.SIGINT)
    assert await crew.ask("say still here") == " still here"
    assert caplog.text == ""


PARENT = """
import asyncio
from voice.engine_mind import RemoteMind
from voice.engine_process import EngineProcess
from voice.engine_wire import Make
from llm.engine import Message, Params

async def main():
    process = EngineProcess("unruly", {"mind": Make("unruly:Mind", (), {"child": True})})
    mind = RemoteMind(process, "mind")
    await mind.start()
    thread = mind.open([Message("user", "child")], [])
    [child] = [piece.text async for piece in thread.generate(Params(), 0.0)]
    print(process.pid, child, flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


async def test_engines_end_when_their_parent_is_killed() -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS.parent)))}
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, env=env, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    engine, child = map(int, (await parent.stdout.readline()).split())
    assert not gone(engine)
    parent.kill()
    await parent.wait()
    await eventually(lambda: gone(engine) and gone(child))


# The process is overloaded.


async def test_audio_that_is_not_read_fails_its_utterance_and_no_other(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "UNSENT", 1 << 20)
    patient, loud = crew.ears.open(Listening()), crew.ears.open(Listening())
    patient.push(FRAME)
    await crew.until(streams=2)
    os.kill(crew.process.pid, signal.SIGSTOP)
    second = np.zeros(16_000, np.float32)
    for _ in range(40):
        loud.push(second)
        await asyncio.sleep(0)
    with pytest.raises(asr.engine.EngineError, match="does not keep up"):
        await loud.finish(0.0)
    os.kill(crew.process.pid, signal.SIGCONT)
    life = crew.process._life
    assert life is not None
    await eventually(lambda: life.transport.get_write_buffer_size() == 0)
    await crew.until(streams=1)
    assert (await patient.finish(0.0)).text == "320 en"


async def test_sixty_four_calls_at_once(crew: Crew) -> None:
    async def call(number: int) -> tuple[str, str, list[str]]:
        stream: RemoteStream = crew.ears.open(Listening(language="en"))
        for _ in range(20 + number):
            stream.push(FRAME)
            await asyncio.sleep(0)
        final = await stream.finish(0.0)
        text = await crew.ask(f"say you are {number}")
        return final.text, text, await audible(crew.mouth, *text.split())

    calls = await asyncio.gather(*(call(number) for number in range(64)))
    for number, heard in enumerate(calls):
        assert heard[0] == f"{320 * (20 + number)} en"
        assert heard[1] == f" you are {number}"
        assert heard[2] == ["you", "are", f"{number}"]
    await crew.until(streams=0, speaking=0, generating=1, threads=1)
    assert crew.process.works == {}


async def test_two_hundred_barge_ins_leave_nothing(crew: Crew) -> None:
    async def reply(thread: llm.engine.Thread) -> None:
        async def phrases() -> AsyncGenerator[str, None]:
            async with aclosing(thread.generate(Params(), time.monotonic())) as pieces:
                async for piece in pieces:
                    assert isinstance(piece, Text)
                    yield piece.text

        try:
            async with (
                aclosing(phrases()) as words,
                aclosing(crew.mouth.speak(words, "", 0.0)) as chunks,
            ):
                async for _ in chunks:
                    await asyncio.sleep(0)
        finally:
            thread.close()

    async def barge_in(after: float) -> None:
        stream = crew.ears.open(Listening())
        stream.push(FRAME)
        settling = asyncio.create_task(stream.settle(time.monotonic()))
        thread = crew.mind.open([Message("user", "endless")], [])
        replying = asyncio.create_task(reply(thread))
        await asyncio.sleep(after)
        replying.cancel()
        stream.close()
        await asyncio.wait({settling, replying})
        settling.cancelled() or settling.exception()

    for _ in range(20):
        await asyncio.gather(*(barge_in(0.002 * number) for number in range(10)))
    assert crew.process.works == {}
    await crew.until(streams=0, settling=0, speaking=0, generating=1, threads=1)


# It starts, or says why not.


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("fail", "^no such model: fetch it$"),
        ("fault", "RuntimeError: cannot allocate a tensor"),
        ("die", r"(?s)unruly ended with status 3 while it loaded.*the last thing it said"),
        ("hang", "did not load within 3 s: raise engine_start"),
    ],
)
async def test_a_failed_start_says_why(how: str, message: str) -> None:
    within = 3.0 if how == "hang" else 60.0
    crew = crew_of(Make("unruly:Ears", (how,)), start_within=within)
    results = await asyncio.gather(
        crew.ears.start(), crew.mind.start(), crew.mouth.start(), return_exceptions=True
    )
    errors = (asr.engine.EngineError, llm.engine.EngineError, tts.engine.EngineError)
    for result, error in zip(results, errors, strict=True):
        with pytest.raises(error, match=message):
            raise result  # type: ignore[misc]
    await crew.stop()
    assert crew.process.pid == 0


async def test_an_engine_that_is_not_installed_is_named() -> None:
    process = EngineProcess("vllm", {"mind": Make("no_such_package:Vllm")})
    with pytest.raises(StartError, match="No module named 'no_such_package'"):
        await process.start("me")
    await process.stop("me")


async def test_a_start_that_is_given_up_leaves_nothing() -> None:
    crew = crew_of(Make("unruly:Ears", ("hang",)))
    starting = asyncio.create_task(crew.start())
    await eventually(lambda: bool(children()))
    child = children()[-1]
    starting.cancel()
    await asyncio.wait([starting])
    await crew.stop()
    assert gone(child)


async def test_what_libraries_warn_of_is_logged_and_nothing_else(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        crew = crew_of(Make("unruly:Ears", ("talk",)))
        await crew.start()
        await crew.stop()
    logged = [record.getMessage() for record in caplog.records if "engine" in record.name]
    assert logged == [
        "(EngineCore pid=7) WARNING 11-23 [x.py:1] the cache is small",
        "WARNING library: an old file",
    ]
    assert capfd.readouterr() == ("", "")


async def test_the_process_ends_with_its_last_user(crew: Crew) -> None:
    old = crew.process.pid
    await crew.ears.stop()
    await crew.ears.stop()
    assert await crew.ask("say still here") == " still here"
    await asyncio.gather(crew.mind.stop(), crew.mouth.stop())
    assert gone(old)
    with pytest.raises(llm.engine.EngineError, match="unruly was stopped"):
        await crew.ask("counts")


async def test_before_the_start_everything_fails_at_once() -> None:
    crew = crew_of()
    with pytest.raises(asr.engine.EngineError, match="await start"):
        await crew.ears.open(Listening()).finish(0.0)
