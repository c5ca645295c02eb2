"""Real engines in processes of their own: what they do there is what they do here."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm.ctranslate import CTranslate
from llm.engine import Message, Params, ToolSpec
from tts.espeak import Espeak
from voice.client import dial
from voice.engine_ears import RemoteEars
from voice.engine_mind import RemoteMind
from voice.engine_mouth import RemoteMouth
from voice.engine_process import EngineProcess
from voice.engine_wire import Make
from voice.server import BusyError

from helpers import running, voiced

MODEL = Path(__file__).parent.parent / "demos" / "frontdesk" / "model"


def speech() -> EngineProcess:
    ears = Make("asr.fake:Fake", (), {"always": "what are your opening hours"})
    return EngineProcess("speech", {"ears": ears, "mouth": Make("tts.espeak:Espeak")})


async def spoken(mouth: Any) -> tuple[list[str], int, list[tuple[int, int]]]:
    """Return the words, samples and word times of a speech."""

    async def phrases() -> AsyncIterator[str]:
        yield "Good morning."
        yield "We are open from nine to five."

    words, samples = [], 0
    async with aclosing(mouth.speak(phrases(), "", time.monotonic())) as chunks:
        async for chunk in chunks:
            words += chunk.words
            samples += len(chunk.pcm)
            assert np.abs(chunk.pcm).max() <= 1.0
    return [w.text for w in words], samples, [(w.start, w.end) for w in words]


async def test_espeak_says_there_what_it_says_here() -> None:
    here, there = Espeak(), RemoteMouth(speech(), "espeak")
    await asyncio.gather(here.start(), there.start())
    try:
        assert (there.rate, there.voices, there.about) == (here.rate, here.voices, here.about)
        words, samples, times = await spoken(there)
        expected, length, edges = await spoken(here)
    finally:
        await asyncio.gather(here.stop(), there.stop())
    assert words == expected
    assert abs(samples - length) < 0.05 * length  # not the same twice, here or there
    assert np.allclose(times, edges, atol=0.05 * length)


async def test_ctranslate_answers_there_what_it_answers_here() -> None:
    process = EngineProcess("mind", {"mind": Make("llm.ctranslate:CTranslate", (MODEL,))})
    minds = CTranslate(MODEL), RemoteMind(process, "mind")
    tools = [ToolSpec("find_slots", "Find.", {"type": "object", "properties": {}})]
    items = [Message("system", "You answer the phone."), Message("user", "book me on")]
    answers = []
    for mind in minds:
        await mind.start()
        thread = mind.open(items, tools)
        thread.append("monday")
        answers.append([piece async for piece in thread.generate(Params(), time.monotonic())])
        thread.close()
        await mind.stop()
    assert answers[0] == answers[1]
    assert len(answers[0]) > 1


@pytest.mark.parametrize("who", ["speech", "mind"])
async def test_a_call_goes_on_when_its_engines_were_killed(tmp_path: Path, who: str) -> None:
    processes = {
        "speech": speech(),
        "mind": EngineProcess("mind", {"mind": Make("llm.fake:Fake", ("Good morning to you.",))}),
    }
    async with (
        running(
            tmp_path,
            ears=RemoteEars(processes["speech"], "fake"),
            mind=RemoteMind(processes["mind"], "fake"),
            mouth=RemoteMouth(processes["speech"], "espeak"),
        ) as live,
        dial(live.url) as caller,
    ):
        assert await caller.until(lambda: caller.heard() == ["Hello there."], 20)
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: len(caller.heard()) == 2, 20)
        old = processes[who].pid
        os.kill(old, signal.SIGKILL)
        async with asyncio.timeout(20):
            while processes[who].pid == old:
                await asyncio.sleep(0.001)
            assert not live.server.ready  # whoever calls now is told to come back
            with pytest.raises(BusyError, match="being loaded"):
                live.server.admit()
            while not live.server.ready:
                await asyncio.sleep(0.02)
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: len(caller.heard()) == 3, 20)
        assert caller.heard() == ["Hello there.", *["Good morning to you."] * 2]


async def test_a_call_whose_mind_is_killed_in_its_reply_is_told_and_goes_on(
    tmp_path: Path,
) -> None:
    answer = "One two three. " * 40
    mind = EngineProcess("mind", {"mind": Make("llm.fake:Fake", (answer, 0.0, 0.05))})
    async with (
        running(tmp_path, mind=RemoteMind(mind, "fake"), mouth=Espeak()) as live,
        dial(live.url) as caller,
    ):
        assert await caller.until(lambda: caller.heard() == ["Hello there."], 20)
        await caller.say(voiced(), 16_000)
        assert await caller.until(
            lambda: any("three" in e.get("text", "") for _, e in caller.events), 20
        )
        os.kill(mind.pid, signal.SIGKILL)
        assert await caller.until(
            lambda: any("Something went wrong." in text for text in caller.heard()), 20
        ), caller.heard()
