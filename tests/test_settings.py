from pathlib import Path

import pytest

from latency.budget import derived
from voice.settings import BudgetSettings, Settings, load, names, value_of


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "voice.toml"
    file.write_text(text)
    return file


def test_the_later_source_wins_and_is_named(tmp_path: Path) -> None:
    file = written(tmp_path, 'port = 1\nasr = "fake"\n[turn]\nlongest_wait = 1\n')
    effective = load(file, {"VOICE_PORT": "2", "VOICE_TURN_IDLE": "9.5"}, {"port": 3, "host": None})
    assert effective.settings.port == 3
    assert effective.settings.asr == "fake"
    assert effective.settings.turn.longest_wait == 1.0
    assert effective.settings.turn.idle == 9.5
    assert effective.sources["port"] == "flag"
    assert effective.sources["asr"] == str(file)
    assert effective.sources["turn.idle"] == "VOICE_TURN_IDLE"
    assert effective.sources["host"] == "default"


def test_every_setting_can_be_asked_for() -> None:
    for name, kind in names().items():
        assert type(value_of(Settings(), name)) is kind


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "unknown setting prot .*did you mean port"),
        ("[turn]\nlongest_wate = 1", "did you mean turn.longest_wait"),
        ('port = "8000"', "port in .* is '8000'; expected a whole number"),
        ("port = true", "expected a whole number"),
        ("budget = 1", "budget in .* is a group of settings; expected budget.total, budget.perc"),
        ("tuner = true", "tuner in .* is True; expected a string"),
        ('tuner = "on"\ntrace = false', "expected trace = true, or another tuner"),
        ("[coqui]\ntrim = 1", "coqui.trim in .* is 1; expected true or false"),
        ("[whisper]\nbeam = 0", "whisper.beam is 0; expected 1 to 10"),
        ("[whisper]\nbeem = 1", "did you mean whisper.beam"),
        ('language = "english, please"', "language is .*; expected a BCP 47 tag"),
        ("port = 70000", "port is 70000; expected 0 to 65535"),
        ("[turn]\nshortest_wait = 9", "turn.shortest_wait is 9.0 s; expected 0.1 to 3.0 s"),
        ("port = ", "cannot read the settings"),
        ('host = "0.0.0.0"', "no key is set: set VOICE_KEY"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load(written(tmp_path, text), {}, {})


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("YES", True), ("0", False), ("no", False)]
)
def test_a_variable_says_whether(text: str, value: bool) -> None:
    assert load(None, {"VOICE_COQUI_TRIM": text}, {}).settings.coqui.trim is value


def test_a_variable_that_says_neither_is_named() -> None:
    with pytest.raises(ValueError, match="VOICE_COQUI_TRIM is 'maybe'; expected true"):
        load(None, {"VOICE_COQUI_TRIM": "maybe"}, {})


def test_an_engine_has_its_own_group(tmp_path: Path) -> None:
    file = written(tmp_path, "[whisper]\nbeam = 3\n[coqui]\ntrim = false\nfirst = 1\n")
    effective = load(file, {"VOICE_VLLM_MAX_MODEL_LEN": "4096"}, {"whisper.beam": 2})
    settings = effective.settings
    assert (settings.whisper.beam, settings.coqui.trim, settings.coqui.first) == (2, False, 1.0)
    assert settings.vllm.max_model_len == 4096
    assert effective.sources["coqui.trim"] == str(file)
    assert effective.sources["vllm.max_model_len"] == "VOICE_VLLM_MAX_MODEL_LEN"


def test_an_unknown_variable_is_named() -> None:
    with pytest.raises(ValueError, match="VOICE_PROT; did you mean VOICE_PORT"):
        load(None, {"VOICE_PROT": "1"}, {})
    with pytest.raises(ValueError, match="VOICE_PORT is 'x'; expected a whole number"):
        load(None, {"VOICE_PORT": "x"}, {})


def test_elsewhere_than_loopback_a_key_is_needed() -> None:
    assert load(None, {"VOICE_KEY": "secret"}, {"host": "0.0.0.0"}).settings.key == "secret"


def test_a_profile_is_beneath_everything_else_that_was_said(tmp_path: Path) -> None:
    file = written(tmp_path, 'profile = "bench"\nasr = "sphinx"\n')
    effective = load(file, {}, {"bench.reply": 10.0})
    assert (effective.settings.asr, effective.settings.llm) == ("sphinx", "bench")
    assert effective.settings.turn.longest_wait == 0.2
    assert effective.settings.bench.reply == 10.0
    assert effective.sources["llm"] == "profile bench"
    with pytest.raises(ValueError, match="profile is 'benhc'; expected one of embedded, bench"):
        load(None, {"VOICE_PROFILE": "benhc"}, {})


def test_shares_that_add_up_to_the_budget_are_not_more_by_rounding() -> None:
    given = BudgetSettings(total=0.3, asr=0.1, llm=0.2)
    assert derived(given.total, {}, given.given)["tts"] == 0.0
