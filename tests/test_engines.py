"""Names in the settings, and the engines they stand for."""

from pathlib import Path
from typing import Any

import pytest

from voice import engines
from voice.engine_ears import RemoteEars
from voice.engine_mind import RemoteMind
from voice.engine_mouth import RemoteMouth
from voice.settings import Settings, load

from helpers import plain_agent


def made(data: Path, **settings: Any) -> engines.Engines:
    chosen = {"asr": "fake", "llm": "fake", "tts": "fake"} | settings
    return engines.make(Settings(data=str(data), **chosen), plain_agent())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "some model"
    folder.mkdir()
    return folder


def test_ears_and_mouth_share_a_process_and_its_device(tmp_path: Path, model: Path) -> None:
    crew = made(tmp_path, asr=f"whisper:{model}", llm=f"vllm:{model}", tts=f"coqui:{model}")
    assert isinstance(crew.ears, RemoteEars)
    assert isinstance(crew.mind, RemoteMind)
    assert isinstance(crew.mouth, RemoteMouth)
    assert crew.ears._process is crew.mouth._process is not crew.mind._process
    assert crew.mind.beside is crew.ears._process
    assert crew.ears.name == f"whisper:{model}"
    speech, mind = crew.ears._process._plans, crew.mind._process._plans
    assert speech["turns"] is not None
    assert mind["turns"] is None
    ears = speech["engines"]["ears"]
    assert (ears["make"], ears["arguments"]) == ("asr.whisper:Whisper", [str(model)])
    assert ears["keywords"]["options"]["make"] == "asr.whisper_options:WhisperOptions"
    assert speech["engines"]["mouth"]["make"] == "tts.coqui:Coqui"
    assert mind["engines"]["mind"]["make"] == "llm.vllm:Vllm"


def test_only_those_that_need_one_have_a_process(tmp_path: Path, model: Path) -> None:
    crew = made(tmp_path, asr=f"whisper:{model}")
    assert isinstance(crew.ears, RemoteEars)
    assert crew.ears._process._plans["engines"].keys() == {"ears"}
    assert not isinstance(crew.mouth, RemoteMouth)
    assert not isinstance(crew.mind, RemoteMind)
    crew = made(tmp_path, llm=f"vllm:{model}")
    assert isinstance(crew.mind, RemoteMind)
    assert crew.mind.beside is None


@pytest.mark.parametrize(
    "named", [{"asr": "whisper:small"}, {"llm": "vllm:qwen3-8b"}, {"tts": "coqui:vits-vctk"}]
)
def test_a_model_that_is_not_here_is_named_with_the_remedy(
    tmp_path: Path, named: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="voice models fetch"):
        made(tmp_path, **named)


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_a_profile_names_all_its_engines(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "folder", lambda name, data: Path("/models") / name)
    settings = load(None, {}, {"profile": profile}).settings
    crew = engines.make(settings, plain_agent())
    assert isinstance(crew.ears, RemoteEars)
    assert isinstance(crew.mouth, RemoteMouth)
    assert isinstance(crew.mind, RemoteMind) == (profile == "gpu")
    assert crew.ears.name == settings.asr


@pytest.mark.parametrize("room", ["asr", "llm", "tts"])
@pytest.mark.parametrize("name", ["nothing", "whisper", "vllm:", "coqui"])
def test_an_unknown_engine_is_named_with_those_there_are(
    tmp_path: Path, room: str, name: str
) -> None:
    with pytest.raises(ValueError, match=f"{room} is '{name}'; expected one of .*:MODEL"):
        made(tmp_path, **{room: name})
