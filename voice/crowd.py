"""Calls held at the same time whose number may grow, and what their callers meet meanwhile."""

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from voice.bench_calls import faults
from voice.callers import Caller, Plan, Turn
from voice.capacity import Refusal, Tally

LOOK = 0.01
"""Seconds between two looks at how late this process is."""

BEGIN = 1.0
"""Seconds of silence with which every call begins."""

ASKED_WITHIN = 10.0
"""Seconds that a server may take to accept a connection."""

NAMES = {"gap": "underruns"}
"""Faults that callers call otherwise than verdicts do."""


class Crowd(Protocol):
    """Calls that are held at the same time.

    Attributes:
        period: Seconds from one utterance of a caller to its next.
        settle: Seconds from a call's begin until no more of its first turn, which does not count,
            is to be told.
    """

    period: float
    settle: float

    @property
    def calls(self) -> int:
        """How many go on."""

    async def add(self) -> None:
        """Place one more call; that it is refused or fails is seen in the tally."""

    def take(self) -> Tally:
        """Return what all callers met since this was last asked, without their first turns."""

    async def hang_up(self) -> None:
        """End all calls."""


class Pulse:
    """How late this process is with what it has to do: it looks at its clock all the time."""

    def __init__(self) -> None:
        self._late: list[float] = []
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        due = monotonic()
        while True:
            due += LOOK
            await asyncio.sleep(due - monotonic())
            now = monotonic()
            self._late.append(max(0.0, now - due))
            due = max(due, now - LOOK)

    def take(self) -> list[float]:
        """Return how late it was since this was last asked, in seconds, `LOOK` apart."""
        late, self._late = self._late, []
        return late

    async def stop(self) -> None:
        """Look no more."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@dataclass(slots=True)
class _Held:
    """One call, and which of its turns were counted; the first never is."""

    caller: Caller
    refusals: list[Refusal]
    answered: int = 1
    over: int = 1


class WebSocketCrowd:
    """Calls on `/v1/stream`."""

    def __init__(
        self,
        url: str,
        plan: Plan,
        *,
        key: str = "",
        reply: float | None = None,
        silent: float = 0.0,
    ) -> None:
        """Call the server at `url` as `plan` says.

        `reply` is how many seconds every reply lasts, where that is known; a caller says nothing
        for the first `silent` seconds, in which a server may greet it.
        """
        self.period, self.settle = plan.period, BEGIN + silent + plan.period
        self._plan, self._reply, self._silent = plan, reply, silent
        place = urlsplit(url)
        self._secure = place.scheme == "https"
        self._host = place.hostname or "127.0.0.1"
        self._port = place.port or (443 if self._secure else 80)
        scheme, secret = "wss" if self._secure else "ws", f"&key={quote(key)}" if key else ""
        address = f"{scheme}://{place.netloc}{place.path.rstrip('/')}"
        self._address = f"{address}/v1/stream?rate=16000{secret}"
        self._held: list[_Held] = []
        self._unreached: list[str] = []
        self._pulse = Pulse()

    @property
    def calls(self) -> int:
        """How many go on."""
        return sum(not held.caller.lost for held in self._held)

    async def add(self) -> None:
        """Place one more call."""
        asked = monotonic()
        refusals: list[Refusal] = []

        def heed(caller: Caller, event: Mapping[str, Any]) -> None:
            if event.get("type") == "error" and "retry_after" in event:
                after = monotonic() - asked
                refusals.append(Refusal(str(event["code"]), after, float(event["retry_after"])))

        caller = Caller(self._address, self._plan, self._silent, heed=heed)
        held = _Held(caller, refusals)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ASKED_WITHIN):
                await loop.create_connection(
                    lambda: caller, self._host, self._port, ssl=self._secure or None
                )
        except OSError as error:  # a time-out is one
            self._unreached.append(str(error) or f"no answer in {ASKED_WITHIN:g} s")
        else:
            self._held.append(held)

    def take(self) -> Tally:
        """Return what all callers met since this was last asked, without their first turns."""
        tally, now = Tally(late=self._pulse.take()), monotonic()
        tally.lost.update(self._unreached)
        self._unreached = []
        for held in self._held:
            self._look(held, now, tally)
            caller = held.caller
            if caller.lost and held.refusals:
                tally.refusals += held.refusals
            elif caller.lost:
                tally.lost[caller.lost] += 1
        self._held = [held for held in self._held if not held.caller.lost]
        return tally

    def _look(self, held: _Held, now: float, tally: Tally) -> None:
        turns = held.caller.turns
        for turn in turns[held.answered :]:
            if turn.reply is None or turn.ended is None:
                break
            held.answered += 1
            if turn.gap is not None:
                tally.gaps.append(turn.gap)
        for turn in turns[held.over : -1]:
            held.over += 1
            if turn.reply is None:
                held.answered = max(held.answered, held.over)
                tally.gaps.append(float("inf"))
            tally.close_turn([NAMES.get(fault, fault) for fault in faults(turn, self._reply)])
        if len(turns) > 1 and _waits(turns[-1]):
            tally.waiting.append(now - (turns[-1].ended or now))

    async def hang_up(self) -> None:
        """End all calls."""
        for held in self._held:
            held.caller.hang_up()
        self._held = []
        await self._pulse.stop()
        await asyncio.sleep(0.2)


def _waits(turn: Turn) -> bool:
    return turn.ended is not None and turn.reply is None and turn.early is None


async def join(crowd: Crowd, count: int, seconds: float) -> None:
    """Add `count` calls, spread evenly over `seconds`, so that their callers speak by turns."""
    began = monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, began + seconds * number / count - monotonic()))
            group.create_task(crowd.add())


def refusal(body: str, status: int, after: float, retry_after: Sequence[str]) -> Refusal:
    """Return what an HTTP answer without a call says: its code, and `Retry-After` if it has one."""
    try:
        code = json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        code = f"status {status}"
    seconds = float(retry_after[0]) if retry_after and retry_after[0].isdigit() else None
    return Refusal(str(code), after, seconds)
