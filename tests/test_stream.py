"""`/v1/stream` on a live server with fake engines: the protocol, and what clients get wrong."""

import asyncio
import json
import re
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from asr.fake import Fake as FakeEars
from llm.engine import ToolSpec
from llm.fake import Fake as FakeMind
from llm.script import Call, Rule, Script
from transport.audio import level_db, to_pcm16
from tts.fake import Fake as FakeMouth
from voice.client import Caller, dial
from voice.tools import Outcome, ToolError

from helpers import NoTools, plain_agent, running, voiced


async def settled(caller: Caller, since: int = 0) -> list[str]:
    """Wait until the agent has said something to its end; return all it said since."""
    assert await caller.until(lambda: bool(caller.heard(since)), 20.0), caller.events
    return caller.heard(since)


def of_type(caller: Caller, kind: str) -> list[dict[str, Any]]:
    return [dict(event) for _, event in caller.events if event["type"] == kind]


async def test_a_call_is_greeted_answered_and_ended(tmp_path: Path) -> None:
    async with running(tmp_path, ears=FakeEars(["what time is it"])) as live:
        async with dial(live.url) as caller:
            assert await settled(caller) == ["Hello there."]
            since = len(caller.events)
            await caller.say(voiced(), 16_000)
            assert await settled(caller, since) == ["Good morning to you."]
            gap = caller.answer_gap()
            await caller.hang_up()
        assert gap is not None
        assert gap > 0.2  # the end-of-turn wait was kept
        said = [event for event in of_type(caller, "captions") if event["role"] == "user"]
        assert said[-1]["text"] == "what time is it"
        assert said[-1]["final"]
        assert {event["turn"] for event in said} == {2}
        (turn,) = of_type(caller, "turn")
        assert turn["turn"] == 2
        assert sum(turn["stages"].values()) == pytest.approx(turn["total"], abs=1e-4)
        waited = sum(turn["stages"].get(name, 0.0) for name in ("framing", "vad", "endpoint"))
        assert waited >= 0.28
        assert of_type(caller, "end") == [{"type": "end", "turn": 2, "reason": "hang_up"}]
        assert of_type(caller, "start")[0]["agent"] == "test desk"
        await asyncio.sleep(0.05)
        assert live.server.sessions == {}


async def test_agent_audio_is_never_more_than_the_lead_ahead(tmp_path: Path) -> None:
    async with running(tmp_path) as live, dial(live.url) as caller:
        await settled(caller)
        start = caller.audio[0][0]
        heard = 0.0
        for at, pcm in caller.audio:
            heard += len(pcm) / 16_000
            assert heard - (at - start) <= 0.06 + 0.02 + 0.01  # lead, one frame, the clock


@pytest.mark.parametrize("rate", [8000, 24000, 48000])
async def test_every_rate_carries_both_voices(tmp_path: Path, rate: int) -> None:
    async with running(tmp_path) as live, dial(live.url, rate) as caller:
        await settled(caller)
        since = len(caller.events)
        await caller.say(voiced(), 16_000)
        assert await settled(caller, since) == ["Good morning to you."]
        sound = np.concatenate([pcm for _, pcm in caller.audio])
        assert level_db(sound) > -30
        pitch = np.argmax(np.abs(np.fft.rfft(sound))) * rate / len(sound)
        assert pitch == pytest.approx(220, abs=5)  # the fake mouth's tone


async def test_barge_in_stops_the_agent_and_the_model_keeps_what_was_heard(tmp_path: Path) -> None:
    story = " ".join(f"word{number}" for number in range(60)) + "."
    mouth, mind = FakeMouth(word=0.2), FakeMind(story)
    async with running(tmp_path, mouth=mouth, mind=mind) as live, dial(live.url) as caller:
        await settled(caller)
        await caller.say(voiced(), 16_000)
        session = next(iter(live.server.sessions.values()))
        assert await caller.until(lambda: "word2" in str(caller.events[-1][1]), 10)
        since = len(caller.events)
        began = asyncio.get_running_loop().time()
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: bool(of_type(caller, "clear")), 5)
        assert await caller.until(lambda: bool(caller.heard(since)), 5)
        cut = next(event for event in of_type(caller, "captions") if event.get("interrupted"))
        words = cut["text"].split()
        assert 1 <= len(words) < 20
        stopped = [at for at, pcm in caller.audio if began + 0.4 < at < began + 0.9]
        assert stopped == []
        kept = [
            item.text
            for item in session.context.items()
            if getattr(item, "role", "") == "assistant" and "word0" in item.text
        ]
        assert kept[0] == cut["text"]
        assert mouth.speaking <= 1


