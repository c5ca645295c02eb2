"""The callers of `--what overload` over WebRTC; see `voice.bench_overload`."""

import asyncio
import contextlib
from collections import Counter
from time import monotonic

import httpx

from voice.bench_overload import Heard, Refusal
from voice.webrtc_callers import Caller, Loop, Pump


class RefusedError(RuntimeError):
    """The server takes no call now."""


class WebRtcCrowd:
    """Callers over WebRTC who want a call, and come back when they were told to."""

    def __init__(self, url: str, loop: Loop, reply: float) -> None:
        self.refusals: list[Refusal] = []
        self._url, self._loop, self._reply = url, loop, reply
        self._pump = Pump()
        self._sending = asyncio.create_task(self._pump.run())
        self._talking: list[Caller] = []
        self._broken = 0

    async def one(self, number: int, of: int) -> None:
        """Be a caller until cancelled."""
        while True:
            caller = Caller(self._loop, self._reply)
            try:
                await caller.connect(self._offer)
            except RefusedError:
                await caller.close()
                await asyncio.sleep(self.refusals[-1].retry_after or 1.0)
                continue
            except TimeoutError:
                self._broken += 1
                await caller.close()
                continue
            self._pump.add(caller, number)
            caller.speak_after(50 + number * len(self._loop.payloads) // of)
            self._talking.append(caller)
            await asyncio.sleep(1e6)

    async def _offer(self, offer: str) -> str:
        """Return the answer to an offer; note that there is none.

        Raises:
            RefusedError: If there is none.
        """
        async with httpx.AsyncClient(timeout=30) as http:  # a connection of its own for each
            began = monotonic()
            got = await http.post(
                f"{self._url}/v1/webrtc",
                content=offer,
                headers={"Content-Type": "application/sdp"},
            )
            took = monotonic() - began
        if got.status_code == 201:
            return got.text
        hint = float(got.headers.get("retry-after", 0))
        code = got.json()["error"]["code"] if got.status_code == 503 else str(got.status_code)
        self.refusals.append(Refusal(took, code, hint))
        raise RefusedError

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
