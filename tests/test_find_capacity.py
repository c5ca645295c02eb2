"""A search for capacity on live servers, few calls each; and what a user may get wrong."""

import io
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from voice import bench_server, stubs
from voice.bench_calls import Conditions
from voice.callers import Plan, noisy, white
from voice.capacity import Goal, Level, Verdict
from voice.capacity_search import Search, Status, Watcher, steady
from voice.crowd import WebSocketCrowd
from voice.crowd_webrtc import WebRtcCrowd
from voice.find_capacity import Inquiry, find
from voice.settings import load
from voice.webrtc_callers import make_loop

from helpers import Running, running, voiced

PERIOD = 1.3
REPLY = 0.2

LENIENT = Goal(budget=5.0, bad=1.0)
"""What calls hold also on a machine that has other things to do."""


@asynccontextmanager
async def stubbed(data: Path, **given: Any) -> AsyncIterator[Running]:
    """A server of the profile bench, in this process."""
    settings = load(None, {}, {"profile": "bench", "bench.reply": REPLY}).settings
    engines: dict[str, Any] = {
        "agent": stubs.agent(),
        "ears": stubs.ears(settings.bench),
        "mind": stubs.mind(settings.bench),
        "mouth": stubs.mouth(settings.bench),
        "turn": settings.turn,
        "profile": "bench",
    }
    async with running(data, **(engines | given)) as live:
        yield live


def callers(url: str) -> Callable[[], WebSocketCrowd]:
    """Return what makes callers that speak every `PERIOD` seconds."""
    speech, silence = noisy([voiced(0.4)], white(-50))
    plan = Plan(speech=speech, silence=silence, turns=10**9, period=PERIOD)
    return lambda: WebSocketCrowd(url, plan, reply=REPLY)


def search(
    url: str,
    goal: Goal | None,
    most: int,
    watcher: Watcher | None = None,
    process: int | None = None,
) -> Search:
    place = bench_server.Measured(url, int(url.rpartition(":")[2]), process)
    return Search(place, callers(url), goal, period=PERIOD, most=most, turns=1, watcher=watcher)


class Noted(Watcher):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.levels: list[tuple[Level, Verdict]] = []

    def show(self, status: Status) -> None:
        self.said.append(status.doing)

    def take(self, measured: Level, verdict: Verdict) -> None:
        self.levels.append((measured, verdict))


async def test_four_calls_are_found_to_be_fine_and_what_is_going_on_is_told(tmp_path: Path) -> None:
    noted = Noted()
    async with stubbed(tmp_path) as live:
        found = await search(live.url, LENIENT, 4, noted).run()
    assert (found.calls, found.limit) == (4, "")
    assert found.best is not None
    assert found.best.turns >= 3
    assert found.best.tail is not None
    assert 0.15 < found.best.tail < 5.0
    assert found.best.used is not None  # the server is this process, and was found by its port
    assert {level.calls for level, _ in noted.levels} >= {1, 2, 4}
    told = list(dict.fromkeys(noted.said))
    assert told[0] == "one call alone"
    assert told[-2:] == ["ramp: adding 1 calls in 1 s, to 4", "a run of 4 fresh calls"]


async def test_a_server_that_takes_two_calls_is_limited_by_its_admission(tmp_path: Path) -> None:
    async with stubbed(tmp_path, max_calls=2) as live:
        found = await search(live.url, LENIENT, 8).run()
    assert (found.calls, found.limit) == (2, "refused")
    assert found.failed is not None
    assert found.failed[0].refusals[0].retry_after == 5.0
    assert "admits 2 and refused one more (busy)" in found.failed[1].reason


async def test_a_run_measures_the_calls_that_were_taken(tmp_path: Path) -> None:
    async with stubbed(tmp_path, max_calls=2) as live:
        level = await steady(callers(live.url), 3, 1, LENIENT)
    assert (level.calls, len(level.refusals), level.lost) == (2, 1, {})
    assert level.turns >= 1


