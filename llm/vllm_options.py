"""What vLLM can be told: every technique of the field as one setting, checked before it loads."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Device = Literal["cpu", "cuda"]

GIB = 2**30

ADJUSTABLE = ("vllm.gather",)
"""What may change while calls go on. vLLM takes no other `max_num_seqs` or
`max_num_batched_tokens` once it has loaded."""

DTYPES = ("auto", "bfloat16", "float16", "float32")
QUANTIZATIONS = ("", "fp8", "fp8_per_channel", "fp8_per_block", "mxfp8", "int8", "awq", "gptq")
KV_DTYPES = ("auto", "fp8", "fp8_e5m2", "int8_per_token_head")
SPECULATIONS = ("", "ngram", "draft", "eagle3")
CUDA_GRAPHS = ("auto", "off", "piecewise", "full", "full_decode_only", "full_and_piecewise")
BLOCK_SIZES = (16, 32, 64, 128)
OFFLOADS = ("native", "lmcache")
KV_ROLES = ("kv_both", "kv_producer", "kv_consumer")
LORA_RANKS = (8, 16, 32, 64, 128, 256)

ONLINE_INT8 = "int8_per_channel_weight_only"
"""vLLM's name for weights rounded to 8 bits while they load."""

LORAS_AT_ONCE = 8
"""LoRA adapters in one step of the model at most; each takes GPU memory."""

