"""Whatever happens to a turn that its caller waited for, it leaves one record, and that adds up."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from test_session import Tool

from asr.engine import EngineError as EarsError
from asr.engine import Hypothesis, Listening
from asr.fake import Fake as FakeEars
from asr.fake import FakeStream
from asr.vad import SoundHeard, SoundPassed, SpeechStarted, SpeechStopped
from llm.script import Call, Rule, Script
from tts.engine import Chunk
from tts.engine import EngineError as MouthError
from tts.fake import Fake as FakeMouth
from voice.client import dial
from voice.recording import Recording
from voice.session import Session
from voice.settings import TurnSettings

from helpers import Running, plain_agent, running

HASTY = TurnSettings(
    shortest_wait=0.3,
    longest_wait=0.3,
    speculation_lead=0.3,
    longest_stall=2.0,
    longest_speech=2.0,
    idle=3.0,
)

CALLERS = 8
DOINGS = 20


class MoodyEars(FakeEars):
    """Take their time, each time another, and fail now and then."""

    def __init__(self, random: Random) -> None:
        super().__init__(["look it up", "so on", "", "hello", "mhm"] * 100)
        self.random = random

    def open(self, listening: Listening) -> FakeStream:
        self.delay = self.random.choice([0.0, 0.02, 0.1, 0.3])
        stream = super().open(listening)
        settle = stream.settle

        async def moody(deadline: float) -> Hypothesis:
            if self.random.random() < 0.03:
                raise EarsError("deaf")
            return await settle(deadline)

        stream.settle = moody  # type: ignore[method-assign]
        return stream


class MoodyMouth(FakeMouth):
    """Fails at once or later, says nothing that can be heard, or hesitates."""

    def __init__(self, random: Random) -> None:
        super().__init__(character=0.02)
        self.random = random

    async def speak(
        self, phrases: AsyncIterator[str], voice: str, deadline: float
    ) -> AsyncGenerator[Chunk, None]:
        mood, spoken = self.random.random(), 0
        if mood < 0.1:
            raise MouthError("hoarse")
        async for chunk in super().speak(phrases, voice, deadline):
            spoken += 1
            if mood < 0.15 and spoken > 2:
                raise MouthError("cracked")
            if 0.2 < mood < 0.3:
                await asyncio.sleep(0.4 * mood)
            yield Chunk(chunk.pcm * (mood > 0.2), chunk.words)


async def provoke(live: Running, random: Random, known: set[Session]) -> None:
    """Hold a call in which anything may happen at any time."""
    async with dial(live.url) as caller:
        while not (fresh := set(live.server.sessions.values()) - known):
            await asyncio.sleep(0.01)
        session = fresh.pop()
        known.add(session)
        await asyncio.sleep(0.2 + random.random())
        for _ in range(DOINGS):
            if session.ended:
                return
            doing = random.random()
            if doing < 0.8:
                kind = random.choice([SpeechStarted, SpeechStopped] * 2 + [SoundHeard])
                session._noticed(kind(session._ears.samples))
            elif doing < 0.85:
                session._noticed(SoundPassed())
            elif doing < 0.9:
                await caller.type(random.choice(["look it up", "hello"]))
            else:
                turn, late = session._turn.number, random.choice([0, 0.1, -0.1, 1e9])
                await caller.socket.send(json.dumps({"type": "played", "turn": turn, "late": late}))
            await asyncio.sleep(random.choice([0.01, 0.03, 0.07, 0.12, 0.2, 0.4, 0.8]))
        if random.random() < 0.6:
            await caller.hang_up()


def logs(data: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the events of every call, by its name."""
    files = data.glob("calls/*.jsonl")
    return {file.stem: list(map(json.loads, file.read_text().splitlines())) for file in files}


def check(record: dict[str, Any], events: list[dict[str, Any]]) -> None:
    """Check a record on its own, and against what else was told of its turn."""
    own = [event for event in events if event.get("turn") == record["turn"]]
    work = [event for event in own if event["type"] == "work"]
    for name, some in (("worked", work), ("wasted", [w for w in work if w["wasted"]])):
        spent = sum(sum(event["seconds"].values()) for event in some)
        assert record[name] == pytest.approx(spent, abs=0.005), name
    kept = [event["kept"] for event in own if event["type"] == "speculation"]
    told = {"begun": len(kept), "dropped": kept.count(False), "kept": kept.count(True)}
    assert record["speculations"] == told
    total, stages = record["total"], record["stages"]
    assert (total is None) == ([e for e in own if e["type"] == "turn"] == [])
    if total is not None:
        assert sum(stages.values()) == pytest.approx(total)
        assert stages["unattributed"] > -0.001
    else:
        assert record["outcome"] not in ("played", "interrupted")
    assert all(begin <= end for _, begin, end in record["spans"])
    if (barge_in := record["barge_in"]) is not None:
        assert record["outcome"] in ("interrupted", "unheard")
        assert barge_in["heard"] <= barge_in["stopped"]
    ordered = [record["marks"].get(m, 1e9) for m in ("decided", "let_go", "sent", "heard")]
    assert [at for at in ordered if at < 1e9] == sorted(at for at in ordered if at < 1e9)


async def test_every_turn_that_was_waited_for_has_one_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: Counter[tuple[str, int]] = Counter()
    decided = Recording.decided

    def note(recording: Recording, turn: int, due: float, typed: bool) -> None:
        waited[recording.call, turn] += 1
        decided(recording, turn, due, typed)

    monkeypatch.setattr(Recording, "decided", note)
    random, known = Random(5), set[Session]()
    async with running(
        tmp_path,
        ears=MoodyEars(random),
        mind=Script(
            [Rule("^look", Call("look"))], otherwise="All right then. And more.", first=0.05
        ),
        mouth=MoodyMouth(random),
        agent=replace(plain_agent(), open=lambda: Tool(0.5)),
        turn=HASTY,
        tool_timeout=1.5,
    ) as live:
        live.server.load.note = lambda *_: None  # type: ignore[method-assign]
        calls = (provoke(live, random, known) for _ in range(CALLERS))
        await asyncio.gather(*calls, return_exceptions=True)  # some are hung up on
        while live.server.sessions:
            await asyncio.sleep(0.02)
    assert {session.ended for session in known} & {"error"} == set()
    recorded: dict[str, list[int]] = defaultdict(list)
    for call, events in logs(tmp_path).items():
        for record in (event for event in events if event["type"] == "trace"):
            assert record["call"] == call
            recorded[call].append(record["turn"])
            check(record, events)
    assert Counter((c, turn) for c, turns in recorded.items() for turn in turns) == waited
    assert len(waited) >= CALLERS
    for session in known:
        left = session._recording.trace._turns
        assert all(trace.at("speech_end") is None for trace in left.values()), "never written"
