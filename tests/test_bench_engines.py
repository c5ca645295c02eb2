"""The load that compares engines, on engines whose times are known."""

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from rich.console import Console

from voice import bench_engines, cli
from voice.bench_engines import Comparison, Taken, gather, measured, ratio


class Clerk:
    """Answers in `wait` seconds; alone, or everybody at once."""

    name = "clerk"

    def __init__(self, wait: float, *, alone: bool) -> None:
        self.wait = wait
        self.running = False
        self.asked: list[int] = []
        self._free = asyncio.Semaphore(1 if alone else 1000)

    async def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False

    async def serve(self, number: int) -> None:
        assert self.running
        self.asked.append(number)
        async with self._free:
            await asyncio.sleep(self.wait)


async def ask(clerk: Clerk, number: int) -> AsyncGenerator[float, None]:
    await clerk.serve(number)
    yield 0.0
    yield 10.0


async def test_every_caller_asks_in_turn_and_something_else_each_time() -> None:
    clerk = Clerk(0.0, alone=False)
    await clerk.start()
    taken = await gather(clerk, ask, callers=3, turns=2)
    assert sorted(clerk.asked) == [0, 1, 2, 3, 4, 5]
    assert [request.amount for request in taken] == [10.0] * 6
    assert all(isinstance(request, Taken) and request.first <= request.whole for request in taken)


async def test_an_engine_without_an_answer_is_an_error() -> None:
    async def silent(clerk: Clerk, number: int) -> AsyncGenerator[float, None]:
        for nothing in ():
            yield nothing

    with pytest.raises(ExceptionGroup, match="unhandled errors") as raised:
        await gather(Clerk(0.0, alone=False), silent, 1, 1)
    assert "answered nothing" in str(raised.value.exceptions[0])


async def test_the_one_that_serves_all_at_once_gains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clerks = {"one": Clerk(0.1, alone=True), "all": Clerk(0.1, alone=False)}
    sides = {name: lambda clerk=clerk: clerk for name, clerk in clerks.items()}

    async def comparison(*_: object) -> Comparison:
        return Comparison("first result", "results", sides, ask)  # type: ignore[arg-type]

    monkeypatch.setattr(bench_engines, "_comparison", comparison)
    monkeypatch.setattr(bench_engines, "APART", 0.0)
    rows = await bench_engines.compare("llm", "", [8], 1, Console(width=160))
    one, every, gain = rows
    assert (one["requests"], one["amount"], one["unit"]) == (8, 10.0, "results")
    assert gain["per_second"] > 2
    assert gain["first_ms_p95"] > 2
    assert not any(clerk.running for clerk in clerks.values())
    printed = capsys.readouterr().out
    assert [json.loads(line) for line in printed.splitlines() if line.startswith("{")] == rows
    assert "first result p95" in printed
    assert f"{gain['per_second']}x" in printed
    assert every["side"] == gain["side"] == "all"


async def test_what_is_measured_is_named() -> None:
    clerk = Clerk(0.01, alone=False)
    await clerk.start()
    row = await measured(clerk, Comparison("first result", "results", {}, ask), 2, 1)  # type: ignore[arg-type]
    assert row["first_ms_p50"] >= 9  # the loop counts whole milliseconds
    assert row["whole_ms_p95"] >= row["first_ms_p95"]
    assert row["per_second"] > 0


def test_a_gain_over_nothing_is_none() -> None:
    row = {"what": "asr", "side": "ours", "calls": 1, "per_second": 4.0, "first_ms_p95": 0.0}
    row |= {"cpu_ms": 2.0}
    slow = row | {"side": "naive", "per_second": 2.0, "first_ms_p95": 9.0, "cpu_ms": 5.0}
    gain = ratio(row, slow)
    assert (gain["per_second"], gain["first_ms_p95"], gain["cpu_ms"]) == (2.0, None, 2.5)


@pytest.mark.parametrize(
    ("engine", "complaint"),
    [
        ("nose", "expected llm, asr or tts"),
        ("asr", "python -m demos.weights whisper tiny DIR"),
        ("tts", "python -m demos.weights vits ljspeech DIR"),
    ],
)
def test_what_is_missing_is_said(
    engine: str, complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["voice", "bench", "--engine", engine])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert complaint in capsys.readouterr().err
