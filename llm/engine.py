"""What a language model must do to be used by `voice`."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Json = Any
"""A value that `json` can write."""


@dataclass(frozen=True, slots=True)
class Message:
    """Something said, or the instructions."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model asks for a tool.

    Attributes:
        id: Names this call within the conversation.
        name: The tool.
        arguments: As the model gave them; not validated.
    """

    id: str
    name: str
    arguments: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered; `output` is what the model is told."""

    id: str
    name: str
    output: Mapping[str, Json]


Item = Message | ToolCall | ToolResult
"""One entry of a conversation, oldest first."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool the model may call, as in OpenAI function calling.

    Attributes:
        parameters: JSON schema of the arguments, an object.
    """

    name: str
    description: str
    parameters: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """How to generate.

    Attributes:
        max_tokens: Where to stop at the latest.
        temperature: 0 always takes the likeliest token.
        schema: JSON schema that the answer must be an instance of; the answer is JSON text then
            and calls no tools. Engines that cannot hold a model to it raise `EngineError`.
        adapter: Fine-tuned variant of the model to answer with, by the name that the engine
            was given for it; "" for the engine's own choice.
    """

    max_tokens: int = 200
    temperature: float = 0.0
    schema: Mapping[str, Json] | None = None
    adapter: str = ""


@dataclass(slots=True)
class Text:
    """The next piece of the answer, as it comes from the model (with its spaces)."""

    text: str


@dataclass(slots=True)
class Usage:
    """What the generation cost, in tokens; the last thing a generation yields."""

    prompt: int
    cached: int
    completion: int


class Thread(Protocol):
    """One answer in the making."""

    def append(self, words: str) -> None:
        """Add words to the user's last message; an engine may prefill them. Never blocks."""

    def generate(
        self, params: Params, deadline: float
    ) -> AsyncGenerator[Text | ToolCall | Usage, None]:
        """Yield the answer; closing the generator stops the model and frees its memory.

        `deadline` (loop time, seconds) orders the work among calls.

        Raises:
            EngineError: If the model failed.
        """

    def close(self) -> None:
        """Stop the work, also inside the model. Safe at any time, also twice."""


class Engine(Protocol):
    """A language model, loaded once and shared by all calls.

    Attributes:
        name: What the user chose, for example "ctranslate:DIR" or "openai:URL".
        about: One honest sentence on what this mind can do.
    """

    name: str
    about: str

    async def start(self) -> None:
        """Load and warm up; on return an answer costs no first-time work.

        Raises:
            EngineError: If it cannot; the message names the remedy.
        """

    def open(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> Thread:
        """Begin one answer to `items`; never blocks."""

    async def stop(self) -> None:
        """Free everything."""


class EngineError(RuntimeError):
    """A language model cannot start or failed while working."""
