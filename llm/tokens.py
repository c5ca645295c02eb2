"""Conversations as token ids, by a model's own chat template and tokenizer, and ids as text."""

import re
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from llm.chat import ChatTemplate
from llm.convert import read_json
from llm.engine import EngineError, Item, Message, ToolSpec
from llm.prompt import add_words, controls, fitting, harmless

GOES_ON = "and"
"""Any word: what a caller who is not done may say next."""

SEGMENTS = 4096
"""Pieces of prompts whose tokens are remembered. A turn of a call adds one to three."""


class Tokens:
    """The tokenizer and chat template of one model.

    Attributes:
        ends: The ids that end an answer: all that any of the model's files names.
    """

    def __init__(self, path: Path) -> None:
        """Read `tokenizer.json`, `tokenizer_config.json`, `config.json` and their companions.

        Raises:
            EngineError: If one is missing or damaged; the message names it.
        """
        from tokenizers import Tokenizer

        self._template = ChatTemplate(path)
        file = path / "tokenizer.json"
        if not file.is_file():
            raise EngineError(f"{file} is missing; copy it there")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises Exception itself
            raise EngineError(f"{file} is damaged: {error}; copy it again") from error
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._controls = controls(token.content for token in added if token.special)
        self.ends = self._end_tokens(path)
        self._segment = lru_cache(SEGMENTS)(self._whole)
        self._parts = re.compile(f"({self._controls.pattern})")  # here capitals count
        probe = self._template.render([Message("user", " Well,  hello 42. ")], [])
        if self._in_parts(probe) != self._whole(probe):
            self._parts = re.compile(r"(?!)")  # this tokenizer looks past its control tokens

    def _end_tokens(self, path: Path) -> frozenset[int]:
        generation = path / "generation_config.json"
        configs = [read_json(path / "config.json")]
        configs += [read_json(generation)] if generation.is_file() else []
        ends = {self._tokenizer.token_to_id(self._template.end)}
        for ids in (found.get("eos_token_id") for found in configs):
            ends |= set(ids if isinstance(ids, list) else [ids])
        if known := frozenset(end for end in ends if end is not None):
            return known
        raise EngineError(
            f"the model in {path} names no token that ends an answer; "
            "add eos_token to tokenizer_config.json"
        )

    def prompt(self, items: Sequence[Item], tools: Sequence[ToolSpec], limit: int) -> list[int]:
        """Return the prompt for the assistant's next turn, at most `limit` tokens.

        What is too long loses its oldest items, never its instructions.

        Raises:
            EngineError: If it is too long even so, or the template refuses it.
        """
        kept = [harmless(item, self._controls) for item in items]
        return fitting(kept, limit, lambda some: self._in_parts(self._template.render(some, tools)))

    def settled(self, items: Sequence[Item], tools: Sequence[ToolSpec], limit: int) -> list[int]:
        """Return how every prompt begins whose user goes on speaking after `items`.

        That is what the prompt of a caller who is done has in common with that of one who
        is not; whatever a template puts after the user's words is not in it.
        """
        done = self.prompt(items, tools, limit)
        goes_on = self.prompt(add_words(items, GOES_ON), tools, limit)
        pairs = zip(done[:-1], goes_on, strict=False)  # the last is kept, to be answered
        return done[: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))]

    def detokenizer(self) -> "Detokenizer":
        """Return what turns the ids of one answer into text as they come."""
        return Detokenizer(self._tokenizer)

    def _in_parts(self, text: str) -> list[int]:
        """Return the ids of `text`; parts between control tokens that were seen cost nothing."""
        return [token for part in self._parts.split(text) if part for token in self._segment(part)]

    def _whole(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


class Detokenizer:
    """The text of one answer, as it grows."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._new_stream = partial(DecodeStream, skip_special_tokens=False)
        self._stream = self._new_stream()

    def push(self, token: int) -> str:
        """Add an id; return the characters it completes."""
        try:
            text: str | None = self._stream.step(self._tokenizer, token)
        except Exception:  # tokenizers' own: single bytes that are no UTF-8 undid what was read
            self._stream = self._new_stream()
            text = self._stream.step(self._tokenizer, token)
        return text or ""
