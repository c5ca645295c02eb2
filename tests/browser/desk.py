"""A desk for the page to call: the routes and events of the real one, from a script.

It hears: each time the caller falls silent, or sends text, it plays the next turn
of its script. Its voice is a tone, so that a test can measure it.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from fractions import Fraction
from typing import Any

import numpy as np
import uvicorn
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from av import AudioFrame
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from voice.http_api import DASHBOARD, PAGE

ABOUT = {
    "agent": {
        "name": "Lakeside Clinic front desk",
        "suggestions": [
            "I'd like to book an appointment",
            "When are you open?",
            "I need to move my appointment",
        ],
    },
    "ears": {
        "name": "pocketsphinx",
        "about": "These ears know the sentences that callers of this clinic say, in clear English.",
        "better": "voice serve --asr whisper:small",
    },
    "mind": {"name": "front-desk model", "about": "Answers for this clinic and nothing else."},
    "mouth": {"name": "espeak-ng", "about": "Plain, quick and always there."},
    "version": "0.1.0",
}

Event = dict[str, Any]


class Tone(MediaStreamTrack):
    """The desk's voice: 330 Hz while it speaks, silence otherwise."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.speaking = False
        self._sent = 0
        self._start: float | None = None

    async def recv(self) -> AudioFrame:
        """Return the next 20 ms, when they are due."""
        now = asyncio.get_running_loop().time()
        self._start = self._start if self._start is not None else now
        await asyncio.sleep(max(0.0, self._start + self._sent / 48_000 - now))
        at = (self._sent + np.arange(960)) / 48_000
        wave = np.sin(2 * np.pi * 330 * at) * (6000 if self.speaking else 0)
        frame = AudioFrame.from_ndarray(wave.astype(np.int16)[None, :], layout="mono")
        frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
        frame.pts = self._sent
        self._sent += 960
        return frame


class Call:
    """One call of the page.

    Attributes:
        received: What the page sent over the data channel.
        heard: Set once sound came from its microphone.
        closed: Set once it was hung up.
    """

    def __init__(self, script: Sequence[Sequence[Event]], words: float) -> None:
        self.peer = RTCPeerConnection()
        self.received: list[Event] = []
        self.heard = asyncio.Event()
        self.closed = asyncio.Event()
        self._script = list(script)
        self._words = words
        self._voice = Tone()
        self._channel: Any = None
        self._turn = 0
        self._closing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer(self, offer: str) -> str:
        """Take the page's offer (SDP) and return the answer."""
        self.peer.on("datachannel", self._open)
        self.peer.on("track", lambda track: self._start(self._listen(track)))
        await self.peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        self.peer.addTrack(self._voice)
        await self.peer.setLocalDescription(await self.peer.createAnswer())
        return str(self.peer.localDescription.sdp)

    def tell(self, **event: Any) -> None:
        """Send one event."""
        self._channel.send(json.dumps(event))

    async def close(self) -> None:
        """Hang up."""
        for task in self._tasks:
            task.cancel()
        await self.peer.close()
        self.closed.set()

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _open(self, channel: Any) -> None:
        self._channel = channel
        channel.on("message", self._receive)
        self.tell(type="start", turn=0, call="c1", agent=ABOUT["agent"], notice="")
        self._next()

    def _receive(self, data: str) -> None:
        message = json.loads(data)
        self.received.append(message)
        if message["type"] == "hang_up":
            self._closing = asyncio.create_task(self.close())
        elif message["type"] == "text":
            self.tell(
                type="captions",
                role="user",
                turn=self._turn + 1,
                text=message["text"],
                final=True,
            )
            self._next(typed=True)

    def _next(self, typed: bool = False) -> None:
        if self._script:
            self._start(self._play(self._script.pop(0), typed))

    async def _play(self, events: Sequence[Event], typed: bool) -> None:
        """Send a turn's events; the captions of the agent word by word, as they are heard."""
        if any(event.get("role") == "user" for event in events):
            self._turn += 1
        for event in events:
            if typed and event.get("role") == "user":
                continue
            whole = {"turn": self._turn} | event
            if event.get("role") == "agent":
                self._voice.speaking = True
                words = event.get("shown", event["text"]).split()
                for count in range(1, len(words) + 1):
                    so_far = {"text": " ".join(words[:count]), "final": False}
                    self.tell(**whole | so_far | {"interrupted": False})
                    await asyncio.sleep(self._words)
                self._voice.speaking = False
            self.tell(**whole)

    async def _listen(self, track: Any) -> None:
        """Play the next turn each time the caller's sound has ended."""
        silent = 0
        with suppress(Exception):  # aiortc's word for "the track has ended"
            while True:
                frame = await track.recv()
                loud = np.abs(frame.to_ndarray()).max() > 1500
                if loud:
                    silent = 0
                    self.heard.set()
                elif self.heard.is_set() and (silent := silent + 1) == 25:
                    self._next()


class Desk:
    """A server that takes calls and plays them `script`: a list of events for each turn.

    Attributes:
        url: Where it listens.
        calls: All calls so far.
        keys: The `Authorization` of every call so far.
        hung_up: How often it was asked to hang up over HTTP.
        busy: Answers every call with 503 and this `Retry-After`, in seconds.
        words: Seconds that the agent's voice takes for a word.
        about: What it says of itself.
    """

    def __init__(self, script: Sequence[Sequence[Event]]) -> None:
        self.url = ""
        self.calls: list[Call] = []
        self.keys: list[str | None] = []
        self.hung_up = 0
        self.busy = 0
        self.words = 0.02
        self.about: dict[str, Any] = deepcopy(ABOUT)
        self._script = script
        self.app = Starlette(
            routes=[
                Route("/", lambda _: FileResponse(PAGE / "index.html")),
                Route("/v1/about", lambda _: JSONResponse(self.about)),
                Route("/v1/webrtc", self._offer, methods=["POST"]),
                Route("/v1/webrtc/{id:int}", self._hang_up, methods=["DELETE"]),
                Mount("/dashboard", StaticFiles(directory=DASHBOARD)),  # has what both share
                Mount("/", StaticFiles(directory=PAGE)),
            ]
        )

    async def _offer(self, request: Request) -> Response:
        self.keys.append(request.headers.get("authorization"))
        if self.busy:
            error = {"code": "busy", "message": "All 32 lines are taken."}
            headers = {"Retry-After": str(self.busy)}
            return JSONResponse({"error": error}, status_code=503, headers=headers)
        call = Call(self._script, self.words)
        self.calls.append(call)
        answer = await call.answer((await request.body()).decode())
        location = {"Location": f"/v1/webrtc/{len(self.calls) - 1}"}
        return Response(answer, 201, location, media_type="application/sdp")

    async def _hang_up(self, request: Request) -> Response:
        self.hung_up += 1
        await self.calls[request.path_params["id"]].close()
        return Response(status_code=204)


@asynccontextmanager
async def desk(*script: Sequence[Event]) -> AsyncIterator[Desk]:
    """Serve the page and its calls on a free port of this machine."""
    one = Desk(script)
    server = uvicorn.Server(
        uvicorn.Config(one.app, log_level="warning", timeout_graceful_shutdown=1)
    )
    listening = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    one.url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    try:
        yield one
    finally:
        for call in one.calls:
            await call.close()
        server.should_exit = True
        await task