class Slow(NoTools):
    """One tool that takes its time, or fails."""

    specs = (ToolSpec("look", "Look something up.", {"type": "object", "properties": {}}),)

    def __init__(self, seconds: float = 0.0, error: str = "") -> None:
        self.seconds, self.error, self.calls = seconds, error, 0

    async def call(self, name: str, arguments: Any, turn: int) -> Outcome:
        self.calls += 1
        await asyncio.sleep(self.seconds)
        if self.error:
            raise ToolError(self.error)
        return Outcome(output={"found": 3}, say="I found three.")


CALLS_TOOL = [Rule("look", Call("look"))]


@pytest.mark.parametrize(
    ("toolbox", "said"),
    [
        (Slow(), "I found three."),
        (Slow(1.0), "One moment, please. I found three."),
        (Slow(error="locked"), "That did not work."),
        (Slow(9.0), "One moment, please. I'm sorry, that is taking too long."),
    ],
)
async def test_a_tool_is_spoken_about_however_it_goes(
    tmp_path: Path, toolbox: Slow, said: str
) -> None:
    async with (
        running(
            tmp_path,
            ears=FakeEars(["look it up"]),
            mind=Script(CALLS_TOOL),
            agent=plain_agent(toolbox),
            tool_timeout=1.5,
        ) as live,
        dial(live.url) as caller,
    ):
        await settled(caller)
        since = len(caller.events)
        await caller.say(voiced(), 16_000)
        heard = await settled(caller, since)
        assert heard[0].startswith(said)
        assert toolbox.calls == 1
        if toolbox.seconds < 5:
            (event,) = of_type(caller, "tool")
            assert event["name"] == "look"
            assert ("error" in event) == bool(toolbox.error)


async def test_what_was_not_understood_is_asked_again_then_a_person_is_offered(
    tmp_path: Path,
) -> None:
    toolbox = NoTools()
    toolbox.expects, toolbox.choices = "day", ("Monday", "Tuesday")
    mind = FakeMind()
    async with (
        running(
            tmp_path,
            ears=FakeEars(["mumble"] * 3, confidence=0.2),
            mind=mind,
            agent=plain_agent(toolbox),
        ) as live,
        dial(live.url) as caller,
    ):
        await settled(caller)
        for line in ("Which day, please?", "Would you like a person?"):
            since = len(caller.events)
            await caller.say(voiced(), 16_000)
            assert await settled(caller, since) == [line]
        assert of_type(caller, "choices")[-1]["choices"] == ["Monday", "Tuesday"]
        since = len(caller.events)
        await caller.type("Tuesday")
        assert await settled(caller, since) == ["All right."]


async def test_a_cough_does_not_silence_the_agent(tmp_path: Path) -> None:
    story = " ".join(f"word{number}" for number in range(12)) + "."
    async with (
        running(
            tmp_path, ears=FakeEars(["hello", ""]), mind=FakeMind(story), mouth=FakeMouth(word=0.25)
        ) as live,
        dial(live.url) as caller,
    ):
        await settled(caller)
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: "word3" in str(caller.events[-1][1]), 10)
        await caller.say(voiced(0.3), 16_000)  # an interruption without a word
        assert await caller.until(lambda: any("word11" in text for text in caller.heard()), 15)
        said = " ".join(caller.heard()[1:]).split()
        assert [word.strip(".") for word in said] == [f"word{number}" for number in range(12)]


class Broken(FakeMind):
    """Fails every time."""

    def open(self, items: Any, tools: Any) -> Any:
        from llm.engine import EngineError

        raise EngineError("out of memory")


async def test_a_model_that_fails_is_apologised_for_and_the_call_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path, mind=Broken()) as live, dial(live.url) as caller:
        await settled(caller)
        since = len(caller.events)
        await caller.say(voiced(), 16_000)
        assert await settled(caller, since) == ["Something went wrong."]
        assert not caller.ended


