"""A model's folder is looked at before anything loads."""

import json
from pathlib import Path
from typing import Any

import pytest

from llm import checkpoint
from llm.engine import EngineError

GIB = checkpoint.GIB


def save(path: Path, **config: Any) -> Path:
    """Save a model of one weight."""
    path.mkdir(exist_ok=True)
    header = {"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    encoded = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(
        len(encoded).to_bytes(8, "little") + encoded + bytes(16)
    )
    (path / "config.json").write_text(json.dumps({"architectures": ["Llama"]} | config))
    (path / "tokenizer_config.json").write_text("{}")
    return path


def test_a_whole_model_is_as_big_as_its_files(tmp_path: Path) -> None:
    path = save(tmp_path / "model", max_position_embeddings=512)
    assert checkpoint.found(str(path)) == path
    assert checkpoint.checked(path) == (path / "model.safetensors").stat().st_size
    assert checkpoint.context(path) == 512


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def garble(file: Path) -> None:
    file.write_bytes(b"<html>not found</html>" * 10)


def empty(file: Path) -> None:
    file.write_text("{}")


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("config.json", Path.unlink, r"config\.json is missing; copy it there"),
        ("config.json", garble, r"config\.json is damaged.*copy it again"),
        ("config.json", empty, r"config\.json names no architectures"),
        ("tokenizer_config.json", Path.unlink, r"tokenizer_config\.json is missing"),
        ("model.safetensors", Path.unlink, r"lacks model\.safetensors; copy it there"),
        ("model.safetensors", truncate, r"has \d+ bytes, expected \d+.*copy it again"),
        ("model.safetensors", garble, r"is no safetensors file; copy it again"),
    ],
)
def test_a_missing_or_damaged_file_is_an_error_that_says_what_to_do(
    tmp_path: Path, name: str, harm: Any, said: str
) -> None:
    path = save(tmp_path / "model")
    harm(path / name)
    with pytest.raises(EngineError, match=said):
        checkpoint.checked(path)


@pytest.mark.parametrize("model", ["/no/such/folder", "./nothing", "nothing", "a/b/c"])
def test_a_folder_that_is_not_there_is_an_error_that_says_what_one_has(model: str) -> None:
    with pytest.raises(EngineError, match=r"no model folder .*; give one with config\.json"):
        checkpoint.found(model)


def test_a_hub_that_cannot_be_reached_is_an_error_that_names_the_other_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    def refuse(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(EngineError, match=r"owner/name is neither .* carry a folder over"):
        checkpoint.found("owner/name")


def test_a_model_too_big_for_the_memory_is_refused_with_the_figures() -> None:
    checkpoint.fit(15 * GIB, 4 * GIB, 80 * GIB, 0.5, "GPU memory")
    with pytest.raises(EngineError, match=r"15\.0 GiB of weights and 4\.0 GiB of KV cache, and "):
        checkpoint.fit(15 * GIB, 4 * GIB, 24 * GIB, 0.5, "GPU memory")
