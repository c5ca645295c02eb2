"""`voice bench --profile bench --what pauses`: callers who pause in the middle of what they say.

A live server, real sockets and the whole of turn-taking; only the engines take fixed
times, and the ears are told each word as it was said (`asr.fake.Prompted`): what is
measured is when the agent speaks, and what answers cost that were begun in vain. The
callers are those of `voice.pauses`, on whom nothing was trained. They are synthetic:
the figures compare settings and promise nothing of people.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from rich.console import Console

from asr.fake import Prompted
from voice import stubs
from voice.agent import Agent
from voice.bench_calls import Conditions
from voice.bench_row import percentiles, print_row
from voice.client import Caller, dial
from voice.pauses import RATE, CallerTurn, calls
from voice.serve import Web, listen
from voice.server import Server
from voice.settings import load

SEED = 20_000
"""Of the callers."""

PAUSE = 0.7
"""Seconds between the agent's last word and the caller's next."""

ANSWER = 8.0
"""Seconds after which a turn counts as unanswered."""

LOOK = 0.02
"""Seconds between two looks whether there is an answer."""


@dataclass(slots=True)
class Outcome:
    """What came of the turns of all calls.

    Attributes:
        pauses: Pauses in which a caller was not done.
        cut_ins: Those in which the agent began to speak.
        latencies: Silence after each true end that was answered, in seconds.
        unanswered: Turns without an answer.
        engine_seconds: Time that answers had engines at work.
        wasted_seconds: That part which went into answers dropped before the decision.
        starts: Answers begun before the decision.
    """

    pauses: int = 0
    cut_ins: int = 0
    latencies: list[float] = field(default_factory=list)
    unanswered: int = 0
    engine_seconds: float = 0.0
    wasted_seconds: float = 0.0
    starts: int = 0


async def pauses(conditions: Conditions, count: int, console: Console) -> None:
    """Hold `count` calls at once with and without overlap; print one JSON line for each."""
    callers = list(calls(count, SEED))
    for overlap in (True, False):
        outcome = await _measure(conditions, overlap, callers)
        row = {
            "what": "pause corpus",
            "unit": "ms",
            "calls": count,
            "turns": sum(map(len, callers)),
            "pauses": outcome.pauses,
            "false_cut_ins_percent": round(100 * outcome.cut_ins / max(1, outcome.pauses), 1),
            "latency_mean": round(1000 * sum(outcome.latencies) / len(outcome.latencies), 1),
            **{f"latency_{p}": ms for p, ms in percentiles(outcome.latencies, (50, 95)).items()},
            "unanswered": outcome.unanswered,
            "starts": outcome.starts,
            "engine_seconds": round(outcome.engine_seconds, 1),
            "wasted_percent": round(
                100 * outcome.wasted_seconds / max(1e-9, outcome.engine_seconds), 1
            ),
            **conditions.described(),
            "overlap": overlap,
        }
        print_row(console, row)


async def _measure(
    conditions: Conditions, overlap: bool, callers: Sequence[Sequence[CallerTurn]]
) -> Outcome:
    """Hold all calls at once and return what came of them."""
    outcome, toolboxes = Outcome(), list[stubs.NoTools]()

    def toolbox() -> stubs.NoTools:
        toolboxes.append(stubs.NoTools())
        return toolboxes[-1]

    async with _serving(conditions, overlap, toolbox) as (server, ears, url):

        async def one(turns: Sequence[CallerTurn], number: int) -> None:
            await asyncio.sleep(0.37 * number)  # one after the other, and out of step
            async with dial(url) as caller:
                await caller.until(lambda: bool(caller.events), 5)
                name = str(caller.events[0][1]["call"])
                box, session = toolboxes[-1], server.sessions[name]
                for turn in turns:
                    box.expects = turn.expects
                    await _speak(caller, turn, ears.said.setdefault(name, []), outcome)
            outcome.engine_seconds += session.tally.engine_seconds
            outcome.wasted_seconds += session.tally.wasted_seconds
            outcome.starts += session.tally.starts

        await asyncio.gather(*(one(turns, number) for number, turns in enumerate(callers)))
    return outcome


async def _speak(caller: Caller, turn: CallerTurn, said: list[str], outcome: Outcome) -> None:
    """Say one turn and hear the answer out."""
    prompting = asyncio.create_task(_prompt(turn, said))
    ended = await caller.say(turn.pcm[turn.begin : turn.end], RATE)
    await prompting
    begun = ended - (turn.end - turn.begin) / RATE
    for pause in turn.pauses:
        silent = begun + (pause.at - turn.begin) / RATE
        outcome.pauses += 1
        outcome.cut_ins += any(silent < at < silent + pause.seconds for at, _ in caller.audio)
    for _ in range(round(ANSWER / LOOK)):
        if (gap := caller.answer_gap()) is not None:
            break
        await asyncio.sleep(LOOK)
    else:
        outcome.unanswered += 1
        return
    outcome.latencies.append(gap)
    await _quiet(caller)


async def _quiet(caller: Caller) -> None:
    """Wait until the agent has said nothing for `PAUSE`."""
    heard = -1
    while heard != len(caller.audio):
        heard = len(caller.audio)
        await asyncio.sleep(PAUSE)


async def _prompt(turn: CallerTurn, said: list[str]) -> None:
    """Add each word of a turn to `said` when it has been said, spread between the pauses."""
    clock = asyncio.get_running_loop().time
    start, words, position = clock(), turn.text.split(), turn.begin
    done = 0
    for until, at, resumes in (
        *((len(p.words.split()), p.at, p.at + round(p.seconds * RATE)) for p in turn.pauses),
        (len(words), turn.end, turn.end),
    ):
        for number in range(done, until):
            share = (number + 1 - done) / max(1, until - done)
            due = (position + share * (at - position) - turn.begin) / RATE
            await asyncio.sleep(max(0.0, start + due - clock()))
            said.append(words[number])
        done, position = max(done, until), resumes


@asynccontextmanager
async def _serving(
    conditions: Conditions, overlap: bool, toolbox: Callable[[], stubs.NoTools]
) -> AsyncIterator[tuple[Server, Prompted, str]]:
    """Serve in this process, with ears that are told what was said."""
    with tempfile.TemporaryDirectory() as data:
        chosen = conditions.settings() | {"data": data, "port": 0}
        if not overlap:
            chosen["turn.speculations"] = 0
        settings = load(None, {}, chosen).settings
        plain = stubs.agent()
        who = Agent(
            name=plain.name, instructions=plain.instructions, lines=plain.lines, open=toolbox
        )
        server = Server(settings, who)
        ears = server.ears = Prompted(stubs.ASR * settings.bench.delays)
        web, opened = Web(server), listen("127.0.0.1", 0)
        url = f"http://127.0.0.1:{opened.getsockname()[1]}"
        serving = asyncio.create_task(web.serve(sockets=[opened]))
        try:
            await server.start()
            yield server, ears, url
        finally:
            web.should_exit = True
            await serving
            opened.close()
