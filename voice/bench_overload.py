"""`voice bench --profile bench --what overload`: twice as many callers as there is room for.

Who is refused comes back when the server said, as long as the run goes on, so the server is asked
for twice its calls all the time. Those it takes must be answered within the budget and heard
without a gap; those it does not take must be told so at once, and when to come back.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from time import monotonic
from typing import Any

import httpx
from rich.console import Console

from latency.trace import percentile
from transport.line import FRAME
from voice import bench_server
from voice.bench_calls import UTTERANCES, Conditions, faults, noise, speech, spoken
from voice.bench_row import machine, percentiles, print_row
from voice.callers import RATE, Caller, Plan
from voice.capacity import Refusal
from voice.settings import from_process

RAMP = {"websocket": 0.02, "webrtc": 0.1}
"""Seconds from one new caller to the next: fifty a second, and as many as can make their offers."""

ANSWER_WITHIN = 0.1
"""Seconds in which a refused caller must know."""

SETTLE = 75.0
"""Seconds from the last new caller until it is measured: the server knows by then what its calls
cost, and whoever was refused, and told to wait as long as anybody is, has come back."""

CAPACITY = 300
"""Calls that the profile holds on one core, where nothing else is said."""


COUNTERS = {
    "voice_saturations_total": "saturations",
    "voice_loop_late_seconds": "loop_late_s",
    'voice_speculations_total{outcome="kept"}': "speculations_kept",
    'voice_speculations_total{outcome="dropped"}': "speculations_dropped",
}
"""What the server counts that is told, and under which name."""


@dataclass(slots=True)
class Heard:
    """What the callers who were taken heard since the measurement began.

    Attributes:
        calls: How many there were.
        gaps: Seconds from the last speech sample to the first sound, of good turns.
        turns: How many turns there were.
        bad: What was wrong with turns, and how often.
        lost: Calls that broke off.
        late: The most that a frame was sent after it was due, in seconds.
    """

    calls: int = 0
    gaps: list[float] = field(default_factory=list)
    turns: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    late: float = 0.0


class Asker(Caller):
    """A caller who takes note of being refused."""

    def __init__(self, address: str, plan: Plan, offset: float) -> None:
        super().__init__(address, plan, offset)
        self.refusal: Refusal | None = None
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once it is known whether there is a call."""
        self._asked_at = monotonic()

    def data_received(self, data: bytes) -> None:
        """Take what the server sent; its first words tell whether there is a call."""
        if not self.answered.done():
            self._first_words(data, monotonic())
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the server has ended the call, or that there is none."""
        super().connection_lost(exc)
        if not self.answered.done():
            after = monotonic() - self._asked_at
            self.refusal = self.refusal or Refusal(self.lost, after, None)
            self.answered.set_result(None)

    def _first_words(self, data: bytes, now: float) -> None:
        begin = data.find(b'{"type":')
        if begin < 0:
            return  # so far only the handshake
        event, _ = json.JSONDecoder().raw_decode(data[begin:].decode(errors="replace"))
        if event["type"] == "error":
            after = now - self._asked_at
            self.refusal = Refusal(event["code"], after, event.get("retry_after"))
        self.answered.set_result(None)


class Askers:
    """Callers over WebSocket who want a call, and come back when they were told to."""

    def __init__(self, url: str, plan: Plan, reply: float) -> None:
        self.refusals: list[Refusal] = []
        self._url, self._plan, self._reply = url, plan, reply
        self._since = 0.0
        self._talking: list[Asker] = []

    async def one(self, number: int, of: int) -> None:
        """Be a caller until cancelled."""
        place = httpx.URL(self._url)
        address = f"ws://{place.host}:{place.port}/v1/stream?rate={RATE}"
        offset = (self._plan.period or 5.0) * number / of
        loop = asyncio.get_running_loop()
        while True:
            asker = Asker(address, self._plan, offset)
            await loop.create_connection(lambda asker=asker: asker, place.host, place.port or 80)  # type: ignore[misc]
            await asker.answered
            if (refusal := asker.refusal) is None:
                self._talking.append(asker)
                await asker.done
                return
            self.refusals.append(refusal)
            await asyncio.sleep(refusal.retry_after or 1.0)

    def begin(self) -> None:
        """Forget what was heard so far: all that counts comes from now on."""
        self._since = monotonic()
        for asker in self._talking:
            asker.late = 0.0

    def heard(self) -> Heard:
        """Return what those with calls heard in turns since `begin`; their first is none."""
        heard = Heard(len(self._talking))
        for asker in self._talking:
            turns = [turn for turn in asker.turns[1:-1] if turn.started > self._since]
            wrong = [faults(turn, self._reply) for turn in turns]
            heard.turns += len(turns)
            heard.bad += Counter(chain.from_iterable(wrong))
            heard.gaps += [
                turn.reply.first - turn.ended
                for turn in turns
                if turn.reply is not None and turn.early is None and turn.ended is not None
            ]
            heard.lost += bool(asker.lost)
            heard.late = max(heard.late, asker.late)
        return heard

    async def hang_up(self) -> None:
        """End every call."""
        for asker in self._talking:
            asker.hang_up()
        await asyncio.sleep(0.2)


async def overload(
    conditions: Conditions, count: int, turns: int, transport: str, console: Console
) -> None:
    """Let twice `count` callers want a call; measure `turns` turns; print one JSON line.

    The budget is that of this process's settings: `VOICE_BUDGET_TOTAL`.

    Raises:
        ValueError: If there is no such transport.
        RuntimeError: If those who were taken had too little, or a refusal was late or without a
            hint; the line is printed all the same.
    """
    if transport not in RAMP:
        raise ValueError(f"--transport is {transport!r}; expected {' or '.join(RAMP)}")
    budget = from_process({"profile": "bench"}).settings.budget
    settings = conditions.settings() | {"admission": True, "max_calls": 10 * count}
    server_core, own_core = bench_server.apart()
    os.sched_setaffinity(0, own_core)
    async with bench_server.server(settings=settings, cores=server_core) as server:
        askers, period = await _askers(conditions, transport, server.url)
        async with asyncio.TaskGroup() as group:
            callers = []
            for number in range(2 * count):
                callers.append(group.create_task(askers.one(number, 2 * count)))
                await asyncio.sleep(RAMP[transport])
            await asyncio.sleep(SETTLE)
            askers.begin()
            since, begun = monotonic(), server.usage()
            await asyncio.sleep((turns + 1) * period)
            seconds, used = monotonic() - since, server.usage()
            heard = askers.heard()
            counters = await _counters(server.url)
            for caller in callers:
                caller.cancel()
        await askers.hang_up()
    row: dict[str, Any] = {
        "what": "overload",
        "transport": transport,
        "unit": "ms",
        "offered": 2 * count,
        "admitted": heard.calls,
        "turns": heard.turns,
        **percentiles(heard.gaps, (50, 95, 99)),
        "percentile": budget.percentile,
        "budget": 1000 * budget.total,
        "bad": dict(heard.bad),
        "lost": heard.lost,
        **_refused(askers.refusals),
        **counters,
        "cpu_percent": round(100 * (used.cpu - begun.cpu) / seconds, 1),
        "caller_late_ms": round(1000 * heard.late, 1),
        **conditions.described(),
        **machine(),
    }
    wrong = _wrong(row, heard, askers.refusals, budget.total, budget.percentile)
    row["held"] = not wrong
    print_row(console, row)
    if wrong:
        raise RuntimeError(f"overload: {'; '.join(wrong)}: see the line above")


async def _askers(conditions: Conditions, transport: str, url: str) -> tuple[Any, float]:
    """Return the callers, and the seconds from one turn of theirs to the next."""
    if transport == "webrtc":
        from voice.overload_webrtc import WebRtcAskers
        from voice.webrtc_callers import make_loop

        voice = await spoken(UTTERANCES[0], "en-us")
        loop = make_loop(voice, RATE, conditions.reply, await noise(conditions))
        return WebRtcAskers(url, loop, conditions.reply), len(loop.payloads) * FRAME
    said, silence = await speech(conditions, UTTERANCES[:1])
    plan = Plan(speech=said, silence=silence, turns=10**6)
    return Askers(url, plan, conditions.reply), plan.period


def _refused(refusals: Sequence[Refusal]) -> dict[str, Any]:
    """Return how those were answered who got no call."""
    seconds = [refusal.after for refusal in refusals]
    hints = [refusal.retry_after or 0.0 for refusal in refusals]
    return {
        "refused": len(refusals),
        "refused_by": dict(Counter(refusal.code for refusal in refusals)),
        **{f"refusal_{p}": ms for p, ms in percentiles(seconds, (50, 95, 99)).items()},
        "refusal_max": round(1000 * max(seconds, default=0.0), 1),
        "without_hint": sum(not hint for hint in hints),
        "retry_after": [min(hints, default=0), max(hints, default=0)],
    }


def _wrong(
    row: dict[str, Any],
    heard: Heard,
    refusals: Sequence[Refusal],
    budget: float,
    percent: float,
) -> list[str]:
    """Return what did not hold."""
    wrong = []
    if not heard.gaps:
        return ["nobody was answered"]
    if (took := percentile(heard.gaps, percent)) > budget:
        wrong.append(f"p{percent:g} of admitted calls is {took:.3f} s, the budget {budget:g} s")
    if heard.bad:
        wrong.append(f"bad turns: {dict(heard.bad)}")
    if heard.lost:
        wrong.append(f"{heard.lost} calls broke off")
    if not refusals:
        wrong.append("nobody was refused: offer more calls")
    elif percentile([refusal.after for refusal in refusals], 99) > ANSWER_WITHIN:
        wrong.append(f"p99 of refusals is {row['refusal_p99']} ms")
    if row["without_hint"]:
        wrong.append(f"{row['without_hint']} refusals without retry_after")
    return wrong


async def _counters(url: str) -> dict[str, float]:
    """Return what the server counted."""
    async with httpx.AsyncClient(timeout=10) as client:
        text = (await client.get(f"{url}/metrics")).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
    return {shown: float(values.get(name, 0)) for name, shown in COUNTERS.items()}
