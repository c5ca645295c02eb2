from contextlib import aclosing

from llm.engine import Message, Params, Text, Usage
from llm.fake import Fake


async def test_it_always_answers_the_same_token_by_token() -> None:
    mind = Fake("Yes, at ten.")
    for said in ("Hello", "Goodbye"):
        thread = mind.open([Message("user", said)], [])
        async with aclosing(thread.generate(Params(), 0.0)) as pieces:
            heard = [piece async for piece in pieces]
        assert heard[:-1] == [Text("Yes"), Text(","), Text(" at"), Text(" ten"), Text(".")]
        assert heard[-1] == Usage(prompt=1, cached=0, completion=5)
    assert mind.prompts == [(Message("user", "Hello"),), (Message("user", "Goodbye"),)]


async def test_closing_the_generator_ends_the_work() -> None:
    mind = Fake("Yes, at ten.")
    thread = mind.open([], [])
    async with aclosing(thread.generate(Params(), 0.0)) as pieces:
        await anext(pieces)
        assert mind.generating == 1
    assert mind.generating == 0
