"""A mind that follows rules: the first pattern that fits decides the answer."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field

from llm.engine import Item, Json, Message, Params, Text, ToolCall, ToolResult, ToolSpec, Usage
from llm.prompt import add_words

KEPT = 100
"""Prompts remembered, for tests."""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call as a rule's answer; string arguments are filled like a reply."""

    name: str
    arguments: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    r"""What to answer to what.

    Attributes:
        pattern: Regular expression, found anywhere and in either case in the last
            item: the user's words, or after a tool `tool NAME {"json": "output"}`.
        answer: Words to say, or a tool call. Groups of the pattern fill in as in
            `re.Match.expand`: `\1`, `\g<day>`.
    """

    pattern: str
    answer: str | Call


class Script:
    """Answer by rules, token by token.

    Attributes:
        prompts: The items of every generation begun, appended words included, the last `KEPT`.
        generating: How many generations run now.
        first: Seconds until the first token; may change at any time.
        otherwise: What is answered where no rule fits; likewise.
    """

    name = "script"

    def __init__(
        self,
        rules: Sequence[Rule],
        otherwise: str = "I did not understand that.",
        first: float = 0.0,
        interval: float = 0.0,
        crowding: float = 0.0,
    ) -> None:
        """Take rules in order of preference, and the answer where none fits.

        `first` passes before the first token, `interval` before each other, in seconds. Each other
        answer that is being written makes that longer by the share `crowding`, as in a batch.
        """
        self.about = f"Answers by {len(rules)} fixed rules; understands nothing."
        self.prompts: list[tuple[Item, ...]] = []
        self.generating = 0
        self._rules = [(re.compile(rule.pattern, re.IGNORECASE), rule.answer) for rule in rules]
        self.otherwise = otherwise
        self.first = first
        self._interval = interval
        self._crowding = crowding
        self._calls = 0

    async def start(self) -> None:
        """Do nothing; there is nothing to load."""

    async def stop(self) -> None:
        """Do nothing; there is nothing to free."""

    def open(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> "Thread":
        """Begin one answer to `items`; rules do not look at `tools`."""
        return Thread(self, items)

    @property
    def slower(self) -> float:
        """The factor on times, for all the answers that are being written now."""
        return 1 + self._crowding * (self.generating - 1)

    def answer(self, items: Sequence[Item]) -> Sequence[Text | ToolCall]:
        """Return what the first rule that fits says to the last of `items`."""
        heard = _words(items[-1]) if items else ""
        for pattern, answer in self._rules:
            if found := pattern.search(heard):
                if isinstance(answer, str):
                    return tokens(found.expand(answer))
                self._calls += 1
                arguments = {
                    key: found.expand(value) if isinstance(value, str) else value
                    for key, value in answer.arguments.items()
                }
                return [ToolCall(f"call_{self._calls}", answer.name, arguments)]
        return tokens(self.otherwise)


class Thread:
    """One answer of a script."""

    def __init__(self, script: Script, items: Sequence[Item]) -> None:
        self._script = script
        self._items = list(items)
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def append(self, words: str) -> None:
        """Add words to the user's last message."""
        self._items = add_words(self._items, words)

    async def generate(
        self, params: Params, deadline: float
    ) -> AsyncGenerator[Text | ToolCall | Usage, None]:
        """Yield the answer; ends early when the thread is closed."""
        script = self._script
        script.prompts.append(tuple(self._items))
        del script.prompts[:-KEPT]
        script.generating += 1
        try:
            answer = script.answer(self._items)[: params.max_tokens]
            due = asyncio.get_running_loop().time() + script.first * script.slower
            for piece in answer:
                if await self._closes_by(due):
                    return
                yield piece
                due += script._interval * script.slower
            prompt = sum(len(_words(item).split()) for item in self._items)
            yield Usage(prompt=prompt, cached=0, completion=len(answer))
        finally:
            script.generating -= 1

    def close(self) -> None:
        """End the answer, also while it is being yielded."""
        if not self._closed.done():
            self._closed.set_result(None)

    async def _closes_by(self, due: float) -> bool:
        """Wait until loop time `due`, at most until the thread is closed; tell whether it is.

        A time that has passed is not waited for: a late event loop catches up.
        """
        left = due - asyncio.get_running_loop().time()
        if left > 0:
            await asyncio.wait((self._closed,), timeout=left)
        return self._closed.done()


def tokens(text: str) -> list[Text]:
    """Split `text` as models do: words with the space before them, marks apart."""
    return [Text(token) for token in re.findall(r"\s*\w+|\s*[^\w\s]|\s+", text)]


def _words(item: Item) -> str:
    """Return an item as the rules see it."""
    match item:
        case Message(_, text):
            return text
        case ToolCall(_, name, arguments):
            return f"call {name} {json.dumps(arguments)}"
        case ToolResult(_, name, output):
            return f"tool {name} {json.dumps(output)}"
