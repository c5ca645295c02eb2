"""A call as OpenTelemetry has it: one trace, a span a turn, under it a span a stage. Pure.

The identifiers are made of the call's name, so the spans that a server sends and those that
`voice trace export` writes from the log are the same ones, and a line of the log leads to its
trace. Attributes have the names of the GenAI semantic conventions where those have one
(github.com/open-telemetry/semantic-conventions-genai), and begin with "voice." where not.

A turn's span is as long as its caller waited. Its children that are not marked `voice.hidden`
follow one another without a hole and fill it, what no stage covers being a child, too; those
that are marked were at work behind the wait, or after it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from latency.spans import Record, Segment, segments

Value = str | int | float | bool

SERVICE = "sidetone"

NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """A span that has ended.

    Attributes:
        name: What it is: "call", "turn" or a stage's name.
        trace: Its trace, 16 bytes.
        id: Its own identifier, 8 bytes.
        parent: The span it is a part of, b"" for none here.
        begin: When it began, in ns of Unix time.
        end: When it ended.
        attributes: What is known of it.
        events: Moments within it, likewise in ns.
        failed: What went wrong, "" if nothing did.
    """

    name: str
    trace: bytes
    id: bytes
    parent: bytes
    begin: int
    end: int
    attributes: Mapping[str, Value]
    events: Sequence[tuple[str, int]] = ()
    failed: str = ""


@dataclass(slots=True)
class CallFacts:
    """What all spans of one call need to know of it.

    Attributes:
        name: The call's.
        transport: How it came.
        start: Its event "start": agent, ears, mind, mouth.
        began: Unix time, in seconds.
        parent: The caller's own trace and span (W3C `traceparent`), if they told it.
    """

    name: str
    transport: str = ""
    start: Mapping[str, Any] = field(default_factory=dict)
    began: float = 0.0
    parent: tuple[bytes, bytes] | None = None

    @property
    def trace(self) -> bytes:
        """The trace that the call is, or is a part of."""
        return (
            self.parent[0] if self.parent else blake2b(self.name.encode(), digest_size=16).digest()
        )

    def id(self, *part: object) -> bytes:
        """Return the identifier of a part of the call, or of the call itself."""
        named = "/".join(map(str, (self.name, *part)))
        return blake2b(named.encode(), digest_size=8).digest()


def traceparent(header: str) -> tuple[bytes, bytes] | None:
    """Return trace and span of a W3C `traceparent`, None if it is none, or asks for no trace.

    (W3C Trace Context 1, section 3.2: version, trace-id, parent-id, flags.)
    """
    parts = header.strip().split("-")
    if len(parts) < 4 or [len(part) for part in parts[:4]] != [2, 32, 16, 2]:
        return None
    if parts[0] == "ff" or (parts[0] == "00" and len(parts) > 4) or header != header.lower():
        return None
    try:
        trace, span, flags = (bytes.fromhex(part) for part in parts[1:4])
    except ValueError:
        return None
    return (trace, span) if any(trace) and any(span) and flags[0] & 1 else None


def of_call(call: CallFacts, ended: float, reason: str, turns: int) -> Span:
    """Return the span of a whole call."""
    start = call.start
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.conversation.id": call.name,
        "gen_ai.agent.name": str(start.get("agent", "")),
        "voice.transport": call.transport,
        "voice.turns": turns,
        "voice.ended": reason,
    }
    attributes |= {f"voice.{room}": str(start[room]) for room in ROOMS if room in start}
    return Span(
        "call",
        call.trace,
        call.id(),
        call.parent[1] if call.parent else b"",
        _nano(call.began),
        max(_nano(call.began), _nano(ended)),
        attributes,
        failed=reason if reason == "error" else "",
    )


ROOMS = ("ears", "mind", "mouth")


def of_turn(call: CallFacts, record: Record) -> list[Span]:
    """Return the span of a turn and those of its stages; `record` is a call's event "trace"."""
    cut, zero = segments(record), _nano(record["wall"])
    turn = call.id(record["turn"])
    total = record.get("total")
    last = max((s.end for s in cut), default=0.0) if total is None else total
    marks: Mapping[str, float] = record.get("marks") or {}
    whole = Span(
        "turn",
        call.trace,
        turn,
        call.id(),
        zero,
        zero + _nano(last),
        _of_turn(call, record),
        [(name, zero + _nano(at)) for name, at in marks.items()],
        failed="the reply failed" if record.get("outcome") == "failed" else "",
    )
    stages = [
        Span(
            segment.stage,
            call.trace,
            call.id(record["turn"], place),
            turn,
            zero + _nano(segment.begin),
            zero + _nano(segment.end),
            _of_stage(call, record, segment),
        )
        for place, segment in enumerate(cut)
    ]
    return [whole, *stages]


