import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from latency.otel import CallFacts
from voice.traces import Logs, exported, read, slowest, usable

from records import WALL, record

ROOT = Path(__file__).parent.parent


def log(data: Path, name: str, *turns: dict[str, Any], extra: str = "") -> Path:
    """Write a call's log as a server does."""
    (data / "calls").mkdir(exist_ok=True)
    start = {"type": "start", "agent": "desk", "ears": "sphinx", "mind": "vllm:qwen"}
    events: list[dict[str, Any]] = [{"time": WALL - 1, **start, "mouth": "espeak"}]
    for turn in turns:
        events.append({"time": turn["wall"] + 1, "type": "turn", "turn": turn["turn"]})
        events.append({"time": turn["wall"] + 2, **turn, "call": name})
    events.append({"time": WALL + 90, "type": "end", "turn": 9, "reason": "goodbye"})
    path = data / "calls" / f"{name}.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + extra)
    return path


def at(turn: int, total: float | None, **changes: Any) -> dict[str, Any]:
    return record(turn=turn, total=total, wall=WALL + 10 * turn, **changes)


def voice(data: Path, *arguments: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VOICE_")}
    return subprocess.run(
        [sys.executable, "-m", "voice.cli", "trace", *arguments],
        cwd=ROOT,
        env=clean
        | {"COLUMNS": str(columns), "NO_COLOR": "1", "VOICE_DATA": str(data), "TZ": "UTC"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_log_is_read_back(tmp_path: Path) -> None:
    call = read(log(tmp_path, "call_ab12", at(2, 0.5), at(1, 0.3, over="llm"), at(3, None)))
    assert call.name == "call_ab12"
    assert call.start["mind"] == "vllm:qwen"
    assert (call.began, call.ended) == (WALL - 1, WALL + 90)
    assert call.reason == "goodbye"
    assert [turn["turn"] for turn in call.turns] == [1, 2, 3]
    assert call.totals == [0.3, 0.5]
    assert call.over == 1
    assert call.worst() == ("endpoint", 0.14)
    assert call.transport == "websocket"
    assert call.broken == 0


GARBAGE = (
    "not json\n",
    '{"type": "trace"\n',
    '"trace"\n',
    "\x00\x01\xff\n",
    '{"type": "trace", "turn": 1}\n',
    "[" * 100_000 + "\n",
    json.dumps(record(total=float("nan"))) + "\n",
    json.dumps(record(total="0.3")) + "\n",
    json.dumps(record(spans=[["llm", 0.0]])) + "\n",
    json.dumps(record(spans=[["\x1b[2J", 0.0, 0.1]])) + "\n",
    json.dumps(record(stages={"llm": None})) + "\n",
    json.dumps(record(outcome="\x1b[31m")) + "\n",
    json.dumps(record(llm={"ttft": "soon"})) + "\n",
    json.dumps({name: value for name, value in record().items() if name != "total"}) + "\n",
    json.dumps(record(cut_in=[])) + "\n",
    json.dumps(record(missed={})) + "\n",
    json.dumps(record(underruns="many")) + "\n",
    json.dumps(record(loop_late=[1])) + "\n",
    json.dumps(record(wall=1e300)) + "\n",
    json.dumps(record(turn=None)) + "\n",
    json.dumps(record(wall=10**400)) + "\n",
    json.dumps(record(spans=[["llm", 0.0, 1e300]])) + "\n",
)


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_line_that_is_none_of_ours_is_counted_and_left_out(tmp_path: Path, garbage: str) -> None:
    call = read(log(tmp_path, "call_ab12", at(1, 0.3), extra=garbage))
    assert call.broken == 1
    assert [turn["turn"] for turn in call.turns] == [1]
    assert call.totals == [0.3]
    for form in ("json", "chrome", "otlp"):
        assert exported(call, form)


def test_what_is_usable_can_be_drawn_and_exported(tmp_path: Path) -> None:
    sparse = record(marks={}, llm=None, asr=None, tts=None, speculations={}, barge_in=None)
    assert usable(sparse)
    assert usable(record(barge_in={"heard": 1.0, "stopped": None}, llm={"ttft": 0.1, "tokens": 1}))
    call = read(log(tmp_path, "call_ab12", sparse))
    for form in ("json", "chrome", "otlp"):
        json.loads(exported(call, form))


def test_a_call_is_found_by_enough_of_its_name(tmp_path: Path) -> None:
    log(tmp_path, "call_ab12", at(1, 0.3))
    log(tmp_path, "call_ab99", at(1, 0.3))
    log(tmp_path, "call_ab1", at(1, 0.3))
    logs = Logs(tmp_path)
    assert logs.find("call_ab9").name == logs.find("ab9").name == "call_ab99"
    assert logs.find("ab1").name == "call_ab1"  # a whole name, though others begin with it
    with pytest.raises(ValueError, match="3 calls begin with 'ab'"):
        logs.find("ab")
    for name in ("zz", "", "../calls/call_ab1"):
        with pytest.raises(ValueError, match="there is no call"):
            logs.find(name)


def test_the_slowest_turns_of_all_calls_come_first(tmp_path: Path) -> None:
    log(tmp_path, "call_a", at(1, 0.3), at(2, 0.9), at(3, None))
    log(tmp_path, "call_b", at(1, 0.6))
    calls = [call for call in Logs(tmp_path).calls() if call is not None]
    found = [(call.name, turn["turn"]) for call, turn in slowest(calls, 2)]
    assert found == [("call_a", 2), ("call_b", 1)]


def test_otlp_json_is_what_a_collector_reads(tmp_path: Path) -> None:
    call = read(log(tmp_path, "call_ab12", at(1, 0.3), at(2, 0.4)))
    written = json.loads(exported(call, "otlp"))
    spans = written["resourceSpans"][0]["scopeSpans"][0]["spans"]
    for span in spans:  # Protobuf's own JSON has base64 where OTLP has hex
        for key in ("traceId", "spanId", "parentSpanId"):
            span.pop(key, None)
    request = json_format.ParseDict(written, ExportTraceServiceRequest())
    named = [span.name for span in request.resource_spans[0].scope_spans[0].spans]
    assert named.count("call") == 1
    assert named.count("turn") == 2
    again = json.loads(exported(call, "otlp"))
    first = again["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    assert first["traceId"] == CallFacts("call_ab12").trace.hex()
    assert re.fullmatch("[0-9a-f]{16}", first["spanId"])


def test_chrome_events_lie_where_the_spans_do(tmp_path: Path) -> None:
    call = read(log(tmp_path, "call_ab12", record(turn=1)))
    events = json.loads(exported(call, "chrome"))["traceEvents"]
    rows = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    path = [e for e in events if e["ph"] == "X" and e["tid"] == rows["waited for"]]
    assert sum(e["dur"] for e in path) == pytest.approx(300_000)
    assert min(e["ts"] for e in path) == pytest.approx(WALL * 1e6)
    (llm,) = [e for e in events if e["ph"] == "X" and e["tid"] == rows["llm"]]
    assert llm["args"]["hidden"] is True
    assert llm["ts"] == pytest.approx((WALL + 0.11) * 1e6)
    assert {e["name"] for e in events if e["ph"] == "i"} >= {"decided", "speculation"}


def test_the_list_says_when_how_and_for_what_callers_waited(tmp_path: Path) -> None:
    log(tmp_path, "call_ab12cd", at(1, 0.3), at(2, 0.9, over="llm"))
    log(tmp_path, "call_ab99ef")
    (tmp_path / "calls" / "foreign.jsonl").write_bytes(b"\x00\xff\x00\n")
    (tmp_path / "calls" / "empty.jsonl").write_text("")
    (tmp_path / "calls" / "folder.jsonl").mkdir()
    for arguments in ((), ("list",), ("list", "--last", "9")):
        done = voice(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert re.search(
            r"ab12 +11-30 \d\d:\d\d:\d\d +ws +2 +300 +900 +endpoint 140 +1", done.stdout
        )
        assert re.search(r"ab99 .+ 0 +– +– +–", done.stdout)
        assert "left out: 3 files are no call logs" in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80
    assert "▃█" in voice(tmp_path, columns=120).stdout
    assert "ab99" in voice(tmp_path, "list", "--last", "5").stdout


def test_a_call_is_shown(tmp_path: Path) -> None:
    log(tmp_path, "call_ab12", at(1, 0.3), at(2, 0.9, over="llm"))
    for columns in (80, 120):
        done = voice(tmp_path, "show", "ab", columns=columns)
        assert done.returncode == 0, done.stderr
        assert "sphinx, vllm:qwen, espeak" in done.stdout
        assert "2 turns   p50 300 ms   p95 900 ms   1 over budget" in done.stdout
        assert "turn 2   900 ms, budget 800   over: llm" in done.stdout
        assert "turn 1   300" not in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= columns
    assert "turn 1   300 ms" in voice(tmp_path, "show", "ab", "--all").stdout
    assert voice(tmp_path, "show", "ab", "--turn", "1").stdout.startswith("turn 1   300 ms")


def test_the_slowest_turns_are_drawn(tmp_path: Path) -> None:
    log(tmp_path, "call_ab12", at(1, 0.3), at(2, 0.9))
    log(tmp_path, "call_cd34", at(1, 0.6))
    done = voice(tmp_path, "--slowest", "2")
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"(\w+ turn \d) .* (\d+)  endpoint", done.stdout)
    assert shown == [("ab12 turn 2", "900"), ("cd34 turn 1", "600")]
    assert "turn 2   900 ms" in done.stdout


def test_an_export_goes_where_it_is_told(tmp_path: Path) -> None:
    log(tmp_path, "call_ab12", at(1, 0.3))
    done = voice(tmp_path, "export", "ab12")
    assert json.loads(done.stdout)["turns"][0]["total"] == 0.3
    file = tmp_path / "out.json"
    done = voice(tmp_path, "export", "ab12", "--format", "chrome", "--out", str(file))
    assert done.returncode == 0
    assert json.loads(file.read_text())["traceEvents"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "zz"), "there is no call 'zz' in"),
        (("show", "call_"), "2 calls begin with 'call_': call_ab12, call_ab34; give more"),
        (("show", "ab12", "--turn", "7"), "call_ab12 has no record of turn 7; it has 1"),
        (("export", "ab12", "--format", "svg"), "--format is 'svg'; expected json, chrome, otlp"),
        (("export", "ab12", "--out", "/nowhere/x"), "/nowhere/x"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    log(tmp_path, "call_ab12", at(1, 0.3))
    log(tmp_path, "call_ab34", at(1, 0.3))
    done = voice(tmp_path, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_no_calls_are_no_error(tmp_path: Path) -> None:
    for arguments in ((), ("--slowest", "3")):
        done = voice(tmp_path / "nowhere", *arguments)
        assert done.returncode == 0
        assert "calls" in done.stdout
