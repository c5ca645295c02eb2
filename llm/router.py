"""Several upstreams behind one name: when one fails or is late, another answers, in the same turn.

Until the first piece of an answer there is nothing a caller could have heard, so another
upstream may begin anew. After it, another one would say something else: an answer that
breaks off then is an error, as it is with one upstream. Who is asked when is decided in
`llm.upstreams`; this is its shell.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import llm.engine
from llm.engine import Engine, EngineError, Item, Message, Params, Text, ToolCall, ToolSpec, Usage
from llm.openai import OpenAI
from llm.prompt import add_words
from llm.upstreams import Answer, Breaker, Policy, UnavailableError, Upstreams

log = logging.getLogger(__name__)

GRACE = 3.0
"""How long `start` waits for the other upstreams once one is up, in seconds."""

PROBE = (Message("user", "hello"),)
"""What an upstream that is out of service is asked; one token of an answer will do."""

KEPT = 100
"""Fail-overs remembered."""

Piece = Text | ToolCall | Usage


@dataclass(frozen=True, slots=True)
class Failover:
    """An answer that did not come from the upstream that was asked first.

    Attributes:
        asked: The names of all that were asked, in that order.
        answered: The one whose answer was heard.
        cost: Seconds from the first request until the one that was answered: what the
            caller waited longer.
    """

    asked: tuple[str, ...]
    answered: str
    cost: float


def servers(
    addresses: str, model: str = "", key: str = "", policy: Policy | None = None
) -> "Router":
    """Return a router over OpenAI-compatible servers: "URL", "URL,URL" or "URL|MODEL,URL|MODEL".

    The first is preferred. `model` is for those that name none; all are shown the same `key`.

    Raises:
        ValueError: If one of the addresses is none.
    """
    policy = policy or Policy()
    engines = []
    for address in addresses.split(","):
        url, _, own = address.strip().partition("|")
        # Its timeout must not meet the end of patience: httpx closes a connection then, and
        # being cancelled while it does so leaves it open.
        engines.append(OpenAI(url, own or model, key, timeout=policy.patience + 1.0))
    return Router(engines, policy)


class Router:
    """Think with the first of several engines that can.

    An engine that raises `UnavailableError` is replaced by the next; any other `EngineError`
    is the answer's own fault and raised as it is.

    Attributes:
        upstreams: What is known of them, in order of preference.
        failovers: The latest.
        switched: How often there was one, by who was asked first and who answered.
    """

    def __init__(self, engines: Sequence[Engine], policy: Policy | None = None) -> None:
        """Take engines that are not started, the preferred first."""
        if not engines:
            raise ValueError("a router without upstreams; name at least one")
        self.engines = tuple(engines)
        self.name = ",".join(engine.name for engine in engines)
        self.about = engines[0].about
        self.upstreams = Upstreams(len(engines), policy or Policy())
        self.failovers: deque[Failover] = deque(maxlen=KEPT)
        self.switched: Counter[tuple[str, str]] = Counter()
        self._running = False
        self._out: set[int] = set()
        self._mending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start all; return once they are up, or one is and the others take their time.

        Those that are not up are tried again in the background.

        Raises:
            EngineError: If none can be used.
        """
        if self._running:
            return
        clock = asyncio.get_running_loop().time
        self.upstreams = Upstreams(len(self.engines), self.upstreams.policy)
        starts = [asyncio.ensure_future(engine.start()) for engine in self.engines]
        pending, is_up = set(starts), False
        try:
            while pending:
                done, pending = await asyncio.wait(
                    pending,
                    timeout=GRACE if is_up else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    break
                is_up = is_up or any(task.exception() is None for task in done)
        finally:
            await _cancel(*pending)
        errors: list[EngineError] = []
        for place, task in enumerate(starts):
            error = EngineError("took too long") if task.cancelled() else task.exception()
            if isinstance(error, EngineError):
                errors.append(error)
                self.upstreams.all[place].ready = False
                self.upstreams.all[place].put_out(clock())
            elif error:
                await self.stop()
                raise error
        if not is_up:
            if len(errors) == 1:
                raise errors[0]
            raise EngineError(f"no upstream can be used: {'; '.join(map(str, errors))}")
        self.about = self._about()
        self._running = True
        self.watch("; ".join(map(str, errors)))

    async def stop(self) -> None:
        """Stop all."""
        self._running = False
        if self._mending:
            await _cancel(self._mending)
        for engine in self.engines:
            await engine.stop()
        self._out.clear()

    @property
    def in_service(self) -> dict[str, bool]:
        """Whether each upstream is asked, by its name."""
        every = zip(self.engines, self.upstreams.all, strict=True)
        return {engine.name: each.breaker is Breaker.CLOSED for engine, each in every}

    def open(self, items: Sequence[Item], tools: Sequence[ToolSpec]) -> "Thread":
        """Begin one answer to `items`; the upstream that will be asked may read ahead."""
        return Thread(self, items, tools)

    def watch(self, why: str = "") -> None:
        """Tell which upstreams went out of service or came back, and have the former probed."""
        every = self.upstreams.all
        out = {place for place, each in enumerate(every) if each.breaker is not Breaker.CLOSED}
        for place in sorted(out ^ self._out):
            if place in out:
                log.warning("%s is out of service: %s", self.engines[place].name, why or "late")
            else:
                log.warning("%s is in service again", self.engines[place].name)
        self._out = out
        if out and self._running and (self._mending is None or self._mending.done()):
            self._mending = asyncio.create_task(self._mend())

    def note(self, answer: Answer, place: int, cost: float) -> None:
        """Remember a fail-over."""
        asked = tuple(self.engines[each].name for each in answer.asked)
        self.failovers.append(Failover(asked, self.engines[place].name, cost))
        self.switched[asked[0], self.engines[place].name] += 1
        log.info(
            "%s answered instead of %s, after %.3f s", self.engines[place].name, asked[0], cost
        )

    def gave_up(self, errors: Mapping[int, EngineError]) -> EngineError:
        """Return why nobody answers, from what each upstream said last."""
        refusals = [error for error in errors.values() if not isinstance(error, UnavailableError)]
        if refusals:
            return refusals[0]
        if len(self.engines) == 1 and errors:
            return errors[0]
        patience = self.upstreams.policy.patience
        why = "; ".join(map(str, errors.values())) or f"no first token within {patience:g} s"
        return UnavailableError(f"no upstream answered: {why}")

    async def _mend(self) -> None:
        """Probe who is out of service until nobody is."""
        clock = asyncio.get_running_loop().time
        while (at := self.upstreams.probe_at) is not None:
            # Another one may go out meanwhile and be due before.
            await asyncio.sleep(min(max(at - clock(), 0.0), self.upstreams.policy.rest))
            await asyncio.gather(*map(self._probe, self.upstreams.probe(clock())))
        self._mending = None
        self.watch()

    async def _probe(self, place: int) -> None:
        """Put an upstream back into service if it can write a token."""
        engine, upstream = self.engines[place], self.upstreams.all[place]
        clock = asyncio.get_running_loop().time
        policy = self.upstreams.policy
        try:
            if not upstream.ready:
                async with asyncio.timeout(policy.patience):
                    await engine.start()
                upstream.ready = True
                self.about = self._about()
            asked = clock()
            async with asyncio.timeout(policy.longest):
                thread = engine.open(PROBE, [])
                async with aclosing(thread.generate(Params(max_tokens=1), asked)) as pieces:
                    async for _ in pieces:
                        pass
        except Exception as error:  # whatever it is, it must not end the probing
            log.debug("%s is still out of service: %r", engine.name, error)
            upstream.put_out(clock())
        else:
            upstream.succeeded(asked)

    def _about(self) -> str:
        up = [e for e, u in zip(self.engines, self.upstreams.all, strict=True) if u.ready]
        others = f" ({len(self.engines)} upstreams; the first in service)"
        return up[0].about + (others if len(self.engines) > 1 else "")


class Thread:
    """One answer of a router."""

    def __init__(self, router: Router, items: Sequence[Item], tools: Sequence[ToolSpec]) -> None:
        self._router = router
        self._items = list(items)
        self._tools = tools
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        first = router.upstreams.best(asyncio.get_running_loop().time())
        self._ahead = {first: router.engines[first].open(items, tools)}
        self._attempts: list[_Attempt] = []

    def append(self, words: str) -> None:
        """Add words to the user's last message."""
        self._items = add_words(self._items, words)
        for thread in self._ahead.values():
            thread.append(words)

    async def generate(self, params: Params, deadline: float) -> AsyncGenerator[Piece, None]:
        """Yield the answer of the first upstream that gives one.

        Raises:
            UnavailableError: If none does, or the one that did broke off.
            EngineError: If the request or what the model wrote is at fault.
        """
        if self._closed.done():
            return
        clock = asyncio.get_running_loop().time
        router, began = self._router, clock()
        answer = router.upstreams.answer(began)
        try:
            won = await self._first(answer, params, deadline)
            if won is None:
                return
            asked = answer.answered(won.place, clock())
            for attempt in self._attempts:
                if attempt is not won:
                    attempt.hang_up()
            if won.place != answer.asked[0]:
                router.note(answer, won.place, asked - began)
            upstream = router.upstreams.all[won.place]
            try:
                if (piece := won.first.result()) is not None:
                    yield piece
                async for piece in won.pieces:
                    yield piece
            except UnavailableError as error:
                upstream.failed(asked, clock(), error.after)
                router.watch(str(error))
                raise
            except (GeneratorExit, asyncio.CancelledError):
                upstream.succeeded(asked)  # as far as anybody listened
                raise
            upstream.succeeded(asked)
        finally:
            await self._hang_up()

    def close(self) -> None:
        """Hang up on all that were asked."""
        if not self._closed.done():
            self._closed.set_result(None)
        for thread in (*self._ahead.values(), *(each.thread for each in self._attempts)):
            thread.close()

    async def _first(self, answer: Answer, params: Params, deadline: float) -> "_Attempt | None":
        """Return the attempt that has the first piece, None if nobody wants it any more."""
        clock, router = asyncio.get_running_loop().time, self._router
        errors: dict[int, EngineError] = {}
        while True:
            for attempt in self._attempts:
                if at := getattr(attempt.thread, "began", None):
                    answer.began(attempt.place, at)
            while (place := answer.tick(clock())) is not None:
                thread = self._ahead.pop(place, None)
                thread = thread or router.engines[place].open(self._items, self._tools)
                self._attempts.append(_Attempt(place, thread, params, deadline))
            router.watch()
            if answer.over:
                raise router.gave_up(errors)
            left = None if answer.deadline is None else max(answer.deadline - clock(), 0.0)
            events: list[asyncio.Future[Any]] = [attempt.first for attempt in self._attempts]
            done, _ = await asyncio.wait(
                [self._closed, *events],
                timeout=left,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if self._closed in done:
                return None
            for attempt in [each for each in self._attempts if each.first in done]:
                error = attempt.first.exception()
                if error is None:
                    return attempt
                if not isinstance(error, EngineError):
                    raise error
                errors[attempt.place] = error
                self._attempts.remove(attempt)
                if isinstance(error, UnavailableError):
                    answer.failed(attempt.place, clock(), error.after)
                    router.watch(str(error))
                else:
                    answer.refused(attempt.place, clock())

    async def _hang_up(self) -> None:
        """Close everything, and wait until it is."""
        for thread in self._ahead.values():
            thread.close()
        for attempt in self._attempts:
            attempt.hang_up()
        await _cancel(*(attempt.first for attempt in self._attempts))
        for attempt in self._attempts:
            await attempt.pieces.aclose()
        self._attempts.clear()


class _Attempt:
    """One upstream's try at an answer."""

    def __init__(
        self, place: int, thread: llm.engine.Thread, params: Params, deadline: float
    ) -> None:
        self.place = place
        self.thread = thread
        self.pieces = thread.generate(params, deadline)
        self.first = asyncio.ensure_future(self._first())

    def hang_up(self) -> None:
        self.thread.close()
        self.first.cancel()

    async def _first(self) -> Piece | None:
        return await anext(self.pieces, None)


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait for their end, whatever it is."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        task.cancelled() or task.exception()  # seen: asyncio complains of those that were not
