"""`llm.openai` and `llm.router` against a live vLLM server with the front-desk model."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from demos.frontdesk.call import SPECS
from llm.ctranslate import CTranslate
from llm.engine import (
    Engine,
    EngineError,
    Item,
    Message,
    Params,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from llm.openai import OpenAI
from llm.router import Router, servers
from llm.upstreams import Breaker, UnavailableError
from voice.agent import load

if find_spec("vllm") is None:  # only the server imports it: that takes 20 s
    pytest.skip("vLLM is not installed; `make test-engines` installs it", allow_module_level=True)

pytestmark = pytest.mark.timeout(500)  # the server is up after 40 to 180 s

ROOT = Path(__file__).parent.parent.parent

ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}

ASKED = Message("assistant", "Good morning, this is the front desk. How can I help you?")

SAID = (
    "Hello, I'd like to book an appointment, please.",
    "tuesday at ten",
    "I need to cancel my appointment",
    "can I move my appointment",
    "can I speak to a person",
    "thank you, goodbye",
    "what is the capital of France",
    "yes please",
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = load(ROOT / "demos/frontdesk", tmp_path_factory.mktemp("data")).model
    assert found
    return found


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server and return its address."""
    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--block-size", "32"]
    command += ["--max-num-seqs", "16", "--enable-prompt-tokens-details"]
    # Or a model that was never trained on JSON writes blanks until it runs out of tokens.
    command += [
        "--structured-outputs-config",
        '{"backend": "xgrammar", "disable_any_whitespace": true}',
    ]
    with log.open("wb") as out:
        server = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, server, log)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(10)


def wait_for(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 400
    while True:
        if server.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"vLLM did not start:\n{log.read_text(errors='replace')[-3000:]}")
        try:
            if httpx.get(f"{address}/health", timeout=2.0).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def answer(
    engine: Engine, *items: Item, params: Params | None = None, tools: bool = True
) -> list[Any]:
    thread = engine.open(items, SPECS if tools else ())
    async with aclosing(thread.generate(params or Params(max_tokens=64), 0.0)) as pieces:
        return [piece async for piece in pieces]


def joined(pieces: list[Any]) -> tuple[str, list[tuple[str, Any]]]:
    """Return the words and the calls of an answer."""
    calls = [(piece.name, piece.arguments) for piece in pieces if isinstance(piece, ToolCall)]
    return "".join(piece.text for piece in pieces if isinstance(piece, Text)).strip(), calls


async def metric(url: str, name: str) -> float:
    """Return the sum of a metric over its labels."""
    async with httpx.AsyncClient() as client:
        lines = (await client.get(f"{url}/metrics")).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


async def test_it_answers_as_ctranslate_does_with_the_same_model(
    url: str, model: Path, tmp_path: Path
) -> None:
    async with (
        running(OpenAI(url)) as server,
        running(CTranslate(model, cache=tmp_path)) as embedded,
    ):
        words = calls = 0
        for said in SAID:
            items = (Message("system", "Be kind."), ASKED, Message("user", said))
            found = joined(await answer(server, *items))
            assert found == joined(await answer(embedded, *items)), said
            words, calls = words + bool(found[0]), calls + bool(found[1])
        assert words
        assert calls


async def test_a_tools_result_is_understood(url: str, model: Path, tmp_path: Path) -> None:
    state = {"doing": "book", "ask": "yes_no", "state": "to be confirmed"}
    items = (
        Message("user", "tuesday at ten"),
        ToolCall("c1", "book", {"day": "tuesday", "time": "10:00"}),
        ToolResult("c1", "book", state),
        Message("assistant", "Tuesday at ten. Shall I book that?"),
        Message("user", "yes please"),
    )
    async with (
        running(OpenAI(url)) as server,
        running(CTranslate(model, cache=tmp_path)) as embedded,
    ):
        found = joined(await answer(server, *items))
        assert found == joined(await answer(embedded, *items))
        assert found[1]


async def test_an_answer_comes_token_by_token_and_ends_with_its_usage(url: str) -> None:
    async with running(OpenAI(url)) as server:
        pieces = await answer(server, Message("user", "what is the capital of France"))
    *said, usage = pieces
    assert len([piece for piece in said if isinstance(piece, Text)]) > 2
    assert isinstance(usage, Usage)
    assert usage.prompt > 5
    assert 2 < usage.completion < 64


