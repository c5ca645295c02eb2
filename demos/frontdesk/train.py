"""Train the front desk's language model: a small Llama, from nothing, on one processor core.

    python -m demos.frontdesk.train --minutes 25

Everything it learns from is made by this folder. The result is a directory in Hugging Face's
layout that transformers, vLLM and CTranslate2 load.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional

from . import examples

HERE = Path(__file__).parent
PAD, END = "<|pad|>", "<|end|>"
CONTROL = (PAD, END, "<|moment|>", "<|caller|>", "<|desk|>")
TAGS = ("<tool_call>", "</tool_call>")
"""Tokens of their own, but part of the text, or parsers of tool calls would not see them."""
FRAME = ('\n{"name": "', '", "arguments": {"', '", "arguments": {}}\n', '": "', '", "', '"}}\n')
"""What stands between the words of a tool call, one token each: calls are written faster."""

SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 640,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
VOCABULARY = 1536
BATCH = 64
"""Examples a step; about 25 tokens each."""
POOL = 32
"""Batches drawn at once and sorted by length, so that little is padded."""
RATE = 2.5e-3
"""Peak learning rate."""


class Norm(nn.Module):
    """Root mean square norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SHAPE["hidden_size"]))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the last axis to unit root mean square."""
        return functional.rms_norm(x, x.shape[-1:], self.weight, SHAPE["rms_norm_eps"])


class Attention(nn.Module):
    """Causal attention with rotary positions, as in Llama."""

    def __init__(self) -> None:
        super().__init__()
        hidden, dim = SHAPE["hidden_size"], SHAPE["head_dim"]
        heads, shared = SHAPE["num_attention_heads"], SHAPE["num_key_value_heads"]
        self.q_proj = nn.Linear(hidden, heads * dim, bias=False)
        self.k_proj = nn.Linear(hidden, shared * dim, bias=False)
        self.v_proj = nn.Linear(hidden, shared * dim, bias=False)
        self.o_proj = nn.Linear(heads * dim, hidden, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Attend over x of shape (batch, length, hidden)."""
        batch, length, _ = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(batch, length, -1, SHAPE["head_dim"]).transpose(1, 2)

        q, k = (rotate(split(project(x)), turn) for project in (self.q_proj, self.k_proj))
        y = functional.scaled_dot_product_attention(
            q, k, split(self.v_proj(x)), is_causal=True, enable_gqa=True
        )
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Gated feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        hidden, inner = SHAPE["hidden_size"], SHAPE["intermediate_size"]
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map each position by itself."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(), Mlp()
        self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Add what attention and the feed-forward part find."""
        x = x + self.self_attn(self.input_layernorm(x), turn)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class Llama(nn.Module):
    """The model; its parameters are named as Hugging Face names them, after "model."."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, SHAPE["hidden_size"])
        self.layers = nn.ModuleList(Layer() for _ in range(SHAPE["num_hidden_layers"]))
        self.norm = Norm()
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * len(self.layers)) ** deep))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the hidden state after each token, (batch, length, hidden)."""
        turn = rotation(tokens.shape[1])
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, turn)
        return self.norm(x)  # type: ignore[no-any-return]


def rotation(length: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of every position's angles, each (length, head_dim)."""
    dim = SHAPE["head_dim"]
    speed = SHAPE["rope_theta"] ** (-torch.arange(0, dim, 2) / dim)
    angle = torch.outer(torch.arange(length), speed).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn queries or keys by their positions; halves are pairs, as Hugging Face has it."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = turn
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def make_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Learn a byte-level BPE in which every digit stands alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d| ?[^\W\d]+(?:'[^\W\d]+)?|\s|[^\w\s]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = [AddedToken(token, special=True, normalized=False) for token in CONTROL]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(TAGS + FRAME),
        special_tokens=added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS + FRAME])
    return tokenizer


