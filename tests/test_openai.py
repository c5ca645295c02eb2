import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

import llm.openai
from llm.engine import (
    EngineError,
    Item,
    Message,
    Params,
    Text,
    ToolCall,
    ToolResult,
    ToolSpec,
    Usage,
)
from llm.openai import OpenAI
from llm.upstreams import UnavailableError

KEY = "sk-secret"
HELLO = (Message("user", "hello"),)


class Peer:
    """A server that answers chat completions with whatever `events` yields."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.models: Any = {"data": [{"id": "first"}, {"id": "second"}]}
        self.refuse: Callable[[dict[str, Any]], Any] = lambda body: None
        self.disconnected = asyncio.Event()
        self.url = ""
        self.ports: set[int] = set()
        self.newline = "\r\n\r\n"

    async def events(self) -> AsyncIterator[str]:
        for text in ("Yes", ", at ten."):
            yield delta(content=text)
        yield finish()
        yield "[DONE]"

    async def stream(self) -> AsyncIterator[str]:
        try:
            yield ": a comment\n\n"
            async with aclosing(self.events()) as events:  # type: ignore[type-var]
                async for event in events:
                    yield f"data: {event}{self.newline}"
        except asyncio.CancelledError:
            self.disconnected.set()
            raise

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        async def models(request: Request) -> Any:
            self.keys.append(request.headers.get("authorization"))
            return self.models

        @app.post("/v1/chat/completions")
        async def complete(request: Request) -> Any:
            body = await request.json()
            assert request.client
            self.ports.add(request.client.port)
            self.bodies.append(body)
            return self.refuse(body) or StreamingResponse(
                self.stream(), media_type="text/event-stream"
            )

        return app


def delta(**content: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": content, "finish_reason": None}]})


def finish(reason: str = "stop") -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})


def tool(**part: Any) -> str:
    return delta(tool_calls=[part])


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="critical", lifespan="off", date_header=False)
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
        listener.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    async with serving(peer.app()) as peer.url:
        yield peer


@asynccontextmanager
async def running(url: str, **settings: Any) -> AsyncIterator[OpenAI]:
    mind = OpenAI(url, **settings)
    await mind.start()
    try:
        yield mind
    finally:
        await mind.stop()


async def answer(
    peer: Peer, *items: Item, tools: tuple[ToolSpec, ...] = (), **settings: Any
) -> list[Any]:
    async with running(peer.url, **settings) as mind:
        thread = mind.open(items or HELLO, tools)
        async with aclosing(thread.generate(Params(max_tokens=9), 0.0)) as pieces:
            return [piece async for piece in pieces]


def script(peer: Peer, *events: str) -> None:
    async def told() -> AsyncIterator[str]:
        for event in events:
            yield event

    peer.events = told  # type: ignore[method-assign]


async def test_an_answer_comes_as_the_server_sends_it(peer: Peer) -> None:
    assert await answer(peer) == [Text("Yes"), Text(", at ten.")]
    body = peer.bodies[0]
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("first", 9, 0.0)
    assert body["stream"] is True
    assert "tools" not in body


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
async def test_the_address_may_come_with_or_without_v1(peer: Peer, ending: str) -> None:
    peer.url += ending
    assert await answer(peer, model="mine", key=KEY) == [Text("Yes"), Text(", at ten.")]
    assert peer.bodies[0]["model"] == "mine"
    assert peer.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://"])
def test_an_address_that_is_none_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match="expected http://HOST:PORT/v1"):
        OpenAI(url)


def test_the_name_shows_no_password() -> None:
    assert OpenAI("http://me:secret@host:1").name == "openai:http://host:1/v1"


async def test_tools_and_their_results_are_told_in_openais_form(peer: Peer) -> None:
    book = ToolSpec("book", "Books.", {"type": "object", "properties": {}})
    items = (
        Message("system", "Be kind."),
        Message("user", "Tuesday"),
        ToolCall("c1", "book", {"day": "Tuesday"}),
        ToolResult("c1", "book", {"ok": True}),
    )
    await answer(peer, *items, tools=(book,))
    body = peer.bodies[0]
    assert body["tools"][0]["function"]["name"] == "book"
    call = body["messages"][2]["tool_calls"][0]
    assert call["function"] == {"name": "book", "arguments": '{"day": "Tuesday"}'}
    assert body["messages"][3]["tool_call_id"] == call["id"] == "c1"
    assert body["messages"][3]["content"] == '{"ok": true}'


async def test_tool_calls_are_put_together_from_their_pieces(peer: Peer) -> None:
    script(
        peer,
        delta(role="assistant", content=""),
        delta(content="One moment."),
        tool(index=0, id="a", type="function", function={"name": "book", "arguments": ""}),
        tool(index=0, function={"arguments": '{"da'}),
        tool(index=1, id="b", function={"name": "find", "arguments": ""}),
        tool(index=0, function={"arguments": 'y": 2}'}),
        finish("tool_calls"),
        json.dumps(
            {
                "choices": [],
                "usage": {
                    "prompt_tokens": 30,
                    "completion_tokens": 8,
                    "prompt_tokens_details": {"cached_tokens": 16},
                },
            }
        ),
        "[DONE]",
    )
    assert await answer(peer) == [
        Text("One moment."),
        ToolCall("a", "book", {"day": 2}),
        ToolCall("b", "find", {}),
        Usage(prompt=30, cached=16, completion=8),
    ]


async def test_tool_calls_without_index_or_id_are_told_apart(peer: Peer) -> None:
    script(
        peer,
        tool(id="a", function={"name": "book", "arguments": '{"day"'}),
        tool(function={"arguments": ": 2}"}),
        tool(id="b", function={"name": "find", "arguments": "{}"}),
        finish(),
    )
    assert await answer(peer) == [ToolCall("a", "book", {"day": 2}), ToolCall("b", "find", {})]
    script(peer, tool(index=0, function={"name": "book", "arguments": "{}"}), finish())
    first, second = [*await answer(peer), *await answer(peer)]
    assert (first.name, second.name) == ("book", "book")
    assert first.id.startswith("call_")
    assert first.id != second.id


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (["{broken"], r"sent '\{broken', no chunk of chat"),
        (["[1]"], "no chunk of chat"),
        (['"text"'], "no chunk of chat"),
        (["null"], "no chunk of chat"),
        ([json.dumps({"choices": [{"delta": {"tool_calls": 3}}]})], "no chunk of chat"),
        ([json.dumps({"error": {"message": "out of memory"}})], "failed: out of memory"),
        ([delta(content="Yes")], "ended the answer before it was complete"),
        (
            [tool(index=0, function={"name": "x", "arguments": "{"}), finish()],
            "malformed tool call",
        ),
        (
            [tool(index=0, function={"name": "x", "arguments": "3"}), finish()],
            "malformed tool call",
        ),
        ([tool(index=0, function={"arguments": "{}"}), finish()], "malformed tool call"),
    ],
)
async def test_what_makes_no_sense_is_an_error_that_shows_it(
    peer: Peer, events: list[str], said: str
) -> None:
    script(peer, *events)
    with pytest.raises(EngineError, match=said):
        await answer(peer)


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (
            401,
            {"error": {"message": f"Incorrect key {KEY}"}},
            r"401: Incorrect key \*\*\*; check the key",
        ),
        (404, {"message": "no such model"}, "404: no such model; check URL and model"),
        (422, {"detail": [{"msg": "bad"}]}, "422: .*bad"),
        (500, {"error": "overloaded"}, "500: overloaded"),
        (503, None, "503: Service Unavailable"),
    ],
)
async def test_a_refusal_is_an_error_with_the_status_and_the_servers_words(
    peer: Peer, status: int, content: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    peer.refuse = lambda body: JSONResponse(content, status)
    with pytest.raises(EngineError, match=said):
        await answer(peer, key=KEY)
    assert len(peer.bodies) == 1
    assert KEY not in caplog.text


async def test_settings_that_a_server_refuses_are_changed_once_for_all(peer: Peer) -> None:
    def refuse(body: dict[str, Any]) -> Any:
        for name in ("stream_options", "max_tokens", "temperature"):
            if name in body:
                error = {"message": f"Unsupported parameter: '{name}'"}
                return JSONResponse({"error": error}, 400)
        return None

    peer.refuse = refuse
    async with running(peer.url) as mind:
        for _ in range(2):
            thread = mind.open(HELLO, [])
            async with aclosing(thread.generate(Params(max_tokens=9), 0.0)) as pieces:
                assert await anext(pieces) == Text("Yes")
    assert len(peer.bodies) == 5
    limits = [body.get("max_tokens", body.get("max_completion_tokens")) for body in peer.bodies]
    assert limits == [9] * 5
    assert not {"stream_options", "temperature", "max_tokens"} & peer.bodies[-1].keys()


async def endless(peer: Peer) -> AsyncIterator[str]:
    while True:
        yield delta(content="la ")
        await asyncio.sleep(0.01)


async def test_closing_the_generator_hangs_up(peer: Peer) -> None:
    peer.events = lambda: endless(peer)  # type: ignore[method-assign]
    async with running(peer.url) as mind:
        async with aclosing(mind.open(HELLO, []).generate(Params(), 0.0)) as pieces:
            await anext(pieces)
            assert not peer.disconnected.is_set()
        await peer.disconnected.wait()


async def test_closing_the_thread_hangs_up_while_somebody_waits_for_a_piece(peer: Peer) -> None:
    async def silent() -> AsyncIterator[str]:
        yield delta(content="well")
        await asyncio.Event().wait()

    peer.events = silent  # type: ignore[method-assign]
    async with running(peer.url) as mind:
        thread = mind.open(HELLO, [])
        async with aclosing(thread.generate(Params(), 0.0)) as pieces:
            await anext(pieces)
            waiting = asyncio.ensure_future(anext(pieces, None))
            await asyncio.sleep(0)
            thread.close()
            thread.close()
            assert await waiting is None
        await peer.disconnected.wait()


async def test_hanging_up_twice_does_not_leave_the_connection_open(peer: Peer) -> None:
    async def silent() -> AsyncIterator[str]:
        yield delta(content="well")
        await asyncio.Event().wait()

    peer.events = silent  # type: ignore[method-assign]
    async with running(peer.url) as mind:
        thread = mind.open(HELLO, [])
        async with aclosing(thread.generate(Params(), 0.0)) as pieces:
            await anext(pieces)
            waiting = asyncio.ensure_future(anext(pieces, None))
            await asyncio.sleep(0.01)
            thread.close()
            waiting.cancel()
            await asyncio.wait([waiting])
        async with asyncio.timeout(20):
            await peer.disconnected.wait()


async def test_appended_words_are_part_of_the_users_message(peer: Peer) -> None:
    async with running(peer.url) as mind:
        thread = mind.open(HELLO, [])
        thread.append("there")
        async with aclosing(thread.generate(Params(), 0.0)) as pieces:
            await anext(pieces)
    assert peer.bodies[0]["messages"] == [{"role": "user", "content": "hello there"}]


async def test_a_server_that_is_silent_for_too_long_is_an_error_with_the_limit(peer: Peer) -> None:
    async def silent() -> AsyncIterator[str]:
        yield delta(content="well")
        await asyncio.Event().wait()

    peer.events = silent  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=r"silent for too long .*limit 0\.2 s"):
        await answer(peer, timeout=0.2)


@asynccontextmanager
async def raw(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve each connection with the next answer, then close it; b"" hangs up at once."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answers[min(len(requests), len(answers)) - 1])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests


MODELS = b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"data": [{"id": "m"}]}'
CHUNK = f"data: {delta(content='Yes')}\n\n".encode()
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN_OFF = HEAD + b"%x\r\n%s\r\n" % (len(CHUNK), CHUNK)
WHOLE = f"data: {delta(content='Yes')}\n\ndata: [DONE]\n\n".encode()
COMPLETE = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + WHOLE


async def test_a_server_that_breaks_off_in_mid_answer_is_an_error() -> None:
    async with raw(MODELS, BROKEN_OFF) as (url, requests), running(url) as mind:
        async with aclosing(mind.open(HELLO, []).generate(Params(), 0.0)) as pieces:
            assert await anext(pieces) == Text("Yes")
            with pytest.raises(EngineError, match="broke off"):
                await anext(pieces)
        assert len(requests) == 2


async def test_a_kept_connection_that_the_server_has_closed_is_replaced() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        if connections == 1:
            found = b'{"data": [{"id": "m"}]}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(found), found))
            await reader.readuntil(b"\r\n\r\n")  # it closes just as the next request is sent
        else:
            writer.write(COMPLETE)
        writer.close()

    connections = 0
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with (
        server,
        running(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as mind,
        aclosing(mind.open(HELLO, []).generate(Params(), 0.0)) as pieces,
    ):
        assert [piece async for piece in pieces] == [Text("Yes")]
    assert connections == 2


async def test_a_new_connection_that_fails_is_an_error_for_others_to_retry() -> None:
    async with raw(MODELS, b"", COMPLETE) as (url, requests), running(url) as mind:
        async with aclosing(mind.open(HELLO, []).generate(Params(), 0.0)) as pieces:
            with pytest.raises(UnavailableError, match="broke off"):
                await anext(pieces)
        assert len(requests) == 2


async def test_answers_share_a_connection(peer: Peer) -> None:
    async with running(peer.url) as mind:
        for _ in range(3):
            async with aclosing(mind.open(HELLO, []).generate(Params(), 0.0)) as pieces:
                assert [piece async for piece in pieces] == [Text("Yes"), Text(", at ten.")]
    assert len(peer.ports) == 1


async def test_a_server_that_does_not_end_after_the_answer_is_not_waited_for() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(MODELS if head.startswith(b"GET") else COMPLETE)
        if not head.startswith(b"GET"):
            await reader.read()  # until the client hangs up
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with (
        server,
        running(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as mind,
        asyncio.timeout(10),
        aclosing(mind.open(HELLO, []).generate(Params(), 0.0)) as pieces,
    ):
        assert [piece async for piece in pieces] == [Text("Yes")]


@pytest.mark.parametrize("mark", "\u2028\u2029\x85\x1e")
async def test_words_may_contain_any_character_that_json_may(peer: Peer, mark: str) -> None:
    text = f"One{mark}two"
    chunk = {"choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}
    script(peer, json.dumps(chunk, ensure_ascii=False).replace("\x1e", "\\u001e"), "[DONE]")
    assert await answer(peer) == [Text(text)]


async def test_a_line_without_end_is_an_error(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm.openai, "LINE", 1000)
    script(peer, delta(content="la" * 1000))
    peer.newline = ""
    with pytest.raises(UnavailableError, match="line of more than 1000 bytes"):
        await answer(peer)


async def test_a_schema_is_asked_for_in_openais_form(peer: Peer) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Guided(Params):
        schema: Any

    schema = {"type": "object", "properties": {"day": {"type": "string"}}}
    async with (
        running(peer.url) as mind,
        aclosing(mind.open(HELLO, []).generate(Guided(schema=schema), 0.0)) as pieces,
    ):
        await anext(pieces)
    asked = peer.bodies[0]["response_format"]
    assert (asked["type"], asked["json_schema"]["schema"]) == ("json_schema", schema)


async def test_a_thread_knows_when_the_model_began_though_a_tool_call_comes_whole(
    peer: Peer,
) -> None:
    go_on = asyncio.Event()

    async def told() -> AsyncIterator[str]:
        yield delta(role="assistant", content="")
        yield tool(index=0, id="a", function={"name": "book", "arguments": ""})
        await go_on.wait()
        yield tool(index=0, function={"arguments": "{}"})
        yield finish("tool_calls")

    peer.events = told  # type: ignore[method-assign]
    async with running(peer.url) as mind:
        thread = mind.open(HELLO, [])
        async with aclosing(thread.generate(Params(), 0.0)) as pieces:
            waiting = asyncio.ensure_future(anext(pieces))
            while thread.began is None:
                await asyncio.sleep(0.005)
            assert not waiting.done()
            go_on.set()
            assert await waiting == ToolCall("a", "book", {})


@pytest.mark.parametrize(
    ("status", "headers", "after"),
    [
        (503, {}, None),
        (429, {"retry-after": "3"}, 3.0),
        (503, {"retry-after": "0"}, 0.0),
        (429, {"retry-after": "soon"}, None),
        (429, {"retry-after": "-1"}, None),
        (
            429,
            {
                "date": "Wed, 21 Oct 2015 07:28:00 GMT",
                "retry-after": "Wed, 21 Oct 2015 07:28:09 GMT",
            },
            9.0,
        ),
        (429, {"retry-after": "Wed, 21 Oct 2015 07:28:09 -0000"}, None),
    ],
)
async def test_an_overloaded_server_may_say_when_to_come_back(
    peer: Peer, status: int, headers: dict[str, str], after: float | None
) -> None:
    peer.refuse = lambda body: JSONResponse({}, status, headers=headers)
    with pytest.raises(UnavailableError) as raised:
        await answer(peer)
    assert raised.value.after == after


@pytest.mark.parametrize(
    ("events", "unavailable"),
    [
        ([json.dumps({"error": {"message": "out of memory"}})], True),
        ([json.dumps({"error": {"message": "dead", "code": 500}})], True),
        ([json.dumps({"error": {"message": "busy", "code": 429}})], True),
        ([json.dumps({"error": {"message": "bad", "code": 400}})], False),
        ([json.dumps({"error": "dead"})], True),
        ([delta(content="Yes"), finish("abort"), "[DONE]"], True),
        ([delta(content="Yes")], True),
        (["{broken"], True),
        ([tool(index=0, function={"name": "x", "arguments": "{"}), finish()], False),
    ],
)
async def test_only_what_another_server_could_do_better_is_unavailable(
    peer: Peer, events: list[str], unavailable: bool
) -> None:
    script(peer, *events)
    with pytest.raises(EngineError) as raised:
        await answer(peer)
    assert isinstance(raised.value, UnavailableError) is unavailable


async def test_calls_that_all_have_the_index_0_are_told_apart(peer: Peer) -> None:
    script(
        peer,
        tool(index=0, id="a", function={"name": "book", "arguments": "{}"}),
        tool(index=0, id="b", function={"name": "find", "arguments": '{"day":'}),
        tool(index=0, id="c", function={"arguments": " 2}"}),  # another id in every piece
        finish(),
    )
    assert await answer(peer) == [ToolCall("a", "book", {}), ToolCall("c", "find", {"day": 2})]


async def test_a_start_that_is_cut_off_may_be_tried_again(peer: Peer) -> None:
    models, peer.models = peer.models, None
    mind = OpenAI(peer.url)
    starting = asyncio.ensure_future(mind.start())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    peer.models = models
    await mind.start()
    assert "The model first" in mind.about
    await mind.stop()


async def test_a_prompt_that_is_too_long_loses_its_oldest_words_and_keeps_the_instructions(
    peer: Peer,
) -> None:
    def refuse(body: dict[str, Any]) -> Any:
        if sum(len(message["content"]) for message in body["messages"]) > 30:
            said = "max_tokens is too large; the maximum context length is 30."
            return JSONResponse({"error": {"message": said, "code": 400}}, 400)
        return None

    peer.refuse = refuse
    items = (
        Message("system", "Be kind."),
        *(Message("user", f"number {place} and") for place in range(6)),
        ToolCall("c", "book", {}),
        ToolResult("c", "book", {"number": "one"}),
        Message("user", "what was that?"),
    )
    assert await answer(peer, *items) == [Text("Yes"), Text(", at ten.")]
    told = [message["content"] for message in peer.bodies[-1]["messages"]]
    assert told == ["Be kind.", "what was that?"]
    assert len(peer.bodies) == 4
    async with running(peer.url) as mind:
        long = (Message("system", "Be kind."), Message("user", "la" * 30))
        async with aclosing(mind.open(long, []).generate(Params(), 0.0)) as pieces:
            with pytest.raises(EngineError, match="maximum context length"):
                await anext(pieces)
        async with aclosing(mind.open(HELLO, []).generate(Params(), 0.0)) as pieces:
            await anext(pieces)
    assert "max_tokens" in peer.bodies[-1]  # that the error names it is no refusal of it


async def test_a_server_that_is_not_there_is_an_error_that_asks_for_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(EngineError, match=f"cannot reach openai:{url}/v1.*is the server up"):
        await OpenAI(url).start()


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ({"data": []}, "offers no model; name the one to use"),
        ({"data": [{}]}, "no list of models"),
        ([1], "offers no model"),
        (
            JSONResponse({"error": {"message": "who are you"}}, 401),
            "401: who are you; check the key",
        ),
    ],
)
async def test_a_server_without_a_model_is_an_error(peer: Peer, models: Any, said: str) -> None:
    peer.models = models
    with pytest.raises(EngineError, match=said):
        await OpenAI(peer.url).start()


async def test_a_server_that_lists_no_models_serves_the_one_named(peer: Peer) -> None:
    peer.models = JSONResponse({}, 404)
    assert await answer(peer, model="mine") == [Text("Yes"), Text(", at ten.")]
    with pytest.raises(EngineError, match="404"):
        await answer(peer)


async def test_before_start_and_after_stop_it_says_that_it_does_not_run(peer: Peer) -> None:
    mind = OpenAI(peer.url)
    await mind.stop()
    async with aclosing(mind.open(HELLO, []).generate(Params(), 0.0)) as pieces:
        with pytest.raises(EngineError, match=r"await start\(\) first"):
            await anext(pieces)
