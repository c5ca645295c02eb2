"""Renders a conversation as the text that a model was trained to continue.

The template is the model's own, in the dialect of Jinja that Hugging Face made a
convention of; it runs in a sandbox, because it comes with a download.
"""

import contextlib
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llm.convert import read_json
from llm.engine import EngineError, Item, Json, Message, ToolSpec
from llm.prompt import alternating, functions, messages, without_system


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
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
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

        A template that refuses the conversation (Mistral's wants the user to begin, Gemma's
        also wants no instructions) is told the same in the form it accepts.

        Raises:
            EngineError: If the template refuses such a conversation in every form.
        """
        chat = messages(items, encoded=False)
        for form in (chat, alternating(chat)):
            with contextlib.suppress(_RefusedError):
                return self._render(form, tools, True)
        return self._render(alternating(without_system(chat)), tools, True)

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
            chat = messages(system, encoded=False)
            return self._render(chat, tools, False) if system else ""
        except EngineError:
            return ""

    def _render(
        self, chat: Sequence[Mapping[str, Json]], tools: Sequence[ToolSpec], ask: bool
    ) -> str:
        try:
            return self._template.render(
                messages=chat,
                tools=functions(tools) or None,
                add_generation_prompt=ask,
                **self._tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            kind = _RefusedError if isinstance(error, _RaisedError) else EngineError
            raise kind(
                f"the chat template in {self._path} refuses the conversation: {error}"
            ) from error


class _RaisedError(jinja2.TemplateError):
    """A template's own `raise_exception`."""


class _RefusedError(EngineError):
    """The template is sound and wants another conversation."""


class _Generation(Extension):
    """Renders what `{% generation %}` marks: what training is to learn, and nothing else here."""

    tags = {"generation"}  # noqa: RUF012 - no ClassVar in the base

    def parse(self, parser: Parser) -> list[Node]:
        """Return the body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    """Replace Jinja's filter, which escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise _RaisedError(message)
