"""The comparison with the naive way, on real engines: every side runs and its figures are there.

How much is gained is printed by `voice bench --engine`, not asserted here.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.console import Console

from voice.bench_engines import compare

if missing := [name for name in ("torch", "transformers", "vllm", "TTS") if not find_spec(name)]:
    pytest.skip(f"not installed: {', '.join(missing)}", allow_module_level=True)


@pytest.mark.parametrize(
    ("room", "kind", "sides", "least"),
    [
        ("asr", "whisper", 3, 2.9),
        ("tts", "vits", 2, 0.2),
        ("llm", "", 2, 2.0),
    ],
)
async def test_every_side_of_a_comparison_is_measured(
    room: str, kind: str, sides: int, least: float, weights: Callable[[str, str], Path]
) -> None:
    model = str(weights(kind, "tiny")) if kind else ""
    rows = await compare(room, model, [2], 1, Console(quiet=True))
    measured, gains = rows[:sides], rows[sides:]
    assert len(gains) == sides - 1
    for row in measured:
        assert row["requests"] == 2
        assert row["amount"] >= least, row
        assert 0 < row["first_ms_p50"] <= row["whole_ms_p50"]
        assert row["cpu_ms"] > 0
    for gain in gains:
        assert gain["over"] == measured[0]["side"]
        assert gain["per_second"] > 0
