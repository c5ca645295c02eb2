"""`voice bench`: which measurement is meant, whether it takes the options given, and its run.

Every measurement has options of its own. One that has no effect on what is measured is an error
and not silence: a figure of something else than what was asked for is worse than none.
"""

import asyncio
import math
from collections.abc import Coroutine, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console

MOST_CALLS = 100_000
"""Calls at once that may be asked for; a server has as many at most."""

CONDITIONS = ("reply", "delays", "wait", "overlap", "noise", "babble")

TAKES: Mapping[str, tuple[str, ...]] = {
    "latency": ("calls", "turns", "transport", *CONDITIONS),
    "barge-in": ("turns", *CONDITIONS),
    "capacity": ("turns", "transport", "most", "period", "cost_per_hour", "only_json", *CONDITIONS),
    "overload": ("calls", "turns", "transport", *CONDITIONS),
    "pauses": ("calls", *CONDITIONS),
    "soak": ("calls", "minutes", *CONDITIONS),
    "trace": ("calls", "turns", "transport", *CONDITIONS),
    "cost": ("calls", "turns", *CONDITIONS),
    "loop": ("calls", "transport", "reply", "disturb", "tuner", "start"),
}
"""The options of each --what, beside --profile."""

SEARCH = (
    *("find_capacity", "budget", "percentile", "url", "key", "turns", "transport", "most"),
    *("period", "cost_per_hour", "only_json"),
)

ENGINE: tuple[str, ...] = ("engine", "model", "calls", "turns")

PLAIN = ("url", "key", "calls", "turns")
"""The options without any of these, beside --what."""

TRANSPORTS = ("websocket", "webrtc")

out = Console()
err = Console(stderr=True, soft_wrap=True)

_BENCH_PANEL = "With --profile bench"
_LOOP_PANEL = "With --what loop"
_SEARCH_PANEL = "With --find-capacity"
_ENGINE_PANEL = "With --engine"

Calls = Annotated[
    list[int] | None,
    typer.Option(help="Calls at the same time; may be repeated. Else what is usual: 1 and 16."),
]
Turns = Annotated[int, typer.Option(help="Turns in each call.")]
Url = Annotated[str, typer.Option(help="A running server; else one is started.")]
Key = Annotated[str, typer.Option(help="The server's key.", envvar="VOICE_KEY")]
Profile = Annotated[
    str,
    typer.Option(
        help="embedded, or bench: engines of fixed delays. With --find-capacity cpu and gpu, too."
    ),
]
What = Annotated[str, typer.Option(help=f"{', '.join(TAKES)}.", rich_help_panel=_BENCH_PANEL)]
Transport = Annotated[
    str,
    typer.Option(
        help="websocket or webrtc; with --find-capacity, too.", rich_help_panel=_BENCH_PANEL
    ),
]
Reply = Annotated[float, typer.Option(help="Seconds of each reply.", rich_help_panel=_BENCH_PANEL)]
Delays = Annotated[
    float, typer.Option(help="Factor on the engines' delays.", rich_help_panel=_BENCH_PANEL)
]
Wait = Annotated[
    float,
    typer.Option(help="End-of-turn wait, 0 for the server's own.", rich_help_panel=_BENCH_PANEL),
]
Overlap = Annotated[
    bool,
    typer.Option(help="Whether answers begin before the decision.", rich_help_panel=_BENCH_PANEL),
]
Noise = Annotated[float, typer.Option(help="Noise throughout, dBFS.", rich_help_panel=_BENCH_PANEL)]
Babble = Annotated[bool, typer.Option(help="Voices instead of hiss.", rich_help_panel=_BENCH_PANEL)]
Minutes = Annotated[
    float, typer.Option(help="Of --what soak: how long.", rich_help_panel=_BENCH_PANEL)
]
Disturb = Annotated[
    str,
    typer.Option(
        help="What gets worse, one after the other, with commas between.",
        rich_help_panel=_LOOP_PANEL,
    ),
]
Tuner = Annotated[
    str, typer.Option(help="off, observe, on, or several of them.", rich_help_panel=_LOOP_PANEL)
]
Start = Annotated[
    str,
    typer.Option(help="Settings to start from: default or thrifty.", rich_help_panel=_LOOP_PANEL),
]
Engine = Annotated[
    str,
    typer.Option(
        help="llm, asr or tts: that engine alone, beside its naive baseline.",
        rich_help_panel=_ENGINE_PANEL,
    ),
]
Model = Annotated[str, typer.Option(help="The model's directory.", rich_help_panel=_ENGINE_PANEL)]
FindCapacity = Annotated[
    bool,
    typer.Option(
        "--find-capacity",
        help="How many calls hold the budget, the knee, the cost.",
        rich_help_panel=_SEARCH_PANEL,
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        help="Seconds of voice-to-voice (budget.total: 0.8).", rich_help_panel=_SEARCH_PANEL
    ),
]
Percentile = Annotated[
    float | None,
    typer.Option(help="Of a hundred turns (budget.percentile: 95).", rich_help_panel=_SEARCH_PANEL),
]
Most = Annotated[int, typer.Option(help="The most calls to try.", rich_help_panel=_SEARCH_PANEL)]
Period = Annotated[
    float,
    typer.Option(
        help="Seconds from one utterance of a caller to its next; 0: 5.22 with bench, else 15.",
        rich_help_panel=_SEARCH_PANEL,
    ),
]
CostPerHour = Annotated[
    float | None,
    typer.Option(help="Price of what the server runs on.", rich_help_panel=_SEARCH_PANEL),
]
OnlyJson = Annotated[
    bool,
    typer.Option("--json", help="Print the line of JSON alone.", rich_help_panel=_SEARCH_PANEL),
]


