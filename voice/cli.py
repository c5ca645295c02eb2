"""The `voice` command."""

import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from voice import __version__, bench_cli, models_cli, settings, trace_cli, tune_cli

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
    typer.Option(
        help="embedded, cpu, gpu, or bench: engines of fixed delays, to measure all the rest."
    ),
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


app.command()(bench_cli.bench)
app.command()(tune_cli.tune)


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
    """Run the command line; what the user can mend is one line on stderr, and not status 0."""
    try:
        sys.exit(app(prog_name="voice", standalone_mode=False))
    except KeyboardInterrupt:
        sys.exit(130)
    except MISUSE as error:
        sys.exit(_refuse(error))
    except MENDABLE as error:
        _say(str(error) or type(error).__name__)
        sys.exit(1)
    except ExceptionGroup as group:
        mendable, others = group.split(MENDABLE)
        if mendable is None or others is not None:
            raise
        _say(str(next(leaves(mendable))))
        sys.exit(1)


MENDABLE = (ValueError, OSError, RuntimeError)
"""Errors that say what was wrong and what to do."""

MISUSE: type[Exception] = typer.BadParameter.__mro__[1]
"""What Typer raises where options or arguments are none; it has no public name for it."""


def leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    """Yield the errors that groups within `group` hold."""
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def _refuse(error: Any) -> int:
    """Say in one line what was wrong with the command; return the status to end with."""
    if words := " ".join(error.format_message().split()):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "voice"
        _say(f"{words.rstrip('.')}; {command} -h says what there is")
    return int(error.exit_code)


def _say(words: str) -> None:
    """Print an error; nothing in it is markup."""
    err.print(f"[bold red]error:[/] {escape(words)}", highlight=False)


if __name__ == "__main__":
    main()
