"""An OpenTelemetry collector for tests: it takes OTLP/HTTP requests on loopback, and keeps them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Collector:
    """What was taken so far, and how the next request is answered.

    Attributes:
        requests: Everything that was taken, decoded, each with its path.
        status: HTTP status of each answer; what is not answered with 200 is not kept.
        delay: Seconds before each answer.
        asked: How many requests came, whatever became of them.
    """

    requests: list[tuple[str, ExportTraceServiceRequest]] = field(default_factory=list)
    status: int = 200
    delay: float = 0.0
    asked: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def spans(self) -> list[Span]:
        """All spans that were taken."""
        return [
            span
            for _, request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> list[Span]:
        """Return the spans of this name."""
        return [span for span in self.spans if span.name == name]

    def until(self, count: int, name: str, timeout: float = 20.0) -> bool:
        """Block until that many spans of this name were taken."""
        end = time.monotonic() + timeout
        while len(self.named(name)) < count and time.monotonic() < end:
            time.sleep(0.02)
        return len(self.named(name)) >= count


def attributes(span: Span) -> dict[str, Any]:
    """Return the attributes of a span, as Python has them."""
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
        for pair in span.attributes
    }


@contextmanager
def collecting(status: int = 200, delay: float = 0.0) -> Iterator[Collector]:
    """Listen on a free port of loopback."""
    collector = Collector(status=status, delay=delay)

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.asked += 1
            time.sleep(collector.delay)
            if collector.status == 200:
                assert self.headers["Content-Type"] == "application/x-protobuf"
                request = ExportTraceServiceRequest.FromString(body)
                collector.requests.append((self.path, request))
            answer = ExportTraceServiceResponse().SerializeToString()
            try:
                self.send_response(collector.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
            except OSError:
                pass  # who asked has not waited

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    collector.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
