"""Fail-over between real servers on loopback that misbehave."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import pytest

import llm.router
from llm.engine import EngineError, Message, Params, Text, ToolCall, Usage
from llm.fake import Fake
from llm.openai import OpenAI
from llm.router import Router, servers
from llm.upstreams import Breaker, Policy, UnavailableError

HELLO = (Message("user", "hello"),)

PATIENT = Policy(patience=5.0, longest=2.0, rest=0.05, backoff=0.02)
"""So patient that nothing is late, however busy the machine is."""

HASTY = Policy(patience=5.0, shortest=0.2, longest=0.2, rest=0.05, backoff=0.02)

OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server:
    """A server that answers "I am NAME." as its `mode` has it.

    Attributes:
        bodies: The requests for an answer, without probes.
        probes: How many probes came.
        working: How many answers it is at.
        hung_up: How often a client hung up on an answer.
        times: Loop times of `bodies`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.mode = "well"
        self.port = 0
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.probes = self.working = self.hung_up = 0
        self.go_on = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def up(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Break off everything; new connections are refused."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    await self._request(reader, writer)
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(size[1]) if size else 0)
        if head.startswith(b"GET"):
            if self.mode == "silent":
                await asyncio.Event().wait()
            found = json.dumps({"data": [{"id": f"model of {self.name}"}]}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(found), found))
            return
        request = json.loads(body)
        if request["max_tokens"] == 1:
            self.probes += 1
        else:
            self.bodies.append(request)
            self.times.append(asyncio.get_running_loop().time())
        self.working += 1
        answering = asyncio.ensure_future(self._answer(writer, self.mode))  # as it is now
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            self.hung_up += not answering.done()
        finally:
            self.working -= 1
            answering.cancel()
            gone.cancel()
            await asyncio.wait({answering, gone})

    async def _answer(self, writer: asyncio.StreamWriter, mode: str) -> None:
        match mode:
            case "silent":
                await asyncio.Event().wait()
            case "headers":
                writer.write(OK)
                await asyncio.Event().wait()
            case "reset":
                writer.transport.abort()
            case "garbage":
                writer.write(OK + chunk(b"data: {broken\n\n"))
            case "page":
                writer.write(OK + chunk(b"<html>Bad gateway</html>") + chunk(b""))
            case "aborted":
                writer.write(OK + event(delta={}, finish_reason="abort"))
            case "late":
                await asyncio.sleep(1.0)
                self._well(writer)
            case "well":
                self._well(writer)
            case "halting":
                writer.write(OK + event(delta={"content": "I am "}))
                await self.go_on.wait()
                writer.write(event(delta={"content": f"{self.name}."}) + done())
            case "breaking":
                writer.write(OK + event(delta={"content": "I am "}))
                await writer.drain()
                await self.go_on.wait()
                writer.transport.abort()
            case "tool":
                call = {"index": 0, "id": "c", "function": {"name": "book", "arguments": "{"}}
                writer.write(OK + event(delta={"tool_calls": [call]}))
                await self.go_on.wait()
                rest = {"index": 0, "function": {"arguments": "}"}}
                writer.write(event(delta={"tool_calls": [rest]}) + done())
            case _:  # a status, with more headers
                status, _, headers = mode.partition(" ")
                more = f"{headers}\r\n" if headers else ""
                said = b'{"error": {"message": "not now"}}'
                head = f"HTTP/1.1 {status} -\r\n{more}Content-Length: {len(said)}\r\n\r\n"
                writer.write(head.encode() + said)

    def _well(self, writer: asyncio.StreamWriter) -> None:
        words = (event(delta={"content": text}) for text in ("I am ", f"{self.name}."))
        writer.write(OK + b"".join(words) + done())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(**choice: Any) -> bytes:
    return chunk(f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\n\n".encode())


def done() -> bytes:
    return event(delta={}, finish_reason="stop") + chunk(b"data: [DONE]\n\n") + chunk(b"")


@pytest.fixture
async def a() -> AsyncIterator[Server]:
    server = Server("a")
    await server.up()
    yield server
    await server.down()


@pytest.fixture
async def b() -> AsyncIterator[Server]:
    server = Server("b")
    await server.up()
    yield server
    await server.down()


@asynccontextmanager
async def routing(*upstreams: Server, policy: Policy = PATIENT) -> AsyncIterator[Router]:
    router = servers(",".join(server.url for server in upstreams), policy=policy)
    async with asyncio.timeout(20):
        await router.start()
        try:
            yield router
        finally:
            await router.stop()


async def answer(router: Router, pieces: list[Any] | None = None) -> list[Any]:
    """Return the pieces of an answer; those before an error are in `pieces`."""
    pieces = [] if pieces is None else pieces
    thread = router.open(HELLO, [])
    async with aclosing(thread.generate(Params(max_tokens=9), 0.0)) as generation:
        async for piece in generation:
            pieces.append(piece)
    return pieces


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.005)


