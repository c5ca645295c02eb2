"""A process in which engines run, as the media process sees it: started, watched, restarted.

Models hold the interpreter lock and sometimes die; neither may touch the audio. So they live
in a process of their own behind a local socket. When it dies, all work under way there fails
at once and says so, it is started again, and what is asked meanwhile fails at once, too. It
leads a process group of its own: Ctrl-C does not reach it, and what it started (vLLM's
workers, say) ends with it. It ends with this process, however that ends, because it watches
the other end of its socket.
"""

import asyncio
import itertools
import logging
from collections.abc import Mapping
from time import monotonic
from typing import Any, Literal, Protocol

from llm.engine import Json
from voice.engine_life import Life
from voice.engine_wire import Kind, Make, Message, pack, plan

log = logging.getLogger(__name__)

Room = Literal["ears", "mind", "mouth"]

START_WITHIN = 600.0
"""Seconds that engines may take to load before they count as failed."""

PROGRESS = 20.0
"""Seconds of loading after which the operator is told that it goes on, again and again."""

STOP_WITHIN = 10.0
"""Seconds that engines may take to free everything before their process is killed."""

RESTART_AFTER = (0.1, 5.0)
"""Seconds before a dead process's first restart, and at most before any later one."""

BEAT, BEATS = 5.0, 6
"""Seconds after which a process is asked whether it still runs, and how often in a row it may
say nothing until it counts as hung: its models work in threads, and leave it time to answer."""

UNSENT = 32 << 20
"""Bytes that may wait in front of a process that reads nothing: 8 s of audio of 64 callers."""


class StartError(RuntimeError):
    """Engines cannot be started; the message is theirs and names the remedy."""


class Work(Protocol):
    """Something under way in an engine process. None of this blocks."""

    def item(self, value: Json, raw: bytearray) -> None:
        """Take the next result."""

    def want(self) -> None:
        """The engine waits for the next phrase."""

    def done(self, value: Json) -> None:
        """It is complete; for a question, with its answer."""

    def fail(self, reason: str) -> None:
        """It will not be completed."""


