"""Where the time of one turn went.

Shells call `CallTrace.mark` with a moment's name; nothing else in the house knows about
stages. A turn's gap runs from the last sample of the caller's speech to the
first audible sample of the answer. Stages are the spans between two marks, as
far as they lie on the critical path: work that was done while the end of the
turn was still open cost nobody time, and shows as a span but not as a stage.
What no stage covers is stated as `unattributed`, so the parts always add up to
the gap, and a delay nobody thought of shows instead of hiding.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Moment = Literal[
    "speech_end",
    "arrived",
    "released",
    "vad_end",
    "decided",
    "speculation",
    "dropped",
    "let_go",
    "asr_start",
    "asr_final",
    "llm_start",
    "llm_first",
    "phrase",
    "tool_start",
    "tool_end",
    "tts_start",
    "tts_first",
    "sent",
    "heard",
    "played",
    "barge_in",
    "stopped",
]
"""The moments of a turn, each in seconds of one monotonic clock.

`speech_end` is the last audible sample of the caller, `arrived` its packet, `released` the jitter
buffer's word, `vad_end` the detector's, `decided` when the rule said that the turn is over (not
when the loop came round to it). A tool is waited for from `tool_start` to `tool_end`: it works on
while the caller is told to wait, and while the next turn begins. `speculation` and `dropped` are
those of an answer made before; `let_go` is when there was sound of it that might leave. `sent` is
the first frame of the answer on the wire, `heard` its first audible sample, `played` what the
client says of that. `barge_in` is the first sample of a sound that cut the answer off, `stopped`
when nothing of it was left to send.
"""

STAGES: tuple[tuple[str, Moment, Moment], ...] = (
    ("framing", "speech_end", "arrived"),
    ("jitter", "arrived", "released"),
    ("vad", "released", "vad_end"),
    ("endpoint", "vad_end", "decided"),
    ("asr", "asr_start", "asr_final"),
    ("llm", "llm_start", "llm_first"),
    ("first_phrase", "llm_first", "phrase"),
    ("tools", "tool_start", "tool_end"),
    ("tts", "tts_start", "tts_first"),
    ("send", "let_go", "sent"),
    ("silence", "sent", "heard"),
)
"""Each stage with the moment that begins it and the one that ends it."""

BEGINS: Mapping[str, str] = {first: name for name, first, _ in STAGES}

ENDS: Mapping[str, str] = {last: name for name, _, last in STAGES}

VOIDS: Mapping[str, str] = {"tool_start": "first_phrase"}
"""Stages that have begun and do not come to pass, by the moment that says so: a model that calls a
tool has written no phrase, and the next one is about what the tool said."""

NAMES = tuple(name for name, _, _ in STAGES)
"""Names of the stages, in the order in which they come to pass."""

ENDING = NAMES[:4]
"""Stages that the end of the caller's turn takes. What else goes on meanwhile costs nobody time."""

KEPT: tuple[Moment, ...] = (
    *("speech_end", "arrived", "released", "vad_end", "decided"),
    *("speculation", "dropped"),
)
"""Moments of a turn that stay true of it when its answer is dropped."""

CUT_IN = 0.7
"""Seconds after the decision within which a caller who speaks again was not done. Pauses inside a
turn are shorter than a second; who has heard an answer needs as long to object to it."""

Outcome = Literal["played", "interrupted", "unheard", "failed", "hung_up"]
"""What became of a reply; `unheard` was cancelled before its first sound, or had none."""

Span = tuple[str, float, float]
"""A stage's name, its begin and its end, in seconds."""


READY = 0.001
"""Seconds within which a piece of text came that was there when it was asked for."""


@dataclass(slots=True)
class Pace:
    """How fast a model writes, from when its text was asked for and came.

    Nobody asks while a phrase is made or the answer is held, and a model writes on meanwhile, or
    does not: such a time is nobody's pace, and neither is that of text which then is there at once.

    Attributes:
        tokens: Pieces of text so far.
        gaps: Seconds from one to the next, of those that were asked for all that time.
    """

    tokens: int = 0
    gaps: list[float] = field(default_factory=list)
    _latest: float = -math.inf
    _behind: bool = True

    def came(self, asked: float, now: float) -> None:
        """Take a piece that was asked for at `asked` and came at `now`."""
        self.tokens += 1
        if asked - self._latest > READY:
            self._behind = True
        if not self._behind:
            self.gaps.append(now - self._latest)
        elif now - asked > READY:
            self._behind = False
        self._latest = now


