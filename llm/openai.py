"""Any server that speaks OpenAI's chat completions: OpenAI, vLLM, SGLang, Ollama and others.

Servers differ in what they accept; what one refuses by name is left out or renamed
and asked again, once for the life of the engine.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from itertools import takewhile
from secrets import token_hex
from typing import Any

import httpx

from llm.chunks import Chunks, message
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
from llm.prompt import add_words, functions, messages
from llm.upstreams import UnavailableError

CONNECT = 3.0
"""How long a connection may take at the longest, in seconds; a caller is waiting."""

IDLE = 300.0
"""How long an unused connection is kept open, in seconds: a new one costs the caller
one to three round trips before the first token."""

REST = 0.2
"""How long the end of the connection's traffic is waited for after an answer, in seconds."""

LINE = 1 << 20
"""The longest line of an answer, in bytes: a chunk of chat has a few hundred."""

TOO_LONG = ("context", "reduce the length")
"""How servers say that a prompt is too long: vLLM, SGLang, llama.cpp, OpenAI; Groq."""

_RENAMED = {"stream_options": None, "temperature": None, "max_tokens": "max_completion_tokens"}
"""Settings that some servers refuse, and what they want instead."""

Piece = Text | ToolCall | Usage


class OpenAI:
    """Think with a model behind an OpenAI-compatible server.

    `Usage` is the last piece of an answer only where the server tells it.
    """

    def __init__(self, url: str, model: str = "", key: str = "", timeout: float = 20.0) -> None:
        """Choose the server ("http://host:8000", with or without "/v1") and the model.

        Without a `model`, the first one the server names is taken. `timeout` is the
        longest silence of the server, in seconds.

        Raises:
            ValueError: If `url` is none.
        """
        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"{url!r} is no address of a server; expected http://HOST:PORT/v1")
        path = parsed.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
        self._url = parsed.copy_with(path=path, query=None, fragment=None)
        self.name = f"openai:{self._url.copy_with(userinfo=b'')}"
        self.about = f"The model {model or 'that the server offers first'} at {parsed.host}."
        self._model = model
        self._key = key
        self._timeout = httpx.Timeout(timeout, connect=min(CONNECT, timeout))
        self._client: httpx.AsyncClient | None = None
        self._changed: dict[str, str | None] = {}

    async def start(self) -> None:
        """Connect, check the key and find the model.

        Raises:
            EngineError: If the server cannot be reached, refuses the key or has no model.
        """
        if self._client is not None:
            return
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=self._timeout,
            limits=httpx.Limits(max_connections=None, keepalive_expiry=IDLE),
        )
        try:
            self._model = await self._find_model()
        except BaseException:  # also when nobody waits any more
            await self.stop()
            raise
        self.about = f"The model {self._model} at {self._url.host}."

    async def _find_model(self) -> str:
        try:
            async with self._request("GET", "/models") as response:
                found = await self._read(response)
            models = found.get("data") if isinstance(found, dict) else None
            names = [str(model["id"]) for model in models or []]
        except _StatusError as error:
            if error.status != 404 or not self._model:  # not every server lists its models
                raise
            names = []
        except (KeyError, TypeError) as error:
            raise EngineError(f"{self.name}/models is no list of models: {error!r}") from error
        if not names and not self._model:
            raise EngineError(f"{self.name} offers no model; name the one to use")
        return self._model or names[0]

    async def stop(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def open(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> "Thread":
        """Begin one answer to `items`; nothing is sent before `Thread.generate`."""
        return Thread(self, items, tools)

    async def complete(
        self,
        items: Sequence[Item],
        tools: Sequence[ToolSpec],
        params: Params,
        began: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[Piece, None]:
        """Ask the server and yield its answer; closing hangs up.

        `began` is called whenever the server has written something, be it only a part
        of a tool call, which is yielded as a whole.

        Raises:
            UnavailableError: If the server cannot be reached, is overloaded, fails or breaks off.
            EngineError: If it refuses the request, or the model wrote nonsense.
        """
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages(items),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
        }
        if tools:
            body["tools"] = functions(tools)
        if params.adapter:
            body["model"] = params.adapter  # what vLLM calls an adapter that it serves
        if (schema := params.schema) is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema, "strict": True},
            }
        while True:
            for name in self._changed.keys() & body.keys():
                value, instead = body.pop(name), self._changed[name]
                if instead:
                    body[instead] = value
            try:
                async with self._request("POST", "/chat/completions", body) as response:
                    async with aclosing(self._pieces(response, began)) as pieces:
                        async for piece in pieces:
                            yield piece
                    return
            except _StatusError as error:
                if error.status not in (400, 422):
                    raise
                if any(words in str(error).lower() for words in TOO_LONG):
                    if not (shorter := _shorter(items)):
                        raise
                    items, body["messages"] = shorter, messages(shorter)
                    continue
                refused = [name for name in _RENAMED if name in body and name in str(error)]
                if not refused:
                    raise
                self._changed[refused[0]] = _RENAMED[refused[0]]

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and hold its answer open.

        A server may close a kept connection just as it is used again: such a request is
        sent once more, until the connection was a new one.
        """
        if self._client is None:
            raise EngineError(f"{self.name} is not running; await start() first")
        is_new = False

        async def trace(event: str, _: Any) -> None:
            nonlocal is_new
            is_new = is_new or event == "connection.connect_tcp.started"

        request = self._client.build_request(
            method, f"{self._url}{path}", json=body, extensions={"trace": trace}
        )
        try:
            while True:
                try:
                    response = await self._client.send(request, stream=True)
                    break
                except (httpx.NetworkError, httpx.RemoteProtocolError):
                    if is_new:
                        raise
            try:
                if response.status_code != 200:
                    await response.aread()
                    raise self._refused(response)
                yield response
            finally:
                await response.aclose()
        except httpx.ConnectError as error:
            raise UnavailableError(
                f"cannot reach {self.name}: {error}; is the server up?"
            ) from error
        except httpx.TimeoutException as error:
            raise UnavailableError(
                f"{self.name} was silent for too long ({type(error).__name__}, "
                f"limit {self._timeout.read:g} s)"
            ) from error
        except httpx.TransportError as error:
            raise UnavailableError(f"{self.name} broke off: {error!r}") from error

    async def _read(self, response: httpx.Response) -> Any:
        raw = await response.aread()
        try:
            return json.loads(raw)
        except ValueError as error:
            raise EngineError(f"{self.name} did not answer in JSON: {raw[:200]!r}") from error

    def _refused(self, response: httpx.Response) -> EngineError:
        """Return the error that the server answered with, in its own words."""
        try:
            said = message(response.json())
        except ValueError:
            said = response.text[:300]
        said = said.replace(self._key, "***") if self._key else said
        said = said or response.reason_phrase
        status = response.status_code
        remedies = {401: "; check the key", 403: "; check the key", 404: "; check URL and model"}
        error = f"{self.name} answered {status}: {said}{remedies.get(status, '')}"
        if status == 429 or status >= 500:
            return UnavailableError(error, _retry_after(response.headers))
        return _StatusError(error, status)

    async def _pieces(
        self, response: httpx.Response, began: Callable[[], None]
    ) -> AsyncGenerator[Piece, None]:
        """Read the answer's server-sent events."""
        # The number of an upstream's own would come twice in a call that two of them answer.
        chunks = Chunks(self.name, lambda: f"call_{token_hex(6)}")
        async with aclosing(self._events(response)) as events:
            async for data in events:
                words = chunks.push(data)
                if chunks.writing:
                    began()
                for text in words:
                    yield text
                if chunks.done:
                    break
            for piece in chunks.finish():
                yield piece
            # A connection that was not read to its end cannot be used again.
            with suppress(httpx.TransportError, UnavailableError, TimeoutError):
                async with asyncio.timeout(REST):
                    async for _ in events:
                        pass

    async def _events(self, response: httpx.Response) -> AsyncGenerator[str, None]:
        """Yield the data of the server-sent events, a line each.

        httpx would also split lines at characters that JSON may contain, such as U+2028.
        """
        rest = b""
        async for received in response.aiter_bytes():
            *lines, rest = (rest + received).split(b"\n")
            if len(rest) > LINE:
                raise UnavailableError(f"{self.name} sent a line of more than {LINE} bytes")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[5:].decode(errors="replace").strip()
        if rest.startswith(b"data:"):
            yield rest[5:].decode(errors="replace").strip()


