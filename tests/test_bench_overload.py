"""What measures an overloaded server is measured, too."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from latency.utilisation import Resource
from transport.line import FRAME
from voice.bench_overload import Askers, Heard, _refused, _wrong
from voice.callers import RATE, Plan, noisy, white
from voice.capacity import Refusal
from voice.overload_webrtc import WebRtcAskers
from voice.webrtc_callers import make_loop

from helpers import Running, running, voiced


@asynccontextmanager
async def full(data: Path) -> AsyncIterator[Running]:
    """A server that has room for one call."""
    async with running(data, admission=True) as live:
        assert live.server._looking is not None
        live.server._looking.cancel()
        known = live.server.admission.predictor
        known.utilisation.resources = {"loop": Resource(0.9, 0.5)}
        known.curve.idle = known.curve.calmest = 0.3
        yield live


async def both(askers: Askers | WebRtcAskers) -> Heard:
    """Let two callers want a call, until one has one and one was refused."""
    callers = [asyncio.create_task(askers.one(number, 2)) for number in range(2)]
    for _ in range(200):
        if askers.heard().calls == 1 and askers.refusals:
            break
        await asyncio.sleep(0.05)
    heard = askers.heard()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await askers.hang_up()
    return heard


async def test_a_caller_over_websocket_knows_whether_it_has_a_call(tmp_path: Path) -> None:
    speech, silence = noisy([voiced()], white(-50))
    async with full(tmp_path) as live:
        askers = Askers(live.url, Plan(speech=speech, silence=silence, turns=10), 1.0)
        heard = await both(askers)
    assert heard.calls == 1
    assert [refusal.code for refusal in askers.refusals] == ["saturated"]
    assert (askers.refusals[0].retry_after or 0) >= 1
    assert askers.refusals[0].after > 0


async def test_a_caller_over_webrtc_knows_whether_it_has_a_call(tmp_path: Path) -> None:
    loop = make_loop(voiced(), RATE, 0.5)
    assert len(loop.payloads) * FRAME > 1
    async with full(tmp_path) as live:
        askers = WebRtcAskers(live.url, loop, 0.5)
        heard = await both(askers)
    assert heard.calls == 1
    assert [refusal.code for refusal in askers.refusals] == ["saturated"]
    assert (askers.refusals[0].retry_after or 0) >= 1


GOOD = Heard(calls=10, gaps=[0.3] * 100, turns=100)
QUICK = [Refusal("saturated", 0.01, 5.0)] * 50


def wrong(heard: Heard, refusals: list[Refusal]) -> list[str]:
    return _wrong(_refused(refusals), heard, refusals, 0.5, 95.0)


def test_an_overload_that_nobody_suffers_from_is_good() -> None:
    assert wrong(GOOD, QUICK) == []


@pytest.mark.parametrize(
    ("heard", "refusals", "said"),
    [
        (Heard(10, [0.3] * 94 + [0.6] * 6, 100), QUICK, "p95 of admitted calls is 0.600 s"),
        (Heard(10, [0.3] * 100, 100, Counter(gap=2)), QUICK, "bad turns: {'gap': 2}"),
        (Heard(10, [0.3] * 100, 100, lost=1), QUICK, "1 calls broke off"),
        (GOOD, [], "nobody was refused"),
        (GOOD, [*QUICK, Refusal("saturated", 0.2, 5.0)] * 1, "p99 of refusals is 200.0 ms"),
        (GOOD, [*QUICK, Refusal("", 0.01, None)], "1 refusals without retry_after"),
        (Heard(), QUICK, "nobody was answered"),
    ],
)
def test_what_did_not_hold_is_said(heard: Heard, refusals: list[Refusal], said: str) -> None:
    (only,) = wrong(heard, refusals)
    assert only.startswith(said)


def test_refusals_are_told_by_reason() -> None:
    told = _refused([*QUICK, Refusal("busy", 0.03, 7.0)])
    assert (told["refused"], told["refused_by"]) == (51, {"saturated": 50, "busy": 1})
    assert (told["refusal_p50"], told["refusal_max"]) == (10.0, 30.0)
    assert told["retry_after"] == [5.0, 7.0]
    assert np.isfinite(told["refusal_p99"])
