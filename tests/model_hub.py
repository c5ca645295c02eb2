"""A model hub on loopback: the routes that are used of the real one, and ways to go wrong."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "c" * 40


@dataclass
class Hub:
    """One repository, `some/tiny`, and what goes wrong with it.

    Attributes:
        files: Content by path; longer than 100 bytes is large, on another host.
        cuts: The next answers break off after so many bytes of their content.
        ranges: Whether parts of files may be asked for.
        status: Answers everything with this and the header X-Error-Code, if it is set.
        failures: So many answers are 503 first.
        lies: What is sent instead of a file's content.
        gate: Content waits for this.
        asked: Every request: path, Range and Authorization.
    """

    files: dict[str, bytes]
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    status: tuple[int, str] | None = None
    failures: int = 0
    lies: dict[str, bytes] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def content(self) -> list[str]:
        """Return the ranges of large files that were asked for, in order."""
        return [span for path, span, _ in self.asked if path.startswith("/cdn/")]


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub(dict(files))
    hub.gate.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *given: object) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            keys = [self.headers.get(name, "") for name in ("Range", "Authorization")]
            hub.asked.append((parts.path, keys[0], keys[1]))
            api = "/api/models/some/tiny"
            where, _, name = parts.path.rpartition(f"/{COMMIT}/")
            if hub.failures:
                hub.failures -= 1
                self.say(503)
            elif hub.status:
                self.say(hub.status[0], **{"X-Error-Code": hub.status[1]})
            elif parts.path in (f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
                self.say(200, json.dumps({"sha": COMMIT}).encode())
            elif parts.path == f"{api}/tree/{COMMIT}":
                self.tree(parts.query)
            elif where == "/some/tiny/resolve" and len(hub.files.get(name, b"")) > 100:
                self.say(302, Location=f"http://localhost:{hub.port}/cdn/{COMMIT}/{name}")
            elif where in ("/cdn", "/some/tiny/resolve") and name in hub.files:
                self.body(name)
            else:
                self.say(404, **{"X-Error-Code": "EntryNotFound"})

        def tree(self, query: str) -> None:
            names = sorted(hub.files)
            at = 1 if "cursor" in query else 0
            page = names[:1] if at == 0 else names[1:]
            entries = [{"type": "directory", "path": "runs", "oid": "0", "size": 0}]
            entries += [entry(name, hub.files[name]) for name in page]
            following = f'<{hub.url}{self.path}&cursor=1>; rel="next"'
            links = {"Link": following} if at == 0 and len(names) > 1 else {}
            self.say(200, json.dumps(entries).encode(), **links)

        def body(self, name: str) -> None:
            hub.gate.wait(20)
            whole = hub.lies.get(name, hub.files[name])
            span = self.headers.get("Range", "") if hub.ranges else ""
            first, _, last = span.removeprefix("bytes=").partition("-")
            begin, end = int(first or 0), int(last) + 1 if last else len(whole)
            if begin >= len(whole):
                self.say(416)
                return
            piece = whole[begin:end]
            self.send_response(206 if span else 200)
            if span:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(whole)}")
            self.send_header("Content-Length", str(len(piece)))
            self.send_header("ETag", '"version"')
            self.end_headers()
            if hub.cuts and len(whole) > 100:
                piece = piece[: hub.cuts.pop(0)]
                self.close_connection = True
            self.wfile.write(piece)

        def say(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


def entry(name: str, content: bytes) -> dict[str, object]:
    """Return a file as the hub lists it: a large one by SHA-256, a small one as git's blob."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    listed = {"type": "file", "path": name, "oid": blob, "size": len(content)}
    if len(content) > 100:
        large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}
        listed |= {"oid": "1" * 40, "lfs": large}
    return listed