class EngineProcess:
    """One process and the engines in it, started with the first user and ended with the last."""

    def __init__(
        self,
        name: str,
        makes: Mapping[Room, Make],
        *,
        turns: Make | None = None,
        start_within: float = START_WITHIN,
    ) -> None:
        """Say what it is to run; nothing is started.

        Args:
            name: What messages call it: the engines' names.
            makes: The engines.
            turns: What shares one device among ears and mouth; both are given it as `turns`.
                It keeps the device for another process, too, if that is to `reserve` it.
            start_within: Seconds that all of them together may take to load.
        """
        self.name = name
        self.known: Mapping[str, Mapping[str, Json]] = {}
        """What the engines of each room say of themselves, once they run."""
        self.works: dict[int, Work] = {}
        """Everything under way."""
        self._loaded_with: dict[Room, Any] = {
            room: make.keywords.get("options") for room, make in makes.items()
        }
        self._options = dict(self._loaded_with)
        self._adjusted: dict[Room, dict[str, float]] = {}
        self._plans = {
            "engines": {room: plan(make) for room, make in makes.items()},
            "turns": plan(turns),
        }
        self._start_within = start_within
        self._numbers = itertools.count(1)
        self._users: set[object] = set()
        self._life: Life | None = None
        self._starting: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._why_not = f"{name} is not running; await start() first"

    @property
    def pid(self) -> int:
        """Process id, 0 while it does not run."""
        return self._life.process.pid if self._life is not None else 0

    @property
    def faring(self) -> Mapping[str, Json]:
        """How its engines fared when they were last asked, `BEAT` seconds ago at most."""
        return self._life.faring if self._life is not None else {}

    async def start(self, user: object) -> None:
        """Start the process unless it runs; on return every engine in it is loaded and warm.

        Raises:
            StartError: If it cannot.
        """
        self._users.add(user)
        if self._starting is None:
            self._starting = asyncio.create_task(self._begin())
        await asyncio.shield(self._starting)

    async def stop(self, user: object) -> None:
        """End the process if nobody else uses it."""
        self._users.discard(user)
        if self._users or self._starting is None:
            return
        tasks = [task for task in (self._starting, self._keeping) if task is not None]
        self._starting = self._keeping = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        life = self._life
        self._fail_all(f"{self.name} was stopped")
        if life is not None:
            await life.end(STOP_WITHIN)

    def begin(self, work: Work, kind: Kind, value: Json) -> int:
        """Begin some work, which may fail at once; return its number."""
        number = next(self._numbers)
        self.works[number] = work
        self.send(kind, number, value)
        return number

    def send(self, kind: Kind, number: int, value: Json = None, raw: bytes = b"") -> None:
        """Send a message of some work, or fail that; nothing if it is over. Never blocks.

        What is sent in one turn of the loop leaves in one system call.
        """
        if number not in self.works:
            return
        if self._life is None:
            self.works.pop(number).fail(self._why_not)
        elif self._life.transport.get_write_buffer_size() > UNSENT:
            self._life.transport.write(pack(Kind.CLOSE, number))
            self.works.pop(number).fail(f"{self.name} does not keep up with what it is sent")
        else:
            self._life.transport.write(pack(kind, number, value, raw))

    def close(self, number: int) -> None:
        """Stop some work, in the process too. Safe at any time, also twice."""
        if self.works.pop(number, None) is not None and self._life is not None:
            self._life.transport.write(pack(Kind.CLOSE, number))

    def reserve(self, work: int, deadline: float, cost: float) -> None:
        """Let the device be kept for `work` of another process, wanted by `deadline`.

        `cost` is about how many seconds it takes. `release` ends it.
        """
        if self._life is not None:
            self._life.transport.write(pack(Kind.RESERVE, work, [deadline, cost]))

    def release(self, work: int) -> None:
        """Note that `work` has its result. Safe at any time, also twice."""
        if self._life is not None:
            self._life.transport.write(pack(Kind.RELEASE, work))

    def adjustable(self, room: Room) -> tuple[str, ...]:
        """Return the names of what `adjust` can change in the engine of `room`."""
        if self._options.get(room) is None:
            return ()
        return tuple(self.known.get(room, {}).get("adjustable", ()))

    def adjust(self, room: Room, name: str, value: float) -> None:
        """Change a setting of the engine of `room` from its next work on; never blocks.

        It stays changed when the process dies and is started again.

        Raises:
            ValueError: If the engine cannot change that, or not to this; nothing is sent.
        """
        if name not in (known := self.adjustable(room)):
            can = ", ".join(known) or "nothing"
            raise ValueError(f"{self.name} cannot change {name} while it runs, but {can}")
        self._options[room] = self._options[room].adjusted(name, value)
        self._adjusted.setdefault(room, {})[name] = value
        if self._life is not None:
            self._tell_adjusted(self._life, room, name, value)

    def _tell_adjusted(self, life: Life, room: Room, name: str, value: float) -> None:
        life.transport.write(pack(Kind.ADJUST, next(self._numbers), [room, name, value]))

    def _adjust_again(self, life: Life) -> None:
        """Change what was changed in the lives before, in an order in which every step is valid.

        One setting may bound another: which was changed first is not known any more.
        """
        for room, adjusted in self._adjusted.items():
            options, left = self._loaded_with[room], dict(adjusted)
            while left:
                name = next((n for n, v in left.items() if _valid(options, n, v)), next(iter(left)))
                value = left.pop(name)
                options = options.adjusted(name, value)
                self._tell_adjusted(life, room, name, value)

    async def _begin(self) -> None:
        self._keeping = asyncio.create_task(self._keep(await self._spawn()))

    async def _spawn(self) -> Life:
        """Start the process and wait until it has loaded."""
        life = await Life.begin(self._deliver, self._died)
        try:
            life.transport.write(pack(Kind.BUILD, 0, self._plans))
            self.known = await self._loaded(life)
        except BaseException:
            await life.end()
            raise
        self._adjust_again(life)
        self._life = life
        return life

    async def _loaded(self, life: Life) -> Mapping[str, Mapping[str, Json]]:
        """Return what the process says once it is ready; say now and then that it is not."""
        began = monotonic()
        while not life.ready.done():
            waited = monotonic() - began
            if waited >= self._start_within:
                raise StartError(
                    f"{self.name} did not load within {self._start_within:.0f} s: raise "
                    f"engine_start if that is what it needs{life.output}"
                )
            if waited >= PROGRESS:
                log.warning("%s is still loading, after %.0f s", self.name, waited)
            await asyncio.wait(
                {life.ready, life.lost},
                timeout=min(PROGRESS, self._start_within - waited),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if life.lost.done():
                if life.reason:
                    raise StartError(life.reason)
                await life.end()
                raise StartError(f"{self.name} {life.fate} while it loaded{life.output}")
        known: Mapping[str, Mapping[str, Json]] = life.ready.result()
        return known

    async def _keep(self, life: Life) -> None:
        """Start the process again whenever it has died."""
        while True:
            await self._lost(life)
            await life.end()
            said = "" if life.reason else life.output
            log.error("%s %s; starting it again%s", self.name, life.fate, said)
            life = await self._again()

    async def _lost(self, life: Life) -> None:
        """Wait until the process has died, or does not answer any more."""
        silent = 0
        while not life.lost.done():
            life.heard = False
            life.transport.write(pack(Kind.PING, 0))
            await asyncio.wait({life.lost}, timeout=BEAT)
            silent = 0 if life.heard else silent + 1
            if silent == BEATS and not life.lost.done():
                life.give_up(f"{self.name} hung: no answer for {BEAT * BEATS:.0f} s")

    async def _again(self) -> Life:
        """Start the process until that succeeds."""
        wait, longest = RESTART_AFTER
        while True:
            await asyncio.sleep(wait)
            try:
                return await self._spawn()
            except (StartError, OSError) as error:
                log.error("%s", error)
            wait = min(2 * wait, longest)

    def _died(self, life: Life) -> None:
        """Fail everything that was under way."""
        if life is self._life:
            self._fail_all(life.reason or f"{self.name} died during this work")
            self._why_not = f"{self.name} is being restarted: ask again"

    def _fail_all(self, reason: str) -> None:
        self._life, self._why_not = None, reason
        works, self.works = self.works, {}
        for work in works.values():
            work.fail(reason)

    def _deliver(self, message: Message) -> None:
        """Give a message to the work that it belongs to."""
        kind, number, value, raw = message
        work = self.works.get(number)
        if work is None:
            return  # closed while its result was on the way
        match kind:
            case Kind.ITEM:
                work.item(value, raw)
            case Kind.WANT:
                work.want()
            case Kind.DONE:
                del self.works[number]
                work.done(value)
            case Kind.FAILED:
                del self.works[number]
                work.fail(value)
            case _:
                raise ValueError(f"a media process does not expect {kind.name}")


def _valid(options: Any, name: str, value: float) -> bool:
    """Tell whether `options` can be changed so."""
    try:
        options.adjusted(name, value)
    except ValueError:
        return False
    return True
