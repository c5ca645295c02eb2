"""Measure models of real size on one GPU: python -m deploy.bench_gpu (make bench-gpu).

Makes the models with random weights, puts the loads of `voice bench` on them one after the other,
and sets the figures beside what is aimed at. Rows go to build/gpu/real/rows.jsonl as they come, so
that a run that breaks off has not been in vain; `--only STEP` does one step again.

With --dry-run the steps are done with the smallest models, wherever this is: the figures mean
nothing then, but the commands have run and every figure has been found in what they printed. The
steps with fp8 weights are only printed then: a CPU without AMX takes seconds for each token.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from demos import weights

Row = dict[str, Any]

REAL = {"whisper": "large-v3-turbo", "llama": "8b", "vits": "ljspeech", "xtts": "full"}
"""What is measured, by kind of model."""

DRY = {"whisper": "tiny", "llama": "tiny", "vits": "tiny", "xtts": "cut"}
"""What a dry run takes in its place."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command.

    Attributes:
        environment: What it is told besides.
        skipped: Why it is only printed; "" to run it.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that is aimed at.

    Attributes:
        find: Takes it from the rows of a run; raises LookupError if it is not among them.
        at_least: Whether more is better.
    """

    name: str
    find: Callable[[Sequence[Row]], float]
    aim: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Tell whether `value` is as good as was aimed at."""
        return value >= self.aim if self.at_least else value <= self.aim


def steps(models: Mapping[str, Path], dry: bool) -> list[Step]:
    """Return what is to be run on the models of each kind."""
    few, many, calls = ((1, 2), (1, 2), (1, 2)) if dry else ((1, 8, 64), (1, 8, 128), (1, 64, 128))
    turns = "2" if dry else "6"

    def engine(room: str, kind: str, counts: Sequence[int]) -> list[str]:
        return ["--engine", room, "--model", str(models[kind]), "--turns", turns, *_each(counts)]

    whole = {  # "bench:" puts agreed words in the place of those that random weights make up
        "VOICE_ASR": f"bench:whisper:{models['whisper']}",
        "VOICE_LLM": f"bench:vllm:{models['llama']}",
        "VOICE_TTS": f"coqui:{models['vits']}",
    }
    held = ["--profile", "bench", "--wait", "0.2", "--turns", turns, *_each(calls)]
    quantised = {"VOICE_VLLM_QUANTIZATION": "fp8"}
    no_fp8 = "fp8 needs a GPU: only printed" if dry else ""
    return [
        Step("asr", engine("asr", "whisper", few)),
        Step("vits", engine("tts", "vits", few)),
        Step("xtts", engine("tts", "xtts", few[:2])),
        Step("llm", engine("llm", "llama", many)),
        Step("llm-fp8", engine("llm", "llama", many), quantised, no_fp8),
        Step("calls", held, whole),
        Step("calls-fp8", held, whole | quantised, no_fp8),
    ]


def figures(dry: bool) -> list[Figure]:
    """Return what is aimed at on one H200."""
    most = 2 if dry else 128
    some = 2 if dry else 64
    batch = 2 if dry else 8
    return [
        Figure("voice to voice, 1 call, p50 ms", _call(1, "p50"), 300),
        Figure("voice to voice, 1 call, p95 ms", _call(1, "p95"), 450),
        Figure(f"voice to voice, {some} calls, mean ms", _call(some, "mean"), 930),
        Figure(f"voice to voice, {some} calls, p95 ms", _call(some, "p95"), 1200),
        Figure(f"voice to voice, {most} calls, mean ms", _call(most, "mean"), 930),
        Figure(f"voice to voice, {most} calls, p95 ms", _call(most, "p95"), 1200),
        Figure(f"first token, {most} chats, p95 ms", _first_token(most), 40),
        Figure("decoding at batch 1, share of what memory allows", _decoding, 0.7, True),
        Figure("final words over faster-whisper's", _share_of_naive, 0.25),
        Figure(f"recognition of {batch} calls over that of 1", _scaling(batch), 1.5, True),
        Figure("first audio over whole sentence", _first_audio, 0.4),
    ]


def _each(counts: Sequence[int]) -> list[str]:
    return [argument for count in counts for argument in ("--calls", str(count))]


# Where the figures are among the rows; the last of a kind counts.


def _row(rows: Sequence[Row], **wanted: object) -> Row:
    for row in reversed(rows):
        if all(row.get(key) == value for key, value in wanted.items()):
            return row
    raise LookupError(f"no row with {wanted}")


def _call(calls: int, name: str) -> Callable[[Sequence[Row]], float]:
    what = "voice to voice"
    return lambda rows: float(_row(rows, step="calls", what=what, calls=calls)[name])


def _first_token(chats: int) -> Callable[[Sequence[Row]], float]:
    return lambda rows: float(_side(rows, "llm", "llm", "vLLM", chats)["first_ms_p95"])


def _side(rows: Sequence[Row], step: str, what: str, side: str, calls: int) -> Row:
    return _row(rows, step=step, what=what, side=side, calls=calls)


