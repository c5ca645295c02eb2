from pathlib import Path

import pytest

from voice import device_facts, doctor
from voice.device_facts import Gpu
from voice.settings import Settings

H100 = Gpu("NVIDIA H100", 80 * 2**30, 79 * 2**30, (9, 0))


def found(what: str, findings: list[doctor.Finding]) -> doctor.Finding:
    return next(finding for finding in findings if finding.what == what)


def test_a_gpu_without_cublas_12_says_how_whisper_runs_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_facts, "cublas", lambda: False)
    findings = doctor.card([H100], needs_cublas=True)
    assert found("GPU", findings).state == "NVIDIA H100, 84.8 GB free of 85.9, capability 9.0"
    cublas = found("cuBLAS 12", findings)
    assert cublas.ok is False
    assert "pip install nvidia-cublas-cu12" in cublas.remedy
    assert found("cuBLAS 12", doctor.findings(Settings(), [H100])).ok is None
    monkeypatch.setattr(device_facts, "cublas", lambda: True)
    assert found("cuBLAS 12", doctor.card([H100], needs_cublas=True)).ok


def test_no_gpu_is_no_fault() -> None:
    assert found("GPU", doctor.findings(Settings(), [])).ok is None


@pytest.mark.parametrize(
    ("chosen", "what"), [({"llm": "vllm:x"}, "vllm"), ({"tts": "coqui:x"}, "coqui-tts")]
)
def test_what_the_chosen_engines_lack_is_to_be_mended(
    monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], what: str
) -> None:
    monkeypatch.setattr(device_facts, "installed", lambda *names: "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert found(what, doctor.findings(Settings(**chosen), [])).ok is False
    assert found(what, doctor.findings(Settings(), [])).ok is None
    assert "pip install" in found(what, doctor.findings(Settings(), [])).remedy


def test_wheels_built_for_cuda_beside_a_torch_without_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = {"torchvision": [Path("/v/torchvision")], "torchaudio": [Path("/v/torchaudio/lib")]}
    monkeypatch.setattr(device_facts, "built_for_cuda", lambda module: folders.get(module, []))
    monkeypatch.setattr(device_facts, "installed", lambda *names: "2.13.0+cpu")
    vision, audio = doctor.traps(needed=True)
    assert (vision.ok, vision.remedy) == (False, "pip uninstall -y torchvision")
    assert (audio.ok, audio.remedy) == (False, "rm /v/torchaudio/lib/*.so")
    assert [finding.ok for finding in doctor.traps(needed=False)] == [None, None]
    monkeypatch.setattr(device_facts, "installed", lambda *names: "2.13.0")
    assert doctor.traps(needed=True) == []
