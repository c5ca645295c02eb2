"""A whole call through real engines: Whisper, vLLM and VITS, each in a process of its own.

Over WebRTC, with a real peer. Whisper and VITS have random weights, so the caller's sound becomes
nonsense and the agent's is a hiss; vLLM has the front desk's own model, and what is typed to it
must be answered as CTranslate2 and transformers answer it.
"""

import asyncio
import json
import os
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from demos.frontdesk.call import DeskCall
from demos.frontdesk.desk import Desk
from demos.frontdesk.evaluate import MODEL, Answered, ask, before
from demos.frontdesk.language import Moment
from llm.ctranslate import CTranslate
from llm.engine import Message
from transport.line import Pcm
from voice import agent, naive
from voice.session import TYPING
from voice.settings import TurnSettings
from voice.turn import Floor

import webrtc_client
from helpers import Running, running
from speech import say
from webrtc_client import Caller

if missing := [name for name in ("torch", "transformers", "vllm", "TTS") if not find_spec(name)]:
    pytest.skip(f"not installed: {', '.join(missing)}", allow_module_level=True)

ROOT = Path(__file__).parent.parent.parent
NOW = datetime(2026, 11, 23, 8, 0)
"""The clinic's time: what is free must not depend on when the tests run."""

TURN = TurnSettings(shortest_wait=0.5, longest_wait=0.5, idle=600.0, longest_stall=60.0)
"""Patience: two cores run three models and both ends of the call."""

AUDIBLE = 0.008
"""Peak of a packet from which it is heard (-42 dBFS); random weights hiss in bursts."""

pytestmark = pytest.mark.timeout(600)

LONG = "what are your opening hours"
"""A question whose answer takes some seconds to say."""

QUESTIONS = (
    "i'd like to book an appointment please",
    "i need to cancel my appointment",
    "when are you open on friday",
    "i'd like to speak to a person",
)


@pytest.fixture
async def clean() -> AsyncIterator[None]:
    """Nothing may be left behind: no task and no process."""
    tasks, processes = asyncio.all_tasks(), children()
    yield
    for _ in range(200):
        left = {task for task in asyncio.all_tasks() - tasks if not task.done()}
        left.discard(asyncio.current_task())  # type: ignore[arg-type]
        if not left and children() <= processes:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"still there: {left}, processes {children() - processes}")


def children() -> set[int]:
    """Return this process's children and theirs."""
    found: set[int] = set()
    family = [os.getpid()]
    while family:
        for task in Path(f"/proc/{family.pop()}/task").glob("*/children"):
            for child in map(int, task.read_text().split()):
                found.add(child)
                family.append(child)
    return found


@asynccontextmanager
async def front_desk(data: Path, whisper: Path, vits: Path) -> AsyncIterator[Running]:
    """A server of the front desk with all three engines, live."""
    desk = Desk(data / "frontdesk.sqlite", lambda: NOW)
    async with running(
        data,
        agent=replace(agent.load(ROOT / "demos/frontdesk", data), open=lambda: DeskCall(desk)),
        asr=f"whisper:{whisper}",
        llm=f"vllm:{MODEL}",
        tts=f"coqui:{vits}",
        turn=TURN,
    ) as live:
        yield live


@asynccontextmanager
async def calling(live: Running) -> AsyncIterator[Caller]:
    """Call by WebRTC."""
    async with httpx.AsyncClient(base_url=live.url) as http:

        async def post(offer: str) -> str:
            headers = {"Content-Type": "application/sdp"}
            return (await http.post("/v1/webrtc", content=offer, headers=headers)).text

        async with webrtc_client.connect(post, timeout=30) as caller:
            yield caller


async def line(caller: Caller, since: int = 0) -> dict[str, Any]:
    """Wait for the agent's first line after `since` events, said or cut off."""

    def lines() -> list[dict[str, Any]]:
        captions = [e for e in caller.events[since:] if e["type"] == "captions"]
        return [e for e in captions if e["role"] == "agent" and e["final"] and e["text"]]

    await caller.until(lambda: bool(lines()), 90)
    return lines()[0]