def _decoding(rows: Sequence[Row]) -> float:
    """Tokens a second of one chat over those at which memory is read once for every token."""
    row = _side(rows, "llm", "llm", "vLLM", 1)
    rate = (row["amount"] - 1) / (row["whole_ms_p50"] - row["first_ms_p50"]) * 1000
    memory = _row(rows, what="memory")
    return float(rate * memory["llama_bytes"] / memory["bytes_per_second"])


def _share_of_naive(rows: Sequence[Row]) -> float:
    ours = _side(rows, "asr", "asr", "ours", 1)
    theirs = _side(rows, "asr", "asr", "faster-whisper, one by one", 1)
    return float(ours["first_ms_p50"] / theirs["first_ms_p50"])


def _scaling(calls: int) -> Callable[[Sequence[Row]], float]:
    def find(rows: Sequence[Row]) -> float:
        many, one = (_side(rows, "asr", "asr", "ours", count) for count in (calls, 1))
        return float(many["per_second"] / one["per_second"])

    return find


def _first_audio(rows: Sequence[Row]) -> float:
    row = _side(rows, "vits", "tts", "ours", 1)
    return float(row["first_ms_p50"] / row["whole_ms_p50"])


# Running them.


def memory(llama: Path) -> Row:
    """Return how fast this device reads and writes its memory, and how much a token reads."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 2**32 if device == "cuda" else 2**27  # beyond every cache
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    read = sum(file.stat().st_size for file in llama.glob("*.safetensors"))
    return {
        "what": "memory",
        "device": name,
        "bytes_per_second": 2 * size / best,
        "llama_bytes": read,
    }


def run(step: Step, console: Console) -> list[Row]:
    """Run one step and return the rows that it printed; one to be skipped prints none.

    Raises:
        RuntimeError: If it failed, printed no row, or held calls of which no turn could be
            measured.
    """
    command = [sys.executable, "-m", "voice.cli", "bench", *step.arguments]
    told = " ".join(f"{name}={value}" for name, value in step.environment.items())
    console.print(f"[bold]{step.name}[/] {told} voice bench {' '.join(step.arguments)}")
    if step.skipped:
        console.print(f"[yellow]{step.name}: {step.skipped}[/]")
        return []
    done = subprocess.run(
        command, env=os.environ | step.environment, stdout=subprocess.PIPE, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{step.name} ended with status {done.returncode}: {done.stdout[-500:]}")
    rows = [{"step": step.name, **json.loads(line)} for line in lines]
    for row in rows:
        if row.get("what") == "voice to voice" and "p50" not in row:
            wrong = f"{row.get('bad')}, {row.get('lost')} lost"
            raise RuntimeError(f"{step.name}: no turn of {row['calls']} calls was good: {wrong}")
    return rows


def main() -> int:
    """Do all steps; return 1 if one failed, or, not dry, a figure was missed."""
    parser = argparse.ArgumentParser(prog="python -m deploy.bench_gpu", description=__doc__)
    parser.add_argument(
        "--dry-run", action="store_true", help="smallest models, on any machine; fp8 is not run"
    )
    parser.add_argument("--only", action="append", help="this step; may be repeated")
    parser.add_argument("--folder", type=Path, default=Path("build/gpu"))
    given = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False)
    folder: Path = given.folder / ("dry" if given.dry_run else "real")
    models = {}
    for kind, size in (DRY if given.dry_run else REAL).items():
        console.print(f"[bold]{kind}[/] {size}")
        models[kind] = weights.make(kind, size, folder / f"{kind}-{size}")
    wanted = [s for s in steps(models, given.dry_run) if not given.only or s.name in given.only]
    if not wanted:
        known = ", ".join(step.name for step in steps(models, given.dry_run))
        parser.error(f"no step {' or '.join(given.only)}; expected one of {known}")
    kept = folder / "rows.jsonl"
    failed = False
    with kept.open("a") as file:
        for work in (lambda: [memory(models["llama"])], *(_runner(s, console) for s in wanted)):
            try:
                rows = work()
            except RuntimeError as error:
                console.print(f"[red]{error}[/]")
                failed = True
                continue
            for row in rows:
                file.write(json.dumps(row) + "\n")
                console.print_json(json.dumps(row), indent=None)
            file.flush()
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    table, missed, unknown = judge(rows, given.dry_run)
    console.print(table)
    return int(failed or (unknown and not given.only) or (missed and not given.dry_run))


def _runner(step: Step, console: Console) -> Callable[[], list[Row]]:
    return lambda: run(step, console)


def judge(rows: Sequence[Row], dry: bool) -> tuple[Table, bool, bool]:
    """Return a table of all figures, whether one is missed, and whether one was not found."""
    table = Table("figure", "aim", "here", "", box=None, header_style="bold")
    missed = unknown = False
    for figure in figures(dry):
        aim = f"{'>=' if figure.at_least else '<='} {figure.aim:g}"
        try:
            value = figure.find(rows)
        except (LookupError, ZeroDivisionError) as error:
            table.add_row(figure.name, aim, "-", f"not found: {error}")
            unknown = True
            continue
        met = figure.met(value)
        missed = missed or not met
        verdict = "dry" if dry else "met" if met else "[red]missed[/]"
        table.add_row(figure.name, aim, f"{value:.3g}", verdict)
    return table, missed, unknown


if __name__ == "__main__":
    sys.exit(main())
