"""Traces of real calls, as a real collector receives them over OTLP/HTTP; and collectors that
are down, slow or unwilling."""

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from asr.fake import Fake as FakeEars
from latency import otlp
from latency.otel import CallFacts
from latency.otlp import Traces, address
from latency.spans import segments
from llm.fake import Fake as FakeMind
from tts.fake import Fake as FakeMouth
from voice.client import dial

from collector import Collector, attributes, collecting
from helpers import Running, running, voiced
from records import record

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
"""A caller's `traceparent`, the example of the W3C recommendation."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "EVERY", 0.05)


async def converse(live: Running, turns: int) -> None:
    """Hold a call of so many turns."""
    async with dial(live.url) as caller:
        assert await caller.until(lambda: bool(caller.heard()), 20)
        for _ in range(turns):
            since = len(caller.events)
            await caller.say(voiced(0.5), 16_000)
            assert await caller.until(lambda: bool(caller.heard(since)), 20)  # noqa: B023
        await caller.hang_up()


def inside(part: Span, whole: Span) -> bool:
    return (
        whole.start_time_unix_nano <= part.start_time_unix_nano
        and part.end_time_unix_nano <= whole.end_time_unix_nano
    )


def length(span: Span) -> int:
    return span.end_time_unix_nano - span.start_time_unix_nano


async def test_a_collector_receives_a_trace_a_call_a_span_a_turn_and_a_child_a_stage(
    tmp_path: Path,
) -> None:
    before = time.time_ns()
    with collecting() as collector:
        async with running(
            tmp_path,
            ears=FakeEars(always="hello there", delay=0.05),
            mind=FakeMind("Good morning.", 0.05, 0.01),
            mouth=FakeMouth(character=0.02, first=0.05),
            otlp=collector.url,
        ) as live:
            # Answers are begun early, whatever this machine does meanwhile.
            live.server.load.note = lambda *_: None  # type: ignore[method-assign]
            await asyncio.gather(converse(live, 3), converse(live, 2))
        assert {path for path, _ in collector.requests} == {"/v1/traces"}
        spans = collector.spans
    calls = collector.named("call")
    assert len(calls) == 2
    assert len({call.trace_id for call in calls}) == 2
    assert len({span.span_id for span in spans}) == len(spans)
    turns = collector.named("turn")
    assert sorted(Counter(turn.trace_id for turn in turns).values()) == [2, 3]
    for turn in turns:
        (call,) = [call for call in calls if call.trace_id == turn.trace_id]
        assert turn.parent_span_id == call.span_id
        assert inside(turn, call)
        check_turn(turn, [span for span in spans if span.parent_span_id == turn.span_id])
    assert all(before < span.start_time_unix_nano < time.time_ns() for span in spans)


def check_turn(turn: Span, stages: list[Span]) -> None:
    """Check that the stages lie in their turn, and that those waited for add up to it."""
    assert {stage.trace_id for stage in stages} == {turn.trace_id}
    path = [stage for stage in stages if not attributes(stage)["voice.hidden"]]
    assert all(inside(stage, turn) for stage in path)
    assert sum(map(length, path)) == length(turn)
    told = attributes(turn)
    assert told["voice.total"] * 1e9 == pytest.approx(length(turn), abs=2)
    for name, seconds in told.items():
        if name.startswith("voice.stages.") and seconds > 0:
            mine = [stage for stage in path if stage.name == name.removeprefix("voice.stages.")]
            assert sum(map(length, mine)) / 1e9 == pytest.approx(seconds, abs=5e-5), name
    # With answers of 150 ms and a wait of 300, everything was made behind the wait.
    hidden = {stage.name for stage in stages if attributes(stage)["voice.hidden"]}
    assert {"asr", "llm", "tts"} <= hidden
    (llm,) = [stage for stage in stages if stage.name == "llm"][-1:]
    known = attributes(llm)
    assert known["gen_ai.request.model"] == known["gen_ai.provider.name"] == "fake"
    assert known["gen_ai.operation.name"] == "chat"
    assert known["gen_ai.usage.output_tokens"] > 0
    assert known["gen_ai.response.time_to_first_chunk"] == pytest.approx(length(llm) / 1e9, abs=0.1)


async def test_a_call_joins_the_trace_of_its_caller(tmp_path: Path) -> None:
    from websockets.asyncio.client import connect

    with collecting() as collector:
        async with running(tmp_path, otlp=collector.url) as live:
            address = f"{live.url.replace('http', 'ws')}/v1/stream"
            async with connect(address, additional_headers={"traceparent": CALLER}) as socket:
                await socket.send('{"type": "hang_up"}')
                async for _ in socket:
                    pass
        (call,) = collector.named("call")
    assert call.trace_id.hex() == CALLER.split("-")[1]
    assert call.parent_span_id.hex() == CALLER.split("-")[2]
    assert attributes(call)["voice.ended"] == "hang_up"


def closed_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def unwilling(kind: str) -> Iterator[str]:
    """Yield the address of a collector that does not take what it is sent."""
    match kind:
        case "down":
            yield closed_port()
        case "answers 500":
            with collecting(status=500) as collector:
                yield collector.url
        case "answers 503":  # which is tried again
            with collecting(status=503) as collector:
                yield collector.url
        case "slow":
            with collecting(delay=30.0) as collector:
                yield collector.url


@pytest.mark.parametrize("kind", ["down", "answers 500", "answers 503", "slow"])
async def test_a_collector_that_fails_costs_spans_and_nothing_else(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(otlp, "PATIENCE", 0.4)
    monkeypatch.setattr(otlp, "FLUSH", 0.5)
    caplog.set_level(logging.WARNING)
    with unwilling(kind) as endpoint:
        async with running(tmp_path, mouth=FakeMouth(character=0.01), otlp=endpoint) as live:
            exports = live.server._exports
            await asyncio.gather(converse(live, 2), converse(live, 2))
            traces = exports._traces
            assert traces is not None
            async with asyncio.timeout(20):
                while not traces.lost:
                    await asyncio.sleep(0.05)
            await converse(live, 1)
            assert traces.sent == 0
            assert b'voice_lost_total{what="otlp"}' in live.server.metrics.text()
    told = [entry for entry in caplog.records if "traces are lost" in entry.message]
    assert len(told) == 1
    assert not [entry for entry in caplog.records if entry.name.startswith("opentelemetry")]


def test_a_collector_that_comes_back_gets_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting(status=500) as collector:
        traces = Traces(collector.url, "1.0")
        try:
            traces.take("call_a", record())
            end = time.monotonic() + 20
            while not traces.lost and time.monotonic() < end:
                time.sleep(0.02)
            assert traces.lost == 1 + len(segments(record()))
            collector.status = 200
            traces.take("call_a", record(turn=4))
            assert collector.until(1, "turn")
        finally:
            traces.close()
    assert [attributes(turn)["voice.turn"] for turn in collector.named("turn")] == [4]


def test_what_waits_is_sent_before_the_end() -> None:
    with collecting() as collector:
        traces = Traces(collector.url, "1.0")
        traces.begin("call_a", "webrtc")
        traces.take("call_a", {"type": "start", "agent": "desk", "mind": "vllm:qwen"})
        for turn in range(50):
            traces.take("call_a", record(turn=turn))
        traces.take("call_a", {"type": "end", "reason": "goodbye"})
        traces.finish("call_a")
        traces.close()
    assert len(collector.named("turn")) == 50
    (call,) = collector.named("call")
    told = attributes(call)
    assert (told["voice.turns"], told["voice.ended"]) == (50, "goodbye")
    assert told["voice.transport"] == "webrtc"
    assert traces.sent == len(collector.spans)


def test_the_end_does_not_wait_for_a_collector_that_hangs() -> None:
    with collecting(delay=30.0) as collector:
        traces = Traces(collector.url, "1.0")
        traces.take("call_a", record())
        end = time.monotonic() + 20
        while not collector.asked and time.monotonic() < end:
            time.sleep(0.02)
        before = time.monotonic()
        traces.close(within=0.2)
        assert time.monotonic() - before < 5  # it would be 30


def test_a_full_queue_drops_and_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "WAITING", 5)
    with collecting(delay=30.0) as collector:
        traces = Traces(collector.url, "1.0")
        traces.take("call_a", record())
        end = time.monotonic() + 20
        while not collector.asked and time.monotonic() < end:
            time.sleep(0.02)
        for _ in range(100):  # the collector takes its time, and nobody takes these
            traces.take("call_a", {"type": "start"})
        assert traces.lost == 95
        traces.close(within=0.1)


def test_calls_whose_end_was_dropped_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "CALLS", 5)
    with collecting() as collector:
        traces = Traces(collector.url, "1")
        for number in range(50):
            traces.begin(f"call_{number}", "websocket")
        traces.take("call_49", record())
        traces.close()
    assert len(traces._calls) == 5
    assert traces.sent == 1 + len(segments(record()))


def test_a_record_that_cannot_be_read_costs_itself() -> None:
    with collecting() as collector:
        traces = Traces(collector.url, "1.0")
        traces.take("call_a", {"type": "trace", "turn": 1})
        traces.take("call_a", record(turn=2, spans=[["llm"]]))
        traces.take("call_a", record(turn=3))
        traces.close()
    assert [attributes(turn)["voice.turn"] for turn in collector.named("turn")] == [3]
    assert traces.lost == 2


def test_identifiers_come_from_the_calls_name() -> None:
    with collecting() as collector:
        traces = Traces(collector.url, "1.0")
        traces.begin("call_a", "webrtc")
        traces.finish("call_a")
        traces.close()
    (call,) = collector.named("call")
    assert call.trace_id == CallFacts("call_a").trace
    assert call.span_id == CallFacts("call_a").id()
    assert call.parent_span_id == b""


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("https://c/otlp/v1/traces", "https://c/otlp/v1/traces"),
    ],
)
def test_an_address_without_a_path_gets_the_usual_one(given: str, used: str) -> None:
    assert address(given) == used


@pytest.mark.parametrize("given", ["collector:4318", "grpc://c:4317", "http://"])
async def test_a_server_with_no_address_of_a_collector_does_not_start(
    given: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="expected a collector's address"):
        async with running(tmp_path, otlp=given):
            pass


def test_a_collector_is_not_asked_for_what_no_trace_needs() -> None:
    with collecting() as collector:
        traces = Traces(collector.url, "1.0")
        traces.take("call_a", {"type": "captions", "text": "secret"})
        traces.close()
    assert isinstance(collector, Collector)
    assert collector.asked == 0
