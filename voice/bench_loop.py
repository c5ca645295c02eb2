"""`voice bench --profile bench --what loop`: does the control loop hold its budget?

A live server with engines of fixed delays and calls that go on all the while. When it has
answered some turns, one thing gets worse: an engine takes longer, callers pause within what
they say, packets come when they like, twice the callers call. Then it gets better again.
The budget is what the undisturbed server needs, and a little more. All times are the
callers' own, from their waveforms.
"""

import asyncio
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import httpx
import numpy as np
from rich.console import Console

from transport.audio import Pcm
from transport.line import FRAME
from voice import bench_server, settings
from voice.bench_calls import UTTERANCES, spoken
from voice.bench_row import machine, print_row
from voice.bench_trace import PAUSE, PAUSED, placed, records
from voice.callers import RATE, noisy, white
from voice.company import Company
from voice.loop_figures import TABLE, Span, at_percentile, back_after, gaps, phase, table_row
from voice.talker import Plan, Speech

SPARE = 0.1
"""Seconds that the budget has more than the undisturbed server needs."""

UNDISTURBED = 100
DISTURBED = 300
RECOVERED = 260
"""Turns of all calls in each phase: the loop has 200 of them, and the last `WINDOW` are judged."""

LONGEST = 2600
"""Turns after which the last phase ends though not all settings are what they were."""

LOOKED = 20
"""Turns after which it is looked at whether they are."""

SLOW = 0.7
"""Seconds for which a slow caller pauses within an utterance."""

REORDERED = 0.06
"""Seconds by which a packet is held up at most."""

ANSWER = (
    "Let me see, for tomorrow, the next free time that we have is half past nine. "
    "And if you want I can also look up the weather for the rest of the week in London."
)
"""What the mind says: a first sentence that may be cut early, or late."""

STARTS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "thrifty": {
        "turn.shortest_wait": 0.6,
        "turn.longest_wait": 0.6,
        "turn.speculation_lead": 0.1,
        "phrases.first": 60,
    },
}
"""Configurations to start from. "thrifty" is that of somebody who wants nobody interrupted and
no work wasted: a long wait, answers that are begun late, first phrases that are whole sentences."""

