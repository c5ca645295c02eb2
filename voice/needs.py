"""What each engine needs of a memory: sums over its weights and options, each with its source.

Pure. Tables of weights (`voice.weights`) and the models' own config.json go in, parts of the memory
come out. docs/models.md compares the sums with what was measured.
"""

import math
from collections.abc import Mapping
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

TOKENS = 2048
"""Tokens of one call that are kept: instructions and tools (665 for the front desk) and half an
hour's conversation. A call may grow to the context; that all do at once is not planned for."""

PREFIXES = 4
"""Beginnings of prompts that are planned for in `llm.ctranslate`, each of 665 tokens: an agent has
one. It keeps 32 at most, where callers bring instructions of their own."""


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
        parts: Cards that share it; what is reckoned is the share of one.
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
    parts: int = 1
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
    """What is to run on one device, for how many calls: no batch is larger than that."""

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


def needs(load: Load, device: Device) -> list[Need]:
    """Return every part of the memory that `load` needs, but vLLM's KV cache."""
    found: list[Need] = []
    if ears := load.asr:
        found += _whisper(replace(ears, batch=min(ears.batch, load.calls)), device.cuda)
    if load.llm:
        found += _llm(load.llm, device.cuda)
    if mouth := load.tts:
        few = replace(mouth, batch=min(mouth.batch, load.calls))
        found += _voice(few, device.cuda, beside=ears is not None)
    if not device.cuda:
        found.append(Need("media", "process", 150 * MIB + load.calls * MIB // 3, _MEDIA))
    return [need for need in found if need.size]


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
        _process("asr", cuda, WHISPER_RSS),
        Need("asr", "weights", weights, f"{_millions(model.table)} M, {compute}"),
        Need("asr", "encoder", encoder, why),
        Need(
            "asr",
            "decoder",
            cross + own + logits,
            f"keys and values of {layers} layers, {model.batch} × beam {model.beam}",
        ),
    ]


def _llm(model: Llm, cuda: bool) -> list[Need]:
    """Sum up a language model, but for vLLM's KV cache."""
    config = text_config(model.config)
    if model.server == "ctranslate":
        return _ctranslate(model, config, cuda)
    weights = vllm_bytes(model.table, model.quantization, config) // model.parts
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


def _ctranslate(model: Llm, config: Mapping[str, Any], cuda: bool) -> list[Need]:
    """Sum up a language model on CTranslate2, which writes one answer at a time.

    It keeps 2.5 times the keys and values of a prompt: its arrays grow in steps.
    """
    number = 2 if cuda else 4
    table = {name: t for name, t in model.table.items() if not _twice(name, config)}
    token = 2 * kv_numbers(config) * number
    prompt = min(model.context, TOKENS)
    heads, hidden = config.get("num_attention_heads", 1), config.get("hidden_size", 0)
    wide = config.get("intermediate_size", 0)
    reading = prompt * number * (heads * prompt + 4 * hidden + 3 * wide)
    return [
        _process("llm", cuda, CTRANSLATE_RSS),
        Need(
            "llm", "weights", ctranslate_bytes(table, True, number), f"{_millions(table)} M, int8"
        ),
        Need(
            "llm",
            "prompts kept",
            int(PREFIXES * 665 * 2.5 * token),
            f"{PREFIXES} beginnings × 665 tokens × 2.5 × {token} B",
        ),
        Need(
            "llm",
            "one answer",
            reading + int(2.5 * prompt * token),
            f"{prompt} tokens × {number} B × ({heads}·{prompt} + 4·{hidden} + 3·{wide}), "
            f"and 2.5 × {token} B",
        ),
    ]


TRAINING = ("disc.", "posterior_encoder.")
"""Weights of a VITS that speaking needs not, more than half: `tts.coqui` drops them."""


def _voice(model: Voice, cuda: bool, beside: bool) -> list[Need]:
    """Sum up a VITS or XTTS. Both end in a HiFi-GAN whose stages all hold 8192 numbers a frame of
    1/86 s (256 channels × 8, 128 × 64, …), about eight arrays of them at once. On a CPU, what was
    read from the file stays resident beside the model. `beside` Whisper it shares its process."""
    number = 2 if cuda and model.half else 4
    table = {name: t for name, t in model.table.items() if not name.startswith(TRAINING)}
    weights = sum(tensor.count for tensor in table.values()) * 4
    whole = 0 if cuda else sum(tensor.size for tensor in model.table.values())
    arguments = model.config.get("model_args") or {}
    frames = math.ceil(model.longest * 94) + 30  # and what the chunk sees around it
    stage = 16 * int(arguments.get("upsample_initial_channel_decoder", 512))
    decoder = model.batch * frames * stage * 8 * number
    needs = [
        Need("tts", "process", LIBRARIES, "cuBLAS; CUDA's context is that of asr")
        if cuda and beside
        else _process("tts", cuda, COQUI_RSS),
        Need("tts", "weights", weights, f"{_millions(table)} M, float32"),
        Need("tts", "loading", whole, "the file"),
        Need("tts", "encoder", 150 * MIB, "measured, with the libraries' workspaces"),
        Need(
            "tts", "decoder", decoder, f"{model.batch} × {frames} frames × {stage} × 8 × {number} B"
        ),
    ]
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


WHISPER_RSS = 110 * MIB
CTRANSLATE_RSS = 64 * MIB
COQUI_RSS = 415 * MIB
VLLM_RSS = 1150 * MIB
"""Main memory of an engine's processes before it has a model: interpreters and libraries.
Measured, see docs/models.md; vLLM's is of its three processes, what they share counted once."""


def _process(who: str, cuda: bool, main: int) -> Need:
    if cuda:
        return Need(who, "process", CONTEXT + LIBRARIES, "CUDA context, cuBLAS")
    return Need(who, "process", main, "interpreter and libraries")


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
    numbers = 2 * kv_numbers(text_config(model.config))
    return numbers * (1 if short else 2) // model.parts


def vllm_bytes(table: Table, quantization: str, config: Mapping[str, Any]) -> int:
    """Return the bytes of weights in vLLM; embeddings and norms are not quantised."""
    online = quantization.startswith(("fp8", "mxfp8"))
    total = 0
    for name, tensor in table.items():
        if _twice(name, config):
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


def _twice(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a weight is the embeddings once more."""
    return name == "lm_head.weight" and bool(config.get("tie_word_embeddings", False))


def _layers(table: Table, prefix: str) -> int:
    return len(
        {name.removeprefix(prefix).split("/")[0] for name in table if name.startswith(prefix)}
    )


def _dim(table: Table, name: str, axis: int) -> int:
    return table[name].shape[axis] if name in table else 0


def _millions(table: Table) -> str:
    return f"{sum(t.count for name, t in table.items() if not name.endswith('_scale')) / 1e6:.0f}"