FROM_A = [Text("I am "), Text("a.")]
FROM_B = [Text("I am "), Text("b.")]


async def test_the_preferred_one_answers(a: Server, b: Server) -> None:
    async with routing(a, b) as router:
        assert await answer(router) == FROM_A
        assert router.name == f"openai:{a.url}/v1,openai:{b.url}/v1"
    assert (len(a.bodies), len(b.bodies)) == (1, 0)
    assert not router.failovers


FAILURES = ("reset", "garbage", "page", "aborted", "500", "502", "503", "504", "429")


@pytest.mark.parametrize("mode", [*FAILURES, "429 Retry-After: 7", "down"])
async def test_one_that_fails_is_replaced_in_the_same_turn(
    a: Server, b: Server, mode: str, record_property: Any
) -> None:
    async with routing(a, b) as router:
        if mode == "down":
            await a.down()
        a.mode = mode
        assert await answer(router) == FROM_B
        assert len(b.bodies) == 1
        failover = router.failovers.pop()
        assert [*failover.asked] == router.name.split(",")
        assert failover.answered == failover.asked[1]
        assert failover.cost < PATIENT.longest  # nobody waited for what had failed
        record_property("failover_ms", failover.cost * 1e3)


@pytest.mark.parametrize("mode", ["silent", "headers", "late"])
async def test_one_that_is_late_is_overtaken_in_the_same_turn(
    a: Server, b: Server, mode: str, record_property: Any
) -> None:
    async with routing(a, b, policy=HASTY) as router:
        a.mode, b.mode = mode, "halting"
        thread = router.open(HELLO, [])
        async with aclosing(thread.generate(Params(), 0.0)) as pieces:
            assert await anext(pieces) == FROM_B[0]
            await until(lambda: a.hung_up)  # not only when all is said
            b.go_on.set()
            assert [piece async for piece in pieces] == FROM_B[1:]
        cost = router.failovers.pop().cost
        assert cost > HASTY.longest - 1e-6
        record_property("failover_ms", cost * 1e3)
        assert b.times[0] - a.times[0] >= HASTY.longest - 0.05


async def test_a_late_one_that_answers_first_is_heard(a: Server, b: Server) -> None:
    async with routing(a, b, policy=HASTY) as router:
        a.mode, b.mode = "late", "silent"
        assert await answer(router) == FROM_A
        await until(lambda: b.hung_up)
        assert not router.failovers


async def test_an_answer_that_was_begun_is_not_begun_anew(a: Server, b: Server) -> None:
    async with routing(a, b) as router:
        a.mode = "breaking"
        a.go_on.set()
        heard: list[Any] = []
        with pytest.raises(UnavailableError, match="broke off"):
            await answer(router, heard)
        assert heard == [Text("I am ")]
        assert not b.bodies


@pytest.mark.parametrize("status", ["400", "401", "403", "404", "422"])
async def test_a_refusal_is_not_asked_of_another(a: Server, b: Server, status: str) -> None:
    async with routing(a, b) as router:
        a.mode = status
        with pytest.raises(EngineError, match=f"answered {status}: not now"):
            await answer(router)
        assert (len(a.bodies), len(b.bodies)) == (1, 0)
        assert router.upstreams.all[0].breaker is Breaker.CLOSED


