"""Sends calls to an OpenTelemetry collector over OTLP/HTTP, off the loop.

A call hands over events and never waits: they go into a bounded queue, and a thread of its own
makes spans of them (`latency.otel`) and sends these in small batches. A collector that is slow,
down or unwilling costs spans, which are counted, and nothing else. This is the only file that
imports OpenTelemetry, and it is imported only where an endpoint is set.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from latency import otel
from latency.otel import CallFacts

log = logging.getLogger(__name__)

WAITING = 2000
"""Events that may wait to be sent; more are dropped."""

CALLS = 10_000
"""Calls that are remembered until they end: the end of one may be dropped. Then the oldest goes."""

EVERY = 1.0
"""Seconds for which events are gathered before they are sent."""

TURNS = 10
"""Turns in one request, at most. Making and encoding one takes 1.3 ms of the interpreter that the
calls need, too (2-core EPYC, Python 3.11, 12 spans a turn)."""

PATIENCE = 5.0
"""Seconds that a collector has for one request, all tries together."""

FLUSH = 3.0
"""Seconds that what waits may take to be sent when the server stops."""


class Traces:
    """Traces of the calls of one server. Nothing but `close` ever blocks.

    Attributes:
        sent: Spans that the collector has taken.
        lost: Spans that it has not, and events that found the queue full.
    """

    def __init__(self, endpoint: str, version: str, clock: Callable[[], float] = time.time) -> None:
        """Send to `endpoint`, "http://HOST:4318" or a full address of its traces.

        Raises:
            ValueError: If that is no address.
        """
        self.sent = self.lost = 0
        self._clock = clock
        self._entries: queue.Queue[tuple[str, float, Mapping[str, Any]] | None]
        self._entries = queue.Queue(WAITING)
        self._calls: dict[str, _Call] = {}
        self._spans = _Made(version)
        self._exporter: SpanExporter = OTLPSpanExporter(address(endpoint), timeout=PATIENCE)
        self._giving_up = self._failing = False
        self._endpoint = endpoint
        # Its own words come with every batch; ours once.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._thread = threading.Thread(target=self._work, name="otlp", daemon=True)
        self._thread.start()

    def begin(self, call: str, transport: str, traceparent: str = "") -> None:
        """Begin a call's trace, or its part of the trace that `traceparent` names."""
        self._put(call, {"type": "began", "transport": transport, "traceparent": traceparent})

    def take(self, call: str, event: Mapping[str, Any]) -> None:
        """Take an event of a call's log, and those that matter to its trace."""
        if event.get("type") in ("start", "trace", "end"):
            self._put(call, event)

    def finish(self, call: str) -> None:
        """End a call's trace."""
        self._put(call, {"type": "finished"})

    def close(self, within: float = FLUSH) -> None:
        """Send what waits and stop; blocks until then, `within` seconds at most."""
        until = time.monotonic() + within
        try:
            self._entries.put(None, timeout=within)
            self._thread.join(max(0.0, until - time.monotonic()))
        except queue.Full:
            pass
        self._giving_up = True
        self._exporter.shutdown()  # a try that waits for the next one ends

    def _put(self, call: str, event: Mapping[str, Any]) -> None:
        try:
            self._entries.put_nowait((call, self._clock(), event))
        except queue.Full:
            self.lost += 1

    def _work(self) -> None:
        """Send until closed."""
        while not self._giving_up:
            spans, closing = self._gather()
            if spans:
                self._send(spans)
            if closing:
                return

    def _gather(self) -> tuple[list[ReadableSpan], bool]:
        """Wait for events and make spans of them; tell whether that was all."""
        turns, until = 0, None
        while turns < TURNS:
            left = None if until is None else until - time.monotonic()
            try:
                entry = self._entries.get(timeout=None if left is None else max(0.0, left))
            except queue.Empty:
                break
            if entry is None:
                return self._spans.ended(), True
            until = until or time.monotonic() + EVERY
            try:
                turns += self._make(*entry)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                self.lost += 1
                log.warning("an event of %s makes no span: %r", entry[0], error)
        return self._spans.ended(), False

    def _make(self, name: str, at: float, event: Mapping[str, Any]) -> bool:
        """Make the spans of one event; tell whether it was a turn."""
        call = self._calls.setdefault(name, _Call(CallFacts(name, began=at)))
        if len(self._calls) > CALLS:
            del self._calls[next(iter(self._calls))]
        match event:
            case {"type": "began", "transport": transport, "traceparent": parent}:
                call.facts.transport = transport
                call.facts.parent = otel.traceparent(parent)
            case {"type": "start"}:
                call.facts.start = event
            case {"type": "trace"}:
                call.turns += 1
                for span in otel.of_turn(call.facts, event):
                    self._spans.add(span)
                return True
            case {"type": "end", "reason": reason}:
                call.reason = reason
            case {"type": "finished"}:
                del self._calls[name]
                self._spans.add(otel.of_call(call.facts, at, call.reason, call.turns))
        return False

    def _send(self, spans: list[ReadableSpan]) -> None:
        """Send one batch; say when that begins to fail, and when it works again."""
        worked = self._exporter.export(spans) is SpanExportResult.SUCCESS
        if worked:
            self.sent += len(spans)
        else:
            self.lost += len(spans)
        if worked == self._failing and not self._giving_up:
            self._failing = not worked
            if worked:
                log.warning("traces reach %s again", self._endpoint)
            else:
                log.warning("traces are lost: %s does not take them", self._endpoint)


