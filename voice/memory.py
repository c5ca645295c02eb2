"""What the engines will need of a card's memory, or a machine's, reckoned before anything loads.

Pure: tables of weights (`voice.weights`), the models' own config.json and the options go in, a
`Plan` comes out: every part with the sum behind it, what vLLM may take, and what to change where
it cannot fit. docs/models.md compares the sums with what was measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from voice.weights import Table

MIB = 2**20

CONTEXT = 500 * MIB
"""Of a GPU, for each process that uses it: CUDA's context and the libraries' kernels. An estimate;
`nvidia-smi` shows 300 to 600 MiB, more on newer cards."""

LIBRARIES = 250 * MIB
"""Of a GPU, for each process: workspaces of cuBLAS and what the allocator keeps. With the context
this comes to 0.79 GB, where faster-whisper's published figures for an RTX 2080 Ti
(github.com/SYSTRAN/faster-whisper/issues/1030) leave 0.51 to 0.71 over weights and cache."""

GRAPHS = 800 * MIB
"""Of a GPU, for vLLM's CUDA graphs. An estimate: vLLM measures its own and takes it from the KV
cache, so an error here shifts the KV cache and nothing else."""

MARGIN = 0.02
"""Part of the memory that is never planned."""

TOKENS = 2048
"""Tokens of one call that are kept: instructions and tools (665 for the front desk) and half an
hour's conversation. A call may grow to the context; that all do at once is not planned for."""

PREFIXES = 32
"""Beginnings of prompts that `llm.ctranslate` keeps, each of about this many tokens: its 665."""


