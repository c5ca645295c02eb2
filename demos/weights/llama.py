"""Language models with random weights, of real shapes, for the real loading code.

    python -m demos.weights llama 8b build/llama-8b

Such a model says nonsense at the speed of one that does not. Its tokenizer is a real byte-level
BPE, learnt from this project's documents; what the vocabulary has beyond that are made-up words,
which are never read but may be written. Its chat template speaks of tools as Hermes does.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

END, PAD = "<|im_end|>", "<|pad|>"
SPECIAL = (PAD, "<|im_start|>", END)
TAGS = ("<tool_call>", "</tool_call>")

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Llama 3 cuts text before it looks for tokens."""

LEARNT = 8192
"""Tokens learnt at most; the documents have no more."""

TEMPLATE = """\
{%- set talk = messages -%}
{%- set orders = "" -%}
{%- if messages and messages[0].role == "system" -%}
{%- set orders = messages[0].content -%}
{%- set talk = messages[1:] -%}
{%- endif -%}
{%- if orders or tools -%}
{{ "<|im_start|>system\\n" + orders }}
{%- if tools -%}
{{ "\\n\\n# Tools\\n\\nFunction signatures within <tools></tools>:\\n<tools>" }}
{%- for tool in tools -%}{{ "\\n" + tool | tojson }}{%- endfor -%}
{{ "\\n</tools>\\n\\nTo call one, write its name and arguments" }}
{{ " as JSON within <tool_call></tool_call>." }}
{%- endif -%}
{{ "<|im_end|>\\n" }}
{%- endif -%}
{%- for message in talk -%}
{%- if message.role == "tool" -%}
{{ "<|im_start|>user\\n<tool_response>\\n" + message.content + "\\n</tool_response><|im_end|>\\n" }}
{%- else -%}
{{ "<|im_start|>" + message.role + "\\n" + (message.content or "") }}
{%- for call in message.tool_calls or [] -%}
{%- set made = {"name": call.function.name, "arguments": call.function.arguments} -%}
{{ "\\n<tool_call>\\n" + made | tojson }}
{{ "\\n</tool_call>" }}
{%- endfor -%}
{{ "<|im_end|>\\n" }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "<|im_start|>assistant\\n" }}{%- endif -%}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The dimensions of a Llama."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    positions: int = 8192
    tied: bool = False

    def config(self) -> dict[str, Any]:
        """Return its config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden // self.heads,
            "intermediate_size": self.inner,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": None,
            "eos_token_id": SPECIAL.index(END),
            "pad_token_id": SPECIAL.index(PAD),
            "torch_dtype": "bfloat16",
        }


SIZES: Mapping[str, Shape] = {
    "tiny": Shape(
        hidden=256, layers=6, heads=4, kv_heads=2, inner=704, vocabulary=4096, positions=4096
    ),
    "small": Shape(
        hidden=512, layers=8, heads=8, kv_heads=4, inner=1536, vocabulary=4096, positions=4096
    ),
    "1b": Shape(
        hidden=2048, layers=16, heads=32, kv_heads=8, inner=8192, vocabulary=128_256, tied=True
    ),
    "8b": Shape(hidden=4096, layers=32, heads=32, kv_heads=8, inner=14_336, vocabulary=128_256),
}
"""The last two are the shapes of Llama 3.2 1B and Llama 3.1 8B; the others are for tests."""


def make(folder: Path, size: str) -> Path:
    """Make a model in `folder`, unless a complete one is there, and return the folder.

    Weights are bfloat16: 13 MB, 60 MB, 2.5 GB or 16 GB.

    Raises:
        ValueError: If there is no such size.
    """
    if size not in SIZES:
        raise ValueError(f"llama has no size {size!r}; expected one of {', '.join(SIZES)}")
    shape = SIZES[size]

    def fill(into: Path) -> None:
        config = shape.config()
        (into / "config.json").write_text(json.dumps(config, indent=1))
        ends = {"eos_token_id": config["eos_token_id"], "do_sample": False}
        (into / "generation_config.json").write_text(json.dumps(ends))
        write_tokenizer(into, shape.vocabulary)
        write_shards(into, shards(config))

    return once(folder, fill)


