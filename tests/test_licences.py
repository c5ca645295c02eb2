from pathlib import Path

import pytest

from tts.licences import UNKNOWN, licence


def folder(tmp_path: Path, name: str = "model", **files: str) -> Path:
    path = tmp_path / name
    path.mkdir()
    for file, text in files.items():
        (path / file.replace("_json", ".json")).write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Coqui Public Model License 1.0.0\n\nhttps://coqui.ai/cpml", "CPML, non-commercial"),
        ("\n   Apache License\n   Version 2.0, January 2004", "Apache 2.0"),
        ("Our own terms\nmore", "Our own terms"),
        ("", UNKNOWN),
    ],
)
def test_a_licence_file_counts_first(tmp_path: Path, text: str, expected: str) -> None:
    path = folder(tmp_path, LICENSE=text, config_json='{"license": "MIT license"}')
    assert licence(path) == expected


def test_then_what_the_configuration_states(tmp_path: Path) -> None:
    assert licence(folder(tmp_path, config_json='{"license": "cc-by-nc-nd-4.0"}')) == (
        "CC BY-NC-ND 4.0, non-commercial"
    )


def test_then_what_it_was_fetched_under(tmp_path: Path) -> None:
    fetched = {"config_json": "{}", "sidetone-model_json": '{"licence": "Apache-2.0"}'}
    assert licence(folder(tmp_path, **fetched)) == "Apache-2.0"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tts_models--multilingual--multi-dataset--xtts_v2", "CPML, non-commercial"),
        ("tts_models--en--ljspeech--vits", "Apache 2.0"),
        ("tts_models--en--ljspeech--vits--neon", "BSD 3-Clause"),
        ("somebody-elses", UNKNOWN),
    ],
)
def test_then_the_name_that_coqui_gave_it(tmp_path: Path, name: str, expected: str) -> None:
    assert licence(folder(tmp_path, name, config_json="{}")) == expected


@pytest.mark.parametrize("config", ["", "[]", "{", '{"license": ""}'])
def test_nothing_stated_is_said_so(tmp_path: Path, config: str) -> None:
    assert licence(folder(tmp_path, config_json=config)) == "not stated in the folder"