@dataclass(slots=True)
class TurnTrace:
    """The marks of one turn, in the order they were made, and what else is known of it.

    Attributes:
        turn: Its number.
        marks: Moments and their times, seconds of one monotonic clock.
        pace: How fast the model wrote.
        words: Seconds of the caller's speech.
        audio: Seconds of the reply's audio.
        worked: Seconds for which each engine was at work, by "asr", "llm", "tts"; all attempts.
        wasted: That part of them which went into answers that were dropped.
        asked: Seconds of work on the answer that was given, by engine.
        missed: Whether the caller was not understood.
        underruns: Times the reply ran dry before its end, other than for a tool.
        told: When the caller was told of the answer.
        late: How late the event loop was lately, in seconds.
        budget: What the gap may be, in seconds.
        over: The stage at fault if it is more, "" if not.
    """

    turn: int
    marks: list[tuple[Moment, float]] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)
    words: float = 0.0
    audio: float = 0.0
    worked: dict[str, float] = field(default_factory=dict)
    wasted: float = 0.0
    asked: Mapping[str, float] = field(default_factory=dict)
    missed: bool = False
    underruns: int = 0
    told: float = 0.0
    late: float = 0.0
    budget: float = 0.0
    over: str = ""

    def at(self, moment: Moment) -> float | None:
        """When `moment` first happened, None if it did not."""
        for name, time in self.marks:  # asked often: a generator would take three times as long
            if name == moment:
                return time
        return None

    def count(self, moment: Moment) -> int:
        """How often `moment` happened."""
        return sum(name == moment for name, _ in self.marks)

    @property
    def total(self) -> float | None:
        """The gap the caller waited, in seconds; None while there is no answer yet."""
        start, end = self.at("speech_end"), self.at("heard")
        return None if start is None or end is None else end - start

    def spans(self) -> list[Span]:
        """Return every stretch of work, in order of its begin; each end has the latest begin."""
        spans: list[Span] = []
        begun: dict[str, float] = {}
        for moment, time in self.marks:
            name = ENDS.get(moment, "")
            if name in begun:
                spans.append((name, begun.pop(name), time))
            begun.pop(VOIDS.get(moment, ""), None)
            if moment in BEGINS:
                begun[BEGINS[moment]] = time
        return sorted(spans, key=lambda span: span[1:])

    def stages(self, spans: Sequence[Span] | None = None) -> dict[str, float]:
        """Return seconds by stage and `unattributed`; they add up to `total`.

        `spans` are those of this turn, where they are known already.

        A stage that ran more than once (the model before and after a tool) counts
        every time. Only the critical path counts: first the end of the caller's turn, then what
        was not done by then; a span that begins before the previous ended counts from that end.
        Empty while there is no total.
        """
        start, total = self.at("speech_end"), self.total
        if start is None or total is None:
            return {}
        stages: dict[str, float] = {}
        covered, end = start, start + total
        spans = self.spans() if spans is None else spans
        for name, begin, finish in sorted(spans, key=lambda span: span[0] not in ENDING):
            begin, finish = max(begin, covered), min(finish, end)
            if finish > begin:
                stages[name] = stages.get(name, 0.0) + finish - begin
                covered = finish
        stages["unattributed"] = total - sum(stages.values())
        return stages

    @property
    def cut_in(self) -> bool:
        """Whether the caller went on right after the decision: it was a false one.

        Nobody decides that of one who typed.
        """
        decided, sound = self.at("decided"), self.at("barge_in")
        if decided is None or sound is None or self.at("vad_end") is None:
            return False
        return sound - decided < CUT_IN

    def forget(self) -> None:
        """Forget the work on an answer that was dropped before it was given."""
        self.marks = [(moment, time) for moment, time in self.marks if moment in KEPT]
        self.pace = Pace()
        self.missed = False

    def record(self, outcome: Outcome) -> dict[str, Any]:
        """Return all that is known of a turn whose reply is over, in seconds, for JSON.

        `began` is monotonic; marks and spans count from it.
        """
        began = self.at("speech_end") or 0.0
        marks: dict[str, float] = {}
        for moment, time in self.marks:
            marks.setdefault(moment, round(time - began, 5))
        total, sound, stopped = self.total, marks.get("barge_in"), marks.get("stopped")
        begun, dropped = self.count("speculation"), self.count("dropped")
        spans = self.spans()
        return {
            "type": "trace",
            "turn": self.turn,
            "began": round(began, 5),
            "total": None if total is None else round(total, 5),
            "stages": rounded(self.stages(spans), total),
            "spans": [
                [name, round(first - began, 5), round(last - began, 5)]
                for name, first, last in spans
            ],
            "marks": marks,
            "outcome": outcome,
            "speculations": {
                "begun": begun,
                "dropped": dropped,
                "kept": int(begun > dropped and "let_go" in marks),
            },
            "llm": self._pace(),
            "asr": self._factor("asr", self.words),
            "tts": self._factor("tts", self.audio),
            "loop_late": round(self.late, 5),
            "barge_in": None if sound is None else {"heard": sound, "stopped": stopped},
            "cut_in": self.cut_in,
            "underruns": self.underruns,
            "worked": round(sum(self.worked.values()), 5),
            "wasted": round(self.wasted, 5),
            "missed": self.missed,
            "budget": self.budget,
            "over": self.over,
        }

    def _pace(self) -> dict[str, float] | None:
        """Return the model's time to first token and its pace; None if it said nothing."""
        asked, first = self.at("llm_start"), self.at("llm_first")
        if asked is None or first is None:
            return None
        gaps = self.pace.gaps
        pace = {"ttft": round(first - asked, 5), "tokens": self.pace.tokens}
        if (spent := sum(gaps)) > 0:
            pace["tokens_per_second"] = round(len(gaps) / spent, 1)
            pace["itl_p50"] = round(percentile(gaps, 50), 5)
            pace["itl_p95"] = round(percentile(gaps, 95), 5)
        return pace

    def _factor(self, engine: str, seconds: float) -> dict[str, float] | None:
        """Return the real-time factor of an engine over `seconds` of sound."""
        spent = self.asked.get(engine, 0.0)
        return {"rtf": round(spent / seconds, 4)} if seconds > 0 and spent > 0 else None


