"""Turns a model as Hugging Face lays it out into one that CTranslate2 runs.

CTranslate2's own converter asks for torch and transformers, 2 GB to read one
file. The file format is simple (safetensors: a JSON header, then numbers), and so
is the mapping, which follows `LlamaLoader` in CTranslate2's
`converters/transformers.py`.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.engine import EngineError

ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM")
"""What can be converted; the second is the first with biases in its attention."""

_FORMAT = 1
"""Raised when the conversion changes, so that older results are not used any more."""

_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def converted(path: Path, cache: Path | None = None, quantization: str = "int8") -> Path:
    """Return a directory with the CTranslate2 form of the model in `path`.

    A model that is in that form already is left where it is. Others are converted
    once and kept under `cache` (by default $SIDETONE_CACHE, or else `sidetone` in the
    user's cache directory), named by their content.

    Raises:
        EngineError: If there is no model, it is damaged or of an unknown kind.
    """
    if (path / "model.bin").is_file():
        return path
    if not (path / "config.json").is_file():
        raise EngineError(
            f"no model in {path}: expected config.json and model.safetensors (Hugging Face), "
            "or model.bin (CTranslate2)"
        )
    target = (cache or _cache()) / "ctranslate2" / _content(path, quantization)
    if not target.is_dir():
        try:
            _make(path, target, quantization)
        except OSError as error:
            if not target.is_dir():  # or else another process was faster
                raise EngineError(
                    f"cannot convert {path} into {target.parent}: {error}; "
                    "set SIDETONE_CACHE to a directory with room that may be written"
                ) from error
    return target


def _make(path: Path, target: Path, quantization: str) -> None:
    """Convert beside `target` and rename, so that it is never there in part."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    try:
        convert(path, made, quantization)
        made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def convert(source: Path, target: Path, quantization: str = "int8") -> None:
    """Write the CTranslate2 form of the model in `source` into the directory `target`.

    All weights pass through memory as float32: 4 bytes for each parameter.

    Raises:
        EngineError: If the model is damaged or of an unknown kind.
    """
    from ctranslate2.specs import attention_spec, common_spec, transformer_spec

    config = read_json(source / "config.json")
    kind = (config.get("architectures") or ["nothing"])[0]
    if kind not in ARCHITECTURES or config.get("hidden_act", "silu") != "silu":
        raise EngineError(
            f"the model in {source} is a {kind} with activation {config.get('hidden_act')}; "
            f"expected {' or '.join(ARCHITECTURES)} with silu. Convert it with "
            "`ct2-transformers-converter --copy_files tokenizer.json tokenizer_config.json` "
            "and give the result's directory"
        )
    # transformers 5 keeps both in rope_parameters, older ones in two places.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
    scaling = rope.get("rope_type", rope.get("type", "default"))
    scalings = {
        "default": None,
        "linear": attention_spec.RotaryScalingType.Linear,
    }
    if scaling not in scalings:  # of "llama3", CTranslate2 4.8.5 computes nothing
        raise EngineError(
            f"the model in {source} scales its positions by {scaling!r}; "
            f"expected one of {', '.join(scalings)}"
        )
    heads = config["num_attention_heads"]
    heads_kv = config.get("num_key_value_heads", heads)
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        config["num_hidden_layers"],
        heads,
        activation=common_spec.Activation.SWISH,
        pre_norm=True,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=0,
        rotary_interleave=False,
        rotary_scaling_type=scalings[scaling],
        rotary_scaling_factor=rope.get("factor", 1),
        rotary_base=theta,
        num_heads_kv=None if heads_kv == heads else heads_kv,
        head_dim=config.get("head_dim"),
    )
    try:
        _fill(spec, Weights(source))
        tokens = vocabulary(source, config["vocab_size"])
        spec.register_vocabulary(tokens)
        ends = config.get("eos_token_id")
        end = ends[0] if isinstance(ends, list) else ends
        begin = config.get("bos_token_id")
        spec.config.bos_token = tokens[end or 0] if begin is None else tokens[begin]
        spec.config.eos_token = tokens[end or 0]
        spec.config.unk_token = ""
        spec.config.layer_norm_epsilon = config["rms_norm_eps"]
        spec.validate()
        spec.optimize(quantization=quantization)
    except (KeyError, IndexError, ValueError) as error:
        raise EngineError(
            f"the model in {source} does not fit its config.json: {error}; copy it again"
        ) from error
    spec.save(str(target))


