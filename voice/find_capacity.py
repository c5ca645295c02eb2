"""`voice bench --find-capacity`: how many calls a server carries within a budget.

Without an address a server is started here. The profile `bench`, whose engines take fixed
times, gets a core of its own and its callers another; real engines get every core, and their
callers real questions, a reply of any length and time to hear it out.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from rich.console import Console
from rich.markup import escape

from voice import bench, bench_server
from voice.bench_calls import (
    REAL_PERIOD,
    UTTERANCES,
    Conditions,
    noise,
    real_engines,
    spoken,
)
from voice.bench_row import machine, print_row
from voice.callers import RATE, Plan, noisy
from voice.capacity import Goal
from voice.capacity_search import Make, Search
from voice.capacity_view import View
from voice.crowd import WebSocketCrowd
from voice.found import Found
from voice.settings import LOOPBACK, PROFILES, from_process

GREETING = 4.0
"""Seconds in which a server with an agent of its own may greet a caller, who then begins."""

PERIOD = 5.22
"""Seconds from one utterance of a caller to its next where replies are known to fit in between, as
in the comparison with other servers."""

MOST = 500
"""Calls at which a search ends that found no limit, where nothing else is said."""

TRANSPORTS = ("websocket", "webrtc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """What is to be found out, of which server.

    Attributes:
        goal: What calls must hold; None for that of the comparison with other servers.
        transport: "websocket" or "webrtc".
        url: A running server; "" starts one.
        key: Its key.
        profile: Which engines the server has that is started, or that runs at `url`.
        conditions: What the engines and the callers of the profile "bench" do.
        period: Seconds from one utterance of a caller to its next; 0 for what is usual.
        turns: Turns of each call in a run, at most.
        most: The most calls to try.
        per_hour: Price of an hour of what the server runs on; 0 where nobody knows.
    """

    goal: Goal | None
    transport: str = "websocket"
    url: str = ""
    key: str = ""
    profile: str = "embedded"
    conditions: Conditions
    period: float = 0.0
    turns: int = 6
    most: int = MOST
    per_hour: float = 0.0

    def __post_init__(self) -> None:
        if self.transport == "rtp":
            raise ValueError(
                "--transport is 'rtp'; bare RTP calls come with SIP, which this server does not "
                "speak yet. RTP inside WebRTC is measured by --transport webrtc"
            )
        if self.transport not in TRANSPORTS:
            raise ValueError(
                f"--transport is {self.transport!r}; expected {' or '.join(TRANSPORTS)}"
            )
        if self.profile not in PROFILES:
            raise ValueError(f"--profile is {self.profile!r}; expected {', '.join(PROFILES)}")
        if not 1 <= self.most <= 100_000:
            raise ValueError(f"--most is {self.most}; expected 1 to 100000 calls")
        if not 1 <= self.turns <= 1000:
            raise ValueError(f"--turns is {self.turns}; expected 1 to 1000")
        if self.per_hour < 0:
            raise ValueError(f"--cost-per-hour is {self.per_hour:g}; expected 0 or more")
        if self.period and not 3.0 <= self.period <= 300.0:
            raise ValueError(f"--period is {self.period:g} s; expected 3 to 300 s")
        bench_server.check_address(self.url)
        if self.transport == "webrtc" and self.url:
            host = urlsplit(self.url).hostname
            if host not in LOOPBACK:
                raise ValueError(
                    f"--url is {self.url!r}; WebRTC callers call this machine only (127.0.0.1): "
                    "measure another one by --transport websocket"
                )

    @property
    def reply(self) -> float | None:
        """Seconds that every reply lasts, None where nobody knows."""
        return self.conditions.reply if self.profile == "bench" and not self.real else None

    @property
    def real(self) -> Mapping[str, str]:
        """Engines of the profile "bench" that were replaced by ones that compute."""
        return real_engines() if self.profile == "bench" and not self.url else {}


def asked(
    budget: float | None, percentile: float | None, per_hour: float | None
) -> tuple[Goal, float]:
    """Return the goal and the price as given, else as the settings of this process have them."""
    settings = from_process({}).settings
    goal = Goal(
        budget=settings.budget.total if budget is None else budget,
        percentile=settings.budget.percentile if percentile is None else percentile,
    )
    return goal, settings.cost_per_hour if per_hour is None else per_hour


async def find(inquiry: Inquiry, console: Console, out: Console, *, only_json: bool) -> Found:
    """Search, showing it on `console`; print the result on `out`, one line of JSON at the end.

    Raises:
        RuntimeError: If the server cannot be reached, goes away, or not even one call goes well.
    """
    if inquiry.url:
        await bench_server.reachable(inquiry.url, inquiry.key)
    cores = None
    if not inquiry.url:
        server_core, own_core = bench_server.apart()
        os.sched_setaffinity(0, own_core)
        fixed = inquiry.profile == "bench" and not inquiry.real
        cores = server_core if fixed else set(bench_server.CORES)
    async with bench_server.server(inquiry.url, _settings(inquiry), cores) as server:
        make, period = await _callers(inquiry, server.url)
        with View(console, _title(inquiry), inquiry.goal or Goal()) as view:
            search = Search(
                server,
                make,
                inquiry.goal,
                period=period,
                most=inquiry.most,
                turns=inquiry.turns,
                watcher=view,
            )
            found = await search.run()
    if not only_json:
        for number, sentence in enumerate(found.sentences(inquiry.per_hour)):
            style = "[bold]{}[/]" if number == 0 else "  {}"
            out.print(style.format(escape(sentence)), soft_wrap=True, highlight=False)
    row = found.row(inquiry.per_hour) | _described(inquiry, period) | machine()
    print_row(out, row)
    if not found.calls:
        why = found.levels[0][1].reason
        raise RuntimeError(f"not even one call goes well: {why}")
    return found


def _settings(inquiry: Inquiry) -> dict[str, Any]:
    """Return the settings of a server that is started."""
    settings: dict[str, Any] = {"profile": inquiry.profile}
    if inquiry.profile == "bench":
        settings = inquiry.conditions.settings()
    settings |= {"max_calls": inquiry.most + 1, "admission": False}  # nothing but what it can bear
    if inquiry.goal is not None:
        settings["budget.total"] = inquiry.goal.budget
        settings["budget.percentile"] = inquiry.goal.percentile
    if inquiry.key:
        settings["key"] = inquiry.key
    if inquiry.reply is None:
        settings["turn.idle"] = 600.0  # nobody shall ask whether the caller is still there
    return settings


async def _callers(inquiry: Inquiry, url: str) -> tuple[Make, float]:
    """Return what makes the callers, and how often each of them speaks."""
    questions = [UTTERANCES[0]] if inquiry.profile == "bench" else bench.QUESTIONS
    voices = ["en-us"] if inquiry.profile == "bench" else bench.VOICES
    said = [
        await spoken(question, voices[number % len(voices)])
        for number, question in enumerate(questions)
    ]
    hiss, reply = await noise(inquiry.conditions), inquiry.reply
    period = inquiry.period or (PERIOD if reply is not None else REAL_PERIOD)
    if inquiry.transport == "webrtc":
        from voice.crowd_webrtc import WebRtcCrowd
        from voice.webrtc_callers import ROOM, make_loop

        pause = period - len(said[0]) / RATE - ROOM
        if reply is not None:
            pause = max(pause, reply) if inquiry.period else reply
        loop = make_loop(said[0], RATE, pause, hiss)
        seconds = len(loop.payloads) * 0.02

        def call() -> WebRtcCrowd:
            return WebRtcCrowd(url, loop, key=inquiry.key, reply=reply or 0.0)

        return call, seconds
    speech, silence = noisy([np.asarray(pcm) for pcm in said], hiss)
    plan = Plan(
        speech=speech,
        silence=silence,
        turns=10**9,
        period=period,
        patient=reply is None,
    )
    silent = 0.0 if inquiry.profile == "bench" else GREETING

    def dial() -> WebSocketCrowd:
        return WebSocketCrowd(url, plan, key=inquiry.key, reply=reply, silent=silent)

    return dial, period


def _title(inquiry: Inquiry) -> str:
    goal = inquiry.goal
    held = (
        f"p{goal.percentile:g} ≤ {1000 * goal.budget:.0f} ms"
        if goal is not None
        else "p95 ≤ one call's median + 250 ms"
    )
    where = inquiry.url or f"a server of the profile {inquiry.profile}"
    return f"finding the calls that {where} carries over {inquiry.transport} at {held}"


def _described(inquiry: Inquiry, period: float) -> dict[str, Any]:
    """Return under which conditions a figure was taken."""
    described: dict[str, Any] = {
        "transport": inquiry.transport,
        "server": inquiry.url or "started here",
        "profile": inquiry.profile,
        "period_s": round(period, 2),
    }
    if inquiry.profile == "bench":
        described |= inquiry.conditions.described() | {"reply_s": inquiry.reply}
    if real := inquiry.real:
        described["engines"] = dict(real)
    return described