@dataclass(frozen=True, slots=True)
class Device:
    """A card, or a machine's main memory. Bytes; `free` is what nobody uses yet."""

    name: str
    total: int
    free: int
    cuda: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Whisper:
    """Whisper: its config.json and weights, and what of `WhisperOptions` costs memory."""

    name: str
    config: Mapping[str, Any]
    table: Table
    compute: str = "auto"
    batch: int = 16
    beam: int = 1
    seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Llm:
    """A language model: its config.json and weights, and what of `VllmOptions` costs memory.

    Attributes:
        server: "vllm" or "ctranslate".
        kv_gib: KV cache that the user wants, in GiB; 0 for what is left (a CPU: what is needed).
    """

    name: str
    config: Mapping[str, Any]
    table: Table
    server: str = "vllm"
    quantization: str = ""
    kv_dtype: str = "auto"
    context: int = 8192
    sequences: int = 256
    step: int = 2048
    block: int = 16
    eager: bool = False
    kv_gib: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A VITS or an XTTS on torch: what of `CoquiOptions` costs memory. `longest` in seconds."""

    name: str
    config: Mapping[str, Any]
    table: Table
    batch: int = 16
    longest: float = 1.0
    half: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to run on one device, for how many calls."""

    calls: int
    asr: Whisper | None = None
    llm: Llm | None = None
    tts: Voice | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """One part of the memory: who needs it, for what, bytes, and the sum behind them."""

    who: str
    what: str
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How a device's memory will be used.

    Attributes:
        device: The device.
        needs: Every part but the KV cache of vLLM.
        kv: Bytes of that cache; 0 without vLLM.
        kv_tokens: Tokens that fit in it.
        kv_least: Bytes it must have at least for the calls.
        utilization: What `vllm.gpu_memory_utilization` must be, 0 to 1.
        remedies: What can be changed and what each saves, the least loss first.
    """

    device: Device
    needs: tuple[Need, ...]
    kv: int
    kv_tokens: int
    kv_least: int
    utilization: float
    remedies: tuple[str, ...]

    @property
    def least(self) -> int:
        """Bytes without which the engines cannot start."""
        return sum(need.size for need in self.needs) + self.kv_least

    @property
    def short(self) -> int:
        """Bytes too few, 0 if it fits."""
        return max(0, self.least - usable(self.device))

    def check(self) -> None:
        """Raise ValueError, with what to change, if it cannot fit."""
        if self.short:
            raise ValueError(
                f"the models need {gb(self.least)}, and {self.device.name} has "
                f"{gb(usable(self.device))} to give of {gb(self.device.total)}: "
                f"{gb(self.short)} too few. Change one: {'; '.join(self.remedies)}"
            )


def plan(load: Load, device: Device) -> Plan:
    """Reckon what `load` needs of `device`."""
    needs = tuple(_needs(load, device))
    token = kv_bytes(load.llm) if load.llm and load.llm.server == "vllm" else 0
    least = kv = tokens = 0
    utilization = 0.0
    if load.llm and token:
        block = load.llm.block * token
        wanted = max(load.llm.context, load.calls * min(load.llm.context, TOKENS))
        least = math.ceil(wanted / load.llm.block) * block
        left = usable(device) - sum(need.size for need in needs)
        given = int(load.llm.kv_gib * 2**30) or (left if device.cuda else least)
        least = max(least, int(load.llm.kv_gib * 2**30))
        kv = max(min(given, left), 0) // block * block
        tokens = kv // token
        own = sum(need.size for need in needs if need.who == "llm") + kv
        utilization = math.floor(1000 * min(own / device.total, 0.98)) / 1000
    made = Plan(device, needs, kv, tokens, least, utilization, ())
    return replace(made, remedies=tuple(_remedies(load, device, made)))


def usable(device: Device) -> int:
    """Return the bytes that may be planned."""
    return int(device.free - MARGIN * device.total)


def gb(size: float) -> str:
    """Return bytes for people."""
    return f"{size / 1e9:.2f} GB" if size < 9.95e9 else f"{size / 1e9:.1f} GB"


def _needs(load: Load, device: Device) -> list[Need]:
    needs = [
        *(_whisper(load.asr, device.cuda) if load.asr else ()),
        *(_llm(load.llm, load.calls, device.cuda) if load.llm else ()),
        *(_voice(load.tts, device.cuda) if load.tts else ()),
    ]
    if not device.cuda:
        needs.append(Need("media", "process", 150 * MIB + load.calls * MIB // 3, _MEDIA))
    return [need for need in needs if need.size]


_MEDIA = "150 MiB and 1/3 MiB a call (docs/performance.md)"


def _whisper(model: Whisper, cuda: bool) -> list[Need]:
    """Sum up a Whisper, in CTranslate2 format (which tells its sizes by its weights) or not.

    CTranslate2 keeps all of a batch's attention scores at once, and the keys and values of
    the encoder's output for every layer of the decoder.
    """
    compute = model.compute
    if compute in ("auto", "default"):
        compute = "float16" if cuda else "int8"
    small = compute.startswith("int8")
    number = 2 if "16" in compute or (small and cuda and "32" not in compute) else 4
    config, table = model.config, model.table
    dim = config.get("d_model") or _dim(table, "decoder/embeddings/weight", 1)
    vocabulary = config.get("vocab_size") or _dim(table, "decoder/embeddings/weight", 0)
    ffn = config.get("encoder_ffn_dim") or _dim(table, "encoder/layer_0/ffn/linear_0/weight", 0)
    layers = config.get("decoder_layers") or _layers(table, "decoder/layer_")
    weights = ctranslate_bytes(model.table, small, number)
    frames = math.ceil(model.seconds * 50)
    heads = max(dim // 64, 1)
    encoder = model.batch * number * (heads * frames**2 + frames * (2 * ffn + 8 * dim))
    cross = model.batch * number * 2 * layers * frames * dim
    own = model.batch * model.beam * number * 2 * layers * 448 * dim
    logits = model.batch * model.beam * vocabulary * number * 2
    why = (
        f"{model.batch} × {number} B × ({heads} heads × {frames}² + {frames} × (2·{ffn} + 8·{dim}))"
    )
    return [
        _process("asr", cuda, CTRANSLATE_RSS),
        Need("asr", "weights", weights, f"{_millions(model.table)} M, {compute}"),
        Need("asr", "encoder", encoder, why),
        Need(
            "asr",
            "decoder",
            cross + own + logits,
            f"keys and values of {layers} layers, {model.batch} × beam {model.beam}",
        ),
    ]


def _llm(model: Llm, calls: int, cuda: bool) -> list[Need]:
    """Sum up a language model, but for vLLM's KV cache."""
    config = text_config(model.config)
    number = 2 if cuda or model.server == "vllm" else 4
    if model.server == "ctranslate":
        table = {
            name: t
            for name, t in model.table.items()
            if name != "lm_head.weight" or not _tied(config)
        }
        per_token = 2 * kv_numbers(config) * number
        kept = PREFIXES * 665 * 2 * per_token
        return [
            _process("llm", cuda, CTRANSLATE_RSS),
            Need(
                "llm",
                "weights",
                ctranslate_bytes(table, True, number),
                f"{_millions(table)} M, int8",
            ),
            Need(
                "llm",
                "prompts kept",
                kept,
                f"{PREFIXES} beginnings × 665 tokens × 2 × {per_token} B",
            ),
            Need("llm", "KV cache", min(model.context, TOKENS) * per_token, "one answer at a time"),
        ]
    weights = vllm_bytes(model.table, model.quantization, config)
    hidden, wide = config.get("hidden_size", 0), config.get("intermediate_size", 0)
    vocabulary = config.get("vocab_size", 0)
    layer = 2 * model.step * (2 * hidden + 3 * wide)
    logits = model.sequences * vocabulary * 24
    shown = model.quantization or str(config.get("dtype", config.get("torch_dtype", "bfloat16")))
    return [
        _process("llm", cuda, VLLM_RSS),
        Need("llm", "weights", weights, f"{_millions(model.table)} M, {shown}"),
        Need(
            "llm",
            "workspace",
            max(layer, logits),
            f"the larger of a step's {model.step} × 2 B × (2·{hidden} + 3·{wide}) "
            f"and sampling's {model.sequences} × {vocabulary} × 24 B",
        ),
        Need("llm", "CUDA graphs", GRAPHS if cuda and not model.eager else 0, "estimate"),
    ]


