import pytest

from llm.engine import EngineError
from llm.hermes import Hermes


def test_arguments_nested_without_end_are_malformed() -> None:
    hermes = Hermes(lambda: "id")
    hermes.push('<tool_call>{"name": "book", "arguments": ')
    with pytest.raises(EngineError, match="malformed tool call"):
        hermes.push("[" * 3000 + "</tool_call>")
    hermes = Hermes(lambda: "id")
    hermes.push("<tool_call>" + '{"a":' * 3000)  # and the answer is cut off there
    with pytest.raises(EngineError, match="malformed tool call"):
        hermes.finish()
