"""Records of many calls at once: each is of its own call, and each adds up."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr.engine import Hypothesis, Listening
from asr.fake import Fake as FakeEars
from asr.fake import FakeStream
from llm.engine import Item, Message, ToolSpec
from llm.fake import Fake as FakeMind
from llm.script import tokens
from tts.engine import Chunk
from tts.fake import Fake as FakeMouth
from voice.bench_trace import placed
from voice.callers import SAMPLES, Caller, Plan, Speech, frames, place
from voice.closing import Comparison
from voice.settings import TurnSettings
from voice.understanding import Understanding

from helpers import LINES, plain_agent, running, voiced

CALLS = 6

FIXED = TurnSettings(
    shortest_wait=0.3, longest_wait=0.3, speculations=0, idle=30.0, longest_stall=8.0
)
"""No answer before the decision, so that every stage is on the critical path."""

LANGUAGES = tuple(f"x{letter}" for letter in "abcdef")
VOICES = tuple(f"hum-{letter}" for letter in "abcdef")

HEARING = (0.02, 0.07, 0.12, 0.17, 0.22, 0.27)
THINKING = (0.27, 0.22, 0.17, 0.12, 0.07, 0.02)
SPEAKING = (0.12, 0.27, 0.02, 0.22, 0.07, 0.17)
"""What each call's engines take: whoever has another call's record is too fast somewhere."""

SILENT_LINES = replace(LINES, greeting="")
"""The caller begins."""

SILENT = Speech(frames(np.zeros(SAMPLES, np.float32)))


def answer(number: int) -> str:
    """Return what the call of this number is told, a word longer than the one before."""
    return " ".join(["well", *["so"] * number, "yes."])


class Ears(FakeEars):
    """Hear every language at its own pace: "number 3" for the fourth."""

    def __init__(self) -> None:
        super().__init__()
        self._own = {
            language: FakeEars(always=f"number {number}", delay=HEARING[number])
            for number, language in enumerate(LANGUAGES)
        }

    def open(self, listening: Listening) -> FakeStream:
        return self._own[listening.language].open(listening)


class Mind(FakeMind):
    """Answer every number at its own pace, in as many words."""

    def __init__(self) -> None:
        super().__init__()
        self._own = [
            FakeMind(answer(number), first=seconds) for number, seconds in enumerate(THINKING)
        ]

    def open(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> Any:
        asked = items[-1]
        assert isinstance(asked, Message)
        return self._own[int(asked.text.split()[-1])].open(items, tools)


class Mouth(FakeMouth):
    """Speak with every voice at its own pace."""

    voices = VOICES

    async def speak(
        self, phrases: AsyncIterator[str], voice: str, deadline: float
    ) -> AsyncGenerator[Chunk, None]:
        own = FakeMouth(word=0.1, first=SPEAKING[VOICES.index(voice)])
        async for chunk in own.speak(phrases, "", deadline):
            yield chunk


def plan(turns: int, **more: Any) -> Plan:
    """Return what callers do: they say "la", in whole packets."""
    ((pcm, after),) = placed([voiced(0.6)], 16_000, SAMPLES)
    return Plan(
        speech=[Speech(frames(pcm), after)],
        silence=SILENT.frames,
        turns=turns,
        period=0,
        pause=0.15,
        **more,
    )


async def hold(port: int, plan: Plan, count: int, path: str) -> list[Caller]:
    """Hold calls at once until all have had their turns."""
    callers = [
        await place(
            "127.0.0.1",
            port,
            plan,
            0.09 * number,
            number,
            path=path.format(language=LANGUAGES[number], voice=VOICES[number]),
            stamped=True,
            heed=lambda caller, event: None,
        )
        for number in range(count)
    ]
    async with asyncio.timeout(60):
        await asyncio.gather(*(caller.done for caller in callers))
    for caller in callers:
        caller.hang_up()
    await asyncio.sleep(0.3)
    assert [caller.lost for caller in callers] == [""] * count
    return callers


def records(data: Path, call: str) -> list[Mapping[str, Any]]:
    lines = (data / "calls" / f"{call}.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == "trace"]


def off(record: Mapping[str, Any]) -> float:
    """Return by how much a record's stages miss its total."""
    return abs(sum(record["stages"].values()) - record["total"])


