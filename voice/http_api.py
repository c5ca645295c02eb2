"""The server's routes: calls over WebSocket and WebRTC, health, metrics, the page."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.staticfiles import StaticFiles

from transport import webrtc, websocket
from transport.webrtc_offer import OfferError
from voice import bench_api
from voice.server import BusyError, Server
from voice.settings import LOOPBACK, ChoiceError, SessionSettings, names

PAGE = Path(__file__).parent.parent / "demos" / "browser"
"""The demo page; a wheel has none."""

DASHBOARD = Path(__file__).parent.parent / "latency" / "dashboard"
"""The live page of turns, stages and tuner; a wheel has it too."""

LONGEST_OFFER = 64 * 1024
"""Bytes of SDP that are read."""

LONGEST_NUMBER = 15
"""Digits of a record's number that are read."""

AT_ONCE = 25
"""Records written as JSON before the loop may do something else: 1 ms of a busy machine."""


def refused(status: int, code: str, message: str, retry_after: int = 0) -> JSONResponse:
    """Return an error as every route of this server gives it."""
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    body = {"error": {"code": code, "message": message}}
    return JSONResponse(body, status, headers)


def create_app(server: Server) -> FastAPI:
    """Return the application that serves `server`, which is started and stopped by the caller."""
    app = FastAPI(title="sidetone", docs_url=None, redoc_url=None, openapi_url=None)
    gaps = websocket.Gaps()

    @app.middleware("http")
    async def guard(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.url.path.startswith("/v1/") and (why := barred(request, server)) is not None:
            return why
        return await go_on(request)

    @app.get("/healthz")
    async def alive() -> Response:
        return PlainTextResponse("alive\n")

    @app.get("/readyz")
    async def ready() -> Response:
        if server.ready:
            return PlainTextResponse("ready\n")
        return PlainTextResponse("loading\n", 503, {"Retry-After": "1"})

    @app.get("/metrics")
    async def metrics() -> Response:
        server.metrics.tasks.set(len(asyncio.all_tasks()))
        text = bytearray()
        for piece in server.metrics.pieces():
            text += piece
            await asyncio.sleep(0)  # all at once, they would hold up the calls
        return Response(bytes(text), media_type="text/plain; version=0.0.4")

    @app.get("/v1/about")
    async def about() -> dict[str, object]:
        return server.about()

    @app.get("/v1/dashboard")
    async def latest(since: str = "0") -> Response:
        if not since.isascii() or not since.isdigit() or len(since) > LONGEST_NUMBER:
            return refused(400, "bad_since", f"since is {since[:20]!r}; expected a record's seq")
        if not server.settings.trace:
            return refused(
                404, "no_trace", "this server runs with trace = false: it has no records"
            )
        if server.steering is None:
            return refused(503, "not_ready", "the engines are being loaded", 2)
        snapshot = server.steering.snapshot(int(since))
        return StreamingResponse(written(snapshot), media_type="application/json")

    @app.get("/dashboard")
    async def dashboard(request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"dashboard/{query}")  # relative: whatever stands in front

    app.mount("/dashboard", StaticFiles(directory=DASHBOARD, html=True))

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket, rate: str = "16000") -> None:
        why = barred(socket, server)
        if why is not None:
            await socket.send_denial_response(why)
            return
        await socket.accept()
        if rate not in map(str, websocket.RATES):
            known = ", ".join(map(str, websocket.RATES))
            await turn_away(socket, 1008, "bad_rate", f"rate is {rate[:20]}; expected {known}")
            return
        try:
            server.admit()
        except BusyError as busy:
            await turn_away(socket, 1013, busy.code, str(busy), busy.retry_after)
            return
        try:
            chosen = server.choose(choices(socket))
        except ChoiceError as error:
            await turn_away(socket, 1008, "bad_session", str(error))
            return
        parent = socket.headers.get("traceparent", "")
        attach = partial(server.attach, chosen=chosen, traceparent=parent)
        await websocket.serve(socket, int(rate), attach, gaps)

    @app.post("/v1/webrtc")
    async def offer(request: Request) -> Response:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/sdp":
            return refused(
                415, "bad_type", f"content type is {kind or 'missing'}; expected application/sdp"
            )
        body = b""
        try:
            async for piece in request.stream():
                body += piece
                if len(body) > LONGEST_OFFER:
                    return refused(
                        413, "offer_too_long", f"the offer is longer than {LONGEST_OFFER} bytes"
                    )
            server.admit()
            text = body.decode()
            chosen, parent = server.choose(choices(request)), request.headers.get("traceparent", "")
            attach = partial(server.attach, chosen=chosen, traceparent=parent)
            with server.setting_up():
                peer = await webrtc.answer(text, attach, loopback=server.settings.host in LOOPBACK)
        except BusyError as busy:
            return refused(503, busy.code, str(busy), busy.retry_after)
        except ClientDisconnect:
            return refused(400, "bad_offer", "the offer broke off")
        except UnicodeDecodeError:
            return refused(400, "bad_offer", "the offer is not UTF-8 text")
        except OfferError as error:
            return refused(400, "bad_offer", str(error))
        except ChoiceError as error:
            return refused(400, "bad_session", str(error))
        except RuntimeError as error:
            return refused(503, "no_address", str(error))
        name = secrets.token_urlsafe(12)
        server.keep(name, peer)
        return Response(
            peer.sdp, 201, {"Location": f"/v1/webrtc/{name}"}, media_type="application/sdp"
        )

    @app.delete("/v1/webrtc/{name}")
    async def hang_up(name: str) -> Response:
        peer = server.peers.get(name)
        if peer is None:
            return refused(404, "unknown_call", "there is no such call, or it is over")
        await peer.close()
        return Response(status_code=204)

    if server.settings.profile == "bench":
        bench_api.add(app, server)
    if PAGE.is_dir():
        app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


