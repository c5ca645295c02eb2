"""What one call tells of its turns: the moments that the session sees become records."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any

from latency.trace import CallTrace, Outcome, TurnTrace, rounded
from transport.line import Line
from voice.hearing import FellSilent
from voice.speculation import Spent

AtFault = Callable[[Mapping[str, float], float], str]
"""Tells which of the stages, in seconds, is to blame for a gap that is over a budget."""


@dataclass(slots=True)
class Recording:
    """The records of one call.

    Attributes:
        call: Its name.
        line: What it is held on.
        note: Takes events for the log.
        tell: Takes events for the caller, too.
        late: Tells how late the event loop was lately, in seconds.
        at_fault: Names the stage to blame for a turn that is over its budget.
        wanted: Whether turns are recorded at all.
    """

    call: str
    line: Line
    note: Callable[[Mapping[str, Any]], None]
    tell: Callable[[Mapping[str, Any]], None]
    late: Callable[[], float]
    at_fault: AtFault
    wanted: bool
    trace: CallTrace = field(init=False)
    overlapped: float = 0.0
    """Seconds by which the making of the next answer began before the decision."""
    _silence: Callable[[], FellSilent] | None = None
    """Tells how the caller's speech ended; None while they speak."""
    _vad_end: float = 0.0
    """When the detector first told of that, in monotonic seconds."""
    _sound: float | None = None
    """When the caller made a sound that may cut the answer off, in monotonic seconds."""
    _stopped: float | None = None
    """When the answer was silent because of that."""
    _underruns: int = 0
    """Those of the call until the latest reply."""

    def __post_init__(self) -> None:
        self.trace = CallTrace(self.wanted)

    # The caller.

    def fell_silent(self, silence: Callable[[], FellSilent], now: float) -> None:
        """Note that the detector tells, at `now`, how the caller's speech ended.

        It may do so several times: the last word on it counts, the first told of it.
        """
        if self._silence is None:
            self._vad_end = now
        self._silence = silence

    def goes_on(self) -> None:
        """Note that the caller speaks."""
        self._silence = None

    def disturbed(self, sound: float, stopped: float) -> None:
        """Note that a sound, which began at `sound`, has silenced the answer at `stopped`."""
        self._sound, self._stopped = sound - self.line.codec_delay, stopped

    def resumed(self) -> None:
        """Note that it was no interruption."""
        self._sound = self._stopped = None

    # The answer.

    def decided(self, turn: int, due: float, typed: bool) -> None:
        """Note that turn `turn` is to be answered; by the rule, that was at `due`."""
        self.overlapped = 0.0
        mark = self.trace.mark
        if typed or self._silence is None:
            mark("speech_end", turn, due)
        else:
            silence = self._silence()
            mark("speech_end", turn, silence.speech_end - self.line.codec_delay)
            mark("arrived", turn, silence.arrived)
            mark("released", turn, silence.released)
            mark("vad_end", turn, max(self._vad_end, silence.released))
        mark("decided", turn, due)

    def dropped(self, turn: int, now: float) -> None:
        """Note that an answer made before the decision is not given."""
        self.trace.mark("dropped", turn, now)
        self.trace.of(turn).forget()

    def spent(self, turn: int, spent: Spent) -> None:
        """Note what the making of an answer took."""
        trace, seconds = self.trace.of(turn), spent.rounded()
        for engine, some in seconds.items():
            trace.worked[engine] = trace.worked.get(engine, 0.0) + some
        if spent.wasted:
            trace.wasted += spent.total
        else:
            trace.asked = seconds

    def heard(self, turn: int, at: float, budget: float, now: float) -> TurnTrace | None:
        """Note when the answer can be heard; tell, at `now`, where the time went.

        Return the turn's trace; None if nobody waited for this answer.
        """
        self.trace.mark("heard", turn, at + self.line.codec_delay)
        trace = self.trace.of(turn)
        if (total := trace.total) is None:
            return None
        trace.told, trace.late, trace.budget = now, self.late(), budget
        stages = trace.stages()
        trace.over = self.at_fault(stages, budget) if total > budget else ""
        event: dict[str, Any] = {"type": "turn", "turn": turn, "stages": rounded(stages, total)}
        event |= {"total": round(total, 5), "overlapped": round(self.overlapped, 5)}
        self.tell(event | {"budget": budget, "over": trace.over})
        if trace.over:
            over = {"type": "over_budget", "turn": turn, "total": event["total"]}
            self.note(over | {"budget": budget, "stage": trace.over})
        return trace

    def acknowledged(self, turn: int, now: float, late: float | None = None) -> None:
        """Note that the client plays the answer; only the first time counts.

        It does so now, or so many seconds after it was told of the turn, where it says that.
        """
        trace = self.trace.known(turn)
        if trace is None or trace.at("played") is not None:
            return
        if (sent := trace.at("sent")) is not None:
            played = now if late is None else trace.told + late
            self.trace.mark("played", turn, played if sent <= played <= now else now)

    def over(
        self, turn: int, outcome: Outcome, underruns: int, making: asyncio.Task[None] | None
    ) -> None:
        """Note that a reply is over; its record is written once the `making` of it is.

        One that fails is told of twice, the second time when it makes way: the first word counts.
        `underruns` are those of the whole call so far.
        """
        trace = self.trace.of(turn)
        trace.underruns += underruns - self._underruns
        self._underruns = underruns
        if outcome == "interrupted" and self._sound is not None:
            self.trace.mark("barge_in", turn, self._sound)
            self.trace.mark("stopped", turn, self._stopped or self._sound)
        if outcome in ("interrupted", "played") and trace.at("heard") is None:
            outcome = "unheard"
        self.resumed()
        if making is None or making.done():
            self._write(turn, outcome)
        else:
            making.add_done_callback(lambda _: self._write(turn, outcome))

    def _write(self, turn: int, outcome: Outcome) -> None:
        trace = self.trace.take(turn)
        if trace is None or (began := trace.at("speech_end")) is None:
            return
        record = trace.record(outcome) | {"call": self.call, "transport": self.line.transport}
        self.note(record | {"wall": round(wall(began), 4)})


def wall(monotonic_time: float) -> float:
    """Return a time of the monotonic clock, in seconds, as Unix time."""
    return time() - monotonic() + monotonic_time