LONG = {"type": "array", "items": {"enum": [1]}, "minItems": 200, "maxItems": 200}
"""What takes all the tokens that it may."""


@dataclass(frozen=True, kw_only=True)
class Guided(Params):
    schema: Any


async def test_an_answer_may_be_held_to_a_schema(url: str) -> None:
    schema = {
        "type": "object",
        "properties": {"day": {"enum": ["tuesday", "friday"]}, "hour": {"type": "boolean"}},
        "required": ["day", "hour"],
        "additionalProperties": False,
    }
    async with running(OpenAI(url)) as server:
        params = Guided(schema=schema, max_tokens=100)
        pieces = await answer(server, Message("user", "tuesday"), params=params, tools=False)
    found = json.loads(joined(pieces)[0])
    assert found.keys() == {"day", "hour"}
    assert found["day"] in ("tuesday", "friday")


@pytest.mark.parametrize("how", ["generator", "thread"])
async def test_hanging_up_stops_the_model(url: str, how: str) -> None:
    async with running(servers(url)) as server:
        written = await metric(url, "vllm:generation_tokens_total")
        thread = server.open((Message("user", "hello"),), ())
        params = Guided(schema=LONG, max_tokens=400)
        async with aclosing(thread.generate(params, 0.0)) as pieces:
            await anext(pieces)
            async with asyncio.timeout(10):  # the server counts a little later than it writes
                while await metric(url, "vllm:num_requests_running") != 1:
                    await asyncio.sleep(0.01)
            if how == "thread":
                thread.close()
                assert [piece async for piece in pieces] == []
        async with asyncio.timeout(10):
            while await metric(url, "vllm:num_requests_running"):
                await asyncio.sleep(0.02)
        assert await metric(url, "vllm:kv_cache_usage_perc") == 0.0
        assert await metric(url, "vllm:generation_tokens_total") - written < 350


async def test_a_prompt_that_is_too_long_is_shortened_or_refused(url: str) -> None:
    async with running(servers(url)) as server:
        # The model's own template leaves out what is old: only the last words count.
        with pytest.raises(EngineError, match="maximum context length") as raised:
            await answer(server, Message("user", "tuesday at ten " * 400))
        assert not isinstance(raised.value, UnavailableError)
        items = [Message("user", "tuesday at ten") for _ in range(200)]
        assert await answer(server, *items)


async def test_a_model_that_it_does_not_have_is_an_error(url: str) -> None:
    async with running(servers(f"{url}|another")) as server:
        with pytest.raises(EngineError, match=r"404.*another.*check URL and model") as raised:
            await answer(server, Message("user", "hello"))
        assert not isinstance(raised.value, UnavailableError)


async def test_a_dead_server_before_it_is_no_hindrance(url: str) -> None:
    router = servers(f"http://127.0.0.1:{free_port()},{url}")
    async with running(router):
        assert router.upstreams.all[0].breaker is not Breaker.CLOSED
        assert joined(await answer(router, Message("user", SAID[0])))[1]
        assert not router.failovers


async def dying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Offer a model, but break off whatever is asked of it."""
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"GET"):
        writer.write(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"data": [{"id": "m"}]}')
    writer.close()


async def test_it_answers_in_the_turn_in_which_another_dies(url: str, record_property: Any) -> None:
    listener = await asyncio.start_server(dying, "127.0.0.1", 0)
    dead = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener, running(servers(f"{dead},{url}")) as router, running(OpenAI(url)) as alone:
        assert isinstance(router, Router)
        item = Message("user", SAID[0])
        for _ in range(3):
            assert joined(await answer(router, item)) == joined(await answer(alone, item))
        assert len(router.failovers) == 3
        assert joined(await answer(router, item))[1]  # the dead one is not asked any more
        assert len(router.failovers) == 3
        costs = sorted(failover.cost for failover in router.failovers)
        record_property("failover_ms", costs[1] * 1e3)


async def test_sixteen_answers_at_once_are_the_same_as_one(url: str) -> None:
    async with running(servers(url)) as server:
        asked = [Message("user", said) for said in SAID]
        alone = [joined(await answer(server, item)) for item in asked]
        together = await asyncio.gather(*(answer(server, item) for item in asked * 2))
        assert [joined(pieces) for pieces in together] == alone * 2