def _voice(model: Voice, cuda: bool) -> list[Need]:
    """Sum up a VITS or XTTS. Both end in a HiFi-GAN whose stages all hold 8192 numbers a frame of
    1/86 s (256 channels × 8, 128 × 64, …), about eight arrays of them at once."""
    number = 2 if cuda and model.half else 4
    weights = sum(tensor.count for tensor in model.table.values()) * 4
    frames = math.ceil(model.longest * 94) + 30  # and what the chunk sees around it
    decoder = model.batch * frames * 8192 * 8 * number
    needs = [
        _process("tts", cuda, COQUI_RSS),
        Need("tts", "weights", weights, f"{_millions(model.table)} M, float32"),
        Need("tts", "decoder", decoder, f"{model.batch} × {frames} frames × 8192 × 8 × {number} B"),
    ]
    arguments = model.config.get("model_args") or {}
    if "gpt_layers" in arguments:
        layers, wide = arguments["gpt_layers"], arguments.get("gpt_n_model_channels", 1024)
        tokens = arguments.get("gpt_max_audio_tokens", 605) + arguments.get(
            "gpt_max_text_tokens", 402
        )
        kept = model.batch * 2 * layers * wide * number * tokens
        needs.append(
            Need("tts", "KV cache", kept, f"{model.batch} × {tokens} tokens × {layers} layers")
        )
    return needs


CTRANSLATE_RSS = 110 * MIB
COQUI_RSS = 700 * MIB
VLLM_RSS = 1200 * MIB
"""Main memory of an engine's process before it has a model: the interpreter and the libraries.
Measured, see docs/models.md; vLLM's is of its two processes."""


def _process(who: str, cuda: bool, main: int) -> Need:
    if cuda:
        return Need(who, "process", CONTEXT + LIBRARIES, "CUDA context, cuBLAS")
    return Need(who, "process", main, "interpreter and libraries")


