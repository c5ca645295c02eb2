"""The architecture: which room may import which, and what a core may not touch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ROOMS = ("asr", "llm", "tts", "transport", "latency")

CORES = (
    "asr/agreement.py",
    "asr/batching.py",
    "asr/echo.py",
    "asr/loudness.py",
    "asr/mel.py",
    "asr/prosody.py",
    "asr/whisper_path.py",
    "asr/wording.py",
    "latency/budget.py",
    "latency/knob.py",
    "latency/labels.py",
    "latency/load.py",
    "latency/move.py",
    "latency/otel.py",
    "latency/prediction.py",
    "latency/queueing.py",
    "latency/spans.py",
    "latency/trace.py",
    "latency/trial.py",
    "latency/tuner.py",
    "latency/utilisation.py",
    "latency/waterfall.py",
    "latency/window.py",
    "llm/chunks.py",
    "llm/upstreams.py",
    "transport/jitter.py",
    "transport/rtp.py",
    "tts/chunking.py",
    "tts/loudness.py",
    "tts/phrases.py",
    "tts/voice_output.py",
    "tts/word_times.py",
    "voice/capacity.py",
    "voice/catalogue.py",
    "voice/closing.py",
    "voice/context.py",
    "voice/cost.py",
    "voice/engine_wire.py",
    "voice/found.py",
    "voice/interruption.py",
    "voice/loop_figures.py",
    "voice/knee.py",
    "voice/webrtc_score.py",
    "voice/knobs.py",
    "voice/memory.py",
    "voice/needs.py",
    "voice/prefill.py",
    "voice/schedule.py",
    "voice/talker.py",
    "voice/sweep.py",
    "voice/tune_figures.py",
    "voice/tune_findings.py",
    "voice/tune_front.py",
    "voice/tune_ladders.py",
    "voice/tune_plots.py",
    "voice/tune_profile.py",
    "voice/tune_report.py",
    "voice/tune_results.py",
    "voice/tune_runs.py",
    "voice/tune_search.py",
    "voice/tune_tables.py",
    "voice/turn.py",
)

IO = {
    "asyncio",
    "logging",
    "os",
    "pathlib",
    "random",
    "socket",
    "subprocess",
    "threading",
    "time",
}

HEAVY = {
    "torch": {
        "asr/whisper_torch.py",
        "voice/naive.py",
        *(
            f"tts/{part}.py"
            for part in ("coqui_load", "torch_device", "vits", "xtts", "xtts_cache")
        ),
    },
    "vllm": {"llm/vllm.py", "llm/vllm_load.py"},
    "TTS": {"tts/coqui_load.py", "voice/naive.py"},
    "transformers": {"asr/whisper_torch.py", "voice/naive.py"},
    "opentelemetry": {"latency/otlp.py"},
    "ray": set(),
    "pocketsphinx": {"asr/sphinx_decoder.py"},
    "ctranslate2": {"asr/whisper_model.py", "llm/ctranslate.py", "llm/convert.py"},
    "faster_whisper": {"asr/whisper_model.py", "voice/naive.py"},
    "aiortc": {
        "voice/webrtc_callers.py",
        *(
            f"transport/webrtc{part}.py"
            for part in ("", "_addresses", "_line", "_media", "_offer", "_wire")
        ),
    },
}
"""Packages that are slow to import, and the only files that may."""


def imports(path: Path) -> set[str]:
    """Return the top-level names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def source() -> list[Path]:
    return [path for room in ("voice", *ROOMS) for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("room", ROOMS)
def test_the_rooms_on_the_ground_floor_import_nothing_of_ours(room: str) -> None:
    others = {"voice", "demos", "tests", *ROOMS} - {room}
    for path in (ROOT / room).rglob("*.py"):
        assert imports(path) & others == set(), path


def test_nothing_imports_the_demos_or_the_tests() -> None:
    for path in source():
        assert imports(path) & {"demos", "tests"} == set(), path


@pytest.mark.parametrize("core", CORES)
def test_cores_do_no_io(core: str) -> None:
    assert imports(ROOT / core) & IO == set()


def test_heavy_packages_are_imported_in_one_place() -> None:
    for path in source():
        name = path.relative_to(ROOT).as_posix()
        for package in imports(path) & HEAVY.keys():
            assert name in HEAVY[package], f"{name} imports {package}"


def test_modules_do_not_import_in_circles() -> None:
    uses: dict[str, set[str]] = {}
    for path in source():
        here = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        uses[here] = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                uses[here] |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
            elif isinstance(node, ast.Import):
                uses[here] |= {alias.name for alias in node.names}
    uses = {name: used & uses.keys() - {name} for name, used in uses.items()}
    while free := [name for name, used in uses.items() if not used & uses.keys()]:
        for name in free:
            del uses[name]
    assert uses == {}


def test_import_voice_loads_nothing_heavy() -> None:
    script = "import voice, sys; print(len(sys.modules)); assert 'numpy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
    assert int(done.stdout) < 150
