"""`voice tune`: finds the cheapest settings that hold a budget, by calling servers with them."""

import asyncio
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from voice import __version__
from voice.bench_server import CORES
from voice.settings import Effective, from_process
from voice.tune_findings import About, Findings, shown_ms, shown_price, shown_value
from voice.tune_ladders import ladders, setting_values, validity
from voice.tune_load import HISS, PAUSED, QUESTIONED, VOICE, Load, always, load, measure
from voice.tune_profile import profile
from voice.tune_report import report
from voice.tune_results import Results
from voice.tune_runs import Goal, Measured
from voice.tune_search import Search, Trial

ROOMS = ("asr", "llm", "tts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a search is asked for.

    Attributes:
        flags: Settings of the start, as `voice serve` takes them.
        calls: Calls at once.
        budget: Seconds of voice-to-voice; None for the settings' own.
        percentile: Likewise.
        knobs: Names of what may be changed, () for what is usual.
        minutes: How long the search may take.
        cost_per_hour: Of the machine; None for the settings' own.
        out: Where the profile is written.
        report: Where the report is.
        turns: Turns of each call in a short run, 0 for enough.
        command: What reproduces it.
    """

    flags: Mapping[str, Any]
    calls: int = 20
    budget: float | None = None
    percentile: float | None = None
    knobs: tuple[str, ...] = ()
    minutes: float = 15.0
    cost_per_hour: float | None = None
    out: Path = Path("tuned.toml")
    report: Path = Path("tune.html")
    turns: int = 0
    command: str = "voice tune"


async def tune(wanted: Wanted, console: Console) -> bool:
    """Search, write what was found, and return whether anything holds the budget.

    What is known is written also when the search is interrupted.

    Raises:
        ValueError: If what is wanted cannot be.
        RuntimeError: If the server does not start as it is configured.
    """
    effective = from_process(wanted.flags)
    goal, search = _prepared(wanted, effective)
    _writable(wanted.out, effective.sources)
    _writable(wanted.report, {})
    work = await load(effective.settings, goal.calls, goal.budget, wanted.turns)
    about = _about(wanted, effective, work)
    search.expect(work.seconds())
    _introduce(console, search, work)
    over = False
    try:
        await _runs(search, work, wanted, console)
        over = True
    finally:
        if search.trials and search.results.known():
            findings = Findings(search, replace(about, date=_now(), interrupted=not over))
            wanted.out.write_text(profile(effective, findings))
            wanted.report.write_text(report(findings))
            _conclude(console, findings, wanted)
    return findings.holds


def _prepared(wanted: Wanted, effective: Effective) -> tuple[Goal, Search]:
    """Return the goal and the search for it.

    Raises:
        ValueError: If what is wanted cannot be.
    """
    chosen = effective.settings
    budget = chosen.budget.total if wanted.budget is None else wanted.budget
    percent = chosen.budget.percentile if wanted.percentile is None else wanted.percentile
    replace(chosen.budget, total=budget, percentile=percent)  # it says what is wrong with them
    if not 1 <= wanted.calls <= 10_000:
        raise ValueError(f"--calls is {wanted.calls}; expected 1 to 10000")
    if not 0 < wanted.minutes <= 24 * 60:
        raise ValueError(f"--minutes is {wanted.minutes:g}; expected more than 0, at most 1440")
    if wanted.cost_per_hour is not None and not 0 <= wanted.cost_per_hour <= 1e6:
        raise ValueError(f"--cost-per-hour is {wanted.cost_per_hour:g}; expected 0 to 1000000")
    rungs = ladders(effective, wanted.knobs)
    values = {ladder.name: ladder.values for ladder in rungs}
    waits = values.get("turn.wait", values.get("turn.shortest_wait", (chosen.turn.shortest_wait,)))
    shortest = min(map(float, waits))
    if budget <= shortest:
        raise ValueError(
            f"the budget is {budget:g} s, and no wait tried for the end of a turn is shorter than "
            f"{shortest:g} s: nothing can hold it; expected more, or a shorter wait"
        )
    goal = Goal(calls=wanted.calls, budget=budget, percentile=percent, seconds=wanted.minutes * 60)
    search = Search(goal, rungs)
    search.valid = validity(effective, search.results.values)
    return goal, search


async def _runs(search: Search, work: Load, wanted: Wanted, console: Console) -> None:
    """Make all runs of a search.

    Raises:
        RuntimeError: If the server does not start as it is configured.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24))
    with Progress(*columns, console=console, transient=True) as progress:
        shown = progress.add_task("", total=search.results.goal.seconds)
        while (trial := search.next()) is not None:
            ticking = asyncio.create_task(_tick(progress, shown, search, trial))
            settings = always(trial.calls) | dict(wanted.flags)
            settings = {name: value for name, value in settings.items() if value is not None}
            settings |= setting_values(search.results.values(trial.point))
            try:
                outcome = await measure(work, settings, trial.calls, long=trial.long)
            finally:
                ticking.cancel()
            search.record(outcome)
            if outcome.failed and len(search.trials) == 1:
                raise RuntimeError(
                    f"nothing to begin with: {outcome.failed}. Start it by hand: "
                    f"voice serve{_as_flags(wanted.flags)}"
                )
            progress.console.print(_line(search, trial), highlight=False, soft_wrap=True)


