"""What vLLM can be told."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmOptions:
    """How vLLM loads and runs a model.

    Attributes:
        max_model_len: Tokens of prompt and answer together.
        prefix_cache: Whether prompts that begin alike are read once.
    """

    max_model_len: int = 8192
    prefix_cache: bool = True

    def __post_init__(self) -> None:
        if not 64 <= self.max_model_len <= 10_000_000:
            raise ValueError(f"vllm.max_model_len is {self.max_model_len}; expected 64 to 10000000")
