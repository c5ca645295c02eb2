"""What a caller may choose for one call: voice and language, at its start and at any moment."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from asr.fake import Fake as FakeEars
from tts.engine import Chunk
from tts.fake import Fake as FakeMouth
from voice.client import dial
from voice.settings import ChoiceError, SessionSettings

from helpers import running, voiced

VOICES = ("hum", "hum-low")


class Mouth(FakeMouth):
    """Remembers the voice of every reply."""

    def __init__(self) -> None:
        super().__init__(character=0.03)
        self.used: list[str] = []

    async def speak(
        self, phrases: AsyncIterator[str], voice: str, deadline: float
    ) -> AsyncGenerator[Chunk, None]:
        self.used.append(voice)
        async for chunk in super().speak(phrases, voice, deadline):
            yield chunk


async def event(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next event of this kind."""
    while True:
        message = await socket.recv()
        if isinstance(message, str) and (found := json.loads(message))["type"] == kind:
            return dict(found)


async def test_a_call_chooses_voice_and_language_when_it_begins(tmp_path: Path) -> None:
    mouth = Mouth()
    async with running(tmp_path, mouth=mouth) as live:
        address = live.url.replace("http", "ws") + "/v1/stream?voice=hum-low&language=pt-BR"
        async with connect(address) as socket:
            await event(socket, "captions")
            [session] = live.server.sessions.values()
            assert session.chosen == SessionSettings(voice="hum-low", language="pt-BR")
        async with connect(live.url.replace("http", "ws") + "/v1/stream") as socket:
            await event(socket, "captions")
    assert mouth.used == ["hum-low", ""]


async def test_what_is_chosen_in_a_call_holds_from_then_on(tmp_path: Path) -> None:
    mouth, ears = Mouth(), FakeEars(["hallo"])
    async with running(tmp_path, mouth=mouth, ears=ears) as live, dial(live.url) as caller:
        assert await caller.until(lambda: len(caller.heard()) == 1, 20)
        change = {"type": "session", "voice": "hum-low", "language": "de"}
        await caller.socket.send(json.dumps(change))
        await caller.say(voiced(), 16_000)
        assert await caller.until(lambda: len(caller.heard()) == 2, 20)
        told = [dict(event) for _, event in caller.events if event["type"] == "session"]
    assert told == [change | {"turn": 1, "budget": 0.0}]
    assert mouth.used[0] == ""
    assert set(mouth.used[1:]) == {"hum-low"}
    assert {listening.language for listening in ears.opened} == {"de"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voice": "stranger"}, "expected one of hum, hum-low"),
        ({"voice": 7}, "voice is 7; expected a string"),
        ({"language": "english, please"}, "expected a BCP 47 tag"),
        ({"turns": "many"}, "a call has no setting 'turns'; it has voice, language"),
    ],
)
async def test_what_cannot_be_chosen_is_named_and_changes_nothing(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    async with running(tmp_path) as live, dial(live.url) as caller:
        await caller.socket.send(json.dumps({"type": "session", **change}))
        errors = lambda: [e for _, e in caller.events if e["type"] == "error"]  # noqa: E731
        assert await caller.until(lambda: bool(errors()), 20)
        [error] = errors()
        assert error["code"] == "bad_session"
        assert message in error["message"]
        [session] = live.server.sessions.values()
        assert session.chosen == SessionSettings()
    with pytest.raises(ChoiceError, match=message):
        SessionSettings().changed(change, VOICES)


async def test_a_server_whose_voice_the_mouth_lacks_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="voice is 'baritone'; expected one of hum, hum-low"):
        async with running(tmp_path, voice="baritone"):
            pass  # every reply of every call would fail


def test_a_language_has_an_end() -> None:
    with pytest.raises(ChoiceError, match="expected a BCP 47 tag"):
        SessionSettings().changed({"language": "en" + "-aa" * 1_000_000}, VOICES)


def test_a_language_may_be_found_out() -> None:
    assert SessionSettings().changed({"language": "auto"}, VOICES).language == "auto"


async def test_a_call_that_begins_with_a_wrong_choice_is_turned_away(tmp_path: Path) -> None:
    async with running(tmp_path) as live:
        async with connect(live.url.replace("http", "ws") + "/v1/stream?voice=x") as socket:
            assert (await event(socket, "error"))["code"] == "bad_session"
            await socket.wait_closed()
            assert socket.close_code == 1008
        async with httpx.AsyncClient(base_url=live.url) as client:
            answer = await client.post(
                "/v1/webrtc?voice=x", content=b"v=0", headers={"Content-Type": "application/sdp"}
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_session")
            assert (await client.get("/v1/about")).json()["mouth"]["voices"] == list(VOICES)
        assert live.server.sessions == {}
