"""What is measured on a GPU: every step has its models, and every figure is found in its rows."""

from pathlib import Path

import pytest

from deploy import bench_gpu
from deploy.bench_gpu import DRY, REAL, Row, figures, judge, steps

MODELS = {kind: Path("models") / kind for kind in REAL}


def rows(dry: bool) -> list[Row]:
    """Return rows as the steps print them, all figures as good as is aimed at."""
    most, some, batch = (2, 2, 2) if dry else (128, 64, 8)
    found: list[Row] = [{"what": "memory", "bytes_per_second": 4e12, "llama_bytes": 16e9}]
    for calls in (1, some, most):
        quick = {"p50": 300, "p95": 450, "mean": 310}
        found.append({"step": "calls", "what": "voice to voice", "calls": calls} | quick)
    for chats in (1, most):
        row = {"step": "llm", "what": "llm", "side": "vLLM", "calls": chats, "amount": 60}
        found.append(row | {"first_ms_p50": 20, "first_ms_p95": 40, "whole_ms_p50": 320})
    for side, calls, speed in (("faster-whisper, one by one", 1, 4), ("ours", 1, 1)):
        row = {"step": "asr", "what": "asr", "side": side, "calls": calls, "per_second": 100}
        found.append(row | {"first_ms_p50": 10 * speed})
    found.append({"step": "asr", "what": "asr", "side": "ours", "calls": batch, "per_second": 150})
    row = {"step": "vits", "what": "tts", "side": "ours", "calls": 1}
    found.append(row | {"first_ms_p50": 40, "whole_ms_p50": 100})
    gains = [
        {**row, "what": f"{row['what']} gain", "over": "naive"} for row in found if "side" in row
    ]
    return [*found, *({"step": r["step"], **dict(list(r.items())[:4])} for r in gains)]


@pytest.mark.parametrize("dry", [True, False])
def test_every_figure_is_found(dry: bool) -> None:
    values = {figure.name: figure.find(rows(dry)) for figure in figures(dry)}
    assert values["decoding at batch 1, share of what memory allows"] == pytest.approx(0.787, 0.01)
    assert values["final words over faster-whisper's"] == 0.25
    assert values["first audio over whole sentence"] == 0.4
    if not dry:
        assert values["recognition of 8 calls over that of 1"] == 1.5
        _, missed, unknown = judge(rows(dry), dry)
        assert not missed
        assert not unknown


def test_a_figure_that_is_missed_or_not_found_is_told() -> None:
    late = [row | {"p95": 2000} if row.get("calls") == 128 else row for row in rows(False)]
    _, missed, unknown = judge(late, False)
    assert missed
    assert not unknown
    _, missed, unknown = judge(rows(False)[1:], False)
    assert unknown


def test_a_later_row_counts() -> None:
    again = [*rows(False), {"step": "calls", "what": "voice to voice", "calls": 1, "p50": 999}]
    figure = figures(False)[0]
    assert figure.find(again) == 999
    assert not figure.met(999)


@pytest.mark.parametrize("dry", [True, False])
def test_every_step_names_models_that_are_made(dry: bool) -> None:
    named = " ".join(
        " ".join([*step.arguments, *step.environment.values()]) for step in steps(MODELS, dry)
    )
    assert all(str(path) in named for path in MODELS.values())
    assert DRY.keys() == REAL.keys()


def test_a_step_gives_its_rows_and_says_what_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    script = tmp_path / "python"
    monkeypatch.setattr(bench_gpu.sys, "executable", str(script))
    quiet = Console(quiet=True)
    script.write_text("#!/bin/sh\necho 'INFO loading'\necho '{\"what\": \"asr\"}'\n")
    script.chmod(0o755)
    assert bench_gpu.run(bench_gpu.Step("asr", []), quiet) == [{"step": "asr", "what": "asr"}]
    for body in ("echo nothing", "echo '{\"a\": 1}'; exit 3"):
        script.write_text(f"#!/bin/sh\n{body}\n")
        with pytest.raises(RuntimeError, match="asr ended with status"):
            bench_gpu.run(bench_gpu.Step("asr", []), quiet)
    row = '{"what": "voice to voice", "calls": 2, "bad": {"unanswered": 4}, "lost": 0}'
    script.write_text(f"#!/bin/sh\necho '{row}'\n")
    with pytest.raises(RuntimeError, match=r"no turn of 2 calls .*unanswered"):
        bench_gpu.run(bench_gpu.Step("calls", []), quiet)


def test_a_step_that_a_dry_run_cannot_do_is_printed_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    monkeypatch.setattr(bench_gpu.sys, "executable", str(tmp_path / "nothing"))
    skipped = [step for step in steps(MODELS, True) if step.skipped]
    assert [step.name for step in skipped] == ["llm-fp8", "calls-fp8"]
    for step in skipped:
        console = Console(record=True, width=300, quiet=False)
        assert bench_gpu.run(step, console) == []
        assert "VOICE_VLLM_QUANTIZATION=fp8" in (told := console.export_text())
        assert "only printed" in told
    assert not any(step.skipped for step in steps(MODELS, False))