def _of_turn(call: CallFacts, record: Record) -> dict[str, Value]:
    """Return the attributes of a turn: what its record says in single figures."""
    attributes: dict[str, Value] = {
        "gen_ai.conversation.id": call.name,
        "voice.turn": record["turn"],
    }
    for name in SINGLE:
        if (value := record.get(name)) not in (None, ""):
            attributes[f"voice.{name}"] = value
    for group in ("stages", "speculations", "barge_in"):
        singles: Mapping[str, Any] = record.get(group) or {}
        for name, value in singles.items():
            if value is not None:
                attributes[f"voice.{group}.{name}"] = value
    return attributes


SINGLE = (
    *("transport", "total", "budget", "over", "outcome", "cut_in", "missed", "underruns"),
    *("worked", "wasted", "loop_late"),
)
"""Figures of a record that become attributes of its span."""


def _of_stage(call: CallFacts, record: Record, segment: Segment) -> dict[str, Value]:
    """Return the attributes of a stage."""
    attributes: dict[str, Value] = {"voice.hidden": not segment.waited}
    name = str(call.start.get(ENGINE.get(segment.stage, ""), ""))
    if segment.stage in ("asr", "tts"):
        attributes |= {"gen_ai.request.model": name}
        if (factor := (record.get(segment.stage) or {}).get("rtf")) is not None:
            attributes["voice.real_time_factor"] = factor
    if segment.stage == "tools":
        attributes["gen_ai.operation.name"] = "execute_tool"
    if segment.stage == "llm":
        llm: Mapping[str, Any] = record.get("llm") or {}
        attributes |= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": name.split(":", 1)[0],
            "gen_ai.request.model": name,
            "gen_ai.request.stream": True,
        }
        for known, attribute in LLM.items():
            if llm.get(known) is not None:
                attributes[attribute] = llm[known]
    return attributes


ENGINE = {"asr": "ears", "llm": "mind", "tts": "mouth"}
"""Where the event "start" names the engine of a stage."""

LLM = {
    "ttft": "gen_ai.response.time_to_first_chunk",
    "tokens": "gen_ai.usage.output_tokens",
    "tokens_per_second": "voice.llm.tokens_per_second",
    "itl_p50": "voice.llm.inter_token.p50",
    "itl_p95": "voice.llm.inter_token.p95",
}
"""What a record says of the model's answer, and the attribute for it."""


def otlp_json(spans: Iterable[Span], version: str) -> str:
    """Return spans as an OTLP/JSON request, which a collector takes at `/v1/traces`.

    (OTLP 1.0, "JSON Protobuf encoding": identifiers in hex, 64-bit integers as strings.)
    """
    resource = _pairs({"service.name": SERVICE, "service.version": version})
    scope = {"name": SERVICE, "version": version}
    request = {
        "resourceSpans": [
            {
                "resource": {"attributes": resource},
                "scopeSpans": [{"scope": scope, "spans": list(map(_json, spans))}],
            }
        ]
    }
    return json.dumps(request, indent=1)


def _json(span: Span) -> dict[str, Any]:
    """Return one span."""
    written: dict[str, Any] = {
        "traceId": span.trace.hex(),
        "spanId": span.id.hex(),
        "name": span.name,
        "kind": 2 if span.name == "call" else 1,
        "startTimeUnixNano": str(span.begin),
        "endTimeUnixNano": str(span.end),
        "attributes": _pairs(span.attributes),
        "events": [{"timeUnixNano": str(at), "name": name} for name, at in span.events],
        "status": {"code": 2, "message": span.failed} if span.failed else {},
    }
    return written | ({"parentSpanId": span.parent.hex()} if span.parent else {})


def _pairs(attributes: Mapping[str, Value]) -> list[dict[str, Any]]:
    """Return attributes as OTLP has them."""
    kinds = {bool: "boolValue", int: "intValue", float: "doubleValue", str: "stringValue"}
    return [
        {"key": key, "value": {kinds[type(v)]: str(v) if type(v) is int else v}}
        for key, v in attributes.items()
    ]


def _nano(seconds: float) -> int:
    return round(seconds * NANO)