async def quiet(live: Running) -> None:
    """Wait until nobody has had the floor for a second: all answers have been given."""
    (session,) = live.server.sessions.values()
    still = 0
    async with asyncio.timeout(90):
        while still < 20:
            await asyncio.sleep(0.05)
            still = still + 1 if session._turn.floor is Floor.NOBODY else 0


async def begins(caller: Caller, since: int) -> None:
    """Wait until two words of a line that came after `since` events have been said."""

    def begun() -> bool:
        captions = [e for e in caller.events[since:] if e["type"] == "captions"]
        agents = [e for e in captions if e["role"] == "agent" and not e["final"]]
        return any(len(event["text"].split()) >= 2 for event in agents)

    await caller.until(begun, 90)


async def sound(caller: Caller, since: int) -> None:
    """Wait until the agent is audible in three packets of what was heard after `since` chunks."""

    def loud() -> bool:
        chunks = [pcm for _, pcm in caller.chunks[since:]]
        return sum(float(np.abs(pcm).max(initial=0)) > AUDIBLE for pcm in chunks) >= 3

    await caller.until(loud, 90)


def from_file(path: Path, text: str) -> Pcm:
    """Write speech to a WAV file, as a caller would have it, and read that."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(webrtc_client.RATE)
        file.writeframes((say(text) * 32767).astype("<i2").tobytes())
    with wave.open(str(path)) as file:
        raw = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return raw.astype(np.float32) / 32768


def noted(data: Path, kind: str) -> list[dict[str, Any]]:
    """Return the events of a type in the only call's log."""
    (file,) = (data / "calls").glob("*.jsonl")
    events = [json.loads(entry) for entry in file.read_text().splitlines()]
    return [event for event in events if event["type"] == kind]


async def answers(mind: Any) -> list[Answered]:
    """Return what a language model makes of `QUESTIONS`."""
    return [await ask(mind, [*before(Moment()), Message("user", said)]) for said in QUESTIONS]


@pytest.mark.slow
async def test_a_call_through_whisper_vllm_and_vits(
    tmp_path: Path, clean: None, weights: Callable[[str, str], Path]
) -> None:
    async with front_desk(tmp_path, weights("whisper", "tiny"), weights("vits", "tiny")) as live:
        async with calling(live) as caller:
            # The agent greets: VITS is heard.
            await sound(caller, 0)
            assert (await line(caller))["text"].startswith("Lakeside Clinic")

            # The caller's sound becomes final words, whatever they are, and is answered.
            heard, since = len(caller.chunks), len(caller.events)
            caller.send(from_file(tmp_path / "caller.wav", "what are your opening hours"))
            await caller.said()
            await line(caller, since)
            await sound(caller, heard)
            assert noted(tmp_path, "heard")
            await quiet(live)  # nonsense may be more than one turn

            # What is typed is understood by vLLM and answered aloud.
            heard, since = len(caller.chunks), len(caller.events)
            caller.tell({"type": "text", "text": QUESTIONS[0]})
            assert "day" in (await line(caller, since))["text"]
            await sound(caller, heard)
            assert noted(tmp_path, "tool")
            await quiet(live)

            # Something else is typed into an answer: it ends there, and the next one comes.
            since = len(caller.events)
            caller.tell({"type": "text", "text": LONG})
            await begins(caller, since)
            await asyncio.sleep(TYPING)  # sooner is refused
            since = len(caller.events)
            caller.tell({"type": "text", "text": LONG})
            cut = await line(caller, since)
            assert cut.get("interrupted"), cut

            # The caller speaks into that one, and its sound stops at once.
            await begins(caller, since)
            since = len(caller.events)
            caller.send(from_file(tmp_path / "stop.wav", "wait stop i have another question"))
            await caller.until(
                lambda: any(event["type"] == "clear" for event in caller.events[since:]), 30
            )

        # The same answers by three ways to run one model.
        by_vllm = await answers(live.server.mind)
        by_ctranslate = CTranslate(MODEL, cache=tmp_path / "converted")
        for other in (by_ctranslate, naive.Transformers(MODEL)):
            await other.start()
            assert await answers(other) == by_vllm
            await other.stop()
        assert any(answer.tool for answer in by_vllm)
    assert not live.server.sessions
