import asyncio
import time
from contextlib import aclosing

import pytest

from llm.engine import Item, Message, Params, Text, ToolCall, ToolResult, Usage
from llm.prompt import add_words, messages
from llm.script import Call, Rule, Script

RULES = [
    Rule(r"book (?P<day>\w+)", Call("book", {"day": r"\g<day>", "minutes": 30})),
    Rule(r"^tool book .*\"ok\": true", "It is booked."),
    Rule(r"hello|(hi)\b", r"Hello, caller."),
]


async def answer(script: Script, *items: Item, params: Params | None = None) -> list[object]:
    thread = script.open(items, [])
    async with aclosing(thread.generate(params or Params(), 0.0)) as pieces:
        return [piece async for piece in pieces]


async def test_the_first_rule_that_fits_decides() -> None:
    pieces = await answer(Script(RULES), Message("user", "Hello, please book Tuesday"))
    assert pieces == [
        ToolCall("call_1", "book", {"day": "Tuesday", "minutes": 30}),
        Usage(prompt=4, cached=0, completion=1),
    ]


async def test_a_reply_comes_as_words_with_their_spaces_and_marks_apart() -> None:
    pieces = await answer(Script(RULES), Message("user", "HELLO"))
    assert pieces[:-1] == [Text("Hello"), Text(","), Text(" caller"), Text(".")]


async def test_rules_see_what_a_tool_answered() -> None:
    asked = ToolCall("1", "book", {"day": "Tuesday"})
    pieces = await answer(Script(RULES), asked, ToolResult("1", "book", {"ok": True}))
    assert pieces[0] == Text("It")


async def test_where_no_rule_fits_it_says_so() -> None:
    pieces = await answer(Script(RULES, otherwise="Pardon?"), Message("user", "grmbl"))
    assert pieces[:-1] == [Text("Pardon"), Text("?")]


async def test_it_stops_after_max_tokens() -> None:
    hello = Message("user", "hello")
    pieces = await answer(Script(RULES), hello, params=Params(max_tokens=2))
    assert pieces == [Text("Hello"), Text(","), Usage(prompt=1, cached=0, completion=2)]


async def test_appended_words_belong_to_the_users_message() -> None:
    script = Script(RULES)
    thread = script.open([Message("user", "book")], [])
    thread.append("Friday")
    async with aclosing(thread.generate(Params(), 0.0)) as pieces:
        first = await anext(pieces)
    assert isinstance(first, ToolCall)
    assert first.arguments["day"] == "Friday"
    assert script.prompts == [(Message("user", "book Friday"),)]


async def test_closing_the_thread_ends_the_answer_that_is_under_way() -> None:
    script = Script(RULES, interval=3600)
    thread = script.open([Message("user", "hello")], [])
    pieces: asyncio.Queue[object] = asyncio.Queue()

    async def listen() -> None:
        async with aclosing(thread.generate(Params(), 0.0)) as answer:
            async for piece in answer:
                pieces.put_nowait(piece)

    task = asyncio.create_task(listen())
    assert await pieces.get() == Text("Hello")
    assert script.generating == 1
    thread.close()
    thread.close()
    await task
    assert pieces.empty()
    assert script.generating == 0


async def test_a_crowd_is_answered_more_slowly() -> None:
    script = Script(RULES, first=0.1, interval=0.02, crowding=1.0)
    hello = Message("user", "hello")

    async def seconds(count: int) -> float:
        begun = time.monotonic()
        await asyncio.gather(*(answer(script, hello) for _ in range(count)))
        return time.monotonic() - begun

    alone, crowd = await seconds(1), await seconds(4)
    assert crowd > 2 * alone
    assert await seconds(1) < crowd / 2


def test_words_after_another_item_begin_a_message() -> None:
    said = Message("assistant", "Which day?")
    assert add_words([said], "Tuesday") == [said, Message("user", "Tuesday")]
    assert add_words([], " Tuesday ") == [Message("user", "Tuesday")]


@pytest.mark.parametrize("encoded", [True, False])
def test_tool_calls_share_the_assistants_message(encoded: bool) -> None:
    items = [
        Message("assistant", "One moment."),
        ToolCall("1", "find", {"day": "Tuesday"}),
        ToolCall("2", "find", {}),
        ToolResult("1", "find", {"free": ["é"]}),
    ]
    spoken, result = messages(items, encoded=encoded)
    assert spoken["content"] == "One moment."
    assert [call["id"] for call in spoken["tool_calls"]] == ["1", "2"]
    given = spoken["tool_calls"][0]["function"]["arguments"]
    assert given == ('{"day": "Tuesday"}' if encoded else {"day": "Tuesday"})
    assert result == {
        "role": "tool",
        "tool_call_id": "1",
        "name": "find",
        "content": '{"free": ["é"]}',
    }