async def test_a_refusal_by_the_second_does_not_end_the_first(a: Server, b: Server) -> None:
    async with routing(a, b, policy=HASTY) as router:
        a.mode, b.mode = "late", "400"
        assert await answer(router) == FROM_A
        a.mode = "silent"
        with pytest.raises(EngineError, match="400"):
            async with asyncio.timeout(20):
                await answer(router)


async def test_the_only_one_is_asked_again(a: Server) -> None:
    async with routing(a) as router:
        a.mode = "503"
        asked = asyncio.ensure_future(answer(router))
        await until(lambda: a.bodies)
        a.mode = "well"
        assert await asked == FROM_A
        assert len(a.bodies) == 2
        assert not router.failovers


async def test_one_that_names_a_time_is_asked_again_then_and_not_before(a: Server) -> None:
    async with routing(a) as router:
        a.mode = "429 Retry-After: 1"
        asked = asyncio.ensure_future(answer(router))
        await until(lambda: a.bodies)
        a.mode = "well"
        assert await asked == FROM_A
        assert len(a.bodies) == 2
        assert a.times[1] - a.times[0] >= 1.0
        a.mode = "429 Retry-After: 60"
        with pytest.raises(UnavailableError, match="429"):
            await answer(router)
        assert len(a.bodies) == 3


async def test_retries_have_a_budget(a: Server) -> None:
    policy = Policy(budget=3.0, ratio=0.1, per_second=0.0, backoff=0.001, rest=60.0)
    async with routing(a, policy=policy) as router:
        a.mode = "500"
        for _ in range(20):
            with pytest.raises(UnavailableError, match="500"):
                await answer(router)
    assert len(a.bodies) in (24, 25)  # 20 answers, 3 retries at first, 0.1 for each answer


async def test_one_that_keeps_failing_is_left_alone_until_a_probe_succeeds(
    a: Server, b: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with routing(a, b) as router:
        a.mode = "500"
        for _ in range(6):
            assert await answer(router) == FROM_B
        assert (len(a.bodies), len(b.bodies)) == (3, 6)
        await until(lambda: a.probes >= 2)
        assert await answer(router) == FROM_B
        a.mode = "well"
        await until(lambda: router.upstreams.all[0].breaker is Breaker.CLOSED)
        assert await answer(router) == FROM_A
        assert len(a.bodies) == 4
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.split("/v1 ")[1][:22] for text in said] == [
        "is out of service: ope",
        "is in service again",
    ]
    assert "500: not now" in said[0]


async def test_a_long_rest_of_one_does_not_delay_the_probe_of_another(a: Server, b: Server) -> None:
    async with routing(a, b) as router:
        first, second = router.upstreams.all
        a.mode = "500"
        first.put_out(0.0)
        first.rested = asyncio.get_running_loop().time() + 60.0
        router.watch()
        await asyncio.sleep(0.01)  # until somebody waits for that
        b.mode = "500"
        for _ in range(3):
            with pytest.raises(UnavailableError):
                await answer(router)
        assert second.breaker is Breaker.OPEN
        b.mode = "well"
        await until(lambda: second.breaker is Breaker.CLOSED)
        assert await answer(router) == FROM_B


async def test_one_that_hangs_is_waited_for_three_times_only(a: Server, b: Server) -> None:
    async with routing(a, b, policy=HASTY) as router:
        a.mode = "silent"
        for _ in range(6):
            assert await answer(router) == FROM_B
        assert len(a.bodies) == 3
        assert len(router.failovers) == 3
        a.mode = "well"
        await until(lambda: router.upstreams.all[0].breaker is Breaker.CLOSED)
        assert await answer(router) == FROM_A


