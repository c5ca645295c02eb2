"""Finds tool calls in what a model writes, in the Hermes form most small models use.

<tool_call>{"name": "book", "arguments": {"day": "Tuesday"}}</tool_call>
"""

import json
from collections.abc import Callable

from llm.engine import EngineError, Text, ToolCall

_OPEN = "<tool_call>"
_CLOSE = "</tool_call>"


class Hermes:
    """Split a stream of text into words to say and tools to call.

    White space around a call is left out, for it is nothing to say.
    """

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._text = ""  # not given out yet
        self._in_call = False
        self._after_call = False  # and nothing was said since

    def push(self, text: str) -> list[Text | ToolCall]:
        """Add the next piece, of any length; return what it completes.

        Raises:
            EngineError: If a tool call is malformed.
        """
        self._text += text
        pieces: list[Text | ToolCall] = []
        while True:
            mark = _CLOSE if self._in_call else _OPEN
            before, found, after = self._text.partition(mark)
            if not found:
                break
            if self._in_call:
                pieces.append(self._call(before))
                self._after_call = True
            else:
                pieces += self._say(before.rstrip())
            self._text, self._in_call = after, not self._in_call
        if not self._in_call and (size := len(self._text) - self._held()):
            pieces += self._say(self._text[:size])
            self._text = self._text[size:]
        return pieces

    def finish(self) -> list[Text | ToolCall]:
        """Return what is left when the model has stopped.

        Raises:
            EngineError: If it stopped inside a tool call.
        """
        text, self._text = self._text, ""
        if self._in_call:  # some models leave out the last tag
            return [self._call(text)]
        return [*self._say(text.rstrip())]

    def _say(self, text: str) -> list[Text]:
        if self._after_call:
            text = text.lstrip()
        self._after_call = self._after_call and not text
        return [Text(text)] if text else []

    def _held(self) -> int:
        """Return how many characters at the end may belong to a call yet to come."""
        text = self._text
        tag = next(size for size in range(len(_OPEN), -1, -1) if text.endswith(_OPEN[:size]))
        return len(text) - len(text[: len(text) - tag].rstrip())

    def _call(self, text: str) -> ToolCall:
        try:
            call = json.loads(text)
            name, arguments = call["name"], call.get("arguments", {})
            if not (isinstance(name, str) and isinstance(arguments, dict)):
                raise TypeError("name is no text or arguments no object")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise EngineError(
                f"the model wrote a malformed tool call {text.strip()[:200]!r} ({error!r}); "
                'expected {"name": "...", "arguments": {...}}'
            ) from error
        return ToolCall(self._new_id(), name, arguments)
