"""The HTTP routes that carry WebRTC calls, on a live server with fake engines."""

import asyncio
from pathlib import Path

import httpx
import pytest

from asr.fake import Fake as FakeEars
from transport.audio import level_db

from helpers import Running, running, voiced
from webrtc_client import Caller, connect

SDP = {"Content-Type": "application/sdp"}


class Browser:
    """Posts offers as the page does."""

    def __init__(self, live: Running) -> None:
        self.http = httpx.AsyncClient(base_url=live.url)
        self.location = ""

    async def post(self, offer: str) -> str:
        answer = await self.http.post("/v1/webrtc", content=offer, headers=SDP)
        assert answer.status_code == 201, answer.text
        assert answer.headers["content-type"] == "application/sdp"
        self.location = answer.headers["location"]
        return answer.text


async def line_of(caller: Caller) -> dict[str, object]:
    """Return the agent's next finished line."""
    while True:
        event = await caller.event("captions", 20)
        if event["role"] == "agent" and event["final"]:
            return event


async def test_a_browser_calls_talks_and_hangs_up(tmp_path: Path) -> None:
    async with running(tmp_path, ears=FakeEars(["what time is it"])) as live:
        browser = Browser(live)
        async with browser.http, connect(browser.post) as caller:
            assert (await line_of(caller))["text"] == "Hello there."
            caller.send(voiced())
            assert (await line_of(caller))["text"] == "Good morning to you."
            assert level_db(caller.heard()) > -40
            assert any(event["type"] == "turn" for event in caller.events)
            assert (await browser.http.delete(browser.location)).status_code == 204
            await caller.until(lambda: caller.over)
            for _ in range(100):
                if not live.server.sessions:
                    break
                await asyncio.sleep(0.05)
            assert live.server.sessions == {}
            assert (await browser.http.delete(browser.location)).status_code == 404


async def test_an_agent_that_says_goodbye_hangs_up(tmp_path: Path) -> None:
    async with running(tmp_path) as live:
        browser = Browser(live)
        async with browser.http, connect(browser.post) as caller:
            await line_of(caller)
            caller.tell({"type": "hang_up"})
            assert (await caller.event("end"))["reason"] == "hang_up"
            await caller.until(lambda: caller.over)


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"hello", "application/sdp", 400, "bad_offer"),
        (b"", "application/sdp", 400, "bad_offer"),
        (b"\xff\xfe", "application/sdp", 400, "bad_offer"),
        (b"v=0\r\n", "application/json", 415, "bad_type"),
        (b"v=0\r\n" * 20_000, "application/sdp", 413, "offer_too_long"),
    ],
)
async def test_a_bad_offer_is_refused_with_the_reason(
    tmp_path: Path, body: bytes, kind: str, status: int, code: str
) -> None:
    async with running(tmp_path) as live, httpx.AsyncClient(base_url=live.url) as client:
        answer = await client.post("/v1/webrtc", content=body, headers={"Content-Type": kind})
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == code
        assert len(answer.json()["error"]["message"]) > 10
        assert (await client.get("/readyz")).status_code == 200


async def test_a_busy_server_answers_503_and_when_to_come_back(tmp_path: Path) -> None:
    async with running(tmp_path, max_calls=1) as live:
        browser = Browser(live)
        async with browser.http, connect(browser.post) as caller:
            await line_of(caller)
            answer = await browser.http.post("/v1/webrtc", content="v=0\r\n", headers=SDP)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
            assert answer.json()["error"]["code"] == "busy"


async def test_the_page_and_what_it_asks_are_served(tmp_path: Path) -> None:
    async with running(tmp_path) as live, httpx.AsyncClient(base_url=live.url) as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert "<html" in page.text
        about = (await client.get("/v1/about")).json()
        assert about["agent"]["name"] == "test desk"
        assert set(about) >= {"version", "ears", "mind", "mouth"}
