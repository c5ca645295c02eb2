"""What a model's folder says of itself, read without any package of voices."""

import json
from pathlib import Path
from typing import Any

import pytest

from tts.coqui_load import look
from tts.engine import EngineError


def folder(path: Path, **config: Any) -> str:
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


@pytest.mark.parametrize(
    ("config", "rate"),
    [
        ({"model": "vits", "audio": {"sample_rate": 22_050}}, 22_050),
        ({"model": "vits", "audio": {"sample_rate": 22_050, "output_sample_rate": 48_000}}, 22_050),
        ({"model": "xtts", "audio": {"sample_rate": 22_050}}, 24_000),
        (
            {
                "model": "xtts",
                "audio": {"sample_rate": 22_050, "output_sample_rate": 16_000},
                "model_args": {"output_sample_rate": 32_000},
            },
            32_000,
        ),
    ],
)
def test_the_rate_is_the_one_that_the_model_speaks_at(
    tmp_path: Path, config: dict[str, Any], rate: int
) -> None:
    assert look(folder(tmp_path, **config)).rate == rate


@pytest.mark.parametrize("rate", [0, -8000, float("inf"), "high", None])
def test_a_rate_that_is_none_is_an_error_with_a_remedy(tmp_path: Path, rate: Any) -> None:
    for config in (
        {"model": "vits", "audio": {"sample_rate": rate}},
        {"model": "xtts", "audio": {}, "model_args": {"output_sample_rate": rate}},
    ):
        with pytest.raises(EngineError, match=r"is not Coqui's: .*; give the folder"):
            look(folder(tmp_path, **config))