async def test_when_one_dies_under_64_answers_all_are_answered(
    a: Server, b: Server, record_property: Any
) -> None:
    async with routing(a, b) as router:
        a.mode = "silent"
        asked = [asyncio.ensure_future(answer(router)) for _ in range(64)]
        await until(lambda: a.working == 64)
        await a.down()
        assert await asyncio.gather(*asked) == [FROM_B] * 64
        assert len(b.bodies) == 64
        assert len(router.failovers) == 64
        assert await answer(router) == FROM_B
        costs = sorted(failover.cost for failover in router.failovers)
        record_property("failover_p95_ms", costs[60] * 1e3)


async def test_when_one_hangs_under_64_answers_all_are_answered(a: Server, b: Server) -> None:
    async with routing(a, b, policy=HASTY) as router:
        a.mode = "silent"
        asked = [asyncio.ensure_future(answer(router)) for _ in range(64)]
        assert await asyncio.gather(*asked) == [FROM_B] * 64
        await until(lambda: a.working <= 1)  # a probe


async def test_when_one_dies_only_the_answers_it_had_begun_break_off(a: Server, b: Server) -> None:
    async with routing(a, b) as router:
        a.mode = "breaking"
        begun = [asyncio.ensure_future(answer(router)) for _ in range(8)]
        await until(lambda: a.working == 8)
        await asyncio.sleep(0.05)  # until the first words have arrived
        a.mode = "silent"
        others = [asyncio.ensure_future(answer(router)) for _ in range(8)]
        await until(lambda: a.working == 16)
        a.go_on.set()
        await a.down()
        results = await asyncio.gather(*begun, *others, return_exceptions=True)
        assert [type(result) for result in results[:8]] == [UnavailableError] * 8
        assert results[8:] == [FROM_B] * 8


@pytest.mark.parametrize("how", ["generator", "thread", "task"])
async def test_hanging_up_reaches_all_that_were_asked(a: Server, b: Server, how: str) -> None:
    async with routing(a, b, policy=HASTY) as router:
        a.mode = b.mode = "silent"
        thread = router.open(HELLO, [])
        generation = thread.generate(Params(), 0.0)
        waiting = asyncio.ensure_future(anext(generation, None))
        await until(lambda: a.working and b.working)
        if how == "thread":
            thread.close()
            thread.close()
            assert await waiting is None
        else:
            waiting.cancel()
            await asyncio.wait([waiting])
        await generation.aclose()
        await until(lambda: a.hung_up and b.hung_up and not a.working and not b.working)
        async with aclosing(router.open(HELLO, []).generate(Params(), 0.0)) as pieces:
            a.mode = "halting"
            assert await anext(pieces) == Text("I am ")
        await until(lambda: a.hung_up == 2)


async def test_closing_ends_the_wait_for_a_busy_one(a: Server) -> None:
    async with routing(a) as router:
        a.mode = "429 Retry-After: 4"
        thread = router.open(HELLO, [])
        async with aclosing(thread.generate(Params(), 0.0)) as pieces:
            waiting = asyncio.ensure_future(anext(pieces, None))
            await until(lambda: a.bodies and not a.working)
            thread.close()
            assert await waiting is None
        async with aclosing(thread.generate(Params(), 0.0)) as pieces:
            assert await anext(pieces, None) is None
        assert len(a.bodies) == 1


async def test_answers_that_were_cut_off_count_as_answers(a: Server, b: Server) -> None:
    async with routing(a, b) as router:
        for place in range(8):
            a.mode = "halting" if place % 2 else "500"
            async with aclosing(router.open(HELLO, []).generate(Params(), 0.0)) as pieces:
                await anext(pieces)
        assert router.upstreams.all[0].breaker is Breaker.CLOSED
        assert len(b.bodies) == 4


async def test_one_that_writes_a_tool_call_is_not_late(a: Server, b: Server) -> None:
    async with routing(a, b, policy=HASTY) as router:
        a.mode = "tool"
        asked = asyncio.ensure_future(answer(router))
        await asyncio.sleep(3 * HASTY.longest)
        assert not b.bodies
        a.go_on.set()
        assert await asked == [ToolCall("c", "book", {})]


