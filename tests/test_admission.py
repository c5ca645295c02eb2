"""A server that has no room: what a caller is told, and what the others notice. Real sockets."""

import asyncio
import json
import logging
import queue
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from latency.metrics import Metrics
from latency.utilisation import Resource
from voice.admission import LOOK, Admission, Processors
from voice.settings import Settings

from helpers import Running, running

SDP = {"Content-Type": "application/sdp"}


@asynccontextmanager
async def serving(data: Path, **settings: Any) -> AsyncIterator[Running]:
    """A server that measures only what a test says: how busy it is does not matter."""
    async with running(data, **({"admission": True} | settings)) as live:
        assert live.server._looking is not None
        live.server._looking.cancel()
        yield live


def busy(live: Running, used: float, cost: float = 0.03) -> None:
    """Let the server believe that it is so busy, and what a call adds to that."""
    known = live.server.admission.predictor
    known.utilisation.calls = live.server.calls
    known.utilisation.resources = {"loop": Resource(used, cost)}
    known.curve.idle = known.curve.calmest = 0.3


async def call(live: Running) -> ClientConnection:
    return await connect(f"ws://127.0.0.1:{live.port}/v1/stream?rate=16000")


async def first_event(socket: ClientConnection) -> dict[str, Any]:
    """Return the first JSON event; audio is passed over."""
    while isinstance(said := await asyncio.wait_for(socket.recv(), 10), bytes):
        pass
    event: dict[str, Any] = json.loads(said)
    return event


async def refused(live: Running) -> dict[str, Any]:
    """Return why a call is refused, after which the socket is closed."""
    async with await call(live) as socket:
        event = await first_event(socket)
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 10)
        assert socket.close_code == 1013
    return event


async def counted(live: Running, name: str) -> float:
    async with httpx.AsyncClient(base_url=live.url) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)


async def test_a_call_that_would_cost_the_budget_is_told_so_and_when_to_come_back(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as live, await call(live) as going_on:
        assert (await first_event(going_on))["type"] == "start"
        opened = len(live.server.ears.opened)  # type: ignore[attr-defined]
        busy(live, 0.95)
        event = await refused(live)
        assert event["type"] == "error"
        assert event["code"] == "saturated"
        assert event["message"].startswith(
            "saturated: with more calls 95 % of the answers would take"
        )
        assert event["message"].endswith("the budget is 0.8 s")
        assert 1 <= event["retry_after"] <= 30
        assert len(live.server.sessions) == 1
        assert len(live.server.ears.opened) == opened  # type: ignore[attr-defined]
        assert (await first_event(going_on))["type"] != "error"  # it greets
        busy(live, 0.5)
        async with await call(live) as another:
            assert (await first_event(another))["type"] == "start"


async def test_over_webrtc_it_is_http_503_with_retry_after(tmp_path: Path) -> None:
    async with serving(tmp_path) as live, await call(live) as going_on:
        await first_event(going_on)
        busy(live, 0.95)
        async with httpx.AsyncClient(base_url=live.url) as client:
            answer = await client.post("/v1/webrtc", content="v=0\r\n", headers=SDP)
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert answer.json()["error"]["code"] == "saturated"
        assert "the budget is 0.8 s" in answer.json()["error"]["message"]


async def test_the_only_caller_is_taken_however_busy_the_machine_is(tmp_path: Path) -> None:
    async with serving(tmp_path) as live:
        busy(live, 0.99)
        async with await call(live) as socket:
            assert (await first_event(socket))["type"] == "start"


async def test_callers_who_come_all_at_once_do_not_all_get_in(tmp_path: Path) -> None:
    async with serving(tmp_path, max_calls=100) as live:
        sockets = await asyncio.gather(*(call(live) for _ in range(40)))
        events = await asyncio.gather(*(first_event(socket) for socket in sockets))
        told = [event for event in events if event["type"] == "error"]
        assert len(told) == 40 - 10
        assert {event["code"] for event in told} == {"saturated"}
        assert all(event["retry_after"] >= 1 for event in told)
        await asyncio.gather(*(socket.close() for socket in sockets))


async def test_webrtc_calls_count_while_they_are_set_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as live:
        with live.server.setting_up(), live.server.setting_up():
            assert live.server.calls == 2
            busy(live, 0.95)
            assert (await refused(live))["code"] == "saturated"
        assert live.server.calls == 0


async def test_lines_are_still_limited_by_number(tmp_path: Path) -> None:
    async with serving(tmp_path, max_calls=1) as live, await call(live) as going_on:
        await first_event(going_on)
        event = await refused(live)
        assert (event["code"], event["retry_after"]) == ("busy", 5)


async def test_without_admission_nobody_is_refused_by_prediction(tmp_path: Path) -> None:
    async with serving(tmp_path, admission=False) as live, await call(live) as going_on:
        await first_event(going_on)
        busy(live, 0.95)
        async with await call(live) as another:
            assert (await first_event(another))["type"] == "start"
        assert live.server.admission.describe()["on"] is False
        assert live.server.admission.predicted_p95 is not None


async def test_a_saturation_is_counted_and_logged_once_and_its_end_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "voice.admission")
    async with serving(tmp_path) as live, await call(live) as going_on:
        await first_event(going_on)
        busy(live, 0.95)
        for _ in range(3):
            await refused(live)
        assert len(caplog.messages) == 1
        assert "(1 calls go on; one more takes the loop to 98 %)" in caplog.messages[0]
        assert await counted(live, "voice_saturations_total") == 1
        assert await counted(live, 'voice_calls_refused_total{reason="saturated"}') == 3
        busy(live, 0.1)
        live.server.admission.predictor.measured({"loop": 0.1}, 0.0, 1, 1000.0)
        live.server.admission.predictor.measured({"loop": 0.1}, 0.0, 1, 1010.0)
        live.server.admission._tell(1010.0)
        assert len(caplog.messages) == 2
        assert caplog.messages[1].startswith("no longer saturated")
        assert "3 calls were refused" in caplog.messages[1]
        assert live.server.admission.describe()["saturated"] is False


