"""`voice doctor`: what is installed, what can run here, and what mends the rest."""

import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from voice import __version__, agent, settings


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        ok: True, or False where the default profile cannot run, or None where only
            something optional is missing.
        what: The thing.
        state: How it is.
        remedy: The command or change that mends it.
    """

    ok: bool | None
    what: str
    state: str
    remedy: str = ""


def package(name: str, module: str, why: str, *, needed: bool) -> Finding:
    """Look whether a package is installed, without importing it."""
    try:
        if importlib.util.find_spec(module) is not None:
            return Finding(True, name, f"{version(name)}, {why}")
    except PackageNotFoundError:
        pass
    return Finding(False if needed else None, name, f"missing, {why}", f"pip install {name}")


def findings() -> list[Finding]:
    """Look at everything the profiles need."""
    found = [
        Finding(
            sys.version_info >= (3, 11),
            "Python",
            platform.python_version(),
            "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer",
        ),
        package("pocketsphinx", "pocketsphinx", "embedded ears", needed=True),
        package("ctranslate2", "ctranslate2", "embedded mind", needed=True),
        package("espeakng-loader", "espeakng_loader", "embedded mouth", needed=True),
        package("aiortc", "aiortc", "browsers call by WebRTC", needed=True),
        package(
            "faster-whisper",
            "faster_whisper",
            "tells speech from silence; better ears, once a model is there",
            needed=True,
        ),
        package("torch", "torch", "only to train the front-desk model", needed=False),
    ]
    try:
        found += _settings()
    except ValueError as error:
        found.append(Finding(False, "settings", str(error), "mend or unset what is named here"))
    return found


def _settings() -> list[Finding]:
    effective = settings.from_process({}).settings
    found = [Finding(True, "settings", f"{effective.asr}, {effective.llm}, {effective.tts}")]
    try:
        who = agent.load(Path(effective.agent), Path(effective.data))
    except (ValueError, OSError) as error:
        return [*found, Finding(False, "agent", str(error), "voice serve --agent FOLDER")]
    found.append(Finding(True, "agent", who.name))
    if effective.llm == "embedded":
        weights = (who.model or Path("-")) / "model.safetensors"
        ok = weights.is_file() and weights.stat().st_size > 1_000_000
        found.append(
            Finding(
                ok,
                "its model",
                f"{weights.stat().st_size / 1e6:.1f} MB" if ok else f"no weights at {weights}",
                "" if ok else "git checkout the file, or make frontdesk-model",
            )
        )
    data = Path(effective.data)
    place = next(path for path in (data, *data.absolute().parents) if path.exists())
    writable = os.access(place, os.W_OK)
    found.append(
        Finding(
            writable,
            "data",
            f"{data} {'can' if writable else 'cannot'} be written",
            "" if writable else "VOICE_DATA=/some/directory",
        )
    )
    if effective.asr == "sphinx":
        found.append(
            Finding(
                None,
                "ears",
                "pocketsphinx knows only the words the agent expects; with free speech, accents "
                "and noise it often misses, and then the agent asks again",
                "voice serve --asr whisper:small   (downloads a model once)",
            )
        )
    return found


def examine(console: Console) -> int:
    """Print the findings; return 0 if the chosen engines can run, 1 if not."""
    console.print(f"sidetone {__version__}", highlight=False)
    found = findings()
    for finding in found:
        sign = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[yellow]·[/]"}[finding.ok]
        console.print(f"{sign} {finding.what:<16} {escape(finding.state)}", highlight=False)
        if finding.remedy:
            console.print(f"    [bold]{escape(finding.remedy)}[/]", highlight=False)
    broken = sum(finding.ok is False for finding in found)
    console.print(f"{broken} to mend first" if broken else "ready to serve: voice serve")
    return 1 if broken else 0
