"""A caller on `/v1/stream`: plays speech, hears the agent, keeps events and both voices.

The command line, the benchmark and the tests call with it, so what they measure
is what an app would see: a microphone that never stops, and a loudspeaker that
plays what has come and drops what it holds on `clear`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from transport.audio import Resampler, from_pcm16, level_db, to_pcm16
from transport.line import FRAME, Pcm

AUDIBLE_DB = -42.0
"""Level from which a message counts as sound, in dB of full scale."""

UNPLAYED = 2
"""Seconds of agent audio kept for a loudspeaker; the server is 60 ms ahead at most."""

Event = Mapping[str, Any]


@dataclass(slots=True)
class Caller:
    """One call, from the caller's side. Times are seconds of the loop's clock.

    Attributes:
        rate: Sample rate of both directions, in hertz.
        watch: Told of every event as it comes.
    """

    socket: ClientConnection
    rate: int
    watch: Callable[[Event], None] = lambda event: None
    events: list[tuple[float, Event]] = field(default_factory=list)
    """Every event with the time it came."""
    audio: list[tuple[float, Pcm]] = field(default_factory=list)
    """Every message of agent audio with the time it came."""
    began: float = 0.0
    """When the first frame was sent."""
    stopped_speaking: float = 0.0
    """When the frame with the last speech sample was sent."""
    ended: str = ""
    """Why the call ended, "" while it goes on."""
    _said: list[tuple[float, Pcm]] = field(default_factory=list)
    _speech: Pcm = field(default_factory=lambda: np.zeros(0, np.float32))
    _unplayed: Pcm = field(default_factory=lambda: np.zeros(0, np.float32))
    _spoken: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def say(self, pcm: Pcm, rate: int) -> float:
        """Speak; return when the frame with the last speech sample has been sent."""
        resampler = Resampler(rate, self.rate)
        speech = np.concatenate([resampler.push(pcm), resampler.flush()])
        loud = np.flatnonzero(np.abs(speech) > 0.01)
        self._speech = speech[: loud[-1] + 1] if len(loud) else speech
        self._spoken.clear()
        await self._spoken.wait()
        return self.stopped_speaking

    def hear_microphone(self, pcm: Pcm) -> None:
        """Take live sound at `rate`; what is more than a second behind is dropped."""
        self._speech = np.concatenate([self._speech, pcm])[-self.rate :]

    def loudspeaker(self, samples: int) -> Pcm:
        """Return the next `samples` of the agent's voice, silence where there is none."""
        piece, self._unplayed = self._unplayed[:samples], self._unplayed[samples:]
        return np.pad(piece, (0, samples - len(piece)))

    async def type(self, text: str) -> None:
        """Send a typed message."""
        await self.socket.send(json.dumps({"type": "text", "text": text}))

    async def hang_up(self) -> None:
        """End the call and wait for the server to say so."""
        try:
            await self.socket.send(json.dumps({"type": "hang_up"}))
            await self.until(lambda: bool(self.ended), 5.0)
        except ConnectionClosed:
            pass

    async def until(self, happened: Callable[[], bool], timeout: float) -> bool:
        """Wait until `happened()`; return False if the call ended or `timeout` passed first."""
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: happened() or bool(self.ended))
        except TimeoutError:
            pass
        return happened()

    def heard(self, since: int = 0) -> list[str]:
        """Return the agent's final captions from event number `since` on."""
        return [
            event["text"]
            for _, event in self.events[since:]
            if event.get("type") == "captions"
            and event.get("role") == "agent"
            and event.get("final")
        ]

    def answer_gap(self) -> float | None:
        """Return the seconds from the last speech sample to the agent's first sound after it."""
        for at, pcm in self.audio:
            if at > self.stopped_speaking and level_db(pcm) > AUDIBLE_DB:
                return at - self.stopped_speaking
        return None

    def recording(self) -> Pcm:
        """Return the call as stereo, shape (n, 2): the caller left, the agent right as played."""
        pieces = [(self._index(at), pcm, 0) for at, pcm in self._said]
        playing = 0
        cleared = [at for at, event in self.events if event.get("type") == "clear"]
        for at, pcm in self.audio:
            playing = max(playing, self._index(at))
            while cleared and cleared[0] <= at:
                playing = min(playing, max(self._index(cleared.pop(0)), self._index(at)))
            pieces.append((playing, pcm, 1))
            playing += len(pcm)
        stereo = np.zeros((max([p + len(pcm) for p, pcm, _ in pieces], default=0), 2), np.float32)
        for start, pcm, side in pieces:
            stereo[start : start + len(pcm), side] = pcm
        return stereo

    def _index(self, at: float) -> int:
        return max(0, round((at - self.began) * self.rate))

    async def _send_all(self) -> None:
        """Send 20 ms every 20 ms, speech or silence, until cancelled."""
        clock = asyncio.get_running_loop().time
        samples = round(self.rate * FRAME)
        silence = to_pcm16(np.zeros(samples, np.float32))
        self.began = clock()
        sent = 0
        while True:
            await asyncio.sleep(self.began + sent * FRAME - clock())
            frame, self._speech = self._speech[:samples], self._speech[samples:]
            if len(frame):
                whole = np.pad(frame, (0, samples - len(frame)))
                self._said.append((self.began + sent * FRAME, whole))
                await self.socket.send(to_pcm16(whole))
            else:
                await self.socket.send(silence)
            sent += 1
            if len(frame) and not len(self._speech):
                self.stopped_speaking = clock()
                self._spoken.set()

    async def _receive_all(self) -> None:
        """Keep what comes until the server closes."""
        clock = asyncio.get_running_loop().time
        async for message in self.socket:
            if isinstance(message, bytes):
                pcm = from_pcm16(message)
                self.audio.append((clock(), pcm))
                self._unplayed = np.concatenate([self._unplayed, pcm])[-UNPLAYED * self.rate :]
                continue
            event = json.loads(message)
            if event.get("type") == "clear":
                self._unplayed = self._unplayed[:0]
            self.events.append((clock(), event))
            self.watch(event)
            async with self._changed:
                if event.get("type") == "end":
                    self.ended = event.get("reason", "end")
                self._changed.notify_all()


@asynccontextmanager
async def dial(
    url: str, rate: int = 16000, key: str = "", watch: Callable[[Event], None] = lambda event: None
) -> AsyncIterator[Caller]:
    """Call the server at `url` ("http://127.0.0.1:8000"); hang up on leaving.

    Raises:
        OSError: If nobody listens there.
        websockets.exceptions.InvalidStatus: If the server refuses.
    """
    address = f"{url.rstrip('/').replace('http', 'ws', 1)}/v1/stream?rate={rate}"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with connect(
        address, additional_headers=headers, compression=None, max_size=2**24
    ) as socket:
        caller = Caller(socket, rate, watch)
        tasks = [
            asyncio.create_task(caller._send_all()),
            asyncio.create_task(caller._receive_all()),
        ]
        for task in tasks:
            task.add_done_callback(lambda _: asyncio.ensure_future(_gone(caller)))
        try:
            yield caller
        finally:
            if not caller.ended:
                await caller.hang_up()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _gone(caller: Caller) -> None:
    """Wake whoever waits for a call whose wire has gone."""
    async with caller._changed:
        caller.ended = caller.ended or "lost"
        caller._spoken.set()
        caller._changed.notify_all()
