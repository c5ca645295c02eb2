"""The callers of `--what overload` over WebRTC; see `voice.bench_overload`."""

import asyncio
import contextlib
from collections import Counter
from time import monotonic

import httpx

from voice.bench_overload import Heard
from voice.capacity import Refusal
from voice.crowd import refusal
from voice.webrtc_callers import Caller, Loop, Pump


class WebRtcAskers:
    """Callers over WebRTC who want a call, and come back when they were told to."""

    def __init__(self, url: str, loop: Loop, reply: float) -> None:
        self.refusals: list[Refusal] = []
        self._host, self._port = httpx.URL(url).host, httpx.URL(url).port or 80
        self._loop, self._reply = loop, reply
        self._pump = Pump()
        self._sending = asyncio.create_task(self._pump.run())
        self._talking: list[Caller] = []
        self._broken = 0

    async def one(self, number: int, of: int) -> None:
        """Be a caller until cancelled."""
        caller = Caller(self._loop, self._reply)
        try:
            await caller.connect(self._offer)
        except TimeoutError:
            self._broken += 1
            await caller.close()
        except asyncio.CancelledError:  # it never got a call
            await caller.close()
            raise
        else:
            self._pump.add(caller, number)
            caller.speak_after(50 + number * len(self._loop.payloads) // of)
            self._talking.append(caller)

    async def _offer(self, offer: str) -> str:
        """Return the answer to an offer; one that is refused is made again when it may be."""
        while True:
            began = monotonic()
            status, headers, body = await post(self._host, self._port, offer)
            if status == 201:
                return body
            hint = headers.get("retry-after", "")
            refused = refusal(body, status, monotonic() - began, [hint])
            self.refusals.append(refused)
            await asyncio.sleep(refused.retry_after or 1.0)

    def begin(self) -> None:
        """Forget what was heard so far: all that counts comes from now on."""
        for caller in self._talking:
            caller.score.gaps.clear()
            caller.score.bad.clear()
            caller.score.turns = 0
        self._pump.late = 0.0

    def heard(self) -> Heard:
        """Return what those with calls heard since `begin`."""
        heard = Heard(len(self._talking), late=self._pump.late)
        for caller in self._talking:
            heard.gaps += caller.score.gaps
            heard.turns += caller.score.turns
            heard.bad += Counter(caller.score.bad)
            heard.lost += not caller.connected
        heard.lost += self._broken
        return heard

    async def hang_up(self) -> None:
        """End every call."""
        self._sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sending
        await asyncio.gather(*(caller.close() for caller in self._talking))


async def post(host: str, port: int, offer: str) -> tuple[int, dict[str, str], str]:
    """Post an offer over a connection of its own; return status, headers and body.

    By hand: an HTTP library's own work is ten times what the answer takes.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        data = offer.encode()
        head = (
            f"POST /v1/webrtc HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
            f"Content-Type: application/sdp\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        writer.write(head.encode() + data)
        answer = (await reader.read()).decode()
    finally:
        writer.close()
    top, _, body = answer.partition("\r\n\r\n")
    first, *rest = top.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (h.partition(":") for h in rest)}
    return int(first.split()[1]), headers, body
