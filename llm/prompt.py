"""Conversations as models are told them: OpenAI's chat format."""

import json
from collections.abc import Mapping, Sequence

from llm.engine import Item, Json, Message, ToolCall, ToolResult, ToolSpec


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
