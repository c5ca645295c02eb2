"""`voice bench --engine`: what sharing a model among calls gains over the naive way to run it.

The same callers ask the naive baseline (`voice.naive`: one request after the other) and the engine
that serves calls. Each caller begins a little after the one before, and asks again as soon as it
has been answered. One JSON line for each engine and number of callers, then the ratios.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.table import Table

import asr.engine
import llm.engine
import tts.engine
from latency.trace import percentile
from voice import naive
from voice.bench_calls import UTTERANCES, spoken
from voice.bench_row import machine, print_row
from voice.bench_server import usage
from voice.settings import Settings, from_process

APART = 0.03
"""Seconds between the first requests of two callers."""

ANSWER = 60
"""Tokens of an answer, where the model does not end it earlier."""

UTTERANCE = 3.0
"""Seconds of what is recognised."""

TOKENS = 14
"""Tokens that are written for it: random weights would write on to their limit."""

INSTRUCTIONS = (
    "You answer the phone of a clinic by a lake. You can book, move and cancel appointments, and "
    "tell when the clinic is open. Answer in one or two short sentences, for what you say is "
    "spoken aloud. Never say that something was done before a tool has said so. Ask for what you "
    "need one thing at a time: the day first, then the time, then the first and the last name. "
    "Read back what you have understood before anything is changed, and change nothing without a "
    "yes. If somebody asks for something else, say what you can do and offer to put them through "
    "to a person. Give no advice about health; if it sounds like an emergency, tell them to hang "
    "up and dial the emergency number. Be friendly and do not repeat yourself. The clinic is open "
    "from Monday to Friday between nine in the morning and five in the afternoon."
)
"""What all chats begin with, as all calls of an agent do: about 150 words."""

QUESTIONS = (
    "my back hurts a lot",
    "what is the weather like today",
    "can you recommend a good restaurant",
    "who won the football game last night",
    "tell me a joke please",
    "how do i get to the station",
    "do you sell shoes",
    "what is the capital of france",
)
"""What a caller says then: nothing that the front desk's own model would answer with a tool."""

SENTENCES = (
    "Your appointment is on Thursday afternoon at half past two.",
    "The clinic is open from nine in the morning until five pm.",
    "Please bring your card and come ten minutes ahead of time.",
    "There is nothing free on Friday, but Monday at ten is free.",
)
"""What a mouth says: some 60 characters each."""


class Engine(Protocol):
    """What every room's engine has."""

    name: str

    async def start(self) -> None:
        """Load and warm up."""

    async def stop(self) -> None:
        """Free everything."""


Ask = Callable[[Any, int], AsyncGenerator[float, None]]
"""Makes one request of an engine, as caller `number`. The first that it yields is the first result;
all together are how much came: tokens, or seconds of audio."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One room's load and the engines it is put on; the first is the baseline.

    Attributes:
        first: What the caller waits for.
        unit: Of what comes.
        sides: By what the table calls it, a way to make each engine.
    """

    first: str
    unit: str
    sides: dict[str, Callable[[], Engine]]
    ask: Ask


@dataclass(frozen=True, slots=True)
class Taken:
    """One request: seconds until the first result and the last, and how much came."""

    first: float
    whole: float
    amount: float


async def compare(
    room: str, model: str, calls: Sequence[int], turns: int, console: Console
) -> list[dict[str, Any]]:
    """Measure the engines of `room` with each number of callers; print and return the rows.

    `room` is "llm", "asr" or "tts", `model` a directory, "" for the front desk's own language
    model; each caller makes `turns` requests.

    Raises:
        ValueError: If there is no such room, or no model is named where one has to be.
        RuntimeError: If an engine cannot start or fails.
    """
    comparison = await _comparison(room, model, from_process({}).settings)
    rows: list[dict[str, Any]] = []
    for label, make in comparison.sides.items():
        async with started(make()) as engine:
            await gather(engine, comparison.ask, 1, 1)  # the first costs more
            for count in calls:
                row = {"what": room, "side": label, "engine": engine.name, "calls": count}
                rows.append(row | await measured(engine, comparison, count, turns) | machine())
                print_row(console, rows[-1])
    baseline = next(iter(comparison.sides))
    for row in [row for row in rows if row["side"] != baseline]:
        of = next(r for r in rows if r["side"] == baseline and r["calls"] == row["calls"])
        rows.append(ratio(row, of))
        print_row(console, rows[-1])
    console.print(_table(rows, comparison))
    return rows


