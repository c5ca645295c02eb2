"""What this machine has, looked up without importing anything heavy: GPUs, memory, packages."""

import ctypes
import importlib.util
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from voice.needs import Device

QUERY = "name,memory.total,memory.free,compute_cap"

CUDA_LIBRARIES = (b"libtorch_cuda.so", b"libcudart.so")
"""What a wheel that was built for CUDA links."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU, as its driver reports it. Bytes; `capability` is (9, 0) for an H100."""

    name: str
    total: int
    free: int
    capability: tuple[int, int]


def gpus(command: str = "nvidia-smi") -> list[Gpu]:
    """Return the GPUs that CUDA may use here, in its order; [] without a driver."""
    try:
        done = subprocess.run(
            [command, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return visible(parsed(done.stdout), os.environ.get("CUDA_VISIBLE_DEVICES"))


def parsed(text: str) -> list[Gpu]:
    """Return the GPUs in the answer to `QUERY`; a line that says "[N/A]" is none."""
    found = []
    for line in text.splitlines():
        with suppress(ValueError):
            name, total, free, capability = (part.strip() for part in line.rsplit(",", 3))
            major, _, minor = capability.partition(".")
            found.append(Gpu(name, int(total) * 2**20, int(free) * 2**20, (int(major), int(minor))))
    return found


def visible(found: list[Gpu], chosen: str | None) -> list[Gpu]:
    """Return those that CUDA_VISIBLE_DEVICES leaves, where it names them by number."""
    if chosen is None:
        return found
    numbers = chosen.split(",")
    if not all(number.strip().isdigit() for number in numbers):
        return [] if chosen.strip() in ("", "-1", "NoDevFiles") else found
    return [found[int(number)] for number in numbers if int(number) < len(found)]


def card(gpu: Gpu) -> Device:
    """Return a GPU as what memory is planned on."""
    return Device(gpu.name, gpu.total, gpu.free, cuda=True)


def main_memory(
    meminfo: Path = Path("/proc/meminfo"), groups: Path = Path("/sys/fs/cgroup")
) -> Device:
    """Return this machine's main memory, or what a container may use of it."""
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    for limit, used, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
        ),
    ):
        with suppress(OSError, ValueError):
            most = int((groups / limit).read_text())
            if most < total:
                held = int((groups / used).read_text()) - _cached(groups / stat)
                total, free = most, min(free, most - held)
    return Device("main memory", total, max(free, 0), cuda=False)


def _cached(stat: Path) -> int:
    """Return the bytes of files that a container keeps in memory as long as nobody needs it."""
    try:
        lines = dict(line.split() for line in stat.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    both = [int(lines.get(f"{kind}_file", 0)) for kind in ("inactive", "active")]
    below = [int(lines.get(f"total_{kind}_file", 0)) for kind in ("inactive", "active")]
    return max(sum(both), sum(below))


def installed(*names: str) -> str:
    """Return the version of the first of these distributions that is installed, "" if none is."""
    for name in names:
        with suppress(PackageNotFoundError):
            return version(name)
    return ""


def torch_has_cuda() -> bool:
    """Whether the installed torch is a build for CUDA."""
    return bool(told := installed("torch")) and not told.endswith("+cpu")


def cublas(name: str = "libcublas.so.12") -> bool:
    """Whether CTranslate2 can load cuBLAS: from the system, or from the pip package."""
    candidates = [name]
    for place in _places("nvidia"):
        candidates += map(str, place.glob(f"cublas/lib/{name}"))
    for candidate in candidates:
        with suppress(OSError):
            ctypes.CDLL(candidate)
            return True
    return False


def built_for_cuda(module: str) -> list[Path]:
    """Return the folders of a package's libraries that link CUDA, without loading any."""
    return sorted(
        {
            library.parent
            for place in _places(module)
            for library in place.rglob("*.so")
            if any(name in _bytes(library) for name in CUDA_LIBRARIES)
        }
    )


def _places(module: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return []
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