class _Call:
    """A call whose trace has not ended."""

    def __init__(self, facts: CallFacts) -> None:
        self.facts = facts
        self.reason = "lost"
        self.turns = 0


class _Made(SpanProcessor, IdGenerator):
    """Makes OpenTelemetry's spans of ours, with our times and identifiers. For one thread."""

    def __init__(self, version: str) -> None:
        self._next: otel.Span
        self._ended: list[ReadableSpan] = []
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({"service.name": otel.SERVICE, "service.version": version}),
            shutdown_on_exit=False,
            id_generator=self,
        )
        provider.add_span_processor(self)
        self._tracer = provider.get_tracer(otel.SERVICE, version)

    def add(self, span: otel.Span) -> None:
        """Make one span."""
        self._next = span
        parent = _context(span.trace, span.parent, remote=span.name == "call")
        context = set_span_in_context(NonRecordingSpan(parent))
        made = self._tracer.start_span(
            span.name,
            context,
            SpanKind.SERVER if span.name == "call" else SpanKind.INTERNAL,
            dict(span.attributes),
            start_time=span.begin,
        )
        for name, at in span.events:
            made.add_event(name, timestamp=at)
        if span.failed:
            made.set_status(Status(StatusCode.ERROR, span.failed))
        made.end(span.end)

    def ended(self) -> list[ReadableSpan]:
        """Return what was made since the last time."""
        made, self._ended = self._ended, []
        return made

    # What OpenTelemetry calls.

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a span."""
        self._ended.append(span)

    def generate_trace_id(self) -> int:
        """Return the trace of the span that is being made."""
        return int.from_bytes(self._next.trace)

    def generate_span_id(self) -> int:
        """Return the identifier of the span that is being made."""
        return int.from_bytes(self._next.id)


def address(endpoint: str) -> str:
    """Return where traces are sent, for a collector's address with or without a path.

    Raises:
        ValueError: If it is none.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"otlp is {endpoint!r}; expected a collector's address such as http://127.0.0.1:4318"
        )
    return endpoint if parts.path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"


def _context(trace: bytes, span: bytes, *, remote: bool) -> SpanContext:
    """Return what a span is to be a part of."""
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int.from_bytes(trace), int.from_bytes(span), remote, flags)
