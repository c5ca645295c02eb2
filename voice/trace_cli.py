"""`voice trace`: where the time of past calls went, drawn in the terminal."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from latency.overview import overview
from latency.trace import percentile
from latency.waterfall import waterfall
from voice import settings
from voice.drawing import painted
from voice.traces import FORMATS, LoggedCall, Logs, exported, slowest

app = typer.Typer(
    name="trace",
    help="Where the time of past calls went: list, draw and export them.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console()

WIDE = 100
"""Columns from which a list has room for a line of each call's turns."""

WIDEST = 140
"""Columns beyond which a drawing gains nothing."""

SPARKS = "▁▂▃▄▅▆▇█"

Data = Annotated[Path | None, typer.Option(help="A server's data directory; else the settings'.")]
Name = Annotated[str, typer.Argument(help="A call's name, or enough of its beginning.")]
Last = Annotated[int, typer.Option(min=1, help="How many calls, the latest.")]


@app.callback()
def options(
    context: typer.Context,
    slow: Annotated[
        int | None, typer.Option("--slowest", min=1, help="Draw the slowest turns of all calls.")
    ] = None,
    data: Data = None,
) -> None:
    """List the latest calls, or draw the slowest turns of all."""
    if (command := context.invoked_subcommand) is not None:
        if slow is not None:
            raise ValueError(f"--slowest is no {command}: voice trace --slowest {slow}, by itself")
        if data is not None:
            raise ValueError(f"--data goes after {command}: voice trace {command} --data {data}")
        return
    if slow is not None:
        show_slowest(_logs(data), slow)
    else:
        list_calls(_logs(data), 20)


@app.command("list")
def list_(last: Last = 20, data: Data = None) -> None:
    """List calls: when, how, how many turns, how long their callers waited and for what."""
    list_calls(_logs(data), last)


@app.command()
def show(
    call: Name,
    turn: Annotated[int | None, typer.Option(help="This turn alone.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every turn, not only the slowest.")] = False,
    data: Data = None,
) -> None:
    """Draw a call: all its turns on one axis, and the waterfall of the slowest."""
    found = _logs(data).find(call)
    if turn is not None:
        _draw(found, [found.turn(turn)["turn"]])
        return
    _headline(found)
    labelled = [(str(record["turn"]), record) for record in found.turns]
    out.print(painted(out, overview(labelled, _width())))
    if every:
        _draw(found, [record["turn"] for record in found.turns])
    elif worst := slowest([found], 1):
        _draw(found, [worst[0][1]["turn"]])
        if len(found.turns) > 1:
            out.print(Text("--turn N draws another, --all every one", "dim"), highlight=False)


@app.command()
def export(
    call: Name,
    form: Annotated[
        str, typer.Option("--format", help=f"{', '.join(FORMATS)} (chrome: also for Perfetto).")
    ] = "json",
    to: Annotated[Path | None, typer.Option("--out", help="A file; else standard output.")] = None,
    data: Data = None,
) -> None:
    """Write a call's turns for other programs."""
    if form not in FORMATS:
        raise ValueError(f"--format is {form!r}; expected {', '.join(FORMATS)}")
    text = exported(_logs(data).find(call), form)
    if to is None:
        typer.echo(text)
    elif not to.parent.is_dir() or to.is_dir():
        raise ValueError(f"--out is {to}; expected a file, in a directory that is there")
    else:
        to.write_text(text + "\n")
        out.print(f"{to}: {len(text) / 1000:.0f} kB", highlight=False, markup=False)


def list_calls(logs: Logs, last: int) -> None:
    """Print a table of the latest calls."""
    calls, unread = _read(logs, last)
    if not calls:
        out.print(f"there are no calls in {logs.directory}", highlight=False, markup=False)
        return
    wide = out.width >= WIDE
    shortest = _shortest([path.stem for path in logs.files()])
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name, side in (
        ("call", "left"), ("when", "left"), ("by", "left"), ("turns", "right"),
        ("p50", "right"), ("p95", "right"), ("longest stage", "left"), ("over", "right"),
    ):  # fmt: skip
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    if wide:
        table.add_column("each turn", no_wrap=True)
        table.add_column("ended", no_wrap=True)
    for call in calls:
        table.add_row(*_row(call, shortest), *_more(call, wide))
    out.print(table, highlight=False)
    _say_unread(calls, unread)


def _row(call: LoggedCall, shortest: int) -> list[Text | str]:
    """Return what a list says of a call."""
    totals = call.totals
    name = call.name.removeprefix("call_")[:shortest]
    when = datetime.fromtimestamp(call.began).strftime("%m-%d %H:%M:%S") if call.began else "–"
    row: list[Text | str] = [Text(name, "cyan"), Text(when, "dim"), _transport(call)]
    row.append(str(len(call.turns)))
    if not totals:
        return [*row, "–", "–", "–", ""]
    stage, seconds = call.worst()
    return [
        *row,
        f"{percentile(totals, 50) * 1000:.0f}",
        f"{percentile(totals, 95) * 1000:.0f}",
        f"{stage.replace('_', ' ')} {seconds * 1000:.0f}",
        Text(str(call.over), "bold red") if call.over else Text("·", "dim"),
    ]


