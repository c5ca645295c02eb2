import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("command", ["serve", "call", "talk", "bench", "doctor", "config"])
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
        (["serve", "--host", "0.0.0.0"], {}, "no key is set: set VOICE_KEY"),
        (["serve", "--config", "no.toml"], {}, "cannot read the settings in no.toml"),
        (["config"], {"VOICE_PROT": "1"}, "did you mean VOICE_PORT?"),
        (["call"], {}, "--say TEXT or --wav FILE"),
        (["call", "--say", "hi", "--url", "http://127.0.0.1:9"], {}, "start a server with voice"),
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