async def written(snapshot: Mapping[str, Any]) -> AsyncIterator[str]:
    """Write a snapshot as JSON, in pieces: calls that go on do not wait for its records."""
    others = json.dumps({name: part for name, part in snapshot.items() if name != "records"})
    yield f'{others[:-1]}, "records": ['
    records = snapshot["records"]
    for start in range(0, len(records), AT_ONCE):
        piece = ",".join(map(json.dumps, records[start : start + AT_ONCE]))
        yield f",{piece}" if start else piece
        await asyncio.sleep(0)
    yield "]}"


def choices(connection: HTTPConnection) -> Mapping[str, str]:
    """Return what a caller chooses by the address: `?voice=`, `?language=` and `?budget=`."""
    given = connection.query_params
    return {name: given[name] for name in names(SessionSettings) if given.get(name)}


def barred(connection: HTTPConnection, server: Server) -> JSONResponse | None:
    """Return why a connection may not make calls, None if it may.

    A key, where one is set, is asked for. Without one, only loopback is served, and
    pages that come from elsewhere are kept out: a browser would let any of them call,
    also under a name that its owner points at this machine.
    """
    key = server.settings.key
    if key:
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = connection.query_params.get("key", "")
        if not secrets.compare_digest(given.encode(errors="replace"), key.encode()):
            return refused(
                401, "bad_key", "a key is needed: Authorization: Bearer KEY, or ?key=KEY"
            )
        return None
    host, origin = connection.headers.get("host", ""), connection.headers.get("origin")
    if origin and not _own(origin, host):
        return refused(403, "bad_origin", f"calls from pages of {origin[:100]} are not taken")
    # A browser names the page with all but what that page reads of its own server: then only
    # the name that it was opened under tells it from ours.
    if not origin and connection.scope.get("method") in ("GET", "HEAD") and not _own_name(host):
        why = f"{host[:100]} is no name of this machine: ask for 127.0.0.1, or set a key"
        return refused(403, "bad_host", why)
    return None


def _own_name(host: str) -> bool:
    """Tell whether a `Host` header, if there is any, is a name of this machine alone."""
    try:
        return not host or urlsplit(f"//{host}").hostname in LOOPBACK
    except ValueError:
        return False


def _own(origin: str, host: str) -> bool:
    """Tell whether `origin` is a page of this server, opened under a name of this machine."""
    try:
        place = urlsplit(origin)
        return place.netloc == host and place.hostname in LOOPBACK
    except ValueError:
        return False


async def turn_away(
    socket: WebSocket, close: int, code: str, message: str, retry_after: int = 0
) -> None:
    """Tell an accepted client why it gets no call, and close."""
    event = {"type": "error", "turn": 0, "code": code, "message": message}
    if retry_after:
        event["retry_after"] = retry_after
    try:
        async with asyncio.timeout(5):
            await socket.send_json(event)
            await socket.close(close, code)
    except websocket.WIRE_BROKE:
        pass  # it is gone already