def _more(call: LoggedCall, wide: bool) -> list[Text | str]:
    """Return what a list says of a call where there is room."""
    if not wide:
        return []
    return [_sparks(call), Text(call.reason or "going on, or lost", "dim")]


def _sparks(call: LoggedCall, most: int = 16) -> Text:
    """Draw the waits of a call's latest turns; a full block is the budget or more."""
    text = Text()
    for turn in call.turns[-most:]:
        total, budget = turn["total"], turn.get("budget") or 0.8
        if total is None:
            text.append("·", "dim")
            continue
        spark = SPARKS[max(0, min(len(SPARKS) - 1, int(total / budget * (len(SPARKS) - 1))))]
        text.append(spark, "bold red" if turn.get("over") else "green")
    return text


def show_slowest(logs: Logs, count: int) -> None:
    """Draw the slowest turns of all calls, and the waterfall of the first."""
    calls, unread = _read(logs, None)
    found = slowest(calls, count)
    if not found:
        out.print(f"no call in {logs.directory} has a record", highlight=False, markup=False)
    else:
        shortest = _shortest([path.stem for path in logs.files()])
        names = [call.name.removeprefix("call_")[:shortest] for call, _ in found]
        labelled = [
            (f"{name} turn {record['turn']}", record)
            for name, (_, record) in zip(names, found, strict=True)
        ]
        out.print(painted(out, overview(labelled, _width())))
        call, record = found[0]
        _draw(call, [record["turn"]])
        out.print(Text(f"voice trace show {names[0]} draws its whole call", "dim"))
    _say_unread(calls, unread)


def _draw(call: LoggedCall, turns: list[int]) -> None:
    """Print waterfalls."""
    for number in turns:
        record = call.turn(number)
        if lines := waterfall(record, _width()):
            out.print(painted(out, lines), end="")
        else:
            out.print(f"turn {number} has nothing to draw")
        out.print()


def _headline(call: LoggedCall) -> None:
    """Say which call it is."""
    line = Text(call.name, "bold")
    told = [_transport(call), call.reason]
    if call.began:
        when = datetime.fromtimestamp(call.began).strftime("%Y-%m-%d %H:%M:%S")
        told = [f"{when}, {call.ended - call.began:.0f} s", *told]
    line.append("   " + " · ".join(filter(None, told)), "dim")
    out.print(line, highlight=False)
    rooms = [str(call.start[room]) for room in ("ears", "mind", "mouth") if room in call.start]
    if rooms:
        out.print(Text(", ".join(rooms), "dim"))
    if totals := call.totals:
        p50, p95 = percentile(totals, 50) * 1000, percentile(totals, 95) * 1000
        line = Text(f"{len(call.turns)} turns   p50 {p50:.0f} ms   p95 {p95:.0f} ms")
        if call.over:
            line.append(f"   {call.over} over budget", "bold red")
        out.print(line, highlight=False)
    else:
        out.print("no turn of it was answered", highlight=False)
    if call.broken:
        out.print(Text(f"{call.broken} lines of its log cannot be read", "yellow"))
    out.print()


def _transport(call: LoggedCall) -> str:
    return {"websocket": "ws"}.get(call.transport, call.transport)


def _read(logs: Logs, last: int | None) -> tuple[list[LoggedCall], int]:
    """Return the calls that can be read, and how many files cannot."""
    read = list(logs.calls(last))
    calls = [call for call in read if call is not None and (call.began or call.turns)]
    return calls, len(read) - len(calls)


def _say_unread(calls: list[LoggedCall], unread: int) -> None:
    """Say what was left out."""
    broken = sum(call.broken for call in calls)
    left = [f"{unread} files are no call logs"] if unread else []
    left += [f"{broken} lines cannot be read"] if broken else []
    if left:
        out.print(Text(f"left out: {', '.join(left)}", "yellow"))


def _shortest(names: list[str]) -> int:
    """Return how much of the names, without "call_", tells them apart; 4 at least."""
    bare = {name.removeprefix("call_") for name in names}
    length = 4
    while length < 40 and len({name[:length] for name in bare}) < len(bare):
        length += 1
    return length


def _width() -> int:
    return min(out.width, WIDEST)


def _logs(data: Path | None) -> Logs:
    if data is not None and not data.is_dir():
        raise ValueError(f"{data} is no directory; --data names the one that a server has as data")
    return Logs(data or Path(settings.from_process({}).settings.data))
