"""What Prometheus hears of engines: in processes, behind a router, on live servers."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from time import monotonic

import httpx
import pytest

from latency.metrics import Metrics
from llm.engine import Message, Params
from llm.fake import Fake as FakeMind
from llm.router import Router
from voice.calllog import CallLog
from voice.client import dial
from voice.engine_ears import RemoteEars
from voice.engine_mind import RemoteMind
from voice.engine_process import EngineProcess
from voice.engine_wire import Make
from voice.exports import Exports
from voice.settings import Settings

from faring import Refusing
from helpers import running, voiced

TESTS = Path(__file__).parent


def exports(tmp_path: Path, *engines: object) -> Metrics:
    """Return metrics that ask `engines`: ears and mind."""
    metrics = Metrics()
    log = CallLog(tmp_path)
    made = Exports(Settings(), metrics, log)
    ears, mind = engines
    made.watch(ears, mind, FakeMind(), lambda: {"llm": 0.2})
    log.close()
    return metrics


async def test_engine_processes_tell_how_their_device_and_their_model_fare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    process = EngineProcess(
        "speech",
        {"ears": Make("faring:Ears"), "mind": Make("faring:Mind")},
        turns=Make("voice.device:Device"),
    )
    ears, mind = RemoteEars(process, "whisper:small"), RemoteMind(process, "vllm:qwen")
    metrics = exports(tmp_path, ears, mind)
    assert 'voice_engine_up{engine="speech"} 0.0' in metrics.text().decode()
    await asyncio.gather(ears.start(), mind.start())
    try:
        async with asyncio.timeout(20):
            while not process.faring:
                await asyncio.sleep(0.02)
        text = metrics.text().decode()
        assert 'voice_engine_up{engine="speech"} 1.0' in text
        assert 'voice_device_served_total{engine="speech",kind="asr final"} 3.0' in text
        assert 'voice_llm_requests{model="vllm:qwen",state="running"} 2.0' in text
        assert 'voice_llm_prefix_tokens_total{found="false",model="vllm:qwen"} 6.0' in text
        assert 'voice_budget_seconds{stage="llm"} 0.2' in text
        assert 'voice_about{asr="whisper:small",llm="vllm:qwen"' in text
    finally:
        await asyncio.gather(ears.stop(), mind.stop())


async def test_a_router_tells_who_answered_for_whom(tmp_path: Path) -> None:
    router = Router([Refusing(), FakeMind("I do.")])
    metrics = exports(tmp_path, FakeMind(), router)
    await router.start()
    try:
        for _ in range(5):  # one is asked first until it is put out of service
            thread = router.open([Message("user", "hello")], [])
            async with aclosing(thread.generate(Params(), monotonic())) as pieces:
                assert [piece async for piece in pieces]
        text = metrics.text().decode()
        count = f"{float(router.switched['refusing', 'fake'])}"
        assert router.switched["refusing", "fake"] >= 1
        assert f'voice_failovers_total{{answered="fake",asked="refusing"}} {count}' in text
        assert 'voice_upstream_up{upstream="refusing"} 0.0' in text
        assert 'voice_upstream_up{upstream="fake"} 1.0' in text
    finally:
        await router.stop()


async def test_a_live_server_tells_its_stages_under_its_engines(tmp_path: Path) -> None:
    async with running(tmp_path) as live:
        async with dial(live.url) as caller:
            assert await caller.until(lambda: bool(caller.heard()), 20)
            await caller.say(voiced(), 16_000)
            assert await caller.until(lambda: len(caller.heard()) == 2, 20)
            await caller.hang_up()
        async with httpx.AsyncClient(base_url=live.url) as client, asyncio.timeout(20):
            text = ""
            while 'voice_turns_total{outcome="played"' not in text:
                text = (await client.get("/metrics")).text
    labels = 'model="",profile="embedded",stage="endpoint",transport="websocket"'
    assert f"voice_stage_seconds_count{{{labels}}} 1.0" in text
    mine = 'voice_unattributed_seconds_count{profile="embedded",transport="websocket"} 1.0'
    assert mine in text
    assert "voice_loop_lag_seconds_count" in text
    assert 'voice_lost_total{what="call_log"} 0.0' in text
