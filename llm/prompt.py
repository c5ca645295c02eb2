"""Conversations as models are told them: in OpenAI's chat format, harmless and not too long."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TypeVar

from llm.engine import EngineError, Item, Json, Message, ToolCall, ToolResult, ToolSpec

Token = TypeVar("Token")

FILLERS = {"user": "Hello.", "assistant": "Yes."}
"""What a role says where a template wants it to have spoken: nothing that matters."""


def add_words(items: Sequence[Item], words: str) -> list[Item]:
    """Return `items` with `words` at the end of the user's last message.

    Where the last item is not the user's, the words begin a new message.
    """
    if items and isinstance(last := items[-1], Message) and last.role == "user":
        return [*items[:-1], Message("user", f"{last.text} {words}".strip())]
    return [*items, Message("user", words.strip())]


def messages(items: Sequence[Item], *, encoded: bool = True) -> list[dict[str, Json]]:
    """Return `items` as chat messages.

    Tool calls that follow each other, or follow the assistant's words, share one
    message. Their arguments are JSON text, as servers want them, or with
    `encoded=False` objects, as chat templates do.
    """
    chat: list[dict[str, Json]] = []
    for item in items:
        match item:
            case Message(role, text):
                chat.append({"role": role, "content": text})
            case ToolCall(id, name, arguments):
                if not chat or chat[-1]["role"] != "assistant":
                    chat.append({"role": "assistant", "content": ""})
                given = json.dumps(arguments) if encoded else dict(arguments)
                call = {"id": id, "type": "function"}
                function = {"name": name, "arguments": given}
                chat[-1].setdefault("tool_calls", []).append({**call, "function": function})
            case ToolResult(id, name, output):
                text = json.dumps(output, ensure_ascii=False)
                chat.append({"role": "tool", "tool_call_id": id, "name": name, "content": text})
    return chat


def functions(tools: Sequence[ToolSpec]) -> list[Mapping[str, Json]]:
    """Return `tools` as OpenAI function definitions."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
            },
        }
        for tool in tools
    ]


def alternating(chat: Sequence[Mapping[str, Json]]) -> list[dict[str, Json]]:
    """Return chat messages in which user and assistant take turns, the user first.

    Many templates accept no others, while agents greet and callers go on. What a role says
    in a row becomes one message; where the other's turn is missing, it says a word. Calls and
    results of tools take no turn.
    """
    turns: list[dict[str, Json]] = []
    latest = "assistant"
    for message in chat:
        role = message["role"]
        spoken = role != "tool" and "tool_calls" not in message
        if spoken and turns and turns[-1]["role"] == role and "tool_calls" not in turns[-1]:
            turns[-1]["content"] += f"\n\n{message['content']}"
            continue
        if spoken and role == latest:
            other = "assistant" if role == "user" else "user"
            turns.append({"role": other, "content": FILLERS[other]})
        if spoken and role != "system":
            latest = role
        turns.append(dict(message))
    return turns


def without_system(chat: Sequence[Mapping[str, Json]]) -> list[dict[str, Json]]:
    """Return chat messages in which the user gives the instructions."""
    return [{**each, "role": "user"} if each["role"] == "system" else {**each} for each in chat]


def fitting(
    items: Sequence[Item], limit: int, encode: Callable[[Sequence[Item]], list[Token]]
) -> list[Token]:
    """Return the tokens of a conversation, at most `limit`.

    What is too long loses as few of its oldest items as will do, found by bisection; never
    its instructions, its last item, or a tool's call without the result.

    Raises:
        EngineError: If it is too long even so.
    """
    best, tokens = None, encode(items)
    if len(tokens) <= limit:
        return tokens
    orders = list(takewhile(_is_instruction, items))
    starts = list(_starts(items[len(orders) :]))
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        tokens = encode([*orders, *items[len(orders) + starts[middle] :]])
        if len(tokens) <= limit:
            best, high = tokens, middle
        else:
            low = middle + 1
    if best is None:
        raise EngineError(
            f"the prompt has {len(tokens)} tokens, expected at most {limit}; shorten the "
            "instructions or what is asked, or choose a model that reads more, of which a part is "
            "for its answer"
        )
    return best


def _starts(items: Sequence[Item]) -> Iterator[int]:
    """Yield where a conversation may begin so that no result of a tool lacks its call."""
    to_come = {item.id for item in items if isinstance(item, ToolResult)}
    called: set[str] = set()
    for at, item in enumerate(items):
        if at and not called:
            yield at
        match item:
            case ToolCall(id) if id in to_come:
                called.add(id)
            case ToolResult(id):
                called.discard(id)


def _is_instruction(item: Item) -> bool:
    return isinstance(item, Message) and item.role == "system"


def controls(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return what finds a model's control tokens, also in capitals: some templates lower them."""
    return re.compile("|".join(map(re.escape, tokens)) or r"(?!)", re.IGNORECASE)


def harmless(item: Item, marks: re.Pattern[str]) -> Item:
    """Return an item without what would end its message for the model: the marks of `controls`.

    Whoever said it: users say what they like, tools tell what others entered, and models
    repeat both. Only the instructions stay as they were written.
    """
    match item:
        case Message(role, text) if role != "system":
            return Message(role, marks.sub(" ", text))
        case ToolCall(id, name, arguments):
            return ToolCall(*(_without(part, marks) for part in (id, name, arguments)))
        case ToolResult(id, name, output):
            return ToolResult(*(_without(part, marks) for part in (id, name, output)))
    return item


def _without(value: Json, marks: re.Pattern[str]) -> Json:
    match value:
        case str():
            return marks.sub(" ", value)
        case Mapping():
            return {_without(key, marks): _without(part, marks) for key, part in value.items()}
        case list() | tuple():
            return [_without(part, marks) for part in value]
    return value
