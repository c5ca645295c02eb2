"""`voice bench --profile bench --what trace`: does the server's trace close?

Voice-to-voice is measured from the waveforms at the caller, and each turn's record is held
against it (`voice.closing`). The caller's end of a turn is its last speech sample, at the
time at which a microphone would have taken it: not when a busy process got round to sending
it. The answer begins with its first audible sample, at the time at which the kernel received
it (`voice.arrivals`). Callers and server share the monotonic clock of this machine.

Some utterances have a pause that is almost long enough to end the turn, so that an answer
is begun and dropped; some interrupt the reply before.
"""

import asyncio
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console

from transport.audio import Pcm
from transport.line import FRAME
from voice import bench_server
from voice.bench_calls import UTTERANCES, Conditions, noise, spoken
from voice.bench_row import machine, print_row
from voice.callers import RATE, hold, noisy
from voice.closing import Comparison
from voice.talker import AUDIBLE, Plan, Speech, Turn

COUNTS = (1, 10, 50)
"""Calls at once, where nobody says how many."""

PAUSED = (
    ("Could you please tell me", "the time in London?"),
    ("I would like to come", "on Tuesday in the morning."),
)
"""Utterances with a pause in the middle."""

GOES_ON = (0.16, 0.2)
"""Seconds before the end of a turn's wait at which they go on: soon enough for the detector, which
needs 60 to 160 ms to see it, and late enough for an answer to have been begun, in vain."""

WAIT = 0.4
"""Seconds of silence that end a turn, at least: with less, such pauses would be too short."""

INTERRUPT = 4
"""Every how many turns the caller interrupts; the utterances are 5, so that each one does."""

BARGE_AFTER = 0.5
"""Seconds into the reply."""

PAUSE = 0.5
"""Seconds between a reply's end and the caller's next utterance."""

LEAST = 500
"""Turns of a run, at least, but no more than `MOST_EACH` of a call."""

MOST_EACH = 60

LOGGED = 1.0
"""Seconds after a call's end in which its last record is written."""

STEP = 97
"""Samples by which the ends of utterances lie apart within their packets."""


class Measured(Protocol):
    """A caller that is done, over any transport."""

    name: str
    lost: str
    late: float

    @property
    def turns(self) -> list[Turn]: ...


async def trace(
    conditions: Conditions,
    counts: Sequence[int],
    turns: int,
    transport: str,
    console: Console,
) -> None:
    """Hold the trace against the callers at each number of calls; print one JSON line for each.

    Raises:
        RuntimeError: If the server does not get ready, or keeps no records.
    """
    if conditions.wait:
        conditions = replace(conditions, wait=max(conditions.wait, WAIT))
    said = await utterances(conditions.wait)
    server_core, own_core = bench_server.apart()
    os.sched_setaffinity(0, own_core)
    every = Comparison()
    async with bench_server.server(settings=conditions.settings(), cores=server_core) as server:
        for count in counts:
            each = max(turns, min(MOST_EACH, math.ceil(LEAST / count)))
            if transport == "webrtc":
                callers, read_late = await _over_webrtc(server, said, count, each)
            else:
                callers, read_late = await _over_websocket(
                    server, said, await noise(conditions), count, each
                )
            await asyncio.sleep(LOGGED)
            comparison = compare(callers, server)
            compare(callers, server, every)
            about = {
                "what": "trace",
                "transport": transport,
                "calls": count,
                "lost": sum(bool(caller.lost) for caller in callers),
            }
            late = {
                "caller_late_ms": round(1000 * max(caller.late for caller in callers), 1),
                "caller_read_late_ms": round(1000 * read_late, 1),
            }
            row = about | comparison.row() | late | conditions.described() | machine()
            print_row(console, row)
    if not every.records:
        raise RuntimeError("the server keeps no records of turns: is VOICE_TRACE=false set?")
    print_row(console, {"what": "trace, all", "transport": transport, **every.row()})


def compare(
    callers: Iterable[Measured], server: bench_server.Measured, into: Comparison | None = None
) -> Comparison:
    """Hold what `callers` measured against the records in the server's call logs."""
    assert server.data is not None
    comparison = into or Comparison()
    for caller in callers:
        log = server.data / "calls" / f"{caller.name}.jsonl"
        comparison.add(caller.turns[:-1], records(log) if log.is_file() else [])
    return comparison


def records(log: Path) -> list[Mapping[str, Any]]:
    """Return the records of turns in a call's log."""
    events = map(json.loads, log.read_text().splitlines())
    return [event for event in events if event.get("type") == "trace"]


async def utterances(wait: float) -> list[Pcm]:
    """Return what callers say, at `RATE`: as it is, and with pauses just shorter than `wait`."""
    said = [await spoken(text, "en-us") for text in UTTERANCES]
    for texts, before in zip(PAUSED, GOES_ON, strict=True):
        seconds = (wait or WAIT) - before
        begin, end = [await spoken(text, "en-us") for text in texts]
        said.append(np.concatenate([begin, np.zeros(round(seconds * RATE), np.float32), end]))
    return said


def placed(said: Sequence[Pcm], rate: int, packet: int) -> list[tuple[Pcm, float]]:
    """Return utterances in whole packets, ending anywhere in one, and the seconds after that end.

    The end is the last sample that reaches `AUDIBLE`.
    """
    whole = []
    for number, pcm in enumerate(said):
        loud = np.flatnonzero(np.abs(pcm) >= AUDIBLE / 32768)
        after = STEP * number % packet
        pcm = np.concatenate([pcm[: loud[-1] + 1], np.zeros(after, np.float32)])
        whole.append((np.pad(pcm, (-len(pcm) % packet, 0)), after / rate))
    return whole


def planned(speech: Sequence[Speech], silence: Sequence[bytes], turns: int) -> Plan:
    """Return what every caller does."""
    return Plan(
        speech=speech,
        silence=silence,
        turns=turns,
        period=0,
        interrupt=INTERRUPT,
        barge_after=BARGE_AFTER,
        pause=PAUSE,
    )


async def _over_websocket(
    server: bench_server.Measured, said: Sequence[Pcm], noise: Pcm, count: int, turns: int
) -> tuple[Sequence[Measured], float]:
    whole = placed(said, RATE, round(FRAME * RATE))
    plain, silence = noisy([pcm for pcm, _ in whole], noise)
    speech = [
        Speech(utterance.frames, after) for utterance, (_, after) in zip(plain, whole, strict=True)
    ]
    read_late = 0.0
    callers = await hold(
        "127.0.0.1",
        server.port,
        planned(speech, silence, turns),
        count,
        stamped=True,
        heed=lambda caller, event: None,
    )
    for caller in callers:
        read_late = max(read_late, caller.read_late)
    return callers, read_late


async def _over_webrtc(
    server: bench_server.Measured, said: Sequence[Pcm], count: int, turns: int
) -> tuple[Sequence[Measured], float]:
    from voice.webrtc_talkers import encoded, hold

    speech, silence = encoded(said, RATE)
    callers = await hold(server.url, planned(speech, silence, turns), count)
    return callers, max(caller.read_late for caller in callers)
