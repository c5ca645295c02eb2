"""Any server that speaks OpenAI's chat completions: OpenAI, vLLM, SGLang, Ollama and others.

Servers differ in what they accept; what one refuses by name is left out or renamed
and asked again, once for the life of the engine.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx

from llm.engine import EngineError, Item, Params, Text, ToolCall, ToolSpec, Usage
from llm.prompt import add_words, functions, messages

CONNECT = 3.0
"""How long a connection may take at the longest, in seconds; a caller is waiting."""

IDLE = 300.0
"""How long an unused connection is kept open, in seconds: a new one costs the caller
one to three round trips before the first token."""

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
        self._calls = count(1)

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
            async with self._request("GET", "/models") as response:
                found = await self._read(response)
            models = found.get("data") if isinstance(found, dict) else None
            names = [model["id"] for model in models or []]
        except _StatusError as error:
            if error.status != 404 or not self._model:  # not every server lists its models
                await self.stop()
                raise
        except (EngineError, KeyError, TypeError) as error:
            await self.stop()
            if isinstance(error, EngineError):
                raise
            raise EngineError(f"{self.name}/models is no list of models: {error!r}") from error
        else:
            if not names and not self._model:
                await self.stop()
                raise EngineError(f"{self.name} offers no model; name the one to use")
            self._model = self._model or names[0]
        self.about = f"The model {self._model} at {self._url.host}."

    async def stop(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def open(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> "Thread":
        """Begin one answer to `items`; nothing is sent before `Thread.generate`."""
        return Thread(self, items, tools)

    async def complete(
        self, items: Sequence[Item], tools: Sequence[ToolSpec], params: Params
    ) -> AsyncGenerator[Piece, None]:
        """Ask the server and yield its answer; closing hangs up.

        Raises:
            EngineError: If the server cannot be reached, refuses or breaks off.
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
        while True:
            for name, instead in self._changed.items():
                value = body.pop(name, None)
                if instead:
                    body[instead] = value
            try:
                async with self._request("POST", "/chat/completions", body) as response:
                    async with aclosing(self._pieces(response)) as pieces:
                        async for piece in pieces:
                            yield piece
                    return
            except _StatusError as error:
                refused = [name for name in _RENAMED if name in body and name in str(error)]
                if error.status not in (400, 422) or not refused:
                    raise
                self._changed[refused[0]] = _RENAMED[refused[0]]

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request, once more if the connection fails, and hold its answer open."""
        if self._client is None:
            raise EngineError(f"{self.name} is not running; await start() first")
        request = self._client.build_request(method, f"{self._url}{path}", json=body)
        try:
            try:
                response = await self._client.send(request, stream=True)
            except (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError):
                # Most often a kept connection that the server has closed meanwhile.
                response = await self._client.send(request, stream=True)
            try:
                if response.status_code != 200:
                    await response.aread()
                    raise self._refused(response)
                yield response
            finally:
                await response.aclose()
        except httpx.ConnectError as error:
            raise EngineError(f"cannot reach {self.name}: {error}; is the server up?") from error
        except httpx.TimeoutException as error:
            raise EngineError(
                f"{self.name} was silent for too long ({type(error).__name__}, "
                f"limit {self._timeout.read:g} s)"
            ) from error
        except httpx.TransportError as error:
            raise EngineError(f"{self.name} broke off: {error!r}") from error

    async def _read(self, response: httpx.Response) -> Any:
        raw = await response.aread()
        try:
            return json.loads(raw)
        except ValueError as error:
            raise EngineError(f"{self.name} did not answer in JSON: {raw[:200]!r}") from error

    def _refused(self, response: httpx.Response) -> "_StatusError":
        """Return the error that the server answered with, in its own words."""
        try:
            said = _message(response.json())
        except ValueError:
            said = response.text[:300]
        said = said.replace(self._key, "***") if self._key else said
        said = said or response.reason_phrase
        status = response.status_code
        remedies = {401: "; check the key", 403: "; check the key", 404: "; check URL and model"}
        remedy = remedies.get(status, "")
        return _StatusError(f"{self.name} answered {status}: {said}{remedy}", status)

    async def _pieces(self, response: httpx.Response) -> AsyncGenerator[Piece, None]:
        """Read the answer's server-sent events."""
        calls: list[_Call] = []
        usage: Usage | None = None
        ended = False
        async for line in response.aiter_lines():
            if not line.startswith("data:"):
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                ended = True
                break
            try:
                event = json.loads(data)
                if "error" in event:
                    raise EngineError(f"{self.name} failed: {_message(event)}")
                for choice in event.get("choices") or []:
                    delta = choice.get("delta") or {}
                    if text := delta.get("content"):
                        yield Text(text)
                    for part in delta.get("tool_calls") or []:
                        _add(calls, part)
                    ended = ended or bool(choice.get("finish_reason"))
                if told := event.get("usage"):
                    details = told.get("prompt_tokens_details") or {}
                    cached = details.get("cached_tokens") or 0
                    usage = Usage(told["prompt_tokens"], cached, told.get("completion_tokens", 0))
            except (ValueError, TypeError, AttributeError, KeyError) as error:
                raise EngineError(f"{self.name} sent {data[:200]!r}, no chunk of chat") from error
        if not ended:
            raise EngineError(f"{self.name} ended the answer before it was complete")
        for call in calls:
            yield call.complete(self._calls)
        if usage:
            yield usage


class Thread:
    """One answer of a server."""

    def __init__(self, engine: OpenAI, items: Sequence[Item], tools: Sequence[ToolSpec]) -> None:
        self._engine = engine
        self._items = list(items)
        self._tools = tools
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

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
                answer = self._engine.complete(self._items, self._tools, params)
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
            task.cancel()
            await asyncio.wait([task])

    def close(self) -> None:
        """Hang up on the server."""
        self._closed = True
        for task in self._tasks:
            task.cancel()


class _StatusError(EngineError):
    """The server answered with an error status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class _Call:
    """A tool call in the making; its arguments come in pieces of JSON."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""

    def complete(self, numbers: "count[int]") -> ToolCall:
        try:
            arguments = json.loads(self.arguments or "{}")
        except ValueError:
            arguments = None
        if not self.name or not isinstance(arguments, dict):
            raise EngineError(
                f"the model wrote a malformed tool call: {self.name!r} with "
                f"{self.arguments[:200]!r}; expected a name and a JSON object"
            )
        return ToolCall(self.id or f"call_{next(numbers)}", self.name, arguments)


def _add(calls: list[_Call], part: dict[str, Any]) -> None:
    """Add a piece of a tool call to the call it belongs to."""
    # Some servers leave out the index: a piece with an id begins a call then.
    index = part.get("index")
    if index is None:
        index = len(calls) if part.get("id") or not calls else calls[-1].index
    call = next((call for call in calls if call.index == index), None)
    if call is None:
        calls.append(call := _Call(index))
    function = part.get("function") or {}
    call.id = part.get("id") or call.id
    call.name = function.get("name") or call.name
    call.arguments += function.get("arguments") or ""


def _message(answer: Any) -> str:
    """Return the message in a server's error, in any of the forms they have."""
    for key in ("error", "message", "detail"):
        if isinstance(answer, dict) and key in answer:
            return _message(answer[key])
    return "" if answer is None else str(answer)[:300]
