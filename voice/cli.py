"""The `voice` command."""

import asyncio
import math
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from voice import __version__, models_cli, settings, trace_cli, tune_cli

app = typer.Typer(
    name="voice",
    help="One server that a person can call and talk to.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models_cli.app)
app.add_typer(trace_cli.app)
app.command()(tune_cli.tune)
out = Console()
err = Console(stderr=True, soft_wrap=True)

Config = Annotated[
    Path | None, typer.Option(help="Settings file; else voice.toml here, if there is one.")
]
Host = Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1).")]
Port = Annotated[int | None, typer.Option(help="Port to listen on (8000), 0 for a free one.")]
Ears = Annotated[str | None, typer.Option(help="Ears: sphinx, whisper:MODEL, fake.")]
Mind = Annotated[
    str | None,
    typer.Option(help="Mind: embedded, ctranslate:MODEL, vllm:MODEL, openai:URL[,URL], fake."),
]
Mouth = Annotated[str | None, typer.Option(help="Mouth: espeak, coqui:MODEL, fake.")]
AgentFolder = Annotated[str | None, typer.Option(help="Folder of the agent that answers.")]
Profile = Annotated[
    str | None,
    typer.Option(help="embedded, or bench: engines of fixed delays, to measure all the rest."),
]
Reply = Annotated[float | None, typer.Option(help="Seconds of each reply of the profile bench.")]
Steer = Annotated[
    str | None,
    typer.Option(help="Settings moved to hold the budget: on, observe (only said) or off."),
]
Pin = Annotated[
    list[str] | None,
    typer.Option(help="A setting that is never moved (turn.longest_wait); may be repeated."),
]
Url = Annotated[str, typer.Option(help="The server to call.", envvar="VOICE_URL")]
Key = Annotated[str, typer.Option(help="The server's key.", envvar="VOICE_KEY")]

