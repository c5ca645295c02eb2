"""A model's folder, looked at before anything loads: what is missing, damaged or too big."""

from pathlib import Path

from llm.convert import Weights, read_json, weight_files
from llm.engine import EngineError

GIB = 2**30

RESERVE = 0.1
"""Share of a memory that is left for workspaces."""


def found(model: str) -> Path:
    """Return the folder of a model given as a folder or as a hub's id ("owner/name").

    A model of a hub is looked for among those fetched before, then fetched.

    Raises:
        EngineError: If there is none.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists() or path.is_absolute() or model.count("/") != 1 or model.startswith("."):
        raise EngineError(
            f"there is no model folder {model}; give one with config.json, tokenizer.json and "
            "*.safetensors, or a hub's id such as owner/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.jinja", "*.safetensors"]
    try:
        return Path(snapshot_download(model, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise EngineError(
            f"the model {model} is neither a folder here nor to be had from the hub "
            f"({type(error).__name__}); carry a folder over and give its path"
        ) from error


def checked(path: Path) -> int:
    """Return the bytes of the weights in `path`, every file of which is there and whole.

    Raises:
        EngineError: If one is missing, cut off or no such file.
    """
    config = read_json(path / "config.json")
    if not (isinstance(config, dict) and config.get("architectures")):
        raise EngineError(
            f"{path / 'config.json'} names no architectures; it is no language model's: "
            "copy the model again"
        )
    read_json(path / "tokenizer_config.json")
    Weights(path)
    return sum(file.stat().st_size for file in weight_files(path))


def context(path: Path) -> int:
    """Return how many tokens the model in `path` reads, 0 if it does not say."""
    config = read_json(path / "config.json")
    return int(config.get("max_position_embeddings") or 0)


def fit(weights: float, cache: float, memory: float, share: float, where: str) -> None:
    """Raise unless `weights` and a KV `cache` have room in a `share` of `memory`, all bytes.

    Raises:
        EngineError: With the figures and what to change.
    """
    usable = memory * share * (1 - RESERVE)
    if weights + cache > usable:
        raise EngineError(
            f"the model does not fit: {weights / GIB:.1f} GiB of weights and "
            f"{cache / GIB:.1f} GiB of KV cache, and {usable / GIB:.1f} of {memory / GIB:.1f} GiB "
            f"of {where} to use; choose a smaller model or vllm.quantization, or change "
            "vllm.kv_cache_gib or vllm.gpu_memory_utilization"
        )
