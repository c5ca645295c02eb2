"""Renders a conversation as the text that a model was trained to continue.

The template is the model's own, in the dialect of Jinja that Hugging Face made a
convention of; it runs in a sandbox, because it comes with a download.
"""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llm.convert import read_json
from llm.engine import EngineError, Item, Message, ToolSpec
from llm.prompt import functions, messages


class ChatTemplate:
    """The chat template of one model.

    Attributes:
        end: The token that ends a turn by the tokenizer's settings, "" if they name none.
    """

    def __init__(self, path: Path) -> None:
        """Read `tokenizer_config.json`, and `chat_template.jinja` where there is one.

        Raises:
            EngineError: If the model has no template, or a broken one.
        """
        config = read_json(path / "tokenizer_config.json")
        separate = path / "chat_template.jinja"
        source = separate.read_text("utf-8") if separate.is_file() else config.get("chat_template")
        if isinstance(source, list):  # several, by purpose
            named = {entry["name"]: entry["template"] for entry in source}
            source = named.get("tool_use", named.get("default"))
        if not source:
            raise EngineError(
                f"the model in {path} has no chat_template in tokenizer_config.json; "
                "choose an instruct model, or add its template as chat_template.jinja"
            )
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        self._path = path
        self._tokens = {
            key: token["content"] if isinstance(token := config.get(key), dict) else token or ""
            for key in ("bos_token", "eos_token", "unk_token", "pad_token")
        }
        self.end: str = self._tokens["eos_token"]
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise EngineError(f"the chat template in {path} is broken: {error}") from error

    def render(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> str:
        """Return the prompt for the assistant's next turn.

        Raises:
            EngineError: If the template refuses such a conversation.
        """
        return self._render(items, tools, True)

    def prefix(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> str:
        """Return how the prompt begins for every conversation with these instructions.

        That is the system messages and tools, "" if there are none or the template
        does not render them alone.
        """
        system = []
        for item in items:
            if not (isinstance(item, Message) and item.role == "system"):
                break
            system.append(item)
        try:
            return self._render(system, tools, False) if system else ""
        except EngineError:
            return ""

    def _render(self, items: Sequence[Item], tools: Sequence[ToolSpec], ask: bool) -> str:
        try:
            return self._template.render(
                messages=messages(items, encoded=False),
                tools=functions(tools) or None,
                add_generation_prompt=ask,
                **self._tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise EngineError(
                f"the chat template in {self._path} refuses the conversation: {error}"
            ) from error


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    """Replace Jinja's filter, which escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
