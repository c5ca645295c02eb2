"""What a server may send in place of a chunk of chat."""

import json
from typing import Any

import pytest

from llm.chunks import Chunks
from llm.engine import EngineError
from llm.upstreams import UnavailableError

DEEP = '{"a":' * 3000 + "1" + "}" * 3000


def delta(**what: Any) -> str:
    return json.dumps({"choices": [{"delta": what, "finish_reason": "stop"}]})


@pytest.mark.parametrize(
    "data",
    [
        delta(content=5),
        delta(content=[{"type": "text", "text": "hello"}]),
        delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": 7, "arguments": "{}"}}]),
        DEEP,
    ],
)
def test_what_is_no_chunk_is_the_servers_failure(data: str) -> None:
    with pytest.raises(UnavailableError, match="no chunk of chat"):
        Chunks("server", lambda: "id").push(data)


def test_arguments_nested_without_end_are_malformed() -> None:
    chunks = Chunks("server", lambda: "id")
    call = {"index": 0, "id": "a", "function": {"name": "book", "arguments": DEEP}}
    chunks.push(delta(tool_calls=[call]))
    with pytest.raises(EngineError, match="malformed tool call"):
        chunks.finish()