async def test_a_budget_that_nothing_can_hold_is_zero_calls(tmp_path: Path) -> None:
    async with stubbed(tmp_path) as live:
        found = await search(live.url, Goal(budget=0.05), 4).run()
    assert found.calls == 0
    assert found.failed is not None
    assert "> 50 ms" in found.failed[1].reason


async def test_without_a_budget_it_follows_from_one_call(tmp_path: Path) -> None:
    async with stubbed(tmp_path) as live:
        found = await search(live.url, None, 1).run()
    assert found.alone.p50 is not None
    assert found.goal.budget == pytest.approx(found.alone.p50 + 0.25)
    assert found.calls == 1


async def test_a_server_that_dies_on_the_way_up_ends_the_search_with_where_it_was() -> None:
    conditions = Conditions(reply=REPLY)
    async with bench_server.server(settings=conditions.settings()) as server:
        assert server.process is not None
        process = server.process

        class Deadly(Watcher):
            def show(self, status: Status) -> None:
                if status.doing.startswith("ramp") and status.calls == 2:
                    os.kill(process, signal.SIGKILL)

        with pytest.raises(RuntimeError, match=r"went away with \d calls going on; \d had gone"):
            await search(server.url, LENIENT, 8, Deadly()).run()


def inquiry(**given: Any) -> Inquiry:
    chosen: dict[str, Any] = {"goal": Goal(), "conditions": Conditions(), "profile": "bench"}
    return Inquiry(**(chosen | given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"transport": "rtp"}, "which this server does not speak yet"),
        ({"transport": "carrier pigeon"}, "expected websocket or webrtc"),
        ({"profile": "huge"}, "expected embedded, bench, cpu, gpu"),
        ({"most": 0}, "--most is 0; expected 1 to 100000 calls"),
        ({"turns": 0}, "--turns is 0"),
        ({"per_hour": -1.0}, "--cost-per-hour is -1; expected 0 or more"),
        ({"period": 1.0}, "--period is 1 s; expected 3 to 300 s"),
        ({"url": "127.0.0.1:8000"}, "expected http://HOST:PORT"),
        ({"url": "http://10.0.0.1:8000", "transport": "webrtc"}, "call this machine only"),
    ],
)
def test_what_cannot_be_asked_is_said_with_what_can(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inquiry(**given)


async def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    console = Console(file=io.StringIO())
    with pytest.raises(RuntimeError, match=r"nobody answers at http://127\.0\.0\.1:9: .* running"):
        await find(inquiry(url="http://127.0.0.1:9"), console, console, only_json=True)


async def test_a_server_with_another_key_is_not_measured(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    async with stubbed(tmp_path, key="secret") as live:
        with pytest.raises(RuntimeError, match="takes no calls without its key"):
            await find(inquiry(url=live.url), console, console, only_json=True)


async def test_the_result_is_one_line_of_json_and_the_progress_is_elsewhere(tmp_path: Path) -> None:
    progress, out = io.StringIO(), io.StringIO()
    async with stubbed(tmp_path, key="secret") as live:
        await find(
            inquiry(
                url=live.url,
                key="secret",
                conditions=Conditions(reply=REPLY),
                goal=LENIENT,
                period=3.6,
                most=1,
                turns=1,
            ),
            Console(file=progress, width=200),
            Console(file=out, width=40),
            only_json=True,
        )
    (line,) = out.getvalue().splitlines()
    row = json.loads(line)
    assert (row["what"], row["calls"], row["limit"]) == ("capacity", 1, "most")
    assert row["transport"] == "websocket"
    assert "one call alone" in progress.getvalue()


async def test_over_webrtc_calls_are_measured_and_refusals_are_known(tmp_path: Path) -> None:
    loop = make_loop(voiced(0.4), 16_000, REPLY)
    async with stubbed(tmp_path, max_calls=1) as live:
        level = await steady(lambda: WebRtcCrowd(live.url, loop, reply=REPLY), 2, 1, LENIENT)
    assert (level.calls, level.lost) == (1, {})
    assert [(refusal.code, refusal.retry_after) for refusal in level.refusals] == [("busy", 5.0)]
    assert level.turns >= 1
    assert level.p50 is not None
    assert 0.15 < level.p50 < 5.0