def once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Return `folder`, filled beside its place and renamed, so that it is whole if it is there."""
    if not folder.is_dir() or not any(folder.iterdir()):
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
        try:
            fill(made)
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return folder


def write_tokenizer(into: Path, size: int) -> None:
    """Write a tokenizer of `size` tokens with its chat template; it needs no torch."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    root = Path(__file__).parents[2]
    documents = [path.read_text("utf-8") for path in sorted(root.glob("docs/*.md"))]
    trainer = trainers.BpeTrainer(
        vocab_size=min(LEARNT, size - len(TAGS)),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    file = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = file["model"]["vocab"]
    words = (f"Ġ{word}" for word in made_up_words())
    while len(vocabulary) < size - len(TAGS):
        vocabulary.setdefault(next(words), len(vocabulary))
    tokenizer = Tokenizer.from_str(json.dumps(file))
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    tokenizer.save(str(into / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    (into / "tokenizer_config.json").write_text(json.dumps(settings))


def made_up_words() -> Iterator[str]:
    """Yield words of two syllables, then three: "bababa"."""
    syllables = ["".join(pair) for pair in product("bdfgklmnprstvz", "aeiou")]
    for length in (2, 3):
        for word in product(syllables, repeat=length):
            yield "".join(word)


def shards(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the random weights of a model: what is outside its layers, then layer by layer.

    They are drawn such that the numbers inside stay of order one, as in a trained model.
    """
    hidden, inner, tokens = (
        config[key] for key in ("hidden_size", "intermediate_size", "vocab_size")
    )
    size = config["head_dim"]
    queries, keys = (config[f"num_{kind}_heads"] * size for kind in ("attention", "key_value"))
    draw = Draw(1)
    outside = {"model.embed_tokens.weight": draw.normal(tokens, hidden, 1.0)}
    outside["model.norm.weight"] = draw.ones(hidden)
    if not config["tie_word_embeddings"]:
        outside["lm_head.weight"] = draw.linear(tokens, hidden) * 2
    for number in (*range(len(SPECIAL)), *range(tokens - len(TAGS), tokens)):
        outside[min(outside)][number] = 0  # is never the likeliest: answers end when told to
    yield outside
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        yield {
            f"{layer}.input_layernorm.weight": draw.ones(hidden),
            f"{layer}.post_attention_layernorm.weight": draw.ones(hidden),
            f"{layer}.self_attn.q_proj.weight": draw.linear(queries, hidden),
            f"{layer}.self_attn.k_proj.weight": draw.linear(keys, hidden),
            f"{layer}.self_attn.v_proj.weight": draw.linear(keys, hidden),
            f"{layer}.self_attn.o_proj.weight": draw.linear(hidden, queries),
            f"{layer}.mlp.gate_proj.weight": draw.linear(inner, hidden),
            f"{layer}.mlp.up_proj.weight": draw.linear(inner, hidden),
            f"{layer}.mlp.down_proj.weight": draw.linear(hidden, inner),
        }


class Draw:
    """Random bfloat16 weights, drawn on the GPU if there is one: an 8b model takes seconds."""

    def __init__(self, seed: int) -> None:
        import torch

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._generator = torch.Generator(self._device).manual_seed(seed)

    def normal(self, rows: int, columns: int, deviation: float) -> Any:
        """Return a matrix of normally distributed numbers."""
        empty = self._torch.empty(rows, columns, device=self._device, dtype=self._torch.bfloat16)
        return empty.normal_(0, deviation, generator=self._generator).cpu()

    def linear(self, out: int, into: int) -> Any:
        """Return a matrix that keeps the size of what it is multiplied with."""
        return self.normal(out, into, into**-0.5)

    def ones(self, size: int) -> Any:
        """Return a vector of ones."""
        return self._torch.ones(size, dtype=self._torch.bfloat16)


def write_shards(into: Path, parts: Iterator[Mapping[str, Any]]) -> None:
    """Write each part of the weights as a shard, and the index of all."""
    from safetensors.torch import save_file

    places: dict[str, str] = {}
    total = 0
    for number, part in enumerate(parts):
        name = f"model-{number:05}.safetensors"
        save_file(dict(part), into / name, metadata={"format": "pt"})
        places |= dict.fromkeys(part, name)
        total += sum(weight.nbytes for weight in part.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (into / "model.safetensors.index.json").write_text(json.dumps(index))
