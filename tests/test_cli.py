import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from model_hub import serving

from voice import __version__

ROOT = Path(__file__).parent.parent


def voice(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VOICE_")}
    return subprocess.run(
        [sys.executable, "-m", "voice.cli", *arguments],
        cwd=ROOT,
        env=clean | {"COLUMNS": "200", "NO_COLOR": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_version_is_told() -> None:
    done = voice("--version")
    assert done.stdout.strip() == f"sidetone {__version__}"


@pytest.mark.parametrize(
    "command", ["serve", "call", "talk", "bench", "doctor", "config", "models", "trace", "tune"]
)
def test_every_command_has_help(command: str) -> None:
    done = voice(command, "--help")
    assert done.returncode == 0
    assert f"voice {command}" in re.sub(r"voice\.cli|__main__", "voice", done.stdout) or (
        command in done.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["serve", "--asr", "nope"], {}, "asr is 'nope'; expected one of sphinx"),
        (["serve", "--llm", "nope"], {}, "llm is 'nope'; expected one of embedded"),
        (["serve", "--tts", "nope"], {}, "tts is 'nope'; expected one of espeak"),
        (["serve", "--agent", "nowhere"], {}, "no agent in nowhere"),
        (["serve", "--tuner", "onn"], {}, "tuner is 'onn'; expected one of on, observe, off"),
        (
            ["serve", "--pin", "turn.wiat"],
            {},
            "'turn.wiat', which the tuner does not move; did you",
        ),
        (["serve", "--host", "0.0.0.0"], {}, "no key is set: set VOICE_KEY"),
        (["serve", "--config", "no.toml"], {}, "cannot read the settings in no.toml"),
        (["config"], {"VOICE_PROT": "1"}, "did you mean VOICE_PORT?"),
        (["call"], {}, "--say TEXT or --wav FILE"),
        (["call", "--say", "hi", "--url", "http://127.0.0.1:9"], {}, "start a server with voice"),
        (["bench", "--find-capacity", "--budget", "0"], {}, "budget is 0 s; expected 0.05 to 30 s"),
        (["bench", "--find-capacity", "--transport", "rtp"], {}, "measured by --transport webrtc"),
        (
            ["bench", "--find-capacity", "--url", "http://127.0.0.1:9"],
            {},
            "Is voice serve running?",
        ),
        (["bench", "--url", "http://127.0.0.1:9"], {}, "Is voice serve running?"),
        (["bench", "--url", "127.0.0.1:9"], {}, "expected http://HOST:PORT"),
        (["bench", "--what", "trace"], {}, "measured with --profile bench"),
        (["bench", "--what", "trca"], {}, "expected latency, barge-in, capacity"),
        (["bench", "--profile", "cpu"], {}, "expected embedded or bench, or --find-capacity"),
        (["bench", "--profile", "bench", "--url", "http://x"], {}, "--url has no effect on"),
        (["bench", "--transport", "webrtc"], {}, "--transport has no effect on a bench of the de"),
        (["bench", "--minutes", "1"], {}, "--minutes has no effect"),
        (["bench", "--calls", "0"], {}, "--calls is 0; expected 1 to 100000"),
        (["bench", "--turns", "0"], {}, "--turns is 0; expected 1 or more"),
        (
            ["bench", "--profile", "bench", "--wait", "99"],
            {},
            "--wait is 99.0 s; expected 0.1 to 3",
        ),
        (["bench", "--profile", "bench", "--noise", "5"], {}, "--noise is 5 dBFS; expected 0"),
        (["bench", "--profile", "bench"], {"VOICE_PROT": "1"}, "did you mean VOICE_PORT?"),
        (
            ["bench", "--profile", "bench", "--what", "trace", "--transport", "rtp"],
            {},
            "--transport is 'rtp'; expected websocket or webrtc",
        ),
        (["bench", "--engine", "asr", "--model", "nowhere"], {}, "expected a model's directory"),
        (["trace", "list", "--data", "nowhere"], {}, "nowhere is no directory"),
        (["trace", "--data", "tests", "list"], {}, "voice trace list --data tests"),
        (["trace", "--slowest", "2", "list"], {}, "--slowest is no list"),
        (["trace", "export", "x", "--format", "xml"], {}, "expected json, chrome, otlp"),
        (["tune", "--cost-per-hour", "-2"], {}, "--cost-per-hour is -2; expected 0 to 1000000"),
        (["tune", "--out", "tests"], {}, "tests is a directory; expected a file to write"),
        (["tune", "--report", "nowhere/x.html"], {}, "nowhere is no directory"),
        (["tune", "--knobs", "turn.wiat"], {}, "did you mean turn.wait?"),
        (["models", "fetch"], {}, "voice models fetch NAME, or --profile cpu"),
        (["models", "fetch", "xtts-v2"], {}, "accept it with --accept-licence"),
        (["models", "fetch", "--profile", "cup"], {}, "expected one of embedded, cpu, gpu"),
        (["models", "check", "smal"], {}, "no model is called 'smal'"),
        (["models", "import", "/dev"], {}, "there is no model in /dev"),
        (["call", "--wav", "/dev/null"], {}, "/dev/null is no PCM WAV file"),
        (["call", "--say", "hi", "--voice", "xx"], {}, "xx"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_that_says_what_to_do(
    arguments: list[str], environment: dict[str, str], message: str
) -> None:
    done = voice(*arguments, **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "No such command 'nosuch'; voice -h says what there is"),
        (["bench", "--nosuch"], "No such option: --nosuch"),
        (["trace", "show"], "Missing argument 'call'; voice trace show -h"),
        (["trace", "--slowest", "0"], "'--slowest'"),
        (["serve", "--port", "http"], "'--port'"),
    ],
)
def test_a_command_that_is_none_is_one_line_that_says_where_to_look(
    arguments: list[str], message: str
) -> None:
    done = voice(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_settings_in_force_are_told_with_their_source_and_no_secret() -> None:
    done = voice("config", "--port", "8123", VOICE_KEY="topsecret", VOICE_ASR="fake")
    assert re.search(r"port +8123 +flag", done.stdout)
    assert re.search(r"asr +'fake' +VOICE_ASR", done.stdout)
    assert re.search(r"key +\*\*\* +VOICE_KEY", done.stdout)
    assert "topsecret" not in done.stdout


def test_the_doctor_finds_the_default_profile_ready() -> None:
    done = voice("doctor")
    assert done.returncode == 0, done.stdout
    assert "ready to serve" in done.stdout
    assert "voice serve --asr whisper:small" in done.stdout


def test_the_doctor_names_what_is_broken_and_the_remedy() -> None:
    done = voice("doctor", VOICE_AGENT="nowhere", VOICE_DATA="/proc/nothing")
    assert done.returncode == 1
    assert "no agent in nowhere" in done.stdout
    assert "voice serve --agent FOLDER" in done.stdout


def test_models_are_listed_with_their_licence() -> None:
    done = voice("models", "list", "--profile", "gpu")
    assert done.returncode == 0, done.stderr
    assert re.search(r"whisper-large-v3-turbo +asr +gpu +1\.62 GB +MIT", done.stdout)
    assert "xtts" not in done.stdout
    assert "CPML, not commercial" in voice("models", "list").stdout


def test_models_that_were_carried_here_by_hand_are_checked_too(tmp_path: Path) -> None:
    where = tmp_path / "models" / "whisper-tiny"
    where.mkdir(parents=True)
    (where / "config.json").write_text("{}")
    done = voice("models", "check", VOICE_DATA=str(tmp_path))
    assert done.returncode == 1
    assert "✗ whisper-tiny" in done.stdout
    assert "model.bin" in done.stdout


def test_a_model_is_fetched_checked_damaged_and_mended(tmp_path: Path) -> None:
    weights = bytes(range(256)) * 100
    with serving({"config.json": b"{}", "model.bin": weights}) as hub:
        where = {
            "VOICE_DATA": str(tmp_path / "data"),
            "HF_HOME": str(tmp_path),
            "HF_ENDPOINT": hub.url,
            "NO_PROXY": "127.0.0.1,localhost",
        }
        done = voice("models", "fetch", "some/tiny", **where)
        assert done.returncode == 0, done.stderr
        assert "licence: see the repository" in done.stdout
        assert re.search(r"some--tiny .*✓", voice("models", "list", **where).stdout)
        assert voice("models", "check", **where).returncode == 0
        (tmp_path / "data/models/some--tiny/model.bin").write_bytes(weights[:-100])
        done = voice("models", "check", "some/tiny", **where)
        assert done.returncode == 1
        assert "model.bin is cut off: 25,500 bytes, expected 25,600" in done.stdout
        assert "voice models fetch some/tiny" in done.stdout
        assert voice("models", "fetch", "some/tiny", **where).returncode == 0
        done = voice("models", "export", str(tmp_path / "stick"), **where)
        assert done.returncode == 0, done.stderr
    there = {"VOICE_DATA": str(tmp_path / "there"), "HF_HUB_OFFLINE": "1"}
    done = voice("models", "import", str(tmp_path / "stick"), **there)
    assert "some--tiny taken over" in done.stdout
    assert voice("models", "check", "some/tiny", **there).returncode == 0


def test_the_doctor_says_which_models_are_missing(tmp_path: Path) -> None:
    done = voice(
        "doctor", VOICE_ASR="whisper:small", VOICE_DATA=str(tmp_path), HF_HOME=str(tmp_path)
    )
    assert done.returncode == 1
    assert "whisper-small is not in" in done.stdout
    assert "voice models fetch whisper-small" in done.stdout


def test_the_doctor_plans_the_memory(tmp_path: Path) -> None:
    done = voice("doctor", VOICE_LLM="ctranslate:demos/frontdesk/model")
    assert done.returncode == 0, done.stdout
    assert re.search(r"llm +weights +0\.00 GB +3 M, int8", done.stdout)
    assert re.search(r"all +planned", done.stdout)