async def measured(
    engine: Engine, comparison: Comparison, callers: int, turns: int
) -> dict[str, Any]:
    """Put the load of `callers` on an engine and return what its callers met."""
    before, began = usage(os.getpid()).cpu, time.monotonic()
    taken = await gather(engine, comparison.ask, callers, turns)
    seconds = time.monotonic() - began
    amount = sum(request.amount for request in taken)
    return {
        "requests": len(taken),
        "first": comparison.first,
        **_percentiles("first_ms", [request.first for request in taken]),
        **_percentiles("whole_ms", [request.whole for request in taken]),
        "per_second": round(amount / seconds, 2),
        "unit": comparison.unit,
        "amount": round(amount / len(taken), 2),
        "cpu_ms": round(1000 * (usage(os.getpid()).cpu - before) / len(taken), 1),
    }


async def gather(engine: Engine, ask: Ask, callers: int, turns: int) -> list[Taken]:
    """Let `callers` ask at the same time, `turns` times each."""
    taken: list[Taken] = []

    async def call(number: int) -> None:
        await asyncio.sleep(APART * number)
        mine = (ask(engine, number + callers * turn) for turn in range(turns))
        taken.extend([await _request(results) for results in mine])

    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(call(number))
    return taken


async def _request(results: AsyncGenerator[float, None]) -> Taken:
    began, first, amount = time.monotonic(), 0.0, 0.0
    async with aclosing(results):
        async for part in results:
            first = first or time.monotonic()
            amount += part
    if not first:
        raise RuntimeError("an engine answered nothing")
    return Taken(first - began, time.monotonic() - began, amount)


@asynccontextmanager
async def started(engine: Engine) -> AsyncGenerator[Engine, None]:
    """Yield an engine while it runs."""
    try:
        await engine.start()
        yield engine
    finally:
        await engine.stop()