def _fill(spec: Any, weights: "Weights") -> None:
    """Put every weight where CTranslate2 wants it."""
    from ctranslate2.converters.utils import fuse_linear
    from ctranslate2.specs import common_spec

    def linear(target: Any, name: str) -> None:
        target.weight = weights[f"{name}.weight"]
        if f"{name}.bias" in weights:
            target.bias = weights[f"{name}.bias"]

    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = weights["model.embed_tokens.weight"]
    tied = "lm_head.weight" not in weights
    decoder.projection.weight = weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
    decoder.layer_norm.gamma = weights["model.norm.weight"]
    for number, layer in enumerate(decoder.layer):
        name = f"model.layers.{number}"
        attention, ffn = layer.self_attention, layer.ffn
        attention.layer_norm.gamma = weights[f"{name}.input_layernorm.weight"]
        ffn.layer_norm.gamma = weights[f"{name}.post_attention_layernorm.weight"]
        parts = [common_spec.LinearSpec() for _ in range(3)]
        for part, letter in zip(parts, "qkv", strict=True):
            linear(part, f"{name}.self_attn.{letter}_proj")
        fuse_linear(attention.linear[0], parts)
        linear(attention.linear[1], f"{name}.self_attn.o_proj")
        linear(ffn.linear_0, f"{name}.mlp.gate_proj")
        linear(ffn.linear_0_noact, f"{name}.mlp.up_proj")
        linear(ffn.linear_1, f"{name}.mlp.down_proj")


class Weights:
    """Read the weights of a model by name, as float32.

    Raises:
        EngineError: If a file is missing or damaged.
    """

    def __init__(self, source: Path) -> None:
        self._tensors: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        for file in weight_files(source):
            size = file.stat().st_size
            with file.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = stream.read(length) if length < size else b""
            try:
                entries = {**json.loads(header)}
                entries.pop("__metadata__", None)
                ends = (entry["data_offsets"][1] for entry in entries.values())
                needed = 8 + length + max(ends, default=0)
            except (ValueError, TypeError, LookupError) as error:  # no JSON, or of another form
                raise EngineError(f"{file} is no safetensors file; copy it again") from error
            if needed != size:
                raise EngineError(
                    f"{file} has {size} bytes, expected {needed}: it is damaged; copy it again"
                )
            self._tensors |= {name: (file, 8 + length, entry) for name, entry in entries.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        file, data, entry = self._tensors[name]
        if entry["dtype"] not in _DTYPES:
            raise EngineError(
                f"{name} in {file} is of type {entry['dtype']}, expected {', '.join(_DTYPES)}"
            )
        start, end = entry["data_offsets"]
        with file.open("rb") as stream:
            stream.seek(data + start)
            raw = np.frombuffer(stream.read(end - start), _DTYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32).reshape(entry["shape"])


def weight_files(source: Path) -> list[Path]:
    """Return the safetensors files of the model in `source`; one, or all its shards.

    Raises:
        EngineError: If one is missing.
    """
    index = source / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        names = set(read_json(index)["weight_map"].values())
    files = [source / name for name in sorted(names)]
    for file in files:
        if not file.is_file():
            raise EngineError(f"the model in {source} lacks {file.name}; copy it there")
    return files


def vocabulary(source: Path, size: int) -> Sequence[str]:
    """Return the token of every id below `size`."""
    tokenizer = read_json(source / "tokenizer.json")
    tokens = [f"<extra_id_{number}>" for number in range(size)]
    named = dict(tokenizer["model"]["vocab"])
    named |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    for token, number in named.items():
        if number < size:
            tokens[number] = token
    return tokens


def read_json(file: Path) -> Any:
    """Return what `file` holds.

    Raises:
        EngineError: If it is missing or damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EngineError(f"{file} is missing; copy it there") from error
    except ValueError as error:
        raise EngineError(f"{file} is damaged: {error}; copy it again") from error


def _cache() -> Path:
    if chosen := os.environ.get("SIDETONE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sidetone"


def _content(path: Path, quantization: str) -> str:
    """Name what a conversion is made from."""
    from ctranslate2 import __version__

    digest = hashlib.sha256(f"{_FORMAT} {__version__} {quantization}".encode())
    for file in [path / "config.json", path / "tokenizer.json", *weight_files(path)]:
        if not file.is_file():
            raise EngineError(f"{file} is missing; copy it there")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]