def bench(
    context: typer.Context,
    calls: Calls = None,
    turns: Turns = 6,
    url: Url = "",
    key: Key = "",
    profile: Profile = "embedded",
    what: What = "latency",
    transport: Transport = "websocket",
    reply: Reply = 2.0,
    delays: Delays = 1.0,
    wait: Wait = 0.2,
    overlap: Overlap = True,
    noise: Noise = -math.inf,
    babble: Babble = False,
    minutes: Minutes = 30.0,
    disturb: Disturb = "llm,tts,asr,pauses,jitter,calls",
    tuner: Tuner = "off,observe,on",
    start: Start = "thrifty",
    engine: Engine = "",
    model: Model = "",
    find_capacity: FindCapacity = False,
    budget: Budget = None,
    percentile: Percentile = None,
    most: Most = 500,
    period: Period = 0.0,
    cost_per_hour: CostPerHour = None,
    only_json: OnlyJson = False,
) -> None:
    """Measure voice-to-voice latency from the waveforms; prints one JSON line a run."""
    check(context)
    if engine:
        from voice.bench_engines import compare

        try:
            _run(compare(engine, model, calls or [8], turns, out))
        except ModuleNotFoundError as error:
            raise RuntimeError(
                f"--engine {engine} needs {error.name}, which is not installed: "
                "make install-cpu, or make install-gpu"
            ) from error
        return
    if profile == "embedded" and not find_capacity:
        from voice.bench import bench as measure

        _run(measure(url, key, calls or [1, 16], turns, out))
        return
    from voice import bench_calls

    conditions = bench_calls.Conditions(
        reply=reply, delays=delays, overlap=overlap, noise=noise, babble=babble, wait=wait
    )
    if find_capacity or what == "capacity":
        from voice.find_capacity import Inquiry, asked, find

        goal, per_hour = asked(budget, percentile, cost_per_hour)
        inquiry = Inquiry(
            goal=goal if find_capacity else None,
            transport=transport,
            url=url,
            key=key,
            profile=profile,
            conditions=conditions,
            period=period,
            turns=turns,
            most=most,
            per_hour=per_hour,
        )
        _run(find(inquiry, err, out, only_json=only_json))
        return
    match what:
        case "latency" if transport == "webrtc":
            from voice.bench_webrtc import held

            _run(held(conditions, calls or [1, 25], turns, out))
        case "latency":
            _run(bench_calls.latency(conditions, calls or [1, 50], turns, out))
        case "barge-in":
            _run(bench_calls.interruptions(conditions, turns, out))
        case "overload":
            from voice.bench_overload import CAPACITY, overload

            _run(overload(conditions, (calls or [CAPACITY])[0], turns, transport, out))
        case "pauses":
            from voice.bench_pauses import pauses

            _run(pauses(conditions, (calls or [8])[0], out))
        case "soak":
            _run(bench_calls.soak(conditions, (calls or [50])[0], minutes, out))
        case "trace":
            from voice.bench_trace import COUNTS, trace

            # On asyncio's own loop: uvloop does not tell when the kernel received a datagram.
            asyncio.run(trace(conditions, calls or COUNTS, turns, transport, out))
        case "cost":
            from voice.bench_cost import CALLS, ROUNDS, cost

            _run(cost(conditions, (calls or [CALLS])[0], turns, ROUNDS, out))
        case "loop":
            from voice.bench_loop import loop

            count = (calls or [40])[0]
            _run(loop(disturb.split(","), tuner.split(","), start, reply, count, transport, out))


def check(context: typer.Context) -> None:
    """Raise ValueError unless there is such a measurement and it takes the options given."""
    options, given = context.params, _given(context)
    what, profile = options["what"], options["profile"]
    if what not in TAKES:
        raise ValueError(f"--what is {what!r}; expected {', '.join(TAKES)}")
    if options["transport"] not in TRANSPORTS and not options["find_capacity"]:
        expected = " or ".join(TRANSPORTS)
        raise ValueError(f"--transport is {options['transport']!r}; expected {expected}")
    if options["engine"]:
        meant, takes = "--engine", ENGINE
    elif options["find_capacity"]:
        meant, takes = "--find-capacity", ("profile", "what", *SEARCH)
        takes += CONDITIONS if profile == "bench" else ()
        if what not in ("latency", "capacity"):
            raise ValueError(f"--find-capacity and --what {what} are two measurements: give one")
    elif profile == "embedded":
        meant, takes = "a bench of the default profile", ("profile", "what", *PLAIN)
        if what != "latency":
            raise ValueError(f"--what {what} is measured with --profile bench: add that")
    elif profile == "bench":
        meant, takes = f"--what {what}", ("profile", "what", *TAKES[what])
    else:
        raise ValueError(
            f"--profile is {profile!r}; expected embedded or bench, or --find-capacity with it"
        )
    for name in sorted(given - {*takes}):
        known = ", ".join(map(_option, takes))
        raise ValueError(f"{_option(name)} has no effect on {meant}, which takes {known}")
    for count in options["calls"] or ():
        if not 1 <= count <= MOST_CALLS:
            raise ValueError(f"--calls is {count}; expected 1 to {MOST_CALLS}")
    if options["turns"] < 1:
        raise ValueError(f"--turns is {options['turns']}; expected 1 or more")
    if not 0.0 < options["minutes"] < math.inf:
        raise ValueError(f"--minutes is {options['minutes']:g}; expected more than 0")


def _given(context: typer.Context) -> set[str]:
    """Return the names of the options that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _option(name: str) -> str:
    return "--json" if name == "only_json" else f"--{name.replace('_', '-')}"


def _run(work: Coroutine[Any, Any, Any]) -> None:
    """Run `work` to its end on a loop of its own."""
    import uvloop

    uvloop.run(work)