async def test_no_record_mixes_two_calls(tmp_path: Path) -> None:
    async with running(
        tmp_path,
        ears=Ears(),
        mind=Mind(),
        mouth=Mouth(),
        agent=plain_agent(lines=SILENT_LINES),
        turn=FIXED,
        voice=VOICES[0],
    ) as live:
        callers = await hold(
            live.port, plan(3), CALLS, "/v1/stream?rate=16000&language={language}&voice={voice}"
        )
    assert len({caller.name for caller in callers}) == CALLS
    for number, caller in enumerate(callers):
        own = records(tmp_path, caller.name)
        assert len(own) >= 3
        for record in own[:3]:
            assert record["call"] == caller.name
            assert record["llm"]["tokens"] == len(tokens(answer(number)))
            assert record["stages"]["asr"] > HEARING[number] - 0.001
            assert record["stages"]["llm"] > THINKING[number] - 0.001
            assert record["stages"]["tts"] > SPEAKING[number] - 0.001
            assert off(record) < 1e-6
        turns = [record["turn"] for record in own]
        assert turns == sorted(set(turns))


@pytest.mark.parametrize("delay", [0.0, 0.03])
async def test_a_delay_that_no_stage_knows_is_unattributed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delay: float
) -> None:
    judge = Understanding.judge

    def slow(*given: Any) -> Any:
        time.sleep(delay)  # between the final words and the model
        return judge(*given)

    monkeypatch.setattr(Understanding, "judge", slow)
    async with running(
        tmp_path,
        ears=FakeEars(always="number 1", delay=0.02),
        mouth=FakeMouth(word=0.1),
        agent=plain_agent(lines=SILENT_LINES),
        turn=FIXED,
    ) as live:
        (caller,) = await hold(live.port, plan(3), 1, "/v1/stream?rate=16000")
    unattributed = [record["stages"]["unattributed"] for record in records(tmp_path, caller.name)]
    assert len(unattributed) >= 3
    if delay:
        assert min(unattributed) > delay - 0.001
    else:
        assert min(unattributed) < 0.03


class Wavering(FakeEars):
    """Hear something else whenever they are asked."""

    def open(self, listening: Listening) -> FakeStream:
        super().open(listening)
        return WaveringStream(self)


class WaveringStream(FakeStream):
    """One utterance."""

    asked = 0

    def __init__(self, engine: FakeEars) -> None:
        super().__init__(engine, "", 1.0, False)

    async def settle(self, deadline: float) -> Hypothesis:
        WaveringStream.asked += 1
        self._text = f"number {WaveringStream.asked // 2}"  # now and then the same
        return await super().settle(deadline)


async def test_records_add_up_whatever_becomes_of_an_answer(tmp_path: Path) -> None:
    patient = TurnSettings(shortest_wait=0.5, longest_wait=0.5, idle=30.0, longest_stall=8.0)
    pcm = np.concatenate([voiced(0.6), np.zeros(5_000, np.float32), voiced(0.6)])
    ((paused, after),) = placed([pcm], 16_000, SAMPLES)
    usual = plan(6, interrupt=3, barge_after=0.3)
    mixed = Plan(
        speech=[*usual.speech, Speech(frames(paused), after)],
        silence=usual.silence,
        turns=usual.turns,
        period=0,
        interrupt=3,
        barge_after=0.3,
        pause=0.15,
    )
    async with running(
        tmp_path,
        ears=Wavering(delay=0.02),
        mind=FakeMind("one two three four five six seven eight.", first=0.02, interval=0.005),
        mouth=FakeMouth(word=0.12, first=0.02),
        agent=plain_agent(lines=SILENT_LINES),
        turn=patient,
    ) as live:
        live.server.load.note = lambda *_: None  # type: ignore[method-assign]
        callers = await hold(live.port, mixed, CALLS, "/v1/stream?rate=16000")
    every = [record for caller in callers for record in records(tmp_path, caller.name)]
    answered = [record for record in every if record["total"] is not None]
    assert len(answered) >= 27
    assert max(map(off, answered)) < 1e-6
    assert {"interrupted", "played"} <= {record["outcome"] for record in every}
    assert sum(record["speculations"]["dropped"] for record in every) > 0
    comparison = Comparison()
    for caller in callers:
        comparison.add(caller.turns[:-1], records(tmp_path, caller.name))
    assert len(comparison.held) >= 23
    began = sorted(abs(held.began) for held in comparison.held)
    assert began[len(began) // 2] < 0.005  # both found the same last sample