class Thread:
    """One answer of a server.

    Attributes:
        began: Loop time at which the server wrote the first token, None if it has not.
    """

    def __init__(self, engine: OpenAI, items: Sequence[Item], tools: Sequence[ToolSpec]) -> None:
        self._engine = engine
        self._items = list(items)
        self._tools = tools
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.began: float | None = None

    def append(self, words: str) -> None:
        """Add words to the user's last message."""
        self._items = add_words(self._items, words)

    async def generate(self, params: Params, deadline: float) -> AsyncGenerator[Piece, None]:
        """Yield the answer as it comes; the server knows no `deadline`."""
        if self._closed:
            return
        pieces: asyncio.Queue[Piece | EngineError | None] = asyncio.Queue()

        async def listen() -> None:
            try:
                answer = self._engine.complete(self._items, self._tools, params, self._note)
                async with aclosing(answer):
                    async for piece in answer:
                        pieces.put_nowait(piece)
            except EngineError as error:
                pieces.put_nowait(error)
            finally:
                pieces.put_nowait(None)

        # A task of its own, so that `close` can end it while somebody awaits a piece.
        task = asyncio.create_task(listen())
        self._tasks.add(task)
        try:
            while (piece := await pieces.get()) is not None and not self._closed:
                if isinstance(piece, EngineError):
                    raise piece
                yield piece
            if not self._closed:
                await task  # for an error that nobody foresaw
        finally:
            self._tasks.discard(task)
            _cancel(task)
            await asyncio.wait([task])

    def close(self) -> None:
        """Hang up on the server."""
        self._closed = True
        for task in self._tasks:
            _cancel(task)

    def _note(self) -> None:
        if self.began is None:
            self.began = asyncio.get_running_loop().time()


class _StatusError(EngineError):
    """The server answered with an error status."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task once: twice would cut off the closing of its connection."""
    if not task.cancelling():
        task.cancel()


def _shorter(items: Sequence[Item]) -> list[Item]:
    """Return `items` without the older half of what may be forgotten, [] if nothing may.

    The instructions stay, and so do the last words with all that follows.
    """
    begin = sum(1 for _ in takewhile(_is_instruction, items))
    half = (len(items) - begin) // 2
    kept = items[begin + half :]
    while kept and isinstance(kept[0], ToolResult):
        kept = kept[1:]  # an answer to a call that is gone
    return [*items[:begin], *kept] if half and kept else []


def _is_instruction(item: Item) -> bool:
    return isinstance(item, Message) and item.role == "system"


def _retry_after(headers: httpx.Headers) -> float | None:
    """Return for how many seconds a server asks to be left alone, None if it does not."""
    asked = headers.get("retry-after", "").strip()
    if asked.isdecimal():
        return float(asked)
    try:  # a date, by the clock of the server, which it tells as well
        left = parsedate_to_datetime(asked) - parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError):
        return None
    return max(left.total_seconds(), 0.0)
