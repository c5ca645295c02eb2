"""The server: its engines, its calls, and what it can say about itself. No HTTP in here."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from asr.turn_end import TurnEnd
from asr.vad import VadModel
from latency.load import EVERY, Load
from latency.metrics import Metrics
from transport import websocket
from transport.audio import Resampler
from transport.codec import SPEAKING_RATE
from transport.line import Call, Line
from transport.pacer import Pacer
from transport.webrtc import Peer
from voice import __version__, engines
from voice.admission import Admission
from voice.agent import Agent
from voice.calllog import CallLog
from voice.crew import Crew
from voice.exports import Exports
from voice.knobs import Knobs, pins
from voice.session import Session
from voice.settings import SessionSettings, Settings
from voice.steering import Steering

log = logging.getLogger(__name__)

RETRY_AFTER = 5
"""Seconds after which a refused caller may try again."""

FAREWELL = 0.5
"""Seconds that a WebRTC caller may take to hear that the server stops."""

END_REASONS = ("hang_up", "goodbye", "transfer", "silence", "error", "shutdown")
"""Reasons that metrics count by name; every other one counts as "lost"."""


class BusyError(RuntimeError):
    """A call cannot be taken now; `retry_after` seconds later it may."""

    def __init__(self, code: str, message: str, retry_after: int = RETRY_AFTER) -> None:
        super().__init__(message)
        self.code, self.retry_after = code, retry_after


class Server:
    """Takes calls once `start` is done."""

    def __init__(self, settings: Settings, who: Agent | None = None) -> None:
        """Make the engines; nothing is loaded yet. `who` answers instead of the settings' agent.

        Raises:
            ValueError: If the settings name an agent, an engine or a knob that is not there.
        """
        pins(settings.pinned)
        self.settings = settings
        self.metrics = Metrics()
        self.load = Load()
        self.admission = Admission(settings, self.metrics)
        self.knobs = Knobs(settings)
        self.steering: Steering | None = None
        """Watches the turns of all calls, once they are taken; None where none is recorded."""
        self._looking: asyncio.Task[None] | None = None
        self._loaded = False
        self.sessions: dict[str, Session] = {}
        self.peers: dict[str, Peer] = {}
        """WebRTC connections, from their answer until everything of theirs is freed."""
        self._offers = 0
        """WebRTC connections before that."""
        self._data = Path(settings.data)
        self._agent = who or engines.agent(settings)
        made = engines.make(settings, self._agent)
        self.ears, self.mind, self.mouth = made.ears, made.mind, made.mouth
        voice = settings.voice or self._agent.voice
        self.usual = SessionSettings(voice=voice, language=settings.language)
        """What a call has that chooses nothing."""
        self._log = CallLog(self._data / "calls")
        self._exports = Exports(settings, self.metrics, self._log)
        self._crew: Crew | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Load and warm every engine; on return calls are taken.

        Raises:
            RuntimeError: If an engine cannot start; the message names the remedy.
            ValueError: If the mouth has no such voice as the settings name.
        """
        await asyncio.gather(self.ears.start(), self.mouth.start())
        self.usual.changed({"voice": self.usual.voice}, self.mouth.voices)
        await self.mind.start()  # last: vLLM measures what memory the others leave
        for rate in (*websocket.RATES, SPEAKING_RATE):  # the first use of each is slow
            Resampler(self.mouth.rate, rate).push(np.zeros(self.mouth.rate // 20, np.float32))
        self.knobs = Knobs(self.settings, (self.ears, self.mind, self.mouth))
        if self.settings.trace:
            self.steering = Steering(
                self.settings,
                self.knobs,
                self._data,
                self._machine,
                lambda: len(self.sessions),
                partial(self._exports.take, ""),
            )
            for name, value in self.knobs.values.items():
                self.metrics.turned(name, value)
        self._crew = Crew(
            ears=self.ears,
            mind=self.mind,
            mouth=self.mouth,
            vad=VadModel(schedule=asyncio.get_running_loop().call_soon),
            pacer=Pacer(),
            agent=self._agent,
            knobs=self.knobs,
            turn_end=TurnEnd(),
            may_speculate=lambda: not (self.load.over or self.admission.sheds),
            late=lambda: self.load.late,
            at_fault=self.steering.at_fault if self.steering else _nobody,
        )
        self._exports.watch(
            self.ears,
            self.mind,
            self.mouth,
            self._split,
            lambda: self.admission.predicted_p95,
        )
        self._looking = asyncio.create_task(self._look())
        self._loaded = True

    async def _look(self) -> None:
        """Note how late this loop is, some times a second."""
        due = time.monotonic()
        while True:
            due += EVERY
            await asyncio.sleep(due - time.monotonic())
            now = time.monotonic()
            self.load.note(now - due, now)
            self.metrics.looked(now - due, self.load.late)
            self.admission.look(now - due, self.calls, now)
            due = now

    async def stop(self) -> None:
        """End all calls and free the engines."""
        self._loaded = False
        if self._looking is not None:
            self._looking.cancel()
        for session in list(self.sessions.values()):
            session.lost("shutdown")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        if self._closing:  # last words may still be on their way
            await asyncio.wait(self._closing, timeout=FAREWELL)
        await asyncio.gather(*(peer.close() for peer in self.peers.values()))
        await asyncio.gather(self.ears.stop(), self.mind.stop(), self.mouth.stop())
        self._log.close()
        if self.steering is not None:
            self.steering.close()
        await self._exports.close()

    def _split(self) -> Mapping[str, float]:
        """Return each stage's share of the budget, in seconds."""
        return self.steering.budget.split if self.steering else {}

    def _machine(self) -> dict[str, Any]:
        """Return what a page shows of the machine."""
        return {
            "calls": {
                "active": len(self.sessions),
                "max": self.knobs.max_calls,
                "predicted_p95": self.admission.predicted_p95,
            },
            "admission": self.admission.describe(),
            "loop_late": self.load.late,
        }

    def keep(self, name: str, peer: Peer) -> None:
        """Know `peer` by `name` until it has closed."""

        async def forget() -> None:
            await peer.wait_closed()
            del self.peers[name]

        self.peers[name] = peer
        task = asyncio.create_task(forget())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    @property
    def ready(self) -> bool:
        """Whether every engine is loaded; one whose process died is loaded again meanwhile."""
        engines = (self.ears, self.mind, self.mouth)
        return self._loaded and all(getattr(engine, "alive", True) for engine in engines)

    @property
    def calls(self) -> int:
        """How many calls go on or are being set up."""
        direct = sum(session.line.transport != "webrtc" for session in self.sessions.values())
        return max(len(self.sessions), direct + len(self.peers) + self._offers)

    @contextmanager
    def setting_up(self) -> Iterator[None]:
        """Count one more call within this context, though it has no connection yet."""
        self._offers += 1
        try:
            yield
        finally:
            self._offers -= 1

    def admit(self) -> None:
        """Check that one more call can be taken, before anything is done for it.

        Raises:
            BusyError: If not.
        """
        self._check(self.calls)
        forecast = self.admission.refusal(self.calls, time.monotonic())
        if forecast is not None:
            why = self.admission.reason(forecast)
            raise self._refuse("saturated", why, forecast.retry_after)

    def _check(self, calls: int) -> None:
        """Check what a call cannot do without."""
        if self._crew is None or not self.ready:
            raise self._refuse("not_ready", "the engines are being loaded", 2)
        if calls >= self.knobs.max_calls:
            raise self._refuse("busy", f"all {self.knobs.max_calls} lines are busy")

    def _refuse(self, code: str, message: str, retry_after: int = RETRY_AFTER) -> BusyError:
        self.metrics.refused.labels(code).inc()
        return BusyError(code, message, retry_after)

    def choose(self, given: Mapping[str, str]) -> SessionSettings:
        """Return what a call has that chooses `given`.

        Raises:
            ChoiceError: If it cannot be chosen.
        """
        return self.usual.changed(given, self.mouth.voices)

    def attach(
        self, line: Line, chosen: SessionSettings | None = None, traceparent: str = ""
    ) -> Call:
        """Begin a call on `line`, with what it has `chosen`; `admit` has said that it may.

        Its trace is a part of the one that `traceparent` names (W3C Trace Context), if it does.

        Raises:
            BusyError: If that has changed meanwhile.
        """
        self._check(len(self.sessions))
        assert self._crew is not None
        name = f"call_{secrets.token_hex(8)}"
        note = self._noter(name)
        session = Session(name, line, self._crew, self.settings, note, chosen or self.usual)
        self.sessions[name] = session
        self.metrics.calls.labels(line.transport).inc()
        self.metrics.active.inc()
        self._exports.begin(name, line.transport, traceparent)
        task = asyncio.create_task(self._hold(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return session

    async def _hold(self, session: Session) -> None:
        """Run one call; the only place where anything may go wrong and only this call ends."""
        try:
            await session.run()
        except Exception:
            log.exception("call %s failed", session.name)
        finally:
            del self.sessions[session.name]
            self.metrics.active.dec()
            self.admission.ended(time.monotonic())
            reason = session.ended if session.ended in END_REASONS else "lost"
            self.metrics.ended.labels(reason).inc()
            self.metrics.underruns.inc(session.underruns)
            self._log.finish(session.name)
            self._exports.finish(session.name)

    def _noter(self, name: str) -> Callable[[Mapping[str, Any]], None]:
        """Return what takes the events of one call: the log and the counters."""
        metrics = self.metrics

        def note(event: Mapping[str, Any]) -> None:
            self.admission.take(event, time.monotonic())
            if self.steering is not None:
                self.steering.take(event)
            match event:
                case {"type": "captions", "interrupted": True}:
                    metrics.interrupted.inc()
                case {"type": "resume"}:
                    metrics.resumed.inc()
                case {"type": "work", "seconds": seconds, "wasted": wasted}:
                    metrics.finished_work(seconds, wasted)
                case {"type": "speculation", "kept": kept}:
                    metrics.speculations.labels("kept" if kept else "dropped").inc()
                case {"type": "heard", "verdict": "missed"}:
                    metrics.missed.inc()
                case {"type": "tool"}:
                    metrics.tools.labels("failed" if "error" in event else "done").inc()
            self._exports.take(name, event)
            if event.get("type") != "captions" or event.get("final"):
                self._log.write(name, {"time": round(time.time(), 3), **event})
                if name not in self.sessions:  # a tool has outlasted its call
                    self._log.finish(name)

        return note

    def about(self) -> dict[str, Any]:
        """Return what this server is and what it can honestly do."""
        better = "voice models fetch whisper-small, then voice serve --asr whisper:small"
        ears = {"name": self.ears.name, "about": self.ears.about}
        if self.ears.name.startswith("sphinx"):
            ears["better"] = better
        return {
            "version": __version__,
            "agent": {"name": self._agent.name, "suggestions": list(self._agent.suggestions)},
            "ears": ears,
            "mind": {"name": self.mind.name, "about": self.mind.about},
            "mouth": {
                "name": self.mouth.name,
                "about": self.mouth.about,
                "voices": list(self.mouth.voices),
            },
        }


def _nobody(stages: Mapping[str, float], budget: float) -> str:
    """Blame no stage where no turn is recorded."""
    return ""