async def test_one_that_is_down_at_first_is_used_when_it_is_up(a: Server, b: Server) -> None:
    await a.down()
    async with routing(a, b) as router:
        assert await answer(router) == FROM_B
        assert "model of b at 127.0.0.1. (2 upstreams" in router.about
        await a.up()
        await until(lambda: router.upstreams.all[0].breaker is Breaker.CLOSED)
        assert a.probes
        assert await answer(router) == FROM_A
        assert a.bodies[0]["model"] == "model of a"
        assert "model of a" in router.about


async def test_one_that_hangs_at_first_does_not_hold_up_the_others(
    a: Server, b: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm.router, "GRACE", 0.05)
    a.mode = "silent"
    async with routing(a, b, policy=Policy(patience=60.0, rest=0.05)) as router:
        assert await answer(router) == FROM_B
        a.mode = "well"
        await until(lambda: router.upstreams.all[0].breaker is Breaker.CLOSED)


async def test_without_any_it_does_not_start_and_names_all(a: Server, b: Server) -> None:
    await a.down()
    await b.down()
    router = servers(f"{a.url},{b.url}")
    with pytest.raises(EngineError, match=f"cannot reach openai:{a.url}.*openai:{b.url}"):
        await router.start()
    await b.up()
    await router.start()
    assert await answer(router) == FROM_B
    await router.stop()
    await router.stop()
    with pytest.raises(EngineError, match="not running"):
        await answer(router)


async def test_when_all_fail_the_error_names_all(a: Server, b: Server) -> None:
    async with routing(a, b) as router:
        a.mode, b.mode = "500", "reset"
        with pytest.raises(
            UnavailableError, match=rf"no upstream answered: .*500.*{b.url}/v1 broke off"
        ):
            await answer(router)
        a.mode = b.mode = "well"
        assert await answer(router) in (FROM_A, FROM_B)


async def test_when_all_hang_the_error_names_the_patience(a: Server) -> None:
    async with routing(a, policy=Policy(patience=0.3, longest=0.1)) as router:
        a.mode = "silent"
        with pytest.raises(UnavailableError, match=r"no first token within 0\.3 s"):
            await answer(router)
        await until(lambda: a.hung_up)


async def test_a_last_resort_that_answers_is_in_service_again(a: Server) -> None:
    async with routing(
        a, policy=Policy(rest=60.0, budget=0.0, ratio=0.0, per_second=0.0)
    ) as router:
        a.mode = "500"
        for _ in range(3):
            with pytest.raises(UnavailableError):
                await answer(router)
        assert router.upstreams.all[0].breaker is Breaker.OPEN
        a.mode = "well"
        assert await answer(router) == FROM_A
        assert router.upstreams.all[0].breaker is Breaker.CLOSED


async def test_an_engine_of_another_kind_may_stand_in(a: Server) -> None:
    router = Router([OpenAI(a.url), Fake("Here I am.")])
    await router.start()
    await a.down()
    pieces = await answer(router)
    assert "".join(piece.text for piece in pieces if isinstance(piece, Text)) == "Here I am."
    assert isinstance(pieces[-1], Usage)
    await router.stop()


async def test_appended_words_reach_whoever_answers(a: Server, b: Server) -> None:
    async with routing(a, b) as router:
        for server, mode in ((a, "well"), (b, "500")):
            a.mode = mode
            thread = router.open(HELLO, [])
            thread.append("there")
            async with aclosing(thread.generate(Params(), 0.0)) as pieces:
                await anext(pieces)
            assert server.bodies[-1]["messages"][-1]["content"] == "hello there"


async def test_each_server_may_have_a_model_of_its_own(a: Server, b: Server) -> None:
    router = servers(f"{a.url}|small, {b.url}", model="large")
    await router.start()
    await answer(router)
    a.mode = "500"
    await answer(router)
    await router.stop()
    assert [server.bodies[0]["model"] for server in (a, b)] == ["small", "large"]


@pytest.mark.parametrize("addresses", ["", "http://host,", "host:1"])
def test_an_address_that_is_none_is_an_error(addresses: str) -> None:
    with pytest.raises(ValueError, match="no address of a server"):
        servers(addresses)


def test_a_router_needs_an_upstream() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Router([])