async def _tick(progress: Progress, shown: TaskID, search: Search, trial: Trial) -> None:
    """Show what is being measured, the best so far and the time left, twice a second."""
    doing = f"{trial.calls} calls, {_what(search.results, trial.point)}"
    best = search.results.best
    so_far = ""
    if best.good:
        so_far = f"  best {_what(search.results, best.point)}: {_result(search.results, best)}"
    began, clock = asyncio.get_running_loop().time(), asyncio.get_running_loop().time
    while True:
        spent = search.spent + clock() - began
        left = max(0.0, search.results.goal.seconds - spent)
        minutes = f"{left // 60:.0f}:{left % 60:02.0f} left at most"
        progress.update(shown, completed=spent, description=f"{doing}{so_far}  {minutes}")
        await asyncio.sleep(0.5)


def _introduce(console: Console, search: Search, work: Load) -> None:
    """Say what is going to happen."""
    goal = search.results.goal
    console.print(
        f"p{goal.percentile:g} ≤ {shown_ms(goal.budget)} at {goal.calls} calls; runs of about "
        f"{work.seconds():.0f} s and {work.seconds(True):.0f} s, {goal.seconds / 60:g} minutes at "
        "most. Ctrl-C writes what is known so far.",
        highlight=False,
        soft_wrap=True,
    )
    for ladder in search.results.ladders:
        values = [
            f"[bold]{shown_value(value)}[/]" if place == ladder.start else shown_value(value)
            for place, value in enumerate(ladder.values)
        ]
        console.print(f"  {ladder.name:24} {'  '.join(values)}", highlight=False)


def _line(search: Search, trial: Trial) -> str:
    """Return a run's result as a line."""
    entry = search.results.of(trial.point, trial.calls)
    best = "[bold green]best[/] " if entry is search.results.best else "     "
    number = f"{len(search.trials):3}"
    last = search.trials[-1][1]
    late = (
        f"  [yellow]disturbed: callers late by {shown_ms(last.late)}[/]" if last.disturbed else ""
    )
    return (
        f"{number} {best}{trial.phase:8}{trial.calls:4} calls  {_result(search.results, entry)}  "
        f"[dim]{_what(search.results, trial.point)}[/]{late}"
    )


def _result(results: Results, entry: Measured) -> str:
    """Return what is known of a configuration in a few words."""
    goal = results.goal
    if not entry.good:
        return f"[red]failed[/]: {entry.failed}"
    wrong = entry.faults(goal)
    verdict = f"[red]{', '.join(wrong)}[/]" if wrong else "[green]holds[/]"
    at = shown_ms(entry.at(goal.percentile))
    bad = f"{entry.bad:2}/{entry.turns} bad"
    return f"p{goal.percentile:g} {at:>7}  {bad}  {entry.cost:.2f} core-s  {verdict}"


def _what(results: Results, point: tuple[int, ...]) -> str:
    """Return how a configuration differs from the start."""
    places = zip(results.ladders, point, results.start, strict=True)
    moved = [
        f"{ladder.name} {shown_value(ladder.values[at])}" for ladder, at, b in places if at != b
    ]
    return ", ".join(moved) or "the start"


def _conclude(console: Console, findings: Findings, wanted: Wanted) -> None:
    """Say what was found and where it is."""
    console.print()
    console.print(findings.verdict(), style="bold", highlight=False, soft_wrap=True)
    for ladder, before, after in findings.changed():
        change = f"{shown_value(before)} → {shown_value(after)}"
        console.print(f"  {ladder.name:24} {change}", highlight=False)
    results = findings.results
    for name, entry in (("start", findings.start), ("best", findings.best)):
        if entry.good:
            carries = f"calls held, of those tried: {results.held_shown(entry.point)}"
            console.print(
                f"  {name:6} p{findings.goal.percentile:g} "
                f"{shown_ms(entry.at(findings.goal.percentile)):>7}, "
                f"{shown_price(findings, entry)} {findings.unit}, {carries}",
                highlight=False,
                soft_wrap=True,
            )
    console.print(f"wrote {wanted.out} and {wanted.report}", highlight=False)


def _about(wanted: Wanted, effective: Effective, work: Load) -> About:
    """Return where and how the search is made."""
    chosen = effective.settings
    texts = PAUSED if chosen.agent == "bench" else QUESTIONED
    pauses = [f"{pause:g} s" for _, pause, _ in texts if pause]
    said = (
        f"Every call speaks every {work.plan.period:g} s ({VOICE}, line noise {HISS:g} dBFS); of "
        f"{len(texts)} utterances, {len(pauses)} have a pause inside, of {' and '.join(pauses)}. "
        f"A short run has {work.turns} turns a call, a long one twice as many. Voice-to-voice is "
        "taken at the caller's end from the waveform: last speech sample sent to first audible "
        "sample received. " + _cores(work)
    )
    cost = chosen.cost_per_hour if wanted.cost_per_hour is None else wanted.cost_per_hour
    return About(
        command=wanted.command,
        date=_now(),
        machine=machine(),
        engines={room: str(getattr(chosen, room)) for room in ROOMS},
        version=__version__,
        load=said,
        cost_per_hour=cost,
    )


def _cores(work: Load) -> str:
    if work.real or len(CORES) < 2:
        return "Server and callers share the cores."
    return "The server has one core, the callers another."


def machine() -> str:
    """Return what machine this is."""
    model = platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(CORES)} × {model}, {memory:.0f} GiB, Python {platform.python_version()}"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="minutes")


def _as_flags(flags: Mapping[str, Any]) -> str:
    return "".join(f" --{name} {value}" for name, value in flags.items() if value is not None)


def _writable(file: Path, sources: Mapping[str, str]) -> None:
    """Raise ValueError unless a file can be written and holds no settings of the start."""
    if str(file) in sources.values():
        raise ValueError(f"--out is {file}, which the search begins with; expected another file")
    if file.is_dir():
        raise ValueError(f"{file} is a directory; expected a file to write")
    if not file.parent.is_dir():
        raise ValueError(f"{file} cannot be written: {file.parent} is no directory")
