"""What goes with a random language model: drafts for speculation, LoRA adapters, quantized copies.

All are random, too: drafts are hardly ever right, adapters change the answer to another nonsense.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .llama import Draw, once, write_shards

FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")

RANK = 8
GROUP = 64
"""Weights that share a scale in AWQ and GPTQ."""

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

W8A8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}
QUANTIZED: Mapping[str, Mapping[str, Any]] = {
    "int8": W8A8,
    "awq": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": GROUP,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": ["lm_head"],
    },
    "gptq": {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": GROUP,
        "sym": True,
        "desc_act": False,
    },
}
"""The quantization_config of each kind of quantized checkpoint."""


def make_draft(folder: Path, target: Path) -> Path:
    """Make a draft model for `target` in `folder`: the same with only its first layer."""

    def fill(into: Path) -> None:
        config = json.loads((target / "config.json").read_text()) | {"num_hidden_layers": 1}
        kept = [weights for weights in _shards(target) if "model.layers." not in min(weights)]
        kept += [weights for weights in _shards(target) if "model.layers.0." in min(weights)]
        _write(into, target, config, iter(kept))

    return once(folder, fill)


def make_eagle3(folder: Path, target: Path) -> Path:
    """Make an EAGLE-3 head for `target` in `folder`."""

    def fill(into: Path) -> None:
        config = json.loads((target / "config.json").read_text())
        layers = config["num_hidden_layers"]
        read = [1, layers // 2, layers - 2]  # the layers of the target whose output it takes
        config |= {"eagle_config": {"eagle_aux_hidden_state_layer_ids": read}}
        config |= {"architectures": ["LlamaForCausalLMEagle3"], "num_hidden_layers": 1}
        config |= {"draft_vocab_size": config["vocab_size"], "tie_word_embeddings": False}
        draw, hidden, inner = Draw(2), config["hidden_size"], config["intermediate_size"]
        queries = config["num_attention_heads"] * config["head_dim"]
        keys = config["num_key_value_heads"] * config["head_dim"]
        weights = {
            "fc.weight": draw.linear(hidden, 3 * hidden),
            "norm.weight": draw.ones(hidden),
            "lm_head.weight": draw.linear(config["vocab_size"], hidden),
            "midlayer.input_layernorm.weight": draw.ones(hidden),
            "midlayer.hidden_norm.weight": draw.ones(hidden),
            "midlayer.post_attention_layernorm.weight": draw.ones(hidden),
            "midlayer.self_attn.q_proj.weight": draw.linear(queries, 2 * hidden),
            "midlayer.self_attn.k_proj.weight": draw.linear(keys, 2 * hidden),
            "midlayer.self_attn.v_proj.weight": draw.linear(keys, 2 * hidden),
            "midlayer.self_attn.o_proj.weight": draw.linear(hidden, queries),
            "midlayer.mlp.gate_proj.weight": draw.linear(inner, hidden),
            "midlayer.mlp.up_proj.weight": draw.linear(inner, hidden),
            "midlayer.mlp.down_proj.weight": draw.linear(hidden, inner),
        }
        _write(into, target, config, iter([weights]))

    return once(folder, fill)


def make_lora(folder: Path, target: Path, seed: int = 3) -> Path:
    """Make a LoRA adapter for the attention of `target` in `folder`."""

    def fill(into: Path) -> None:
        from safetensors.torch import save_file

        draw, weights = Draw(seed), {}
        for shard in _shards(target):
            for full, weight in shard.items():
                module = full.removesuffix(".weight")
                if module.endswith(ATTENTION):
                    out, size = weight.shape
                    lora = f"base_model.model.{module}.lora"
                    weights[f"{lora}_A.weight"] = draw.linear(RANK, size)
                    weights[f"{lora}_B.weight"] = draw.linear(out, RANK)
        save_file(weights, into / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": target.name,
            "r": RANK,
            "lora_alpha": RANK,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(ATTENTION),
        }
        (into / "adapter_config.json").write_text(json.dumps(config))

    return once(folder, fill)


def make_quantized(folder: Path, target: Path, kind: str) -> Path:
    """Make a model shaped as `target` in `folder`, stored as "int8", "awq" or "gptq".

    Its numbers are drawn, not rounded from those of `target`: only the format is the real one.
    """

    def fill(into: Path) -> None:
        config = json.loads((target / "config.json").read_text())
        config |= {"quantization_config": QUANTIZED[kind], "torch_dtype": "float16"}
        _write(into, target, config, _quantized(target, kind))

    return once(folder, fill)


def _quantized(target: Path, kind: str) -> Iterator[dict[str, Any]]:
    import torch

    generator = torch.Generator().manual_seed(4)

    def integers(kind: Any, *shape: int) -> Any:
        limits = torch.iinfo(kind)
        return torch.randint(limits.min, limits.max, shape, dtype=kind, generator=generator)

    for shard in _shards(target):
        made = {}
        for name, weight in shard.items():
            if weight.dim() == 1 or "model.layers." not in name:
                made[name] = weight.half()
                continue
            out, into = weight.shape
            module = name.removesuffix("weight")
            if kind == "int8":
                made[f"{module}weight"] = integers(torch.int8, out, into)
                made[f"{module}weight_scale"] = torch.full((out, 1), into**-0.5 / 74)
                continue
            packed = (into, out // 8) if kind == "awq" else (into // 8, out)
            made[f"{module}qweight"] = integers(torch.int32, *packed)
            made[f"{module}qzeros"] = torch.full((into // GROUP, out // 8), 0x77777777).int()
            scales = torch.full((into // GROUP, out), into**-0.5 / 4.6)
            made[f"{module}scales"] = scales.half()
            if kind == "gptq":
                made[f"{module}g_idx"] = torch.arange(into, dtype=torch.int32) // GROUP
        yield made


def _shards(target: Path) -> Iterator[dict[str, Any]]:
    """Yield the weights of a model, file by file."""
    from safetensors.torch import load_file

    for file in sorted(target.glob("*.safetensors")):
        yield load_file(file)


def _write(
    into: Path, target: Path, config: Mapping[str, Any], weights: Iterator[Mapping[str, Any]]
) -> None:
    """Write a model that has the tokenizer of `target`."""
    for name in FILES:
        shutil.copy(target / name, into / name)
    (into / "config.json").write_text(json.dumps(config, indent=1))
    write_shards(into, weights)