async def test_a_bug_ends_its_call_and_no_other(tmp_path: Path) -> None:
    class Buggy(FakeMind):
        def open(self, items: Any, tools: Any) -> Any:
            if "boom" in str(items):
                raise ZeroDivisionError
            return super().open(items, tools)

    async with (
        running(tmp_path, mind=Buggy()) as live,
        dial(live.url) as one,
        dial(live.url) as other,
    ):
        await settled(one)
        await one.type("boom")
        assert await one.until(lambda: bool(one.ended), 5)
        assert of_type(one, "error")[0]["code"] == "internal"
        await settled(other)
        since = len(other.events)
        await other.type("hello")
        assert await settled(other, since) == ["All right."]


# What clients get wrong.


async def refused(url: str, *messages: str | bytes) -> list[str]:
    """Send messages, then hang up; return the codes of the errors and why the call ended."""
    codes = []
    async with connect(f"{url.replace('http', 'ws')}/v1/stream", max_size=None) as socket:
        for message in messages:
            await socket.send(message)
        async with asyncio.timeout(10):
            while len(codes) < len(messages):
                answer = await socket.recv()
                if isinstance(answer, str) and json.loads(answer)["type"] == "error":
                    codes.append(json.loads(answer)["code"])
        await socket.send('{"type": "hang_up"}')
        async with asyncio.timeout(5):
            async for answer in socket:
                if isinstance(answer, str) and json.loads(answer)["type"] == "end":
                    codes.append(json.loads(answer)["reason"])
    return codes


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"abc", "odd_length"),
        (bytes(10_000_000), "audio_too_long"),
        ("hello", "bad_message"),
        ("[1]", "bad_message"),
        ('{"type": 1}', "bad_message"),
        ("[" * 60_000, "bad_message"),
        ('{"type": "text", "text": 5}', "bad_message"),
        ("x" * 70_000, "text_too_long"),
    ],
)
async def test_a_wrong_message_is_named_and_the_call_goes_on(
    tmp_path: Path, message: str | bytes, code: str
) -> None:
    async with running(tmp_path) as live:
        assert await refused(live.url, message) == [code, "hang_up"]


@pytest.mark.parametrize("length", [0.02, 0.5], ids=["frames", "half seconds"])
async def test_a_client_that_sends_speech_alone_is_answered(tmp_path: Path, length: float) -> None:
    """Nothing follows the last word, not even silence."""
    async with running(tmp_path, ears=FakeEars(["what time is it"])) as live:
        speech = to_pcm16(voiced(1.5))
        size = round(length * 16_000) * 2
        async with connect(f"{live.url.replace('http', 'ws')}/v1/stream") as socket:
            for start in range(0, len(speech), size):
                await socket.send(speech[start : start + size])
                await asyncio.sleep(length)
            said = []
            async with asyncio.timeout(10):
                while "Good morning to you." not in said:
                    message = await socket.recv()
                    if isinstance(message, str) and json.loads(message).get("final"):
                        said.append(json.loads(message)["text"])
        assert said.count("what time is it") == 1


async def test_unknown_types_are_ignored(tmp_path: Path) -> None:
    async with running(tmp_path) as live, dial(live.url) as caller:
        await caller.socket.send('{"type": "dance"}')
        await settled(caller)
        assert of_type(caller, "error") == []


async def test_a_flood_of_audio_is_dropped_and_in_the_end_hung_up(tmp_path: Path) -> None:
    async with running(tmp_path) as live:
        second = bytes(32_000)
        async with connect(f"{live.url.replace('http', 'ws')}/v1/stream") as socket:
            with pytest.raises(ConnectionClosed) as closed:
                for _ in range(100):
                    await socket.send(second)
                while True:
                    await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        assert "too fast" in closed.value.rcvd.reason


async def test_a_wrong_rate_is_refused_with_the_right_ones(tmp_path: Path) -> None:
    async with running(tmp_path) as live:
        for rate in ("44100", "-1", "many", ""):
            address = f"{live.url.replace('http', 'ws')}/v1/stream?rate={rate}"
            async with connect(address) as socket:
                answer = json.loads(await socket.recv())
                assert answer["code"] == "bad_rate"
                assert "8000, 16000, 24000, 48000" in answer["message"]


