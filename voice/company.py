"""Callers that go on until they are told to stop, of whom more may join, or all get slower."""

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Any, Protocol

import httpx

from voice.bench_server import Measured
from voice.callers import Caller, place
from voice.loop_figures import Span
from voice.talker import Plan, Talker, Turn

SPREAD = 5.0
"""Seconds over which callers begin: about a turn."""

LONGEST = 240.0
"""Seconds that `Company.speak` takes at most."""

LOOK = 0.25
"""Seconds between two looks at what happened."""


class Member(Protocol):
    """A caller, over any transport."""

    lost: str
    talker: Talker

    def hold_up(self, most: float) -> None:
        """Hold up its packets by up to `most` seconds each, at random."""

    async def leave(self) -> None:
        """Hang up."""


class Company:
    """All callers of a run."""

    def __init__(self, server: Measured, plan: Plan, webrtc: bool) -> None:
        self.members: list[Member] = []
        self._gone: list[Member] = []
        self._plan = plan
        self._server, self._webrtc = server, webrtc
        self._http = httpx.AsyncClient(timeout=30)

    async def grow(self, count: int) -> None:
        """Let `count` more call, evenly spread over the length of a turn."""
        for number in range(count):
            first = len(self.members)
            offset = SPREAD * number / count
            if self._webrtc:
                from voice.webrtc_talkers import WebRtcTalker

                talker = WebRtcTalker(self._plan, first)
                await talker.call(self._http, self._server.url, offset)
                self.members.append(talker)
            else:
                self.members.append(
                    await place(
                        "127.0.0.1",
                        self._server.port,
                        self._plan,
                        offset,
                        first,
                        stamped=True,
                        heed=_nothing,
                    )
                )

    async def shrink(self, count: int) -> None:
        """Let all but the first `count` hang up."""
        gone, self.members = self.members[count:], self.members[:count]
        self._gone += gone
        for member in gone:
            await member.leave()

    def follow(self, plan: Plan) -> None:
        """Have everybody speak by `plan` from the next utterance on."""
        self._plan = plan
        for member in self.members:
            member.talker.plan = plan

    def hold_up(self, most: float) -> None:
        """Hold up everybody's packets, by `most` seconds at most."""
        for member in self.members:
            member.hold_up(most)

    def turns(self) -> list[Turn]:
        """Return the turns of which it is known whether they are answered, of those gone, too."""
        return [
            turn
            for member in (*self._gone, *self.members)
            for turn in member.talker.turns
            if turn.reply is not None or turn is not member.talker.turns[-1]
        ]

    async def speak(self, count: int) -> Span:
        """Return once the calls have had `count` turns from now on, and when that was.

        Raises:
            RuntimeError: If a call is lost.
        """
        begin = monotonic()
        while monotonic() - begin < LONGEST:
            await asyncio.sleep(LOOK)
            since = [turn for turn in self.turns() if turn.silent and turn.silent >= begin]
            if len(since) >= count:
                break
            if lost := next((member.lost for member in self.members if member.lost), ""):
                raise RuntimeError(f"a call was lost: {lost}")
        return Span("", begin, monotonic())

    async def leave(self) -> None:
        """Hang up."""
        await self.shrink(0)
        await self._http.aclose()


def _nothing(caller: Caller, event: Mapping[str, Any]) -> None:
    """Heed an event."""
