"""Calls held at the same time over WebRTC: real ICE, DTLS, SRTP and Opus (`voice.crowd`)."""

import asyncio
from dataclasses import dataclass, field
from time import monotonic

import httpx

from transport.line import FRAME
from voice.capacity import Refusal, Tally
from voice.crowd import BEGIN, Pulse, refusal
from voice.webrtc_callers import Caller, Loop, Pump

NAMES = {"no_reply": "unanswered", "talked_over": "talked over", "short": "in part"} | {
    "underrun": "underruns"
}
"""Faults that these callers call otherwise than verdicts do."""

AT_ONCE = 8
"""Calls that are set up at the same time; each costs both ends tens of milliseconds."""


@dataclass(slots=True, eq=False)
class _Held:
    """One call, and what of its score was counted."""

    caller: Caller
    gaps: int = 0
    turns: int = 0
    bad: dict[str, int] = field(default_factory=dict)


class WebRtcCrowd:
    """Calls on `/v1/webrtc`; their turns are known once they are over."""

    def __init__(self, url: str, loop: Loop, *, key: str = "", reply: float = 0.0) -> None:
        """Call the server at `url`; all say what is in `loop`.

        `reply` is how many seconds every reply lasts, 0 where that is not known.
        """
        self.period = len(loop.payloads) * FRAME
        self.settle = BEGIN + 1.5 * self.period  # a turn is told when the next begins
        self._url, self._loop, self._reply = url.rstrip("/"), loop, reply
        headers = {"Content-Type": "application/sdp"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._http = httpx.AsyncClient(timeout=30, headers=headers)
        self._held: list[_Held] = []
        self._lost: list[str] = []
        self._refusals: list[Refusal] = []
        self._placed = 0
        self._setting_up = asyncio.Semaphore(AT_ONCE)
        self._pump, self._pulse = Pump(), Pulse()
        self._sending = asyncio.create_task(self._pump.run())

    @property
    def calls(self) -> int:
        """How many go on."""
        return sum(held.caller.connected for held in self._held)

    async def add(self) -> None:
        """Place one more call."""
        number, self._placed = self._placed, self._placed + 1
        async with self._setting_up:
            held = _Held(Caller(self._loop, self._reply))
            try:
                await held.caller.connect(self._post)
                self._held.append(held)
            except _RefusedError:
                pass
            except (httpx.TransportError, OSError, RuntimeError) as error:
                self._lost.append(str(error) or "it was not connected in time")
            finally:
                if held not in self._held:
                    await held.caller.close()
        if held in self._held:
            self._pump.add(held.caller, number)
            held.caller.speak_after(round(BEGIN / FRAME))

    async def _post(self, offer: str) -> str:
        asked = monotonic()
        got = await self._http.post(f"{self._url}/v1/webrtc", content=offer)
        if got.status_code == 503:
            hint = got.headers.get_list("Retry-After")
            self._refusals.append(refusal(got.text, 503, monotonic() - asked, hint))
            raise _RefusedError
        if got.status_code != 201:
            raise RuntimeError(f"status {got.status_code}: {got.text[:200]}")
        return got.text

    def take(self) -> Tally:
        """Return what all callers met since this was last asked, without their first turns."""
        tally = Tally(late=self._pulse.take(), refusals=self._refusals)
        tally.lost.update(self._lost)
        self._refusals, self._lost = [], []
        for held in self._held:
            if held.caller.connected:
                self._look(held, tally)
            else:
                tally.lost["the connection ended"] += 1
        self._held = [held for held in self._held if held.caller.connected]
        return tally

    def _look(self, held: _Held, tally: Tally) -> None:
        score = held.caller.score
        first = not held.turns
        over = score.turns - held.turns
        gaps = score.gaps[held.gaps :]
        faults = [
            NAMES.get(name, name)
            for name, count in score.bad.items()
            for _ in range(count - held.bad.get(name, 0))
        ]
        held.turns, held.gaps, held.bad = score.turns, len(score.gaps), dict(score.bad)
        if first or not over:
            return
        tally.gaps += gaps + [float("inf")] * faults.count("unanswered")
        for number in range(over):
            tally.close_turn(faults[number : number + 1])

    async def hang_up(self) -> None:
        """End all calls."""
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
        await asyncio.gather(*(held.caller.close() for held in self._held))
        self._held = []
        await self._pulse.stop()
        await self._http.aclose()


class _RefusedError(Exception):
    """The server does not take this call."""
