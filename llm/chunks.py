"""Puts an answer together from the chunks of chat that OpenAI's protocol streams.

No I/O: what the server sends goes in, pieces of the answer come out.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llm.engine import EngineError, Text, ToolCall, Usage
from llm.upstreams import UnavailableError


class Chunks:
    """One answer.

    Attributes:
        done: Whether the server has sent all of it.
        writing: Whether the model has written anything, be it a part of a tool call.
    """

    def __init__(self, server: str, new_id: Callable[[], str]) -> None:
        """Name the server, for errors, and who names the calls that it leaves nameless."""
        self.done = False
        self.writing = False
        self._server = server
        self._new_id = new_id
        self._calls: list[_Call] = []
        self._usage: Usage | None = None
        self._is_whole = False

    def push(self, data: str) -> list[Text]:
        """Take the data of one event; return the words in it.

        Raises:
            UnavailableError: If it is none, or the server failed.
            EngineError: If the server found the request at fault.
        """
        if data == "[DONE]":
            self.done = self._is_whole = True
            return []
        try:
            return self._take(json.loads(data))
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise UnavailableError(
                f"{self._server} sent {data[:200]!r}, no chunk of chat"
            ) from error

    def finish(self) -> list[ToolCall | Usage]:
        """Return what comes whole, once the server has sent its last event.

        Raises:
            UnavailableError: If it was not the last of the answer.
            EngineError: If the model wrote a malformed tool call.
        """
        if not self._is_whole:
            raise UnavailableError(f"{self._server} ended the answer before it was complete")
        calls = [call.complete(self._new_id) for call in self._calls]
        return [*calls, *([self._usage] if self._usage else [])]

    def _take(self, event: Any) -> list[Text]:
        if event.get("error"):
            raise self._failed(event)
        words: list[Text] = []
        for choice in event.get("choices") or []:
            delta = choice.get("delta") or {}
            if any(value for key, value in delta.items() if key != "role"):
                self.writing = True
            if text := delta.get("content"):
                words.append(Text(_text(text)))
            for part in delta.get("tool_calls") or []:
                self._add(part)
            reason = choice.get("finish_reason")
            if reason == "abort":  # vLLM and SGLang, when they shut down
                raise UnavailableError(f"{self._server} broke the answer off")
            self._is_whole = self._is_whole or bool(reason)
        if told := event.get("usage"):
            cached = (told.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            self._usage = Usage(told["prompt_tokens"], cached, told.get("completion_tokens", 0))
        return words

    def _failed(self, event: Any) -> EngineError:
        """Return the error that came instead of the rest of the answer."""
        code = event["error"].get("code") if isinstance(event["error"], dict) else None
        said = f"{self._server} failed: {message(event)}"
        at_fault = isinstance(code, int) and 400 <= code < 500 and code != 429
        return EngineError(said) if at_fault else UnavailableError(said)

    def _add(self, part: dict[str, Any]) -> None:
        """Add a piece of a tool call to the call it belongs to."""
        calls, id_, index = self._calls, part.get("id"), part.get("index")
        if index is None:  # some servers leave it out: a piece with an id begins a call then
            index = len(calls) if id_ or not calls else calls[-1].index
        function = part.get("function") or {}
        call = next((call for call in reversed(calls) if call.index == index), None)
        # Others give every call the index 0: a name under another id begins one, too.
        if call is None or (function.get("name") and id_ and call.id and id_ != call.id):
            calls.append(call := _Call(index))
        call.id = id_ or call.id
        call.name = _text(function.get("name") or call.name)
        call.arguments += function.get("arguments") or ""


@dataclass(slots=True)
class _Call:
    """A tool call in the making; its arguments come in pieces of JSON."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""

    def complete(self, new_id: Callable[[], str]) -> ToolCall:
        try:
            arguments = json.loads(self.arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not self.name or not isinstance(arguments, dict):
            raise EngineError(
                f"the model wrote a malformed tool call: {self.name!r} with "
                f"{self.arguments[:200]!r}; expected a name and a JSON object"
            )
        return ToolCall(self.id or new_id(), self.name, arguments)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def message(answer: Any) -> str:
    """Return the message in a server's error, in any of the forms they have."""
    for key in ("error", "message", "detail"):
        if isinstance(answer, dict) and key in answer:
            return message(answer[key])
    return "" if answer is None else str(answer)[:300]
