"""The options of `voice tune`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def tune(
    calls: Annotated[int, typer.Option(help="Calls at once that are to hold the budget.")] = 20,
    budget: Annotated[
        float | None, typer.Option(help="Seconds of voice-to-voice; else budget.total.")
    ] = None,
    percentile: Annotated[
        float | None,
        typer.Option(help="Of a hundred turns, how many are within it; else budget.percentile."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings to begin with; else voice.toml here.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Begin with bench, embedded, cpu or gpu.")
    ] = None,
    asr: Annotated[str | None, typer.Option(help="Ears, as in voice serve.")] = None,
    llm: Annotated[str | None, typer.Option(help="Mind, as in voice serve.")] = None,
    tts: Annotated[str | None, typer.Option(help="Mouth, as in voice serve.")] = None,
    knobs: Annotated[
        str, typer.Option(help="What may be changed, with commas between; else what is usual.")
    ] = "",
    minutes: Annotated[float, typer.Option(help="Time that the search may take.")] = 15.0,
    cost_per_hour: Annotated[
        float | None, typer.Option(help="Of the machine, in any currency; else in core-seconds.")
    ] = None,
    turns: Annotated[
        int, typer.Option(help="Turns of each call in a short run; 0 for enough.", min=0)
    ] = 0,
    out: Annotated[Path, typer.Option(help="Profile file to write.")] = Path("tuned.toml"),
    report: Annotated[Path, typer.Option(help="Report to write, HTML.")] = Path("tune.html"),
) -> None:
    """Find the cheapest settings that hold a budget: calls servers with many, and reports.

    Succeeds if any configuration tried holds it.
    """
    import uvloop

    from voice.tune import Wanted
    from voice.tune import tune as search

    flags = {"config": config, "profile": profile, "asr": asr, "llm": llm, "tts": tts}
    wanted = Wanted(
        flags={name: str(value) for name, value in flags.items() if value is not None},
        calls=calls,
        budget=budget,
        percentile=percentile,
        knobs=tuple(name.strip() for name in knobs.split(",") if name.strip()),
        minutes=minutes,
        cost_per_hour=cost_per_hour,
        out=out,
        report=report,
        turns=turns,
        command=shlex.join(["voice", *sys.argv[1:]]),
    )
    if not uvloop.run(search(wanted, Console())):
        sys.exit(1)