def ratio(row: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """Return what is gained: above 1 is better in every figure."""

    def gain(over: float, under: float) -> float | None:
        return round(over / under, 2) if under else None

    return {
        "what": f"{row['what']} gain",
        "side": row["side"],
        "over": baseline["side"],
        "calls": row["calls"],
        "per_second": gain(row["per_second"], baseline["per_second"]),
        "first_ms_p95": gain(baseline["first_ms_p95"], row["first_ms_p95"]),
        "cpu_ms": gain(baseline["cpu_ms"], row["cpu_ms"]),
    }


# The rooms.


async def _comparison(room: str, model: str, settings: Settings) -> Comparison:
    _check_model(model)
    match room:
        case "llm":
            return _minds(Path(model) if model else _own_model(settings), settings)
        case "asr":
            return await _ears(_required(room, model, "whisper tiny"), settings)
        case "tts":
            return _mouths(_required(room, model, "vits ljspeech"), settings)
    raise ValueError(f"--engine is {room!r}; expected llm, asr or tts")


def _check_model(model: str) -> None:
    if model and not Path(model).is_dir():
        raise ValueError(f"--model is {model!r}; expected a model's directory")


def _required(room: str, model: str, recipe: str) -> Path:
    if model:
        return Path(model)
    raise ValueError(
        f"--engine {room} needs --model DIR; one with random weights can be made: "
        f"python -m demos.weights {recipe} DIR"
    )


def _own_model(settings: Settings) -> Path:
    from voice.agent import load

    model = load(Path(settings.agent), Path(settings.data)).model
    if model is None:
        raise ValueError(f"{settings.agent} has no model of its own: name one with --model DIR")
    return model


def _minds(model: Path, settings: Settings) -> Comparison:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # or it fills what is printed here
    from llm.vllm import Vllm

    async def ask(engine: llm.engine.Engine, number: int) -> AsyncGenerator[float, None]:
        said = QUESTIONS[number % len(QUESTIONS)]
        thread = engine.open(
            [llm.engine.Message("system", INSTRUCTIONS), llm.engine.Message("user", said)], []
        )
        try:
            params = llm.engine.Params(max_tokens=ANSWER)
            async with aclosing(thread.generate(params, time.monotonic())) as pieces:
                async for piece in pieces:
                    yield piece.completion if isinstance(piece, llm.engine.Usage) else 0.0
        finally:
            thread.close()

    sides: dict[str, Callable[[], Engine]] = {
        "transformers, one by one": lambda: naive.Transformers(model),
        "vLLM": lambda: Vllm(str(model), settings.vllm),
    }
    return Comparison("first token", "tokens", sides, ask)


async def _ears(model: Path, settings: Settings) -> Comparison:
    from asr.whisper import Whisper

    size = round(UTTERANCE * asr.engine.RATE)
    speech = [np.resize(await spoken(text, "en-us"), size) for text in UTTERANCES]

    async def ask(engine: asr.engine.Engine, number: int) -> AsyncGenerator[float, None]:
        stream = engine.open(asr.engine.Listening())
        try:
            stream.push(speech[number % len(speech)])
            yield (await stream.finish(time.monotonic())).end / asr.engine.RATE
        finally:
            stream.close()

    options = replace(settings.whisper, max_tokens=TOKENS)
    sides: dict[str, Callable[[], Engine]] = {
        "faster-whisper, one by one": lambda: naive.FasterWhisper(model, TOKENS),
        "ours, batch of 1": lambda: Whisper(str(model), replace(options, batch=1)),
        "ours": lambda: Whisper(str(model), options),
    }
    return Comparison("final words", "audio seconds", sides, ask)


def _mouths(model: Path, settings: Settings) -> Comparison:
    from tts.coqui import Coqui

    async def ask(engine: tts.engine.Engine, number: int) -> AsyncGenerator[float, None]:
        async def phrases() -> AsyncGenerator[str, None]:
            yield SENTENCES[number % len(SENTENCES)]

        speech = engine.speak(phrases(), "", time.monotonic())
        async with aclosing(speech) as chunks:
            async for chunk in chunks:
                yield len(chunk.pcm) / engine.rate

    sides: dict[str, Callable[[], Engine]] = {
        "Coqui, whole, one by one": lambda: naive.Coqui(model),
        "ours": lambda: Coqui(str(model), settings.coqui),
    }
    return Comparison("first audio", "audio seconds", sides, ask)


# What is printed.


def _percentiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    return {f"{name}_p{n}": round(1000 * percentile(seconds, n), 1) for n in (50, 95)}


def _table(rows: Sequence[dict[str, Any]], comparison: Comparison) -> Table:
    """Return the rows to look at; what is gained stands beside what it is of."""
    table = Table("callers", "engine", box=None, header_style="bold")
    first, amount = f"{comparison.first} p95, ms", f"{comparison.unit} a second"
    for title in (first, "gain", amount, "gain", "CPU, ms", "gain"):
        table.add_column(title, justify="right")
    gains = {(row["side"], row["calls"]): row for row in rows if "over" in row}
    plain = [row for row in rows if "over" not in row]
    for row in sorted(plain, key=lambda row: int(row["calls"])):
        gain = gains.get((row["side"], row["calls"]), {})
        cells = [str(row["calls"]), row["side"]]
        for name in ("first_ms_p95", "per_second", "cpu_ms"):
            cells += [f"{row[name]:.1f}", f"{gain[name]}x" if gain.get(name) else ""]
        table.add_row(*cells)
    return table