def batches(tokenizer: Tokenizer, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets, (BATCH, length); targets that are not to be learnt are -100."""
    source, rng = examples.stream(seed), random.Random(seed)
    while True:
        pool = []
        for example in (next(source) for _ in range(BATCH * POOL)):
            asked = tokenizer.encode(examples.prompt(example.moment, example.text)).ids
            told = tokenizer.encode(example.answer + END).ids
            pool.append((asked, told))
        pool.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        groups = [pool[at : at + BATCH] for at in range(0, len(pool), BATCH)]
        rng.shuffle(groups)
        for group in groups:
            length = max(len(asked) + len(told) for asked, told in group)
            tokens = np.zeros((BATCH, length), np.int64)
            targets = np.full((BATCH, length), -100, np.int64)
            for row, (asked, told) in enumerate(group):
                whole = asked + told
                tokens[row, : len(whole)] = whole
                targets[row, len(asked) - 1 : len(whole) - 1] = told
            yield torch.from_numpy(tokens), torch.from_numpy(targets)


def train(minutes: float, seed: int, steps: int) -> tuple[Llama, Tokenizer, dict[str, Any]]:
    """Train for `minutes`, or `steps` if that is over sooner; prints the loss now and then."""
    torch.manual_seed(seed)
    source = examples.stream(seed + 1)
    sample = [next(source) for _ in range(20000)]
    tokenizer = make_tokenizer([f"{one.text}\n{one.answer}" for one in sample])
    model = Llama(tokenizer.get_vocab_size())
    print(f"{sum(weight.numel() for weight in model.parameters()):,} parameters", flush=True)
    decay = [weight for weight in model.parameters() if weight.dim() > 1]
    plain = [weight for weight in model.parameters() if weight.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=RATE,
        betas=(0.9, 0.97),
        fused=True,
    )
    began, seen, losses, mean = time.monotonic(), 0, list[float](), 0.0
    for step, (tokens, targets) in enumerate(batches(tokenizer, seed)):
        done = max((time.monotonic() - began) / (60 * minutes), step / steps)
        if done >= 1:
            break
        warm = min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = RATE * warm * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
        with torch.autocast("cpu", torch.bfloat16):
            wanted = targets != -100
            hidden = model(tokens)[wanted]
            loss = functional.cross_entropy(
                (hidden @ model.embed_tokens.weight.T).float(), targets[wanted]
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += tokens.numel()
        losses.append(loss.item())
        if step % 100 == 0:
            spent = time.monotonic() - began
            mean = sum(losses[-100:]) / len(losses[-100:])
            print(f"{spent:6.0f} s  step {step:5}  {seen:9,} tokens  loss {mean:.4f}", flush=True)
    spent = round(time.monotonic() - began)
    # Batches come from pools, and all of a pool was drawn when its first batch was.
    drawn = math.ceil(len(losses) / POOL) * POOL * BATCH
    report = {"seed": seed, "examples": drawn, "tokens": seen, "seconds": spent, "loss": mean}
    return model, tokenizer, report


def save(model: Llama, tokenizer: Tokenizer, report: dict[str, Any], folder: Path) -> None:
    """Write the model in Hugging Face's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        f"model.{name}": weight.detach().to(torch.bfloat16).contiguous()
        for name, weight in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    end, pad = tokenizer.token_to_id(END), tokenizer.token_to_id(PAD)
    ends = {"bos_token_id": None, "eos_token_id": end, "pad_token_id": pad}
    config = (
        SHAPE
        | ends
        | {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "vocab_size": tokenizer.get_vocab_size(),
            "torch_dtype": "bfloat16",
        }
    )
    write_json(folder / "config.json", config)
    write_json(folder / "training.json", report)
    write_json(folder / "generation_config.json", ends | {"do_sample": False, "max_new_tokens": 96})
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": SHAPE["max_position_embeddings"],
        "eos_token": END,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "chat_template": (HERE / "chat_template.jinja").read_text(),
    }
    write_json(folder / "tokenizer_config.json", settings)


def write_json(file: Path, value: Any) -> None:
    """Write `value` for people to read."""
    file.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=25, help="how long to train")
    parser.add_argument("--steps", type=int, default=1_000_000, help="or how many steps")
    parser.add_argument("--threads", type=int, default=1, help="processor cores to use")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "model")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    save(*train(given.minutes, given.seed, given.steps), given.output)