def _remedies(load: Load, device: Device, made: Plan) -> list[str]:
    """Return what can be changed, with what it saves: the least loss first."""
    found: list[tuple[str, int]] = []

    def offer(what: str, changed: Load) -> None:
        other = sum(need.size for need in _needs(changed, device)) + _least(changed)
        if made.least - other > 50 * MIB:
            found.append((what, made.least - other))

    if (mind := load.llm) and mind.server == "vllm":
        if not mind.quantization and "quantization_config" not in mind.config and device.cuda:
            offer("--vllm.quantization fp8", replace(load, llm=replace(mind, quantization="fp8")))
        if mind.kv_dtype == "auto":
            offer("--vllm.kv_cache_dtype fp8", replace(load, llm=replace(mind, kv_dtype="fp8")))
        if mind.context > 4096:
            offer("--vllm.max_model_len 4096", replace(load, llm=replace(mind, context=4096)))
    if load.asr and load.asr.compute != "int8":
        offer("--whisper.compute int8", replace(load, asr=replace(load.asr, compute="int8")))
    if load.asr and load.asr.batch > 4:
        offer("--whisper.batch 4", replace(load, asr=replace(load.asr, batch=4)))
    if load.tts and load.tts.batch > 4:
        offer("--coqui.batch 4", replace(load, tts=replace(load.tts, batch=4)))
    if load.calls > 1:
        fewer = max(load.calls // 2, 1)
        offer(f"max_calls {fewer}", replace(load, calls=fewer))
    shown = [f"{what} saves {gb(saved)}" for what, saved in found]
    return [*shown, "a smaller model" + (" for --asr or --llm" if load.asr and load.llm else "")]


def _least(load: Load) -> int:
    if not load.llm or load.llm.server != "vllm":
        return 0
    wanted = max(load.llm.context, load.calls * min(load.llm.context, TOKENS))
    size = math.ceil(wanted / load.llm.block) * load.llm.block * kv_bytes(load.llm)
    return max(size, int(load.llm.kv_gib * 2**30))


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config.json that is about the language model."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def kv_numbers(config: Mapping[str, Any]) -> int:
    """Return how many numbers one token's keys are, over all layers; its values are as many."""
    heads = config.get("num_attention_heads", 1)
    kv_heads = config.get("num_key_value_heads") or heads
    width = config.get("head_dim") or config.get("hidden_size", 0) // heads
    return int(config.get("num_hidden_layers", 0) * kv_heads * width)


def kv_bytes(model: Llm) -> int:
    """Return the bytes of one token in vLLM's KV cache (its `FullAttentionSpec`)."""
    short = model.kv_dtype.startswith(("fp8", "int8"))
    return 2 * kv_numbers(text_config(model.config)) * (1 if short else 2)


def vllm_bytes(table: Table, quantization: str, config: Mapping[str, Any]) -> int:
    """Return the bytes of weights in vLLM; embeddings and norms are not quantised."""
    online = quantization.startswith(("fp8", "mxfp8"))
    total = 0
    for name, tensor in table.items():
        if name == "lm_head.weight" and _tied(config):
            continue
        linear = len(tensor.shape) == 2 and "embed" not in name and "lm_head" not in name
        total += tensor.count if online and linear else tensor.size
    return total


def ctranslate_bytes(table: Table, small: bool, number: int) -> int:
    """Return the bytes of weights in CTranslate2: matrices in 8 bits with a scale a row if `small`,
    everything else as `number` bytes each."""
    total = 0
    for name, tensor in table.items():
        if name.endswith("_scale"):
            continue
        matrix = len(tensor.shape) > 1 and name.endswith("weight")
        total += tensor.count + 4 * tensor.shape[0] if small and matrix else tensor.count * number
    return total


def _tied(config: Mapping[str, Any]) -> bool:
    return bool(config.get("tie_word_embeddings", False))


def _layers(table: Table, prefix: str) -> int:
    return len(
        {name.removeprefix(prefix).split("/")[0] for name in table if name.startswith(prefix)}
    )


def _dim(table: Table, name: str, axis: int) -> int:
    return table[name].shape[axis] if name in table else 0


def _millions(table: Table) -> str:
    return f"{sum(t.count for name, t in table.items() if not name.endswith('_scale')) / 1e6:.0f}"


def rows(made: Plan) -> Sequence[tuple[str, str, str, str]]:
    """Return the plan as a table: who, what, size, why; sums last."""
    shown = [(need.who, need.what, gb(need.size), need.why) for need in made.needs]
    if made.kv or made.kv_least:
        why = f"{made.kv_tokens:,} tokens; the calls need {gb(made.kv_least)}"
        shown.append(("llm", "KV cache", gb(made.kv), why))
    used = sum(need.size for need in made.needs) + made.kv
    shown.append(("all", "planned", gb(used), f"of {gb(usable(made.device))} that may be used"))
    return shown