METHODS = {"ngram": "ngram", "draft": "draft_model", "eagle3": "eagle3"}
"""vLLM's names for the ways to speculate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmOptions:
    """How vLLM loads and runs a model. docs/vllm.md has an example of each.

    Attributes:
        dtype: Type of weights and activations; "auto" is what the model was saved in.
        max_model_len: Tokens of prompt and answer together, at most what the model reads.
        max_num_seqs: Answers and prompts in the making at once. A caller whose words are read
            as they come counts as one, so two a call.
        max_num_batched_tokens: Tokens of one step of the model. Less keeps the answers of
            others flowing while a long prompt is read; more reads it sooner.
        chunked_prefill: Whether a long prompt is read over several steps. Without it,
            `max_num_batched_tokens` must hold a whole prompt.
        gpu_memory_utilization: Share of the GPU's memory for weights, workspaces and KV cache.
        kv_cache_gib: GiB of KV cache; 0 for what `gpu_memory_utilization` leaves (on a CPU, 1).
        block_size: Tokens of a block of the KV cache. Prompts share whole blocks only, so a
            small one finds more in the prefix cache; 0 is 16 on a GPU, 32 on a CPU.
        prefix_cache: Whether prompts that begin alike are read once.
        stream_prompt: Whether the prompt is read while the caller speaks.
        gather: Seconds in which words that follow each other are gathered before they are read.
            Each reading is a step of the model in which the answers of others wait; an answer
            asked for right after the last words reads them itself.
        cuda_graphs: What is captured as CUDA graphs: "auto", "off" (also compiles nothing),
            "piecewise", "full", "full_decode_only" or "full_and_piecewise". A CPU has none.
        quantization: Weights made smaller: "fp8" (8 bits on H100 and newer), "fp8_per_channel",
            "fp8_per_block", "mxfp8" or "int8" (experts only) while loading; "awq" or "gptq"
            for checkpoints that are. "" does what the checkpoint says.
        kv_cache_dtype: "auto" (as the model), "fp8", "fp8_e5m2" or "int8_per_token_head".
        speculation: Tokens guessed ahead and checked together: "ngram" (from the prompt),
            "draft" (a small model), "eagle3" (a head trained for the model), "" for none.
        speculation_model: Folder of the draft model or EAGLE-3 head.
        speculation_tokens: Tokens guessed at a time.
        kv_offload_gib: GiB of main memory for KV blocks that the GPU has no room for; 0 for none.
        kv_offload_backend: "native" or "lmcache".
        tensor_parallel: GPUs that share every layer.
        pipeline_parallel: GPUs that each hold some of the layers.
        data_parallel: Copies of the model.
        expert_parallel: Whether each GPU holds whole experts of a mixture-of-experts model.
        kv_connector: How KV blocks go to other vLLM processes ("NixlConnector", ...), "" not
            at all.
        kv_role: "kv_producer" reads prompts, "kv_consumer" writes answers, "kv_both" either.
        kv_connector_settings: What the connector needs, a JSON object.
        lora: Adapters that may be asked for: "name=folder,name=folder".
        lora_default: Which of them answers where none is asked for, "" for the model itself.
        lora_rank: The largest rank among them.
    """

    dtype: str = "auto"
    max_model_len: int = 8192
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    chunked_prefill: bool = True
    gpu_memory_utilization: float = 0.5
    kv_cache_gib: float = 0.0
    block_size: int = 0
    prefix_cache: bool = True
    stream_prompt: bool = True
    gather: float = 0.01
    cuda_graphs: str = "auto"
    quantization: str = ""
    kv_cache_dtype: str = "auto"
    speculation: str = ""
    speculation_model: str = ""
    speculation_tokens: int = 4
    kv_offload_gib: float = 0.0
    kv_offload_backend: str = "native"
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    expert_parallel: bool = False
    kv_connector: str = ""
    kv_role: str = "kv_both"
    kv_connector_settings: str = "{}"
    lora: str = ""
    lora_default: str = ""
    lora_rank: int = 16

    def __post_init__(self) -> None:
        _one_of("dtype", self.dtype, DTYPES)
        _within("max_model_len", self.max_model_len, 64, 10_000_000)
        _within("max_num_seqs", self.max_num_seqs, 2, 4096)
        _within("gather", self.gather, 0.0, 1.0)
        _within("max_num_batched_tokens", self.max_num_batched_tokens, 64, 1_000_000)
        _within("gpu_memory_utilization", self.gpu_memory_utilization, 0.001, 0.98)
        _within("kv_cache_gib", self.kv_cache_gib, 0.0, 10_000.0)
        _one_of("block_size", self.block_size, (0, *BLOCK_SIZES))
        _one_of("cuda_graphs", self.cuda_graphs, CUDA_GRAPHS)
        _one_of("quantization", self.quantization, QUANTIZATIONS)
        _one_of("kv_cache_dtype", self.kv_cache_dtype, KV_DTYPES)
        _one_of("speculation", self.speculation, SPECULATIONS)
        _within("speculation_tokens", self.speculation_tokens, 1, 16)
        _within("kv_offload_gib", self.kv_offload_gib, 0.0, 10_000.0)
        _one_of("kv_offload_backend", self.kv_offload_backend, OFFLOADS)
        for name in ("tensor_parallel", "pipeline_parallel", "data_parallel"):
            _within(name, getattr(self, name), 1, 64)
        _one_of("kv_role", self.kv_role, KV_ROLES)
        _one_of("lora_rank", self.lora_rank, LORA_RANKS)
        needs_model = self.speculation in ("draft", "eagle3")
        if needs_model != bool(self.speculation_model):
            raise ValueError(
                f"vllm.speculation is {self.speculation!r} and vllm.speculation_model "
                f"{self.speculation_model!r}; expected a model with 'draft' and 'eagle3' only"
            )
        if not self.chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise ValueError(
                f"vllm.chunked_prefill is off and vllm.max_num_batched_tokens "
                f"{self.max_num_batched_tokens}; expected at least vllm.max_model_len "
                f"({self.max_model_len}), or a long prompt fits in no step"
            )
        if self.lora_default and self.lora_default not in self.adapters:
            raise ValueError(
                f"vllm.lora_default is {self.lora_default!r}; expected one of vllm.lora "
                f"({', '.join(self.adapters) or 'none given'})"
            )
        _ = self.adapters, self.connector_settings  # both are read once here

    def adjusted(self, name: str, value: float) -> "VllmOptions":
        """Return these with one of `ADJUSTABLE` changed.

        Raises:
            ValueError: If that cannot be changed, or not to this.
        """
        if name != "vllm.gather":
            raise ValueError(
                f"{name} cannot change while calls go on; of vLLM, {', '.join(ADJUSTABLE)} can"
            )
        return replace(self, gather=float(value))

    @property
    def adapters(self) -> Mapping[str, str]:
        """The folder of each LoRA adapter, by its name.

        Raises:
            ValueError: If `lora` has another form.
        """
        pairs = [entry.partition("=") for entry in self.lora.split(",") if entry.strip()]
        found = {name.strip(): folder.strip() for name, _, folder in pairs}
        if len(found) < len(pairs) or not all(name and folder for name, folder in found.items()):
            raise ValueError(f"vllm.lora is {self.lora!r}; expected name=folder,name=folder")
        return found

    @property
    def connector_settings(self) -> Mapping[str, Any]:
        """What the KV connector is told.

        Raises:
            ValueError: If it is no JSON object.
        """
        try:
            settings = json.loads(self.kv_connector_settings)
        except ValueError:
            settings = None
        if not isinstance(settings, dict):
            raise ValueError(
                f"vllm.kv_connector_settings is {self.kv_connector_settings!r}; "
                'expected a JSON object such as {"shared_storage_path": "/dev/shm/kv"}'
            )
        return settings


def engine_args(model: str, options: VllmOptions, device: Device) -> dict[str, Any]:
    """Return the arguments of vLLM's `AsyncEngineArgs` that `options` stand for.

    Only what is asked for is in it, besides what voice calls always need: requests by
    deadline, and compact JSON where an answer must be JSON.
    """
    on_cpu = device == "cpu"
    kv_gib = options.kv_cache_gib or (1.0 if on_cpu else 0.0)
    args: dict[str, Any] = {
        "model": model,
        "dtype": options.dtype,
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "enable_chunked_prefill": options.chunked_prefill,
        "enable_prefix_caching": options.prefix_cache,
        "block_size": options.block_size or (32 if on_cpu else 16),
        "kv_cache_dtype": options.kv_cache_dtype,
        "scheduling_policy": "priority",
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "disable_log_stats": True,
        "generation_config": "vllm",
    }
    if kv_gib:
        args["kv_cache_memory_bytes"] = int(kv_gib * GIB)
    if not on_cpu:
        args["gpu_memory_utilization"] = options.gpu_memory_utilization
    if on_cpu or options.cuda_graphs == "off":
        args["enforce_eager"] = True
    elif options.cuda_graphs != "auto":
        args["compilation_config"] = {"cudagraph_mode": options.cuda_graphs.upper()}
    if options.quantization:
        int8 = options.quantization == "int8"
        args["quantization"] = ONLINE_INT8 if int8 else options.quantization
    if options.speculation:
        args["speculative_config"] = _speculation(options)
    if options.kv_offload_gib:
        args["kv_offloading_size"] = options.kv_offload_gib
        args["kv_offloading_backend"] = options.kv_offload_backend
    if options.kv_connector:
        args["kv_transfer_config"] = {
            "kv_connector": options.kv_connector,
            "kv_role": options.kv_role,
            "kv_connector_extra_config": options.connector_settings,
            "kv_load_failure_policy": "recompute",
        }
    for name in ("tensor_parallel", "pipeline_parallel", "data_parallel"):
        if (size := getattr(options, name)) > 1:
            args[f"{name}_size"] = size
    if options.expert_parallel:
        args["enable_expert_parallel"] = True
    if adapters := options.adapters:
        args |= {"enable_lora": True, "max_lora_rank": options.lora_rank}
        args |= {"max_loras": min(len(adapters), LORAS_AT_ONCE), "max_cpu_loras": len(adapters)}
    return args


def environment(options: VllmOptions, cores: Sequence[int]) -> dict[str, str]:
    """Return what to set in the environment, where it is not set yet, before importing vLLM.

    On a CPU vLLM would pin itself to cores that others use, too: a model in one part is left to
    the operating system (OMP_NUM_THREADS says how many threads) and needs no process of its own
    beside vLLM's scheduler; several parts share `cores`.
    """
    parts = options.tensor_parallel * options.pipeline_parallel * options.data_parallel
    settings = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if parts == 1:
        alone = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        return settings | alone
    share = max(1, len(cores) // parts)
    groups = [cores[at * share : (at + 1) * share] for at in range(parts)]
    bind = "|".join(",".join(map(str, group)) for group in groups)
    return settings | {"VLLM_CPU_OMP_THREADS_BIND": bind}


def _speculation(options: VllmOptions) -> dict[str, Any]:
    config: dict[str, Any] = {
        "method": METHODS[options.speculation],
        "num_speculative_tokens": options.speculation_tokens,
    }
    if options.speculation == "ngram":
        return config | {"prompt_lookup_max": 4, "prompt_lookup_min": 2}
    return config | {"model": options.speculation_model}


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"vllm.{name} is {value}; expected {low} to {high}")


def _one_of(name: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        known = ", ".join(str(choice) or '""' for choice in choices)
        raise ValueError(f"vllm.{name} is {value!r}; expected one of {known}")
