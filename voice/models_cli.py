"""`voice models`: what the profiles need, what of it is here, and how it gets here."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from voice import catalogue, settings

app = typer.Typer(
    name="models",
    help="List, check, fetch and carry the models that profiles need.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console()

Names = Annotated[
    list[str] | None, typer.Argument(help="Names in the list, or owner/name on the hub.")
]
OfProfile = Annotated[str, typer.Option("--profile", help="All that this profile needs.")]


@app.command("list")
def show(profile: OfProfile = "") -> None:
    """Show the models: what for, how big, under which licence, and whether they are here."""
    from voice import models

    data = _data()
    wanted = catalogue.of_profile(profile) if profile else catalogue.MODELS
    known = {model.name for model in catalogue.MODELS}
    others = [] if profile else [w.name for w in models.here(data) if w.name not in known]
    table = Table("model", "for", "profiles", "size", "licence", "here", box=None)
    for model in (*wanted, *map(catalogue.find, others)):
        of = [name for name, needed in catalogue.PROFILES.items() if model.name in needed]
        licence = model.licence if model.commercial else f"{model.licence}, not commercial"
        size = f"{model.size / 1e9:.2f} GB" if model.size else ""
        table.add_row(
            *map(escape, (model.name, model.kind, " ".join(of), size, licence, _state(model, data)))
        )
    out.print(table, highlight=False)
    out.print(f"in {data / 'models'}; voice models fetch NAME", highlight=False)


@app.command()
def check(names: Names = None, profile: OfProfile = "") -> None:
    """Read every file and compare it with what was pinned; exit with 1 if one is wrong."""
    from voice import models

    data = _data()
    found = [model for model in catalogue.MODELS if models.place(model, data).is_dir()]
    found += [catalogue.find(where.name) for where in models.here(data)]
    wanted = _wanted(names, profile) or list(dict.fromkeys(found))
    if not wanted:
        out.print(f"there are no models in {data / 'models'}", highlight=False)
    wrong = 0
    for model in wanted:
        where = models.place(model, data)
        with out.status(escape(model.name)):
            trouble = models.problems(model, where, thorough=True)
        pinned = "" if models.read(where) else ", without a manifest: only lengths were looked at"
        sign = "[red]✗[/]" if trouble else "[green]✓[/]"
        out.print(f"{sign} {escape(model.name)}{'' if trouble else pinned}", highlight=False)
        for line in trouble:
            out.print(f"    {escape(line)}", highlight=False)
        if trouble:
            out.print(f"    [bold]{escape(models.remedy(model))}[/]", highlight=False)
        wrong += bool(trouble)
    sys.exit(1 if wrong else 0)


@app.command()
def fetch(
    names: Names = None,
    profile: OfProfile = "",
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept a licence that is not commercial.")
    ] = False,
) -> None:
    """Bring models here; what broke off goes on where it stopped."""
    from voice import models

    wanted = _wanted(names, profile)
    if not wanted:
        raise ValueError("say which: voice models fetch NAME, or --profile cpu")
    for model in wanted:
        out.print(
            f"{escape(model.name)}  {escape(model.source)}  licence: {escape(model.licence)}"
            f" ({escape(model.terms)})",
            highlight=False,
        )
        with _progress() as progress:
            where = models.fetch(
                model, _data(), _Bars(progress), progress.console.print, accept_licence
            )
        out.print(f"[green]✓[/] in {escape(str(where))}", highlight=False)


@app.command()
def export(folder: Path, names: Names = None) -> None:
    """Copy models into a folder, to be carried to a machine without a network."""
    from voice import models

    done = models.export(names or [], _data(), folder)
    out.print(f"{', '.join(done)} in {folder}: voice models import FOLDER there", highlight=False)


@app.command("import")
def carry_in(folder: Path) -> None:
    """Take over the models in a folder that was carried here, checking every byte."""
    from voice import models

    done = models.carry_in(folder, _data())
    out.print(f"{', '.join(done)} taken over into {_data() / 'models'}", highlight=False)


def _data() -> Path:
    return Path(settings.from_process({}).settings.data)


def _wanted(names: list[str] | None, profile: str) -> list[catalogue.Model]:
    named = [catalogue.find(name) for name in names or []]
    return [*named, *(catalogue.of_profile(profile) if profile else ())]


def _state(model: catalogue.Model, data: Path) -> str:
    from voice import models

    where = models.place(model, data)
    if where.is_dir() and not models.problems(model, where, thorough=False):
        return "✓"
    if where.is_dir() and (part := models.share(where)):
        return f"{part:.0%}"
    return "in the hub's cache" if models.in_cache(model) else "–"


class _Bars:
    """Shows each file that is fetched as a bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, file: str, done: int, total: int) -> None:
        if file not in self._tasks:
            self._tasks[file] = self._progress.add_task(escape(file), total=total)
        self._progress.update(self._tasks[file], completed=done)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=out,
    )