SERVER = "http://127.0.0.1:8000"


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        out.print(f"sidetone {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """One server that a person can call and talk to."""


@app.command()
def serve(
    config: Config = None,
    host: Host = None,
    port: Port = None,
    asr: Ears = None,
    llm: Mind = None,
    tts: Mouth = None,
    agent: AgentFolder = None,
    profile: Profile = None,
    reply: Reply = None,
    tuner: Steer = None,
    pin: Pin = None,
) -> None:
    """Take calls until Ctrl-C."""
    from voice.serve import run

    flags = {
        "config": config,
        "host": host,
        "port": port,
        "asr": asr,
        "llm": llm,
        "tts": tts,
        "agent": agent,
        "profile": profile,
        "bench.reply": reply,
        "tuner": tuner,
        "pinned": ",".join(pin) if pin else None,
    }
    run(settings.from_process(flags).settings, out)


@app.command()
def call(
    say: Annotated[
        list[str] | None, typer.Option(help="What the caller says; once for every turn.")
    ] = None,
    wav: Annotated[
        list[Path] | None, typer.Option(help="A WAV file the caller plays; once for every turn.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Keep both voices in this WAV file: caller left.")
    ] = None,
    voice: Annotated[str, typer.Option(help="espeak-ng voice of the caller.")] = "en-us+f3",
    url: Url = SERVER,
    key: Key = "",
) -> None:
    """Call a running server, speak, and show both sides' words and each turn's waterfall.

    Succeeds if the agent answered every turn.
    """
    from voice.calling import call as place

    if bool(say) == bool(wav):
        raise ValueError("say what the caller does: --say TEXT or --wav FILE, as often as needed")
    sys.exit(_run(place(url, key, say or wav or [], voice, record, out)))


@app.command()
def talk(url: Url = SERVER, key: Key = "") -> None:
    """Talk to a running server from this terminal: by microphone, or typed where there is none."""
    from voice.calling import talk as converse

    sys.exit(_run(converse(url, key, out)))


@app.command()
def bench(
    calls: Annotated[
        list[int] | None, typer.Option(help="Calls at the same time; may be repeated (1, 16).")
    ] = None,
    turns: Annotated[int, typer.Option(help="Turns in each call.")] = 6,
    url: Annotated[str, typer.Option(help="A running server; else one is started.")] = "",
    key: Key = "",
    profile: Annotated[
        str, typer.Option(help="embedded, or bench: engines of fixed delays.")
    ] = "embedded",
    what: Annotated[
        str,
        typer.Option(
            help="With bench: latency, barge-in, capacity, overload, pauses, soak, trace, cost, "
            "loop."
        ),
    ] = "latency",
    transport: Annotated[str, typer.Option(help="With bench: websocket or webrtc.")] = "websocket",
    reply: Annotated[float, typer.Option(help="With bench: seconds of each reply.")] = 2.0,
    delays: Annotated[float, typer.Option(help="With bench: factor on the delays.")] = 1.0,
    wait: Annotated[
        float, typer.Option(help="With bench: end-of-turn wait, 0 for the server's own.")
    ] = 0.2,
    overlap: Annotated[bool, typer.Option(help="With bench: answers before the decision.")] = True,
    noise: Annotated[float, typer.Option(help="With bench: noise throughout, dBFS.")] = -math.inf,
    babble: Annotated[bool, typer.Option(help="With bench: voices instead of hiss.")] = False,
    minutes: Annotated[float, typer.Option(help="With --what soak: how long.")] = 30.0,
    disturb: Annotated[
        str, typer.Option(help="With --what loop: what gets worse, one after the other.")
    ] = "llm,tts,asr,pauses,jitter,calls",
    tuner: Annotated[
        str, typer.Option(help="With --what loop: off, observe, on, or several of them.")
    ] = "off,observe,on",
    start: Annotated[
        str, typer.Option(help="With --what loop: default or thrifty settings to start from.")
    ] = "thrifty",
    engine: Annotated[
        str, typer.Option(help="llm, asr or tts: that engine alone, beside its naive baseline.")
    ] = "",
    model: Annotated[str, typer.Option(help="With --engine: the model's directory.")] = "",
    find_capacity: Annotated[
        bool,
        typer.Option("--find-capacity", help="How many calls hold the budget, the knee, the cost."),
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(help="With --find-capacity: seconds of voice-to-voice (budget.total: 0.8)."),
    ] = None,
    percentile: Annotated[
        float | None,
        typer.Option(help="With --find-capacity: of a hundred turns (budget.percentile: 95)."),
    ] = None,
    most: Annotated[int, typer.Option(help="With --find-capacity: the most calls to try.")] = 500,
    period: Annotated[
        float,
        typer.Option(
            help="With --find-capacity: seconds from one utterance of a caller to its next; "
            "0: 5.22 with bench, else 15."
        ),
    ] = 0.0,
    cost_per_hour: Annotated[
        float | None,
        typer.Option(help="With --find-capacity: price of what the server runs on."),
    ] = None,
    only_json: Annotated[
        bool, typer.Option("--json", help="With --find-capacity: print the line of JSON alone.")
    ] = False,
) -> None:
    """Measure voice-to-voice latency from the waveforms; prints one JSON line a run."""
    from voice.bench import bench as measure

    if engine:
        from voice.bench_engines import compare

        _run(compare(engine, model, calls or [8], turns, out))
        return
    if find_capacity or (profile == "bench" and what == "capacity"):
        from voice.bench_calls import Conditions
        from voice.find_capacity import Inquiry, asked, find

        goal, per_hour = asked(budget, percentile, cost_per_hour)
        inquiry = Inquiry(
            goal=goal if find_capacity else None,
            transport=transport,
            url=url,
            key=key,
            profile=profile,
            conditions=Conditions(
                reply=reply, delays=delays, overlap=overlap, noise=noise, babble=babble, wait=wait
            ),
            period=period,
            turns=turns,
            most=most,
            per_hour=per_hour,
        )
        _run(find(inquiry, err, out, only_json=only_json))
        return
    if profile == "embedded":
        _run(measure(url, key, calls or [1, 16], turns, out))
        return
    from voice import bench_calls

    conditions = bench_calls.Conditions(
        reply=reply, delays=delays, overlap=overlap, noise=noise, babble=babble, wait=wait
    )
    if what == "loop":
        from voice.bench_loop import loop

        count = (calls or [40])[0]
        _run(loop(disturb.split(","), tuner.split(","), start, reply, count, transport, out))
        return
    if what == "cost":
        from voice.bench_cost import CALLS, ROUNDS, cost

        _run(cost(conditions, (calls or [CALLS])[0], turns, ROUNDS, out))
        return
    if what == "trace":
        from voice.bench_trace import COUNTS, trace

        # On asyncio's own loop: uvloop does not tell when the kernel received a datagram.
        asyncio.run(trace(conditions, calls or COUNTS, turns, transport, out))
        return
    if what == "overload":
        from voice.bench_overload import CAPACITY, overload

        _run(overload(conditions, (calls or [CAPACITY])[0], turns, transport, out))
        return
    if transport == "webrtc":
        from voice.bench_webrtc import held

        if what != "latency":
            raise ValueError(f"--what is {what!r}; over WebRTC it is latency or capacity")
        _run(held(conditions, calls or [1, 25], turns, out))
        return
    if transport != "websocket":
        raise ValueError(f"--transport is {transport!r}; expected websocket or webrtc")
    match what:
        case "latency":
            _run(bench_calls.latency(conditions, calls or [1, 50], turns, out))
        case "barge-in":
            _run(bench_calls.interruptions(conditions, turns, out))
        case "pauses":
            from voice.bench_pauses import pauses

            _run(pauses(conditions, (calls or [8])[0], out))
        case "soak":
            _run(bench_calls.soak(conditions, (calls or [50])[0], minutes, out))
        case _:
            raise ValueError(
                f"--what is {what!r}; expected latency, barge-in, capacity, overload, "
                "pauses or soak"
            )


@app.command()
def doctor() -> None:
    """Say what is installed, what can run, and what mends the rest."""
    from voice.doctor import examine

    sys.exit(examine(out))


@app.command()
def config(
    config: Config = None,
    host: Host = None,
    port: Port = None,
) -> None:
    """Print the settings in force and where each came from."""
    effective = settings.from_process({"config": config, "host": host, "port": port})
    table = Table("setting", "value", "from", box=None, header_style="bold")
    for name, source in effective.sources.items():
        value = settings.value_of(effective.settings, name)
        shown = "***" if name in settings.SECRET and value else repr(value)
        table.add_row(name, shown, source)
    out.print(table)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run `work` to its end on a loop of its own."""
    import uvloop

    return uvloop.run(work)


def main() -> None:
    """Run the command line; what the user can mend is one line on stderr and status 1."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, RuntimeError) as error:
        err.print(f"[bold red]error:[/] {_plain(error)}", highlight=False)
        sys.exit(1)


def _plain(error: Exception) -> str:
    """Return the error's own words, safe to print among markup."""
    from rich.markup import escape

    return escape(str(error) or type(error).__name__)


if __name__ == "__main__":
    main()