class CallTrace:
    """The marks of one call, turn by turn; `mark` is the callable that shells get."""

    KEPT = 8
    """Turns kept; older ones were reported long ago."""

    def __init__(self, wanted: bool = True) -> None:
        """Without `wanted`, nothing is noted and no turn has a record."""
        self.wanted = wanted
        self._turns: dict[int, TurnTrace] = {}

    def mark(self, moment: Moment, turn: int, now: float) -> None:
        """Note that `moment` of `turn` happened at `now`."""
        if self.wanted:
            self.of(turn).marks.append((moment, now))

    def pace(self, turn: int) -> Pace:
        """Return what takes how fast the model writes."""
        return self.of(turn).pace

    def of(self, turn: int) -> TurnTrace:
        """Return the trace of `turn`, a new one if it has none."""
        trace = self._turns.get(turn)
        if trace is None:
            trace = self._turns[turn] = TurnTrace(turn)
            while len(self._turns) > self.KEPT:
                del self._turns[min(self._turns)]
        return trace

    def known(self, turn: int) -> TurnTrace | None:
        """Return the trace of `turn` if it has one."""
        return self._turns.get(turn)

    def take(self, turn: int) -> TurnTrace | None:
        """Return the trace of `turn`, which is over, and forget it; None if it has none."""
        return self._turns.pop(turn, None)


def rounded(stages: Mapping[str, float], total: float | None) -> dict[str, float]:
    """Return stages as logs and pages have them, to 10 microseconds; they still add up."""
    short = {name: round(value, 5) for name, value in stages.items()}
    if total is not None:
        short.pop("unattributed", None)
        short["unattributed"] = round(round(total, 5) - sum(short.values()), 5)
    return short


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the `percent` percentile of `values` by nearest rank.

    Raises:
        ValueError: If there are no values.
    """
    if not values:
        raise ValueError("no values to take a percentile of")
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]