TUNERS = ("off", "observe", "on")


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What gets worse.

    Attributes:
        stubs: What engines take, for `PUT /v1/bench`.
        held_up: Seconds by which packets are held up at most.
        pauses: Whether callers pause within what they say.
        factor: How many times the callers there are.
        crowding: Share by which the mind is slower for each other answer that it writes, times the
            callers there are at first.
        turns: For how many turns.
    """

    stubs: Mapping[str, float] = field(default_factory=dict)
    held_up: float = 0.0
    pauses: bool = False
    factor: int = 1
    crowding: float = 0.0
    turns: int = DISTURBED

    def settings(self, count: int) -> dict[str, Any]:
        """Return what the server needs for it, with `count` callers at first."""
        return {"bench.crowding": self.crowding / count}


DISTURBANCES: Mapping[str, Disturbance] = {
    "llm": Disturbance(stubs={"llm": 0.3}),
    "tts": Disturbance(stubs={"tts": 0.25}),
    "asr": Disturbance(stubs={"asr": 0.25}),
    "pauses": Disturbance(pauses=True),
    "jitter": Disturbance(held_up=REORDERED),
    # An engine gets slower, as by a batch twice as long; a core that is full would make all stages
    # late, and the callers, too.
    "calls": Disturbance(factor=2, crowding=4.0, turns=2 * DISTURBED),
}


async def loop(
    disturbances: Sequence[str],
    tuners: Sequence[str],
    start: str,
    reply: float,
    count: int,
    transport: str,
    console: Console,
) -> None:
    """Disturb servers, one thing and one tuner at a time; print a JSON line each, and a table.

    Raises:
        ValueError: If there is no such disturbance, tuner or start.
        RuntimeError: If a server does not get ready, or loses a call.
    """
    _known("disturb", disturbances, DISTURBANCES)
    _known("tuner", tuners, TUNERS)
    _known("start", [start], STARTS)
    _known("transport", [transport], ("websocket", "webrtc"))
    os.sched_setaffinity(0, bench_server.apart()[1])
    plans = await _plans(transport == "webrtc")
    rows = []
    for name in disturbances:
        configured = _configured(start) | {"bench.reply": reply}
        configured |= DISTURBANCES[name].settings(count)
        undisturbed = await _undisturbed(configured, plans, count, transport)
        budget = math.ceil(1000 * (undisturbed + SPARE)) / 1000
        for tuner in tuners:
            row = {
                "what": "loop",
                "disturbance": name,
                "tuner": tuner,
                "start": start,
                "transport": transport,
                "calls": count,
                "budget_ms": round(1000 * budget),
            }
            given = configured | {"budget.total": budget, "tuner": tuner}
            row |= await _disturbed(given, plans, count, transport, DISTURBANCES[name], budget)
            print_row(console, row | machine())
            rows.append(row)
    console.print("\n".join([TABLE, *map(table_row, rows)]), soft_wrap=True, highlight=False)


def _known(option: str, given: Sequence[str], known: Sequence[str] | Mapping[str, Any]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"--{option} is {name!r}; expected of {', '.join(known)}")


def _configured(start: str) -> dict[str, Any]:
    """Return the settings of a start, in the profile "bench"."""
    return {"profile": "bench", "admission": "false"} | {
        name: value for name, value in STARTS[start].items() if name in settings.names()
    }


async def _plans(webrtc: bool) -> tuple[Plan, Plan]:
    """Return what callers do, and what slow ones do."""
    plain = [await spoken(text, "en-us") for text in UTTERANCES]
    slow = []
    for texts in PAUSED:
        begin, end = [await spoken(text, "en-us") for text in texts]
        slow.append(np.concatenate([begin, np.zeros(round(SLOW * RATE), np.float32), end]))
    return _plan(plain, webrtc), _plan(slow, webrtc)


def _plan(said: Sequence[Pcm], webrtc: bool) -> Plan:
    if webrtc:
        from voice.webrtc_talkers import encoded

        speech, silence = encoded(said, RATE)
    else:
        whole = placed(said, RATE, round(FRAME * RATE))
        mixed, silence = noisy([pcm for pcm, _ in whole], white(-math.inf))
        speech = [Speech(one.frames, after) for one, (_, after) in zip(mixed, whole, strict=True)]
    return Plan(speech=speech, silence=silence, turns=10**9, period=0, pause=PAUSE)


async def _undisturbed(
    configured: Mapping[str, Any], plans: tuple[Plan, Plan], count: int, transport: str
) -> float:
    """Return the p95 of a server that is left alone, in seconds."""
    given = {**configured, "tuner": "off"}
    async with (
        bench_server.server(settings=given, cores=bench_server.apart()[0]) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        company = Company(server, plans[0], transport == "webrtc")
        try:
            await _tell(http, {"answer": ANSWER})
            await company.grow(count)
            await company.speak(count)
            span = await company.speak(UNDISTURBED)
        finally:
            await company.leave()
        waited = gaps(span.turns(company.turns()))
    if (p95 := at_percentile(waited)) is None:
        raise RuntimeError("no turn of the undisturbed server was answered")
    return p95


async def _disturbed(
    given: Mapping[str, Any],
    plans: tuple[Plan, Plan],
    count: int,
    transport: str,
    disturbance: Disturbance,
    budget: float,
) -> dict[str, Any]:
    """Disturb one server and leave it alone again; return what came of it."""
    plain, slow = plans
    async with (
        bench_server.server(settings=given, cores=bench_server.apart()[0]) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        company = Company(server, plain, transport == "webrtc")
        try:
            usual = await _tell(http, {"answer": ANSWER})
            await company.grow(count)
            await company.speak(count)
            before = await company.speak(UNDISTURBED)
            await _tell(http, disturbance.stubs)
            company.hold_up(disturbance.held_up)
            company.follow(slow if disturbance.pauses else plain)
            await company.grow(count * (disturbance.factor - 1))
            during = await company.speak(disturbance.turns)
            disturbed = await _state(http)
            await _tell(http, {name: usual[name] for name in disturbance.stubs})
            company.hold_up(0.0)
            company.follow(plain)
            await company.shrink(count)
            after, ended, returned = await _return(http, company)
        finally:
            await company.leave()
        await asyncio.sleep(1.0)
        assert server.data is not None
        every = [record for log in (server.data / "calls").iterdir() for record in records(log)]
    moves, turns = ended.get("moves", []), company.turns()
    return {
        "undisturbed": phase(before, turns, every),
        "disturbed": phase(during, turns, every),
        "recovered": phase(after, turns, every),
        "back_after_turns": back_after(gaps(during.turns(turns)), budget),
        "recovered_after_turns": back_after(gaps(after.turns(turns)), budget),
        "moved": _moved(ended["start"], moves),
        "returned_after_turns": returned,
        "moves": len(moves),
        "said": _said(disturbed, moves),
        "log": [f"{move['kind']} {move['knob']}: {move['reason']}" for move in moves],
    }


async def _return(
    http: httpx.AsyncClient, company: Company
) -> tuple[Span, dict[str, Any], int | None]:
    """Let callers speak until all settings are back where they were, for a time at least.

    Return the phase, the loop's state at its end, and the turns that it took; None for never.
    """
    begin, returned = monotonic(), None
    while True:
        state, span = await _state(http), Span("", begin, monotonic())
        turns, back = len(span.turns(company.turns())), state["value"] == state["start"]
        returned = (turns if returned is None else returned) if back else None
        if turns >= (RECOVERED if back else LONGEST):
            return span, state, returned
        await company.speak(LOOKED)


def _moved(
    start: Mapping[str, float], moves: Sequence[Mapping[str, Any]]
) -> dict[str, list[float]]:
    """Return the way of every knob that was moved, or would have been."""
    ways: dict[str, list[float]] = {}
    for move in moves:
        if move["knob"] in start:
            way = ways.setdefault(move["knob"], [start[move["knob"]]])
            if move["after"] != way[-1]:
                way.append(move["after"])
    return {name: way for name, way in ways.items() if len(way) > 1}


def _said(state: Mapping[str, Any], moves: Sequence[Mapping[str, Any]]) -> str:
    """Return what the loop said when it could not help, else what it was at."""
    gave_up = [move["reason"] for move in moves if move["kind"] == "give_up"]
    return gave_up[-1] if gave_up else str(state.get("state", ""))


async def _tell(http: httpx.AsyncClient, change: Mapping[str, Any]) -> dict[str, Any]:
    """Change the engines; return what they were told before all changes of ours.

    Raises:
        RuntimeError: If the server does not take it.
    """
    before: dict[str, Any] = (await http.get("/v1/bench")).json()["stubs"]
    got = await http.put("/v1/bench", content=json.dumps(dict(change)))
    if got.status_code != 200:
        raise RuntimeError(f"the engines could not be changed: {got.text}")
    return before


async def _state(http: httpx.AsyncClient) -> dict[str, Any]:
    """Return what the loop is at; nothing where there is none."""
    found: dict[str, Any] = (await http.get("/v1/bench")).json()
    tuner = dict(found.get("tuner", {}))
    knobs = tuner.get("values", {})
    return tuner | {
        entry: {name: knob[entry] for name, knob in knobs.items()} for entry in ("value", "start")
    }