async def test_a_busy_server_says_when_to_come_back(tmp_path: Path) -> None:
    async with running(tmp_path, max_calls=1) as live, dial(live.url) as first:
        await settled(first)
        async with connect(f"{live.url.replace('http', 'ws')}/v1/stream") as socket:
            answer = json.loads(await socket.recv())
            assert (answer["code"], answer["retry_after"]) == ("busy", 5)
        assert not first.ended


async def test_a_client_that_does_not_read_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transport.websocket.UNREAD", 0.5)
    story = " ".join(["word"] * 200) + "."
    async with running(tmp_path, mind=FakeMind(story), mouth=FakeMouth(word=1.0)) as live:
        _, writer = await handshake(live.port, 48_000)
        writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        text = b'{"type": "text", "text": "tell me a story"}'
        mask = bytes(4)
        writer.write(bytes([0x81, 0x80 | len(text)]) + mask + text)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(30):
            while not live.server.sessions:
                await asyncio.sleep(0.05)
            while live.server.sessions:
                await asyncio.sleep(0.1)
        writer.close()


async def test_a_client_that_vanished_is_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voice.serve.PING", 0.5)
    async with running(tmp_path) as live:
        reader, writer = await handshake(live.port)
        async with asyncio.timeout(10):
            while not live.server.sessions:
                await asyncio.sleep(0.05)
            while live.server.sessions:  # it reads, but answers no ping
                await reader.read(65536)
                await asyncio.sleep(0.01)
        writer.close()


async def handshake(
    port: int, rate: int = 16_000
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a WebSocket by hand, so that nothing answers pings."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(
        f"GET /v1/stream?rate={rate} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def test_pages_of_other_origins_cannot_call(tmp_path: Path) -> None:
    async with running(tmp_path) as live:
        address = f"{live.url.replace('http', 'ws')}/v1/stream"
        with pytest.raises(InvalidStatus, match="403"):
            async with connect(address, origin="http://evil.example"):  # type: ignore[arg-type]
                pass
        async with httpx.AsyncClient(base_url=live.url) as client:
            evil = {"Origin": "http://evil.example", "Host": "evil.example"}
            assert (await client.get("/v1/about", headers=evil)).status_code == 403
            own = {"Origin": live.url}
            assert (await client.get("/v1/about", headers=own)).status_code == 200


async def test_a_key_is_asked_for_where_one_is_set(tmp_path: Path) -> None:
    async with running(tmp_path, key="secret") as live:
        with pytest.raises(InvalidStatus, match="401"):
            async with dial(live.url):
                pass
        async with dial(live.url, key="secret") as caller:
            await settled(caller)
        async with httpx.AsyncClient(base_url=live.url) as client:
            assert (await client.get("/v1/about")).status_code == 401
            assert (await client.get("/v1/about?key=secret")).status_code == 200


async def test_health_and_metrics_tell_how_it_goes(tmp_path: Path) -> None:
    async with running(tmp_path) as live, httpx.AsyncClient(base_url=live.url) as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        async with dial(live.url) as caller:
            await settled(caller)
            await caller.say(voiced(), 16_000)
            assert await caller.until(lambda: bool(of_type(caller, "turn")), 5)
            text = ""
            async with asyncio.timeout(20):  # the record is written when the reply is over
                while "voice_stage_seconds_sum" not in text:
                    await asyncio.sleep(0.05)
                    text = (await client.get("/metrics")).text
        assert "voice_calls_active 1.0" in text
        assert 'voice_calls_total{transport="websocket"} 1.0' in text
        assert re.search(r'voice_stage_seconds_sum\{[^}]*stage="endpoint"[^}]*\} 0\.[2-9]', text)
        assert 'llm="fake",profile="embedded"' in text


async def test_the_log_of_a_call_tells_what_happened(tmp_path: Path) -> None:
    async with running(tmp_path) as live, dial(live.url) as caller:
        await settled(caller)
        since = len(caller.events)
        await caller.say(voiced(), 16_000)
        await settled(caller, since)
    (file,) = (tmp_path / "calls").iterdir()
    kinds = [json.loads(line)["type"] for line in file.read_text().splitlines()]
    assert kinds[0] == "start"
    assert "heard" in kinds
    assert "turn" in kinds
    assert kinds[-1] == "end"