async def test_what_is_shed_first_is_speculation(tmp_path: Path) -> None:
    async with serving(tmp_path) as live, await call(live) as going_on:
        await first_event(going_on)
        crew = live.server._crew
        assert crew is not None
        for _ in range(20):
            live.server.admission.take(
                {"type": "work", "seconds": {"llm": 0.1}, "wasted": True}, 100.0
            )
        assert crew.may_speculate()
        busy(live, 0.85)
        live.server.admission.predictor.measured({"loop": 0.85}, 0.0, 1, 100.0)
        assert not crew.may_speculate()
        busy(live, 0.85)
        assert live.server.admission.refusal(1, 100.0) is None


def test_a_loop_that_works_all_the_time_is_measured_as_busy() -> None:
    door = Admission(Settings(), Metrics())
    now = 100.0
    while "processors" not in (shares := door.describe()["utilisation"]):
        door.look(0.0, 5, now)
        sum(n * n for n in range(200_000))
        now += LOOK
    assert shares["loop"] > 0
    assert shares["processors"] >= 0


def test_what_processes_use_is_not_read_by_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def share(self: Processors) -> float:
        read.append(threading.get_ident())
        return 0.5

    monkeypatch.setattr(Processors, "share", share)
    door = Admission(Settings(), Metrics())
    for number in range(2):
        door.look(0.0, 5, 100.0 + number)
    assert door._read is not None
    assert door._read.result(10) == 0.5
    assert read
    assert threading.get_ident() not in read


def test_processes_are_counted_though_a_thread_has_ended_and_where_none_is_pinned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: queue.Queue[int] = queue.Queue()
    counted = threading.Event()

    def begin() -> None:
        command = [sys.executable, "-c", "input()"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            begun.put(process.pid)
            counted.wait()
            process.communicate(b"\n")

    real, left = Path.read_text, ["the first"]

    def read_text(self: Path) -> str:
        if self.name == "children" and left:
            left.pop()
            raise FileNotFoundError
        return real(self)

    thread = threading.Thread(target=begin)
    thread.start()
    child = begun.get(timeout=10)
    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.delattr("os.sched_getaffinity")
    processors = Processors()
    assert processors.share() >= 0
    assert child in processors._used
    counted.set()
    thread.join(10)


def test_what_calls_tell_is_what_is_predicted_from() -> None:
    door = Admission(Settings(), Metrics())
    for number in range(30):
        waited = {"total": 0.42} if number % 2 else {"total": 0.21, "budget": 0.4}
        door.take({"type": "turn", "stages": {}} | waited, 100.0 + number / 10)
    for number in range(9):
        door.look(0.0, 5, 104.0 + number)
    described = door.describe()
    assert described["observed_p95"] == pytest.approx(0.42)
    assert described["predicted_p95"] >= 0.42
    assert described["limit"] == pytest.approx(0.72)


def test_a_caller_whose_line_stalls_is_no_load() -> None:
    door = Admission(Settings(), Metrics())
    for number in range(40):
        stages = {"framing": 3.0, "vad": 0.06} if number % 4 else {"framing": 0.02, "vad": 0.06}
        door.take({"type": "turn", "total": 0.4 + stages["framing"], "stages": stages}, 100.0)
    for number in range(3):
        door.look(0.0, 5, 101.0 + number)
    assert door.describe()["observed_p95"] == pytest.approx(0.5)
