"""The settings of a server that may change while calls go on, and what each may become.

There is one `Knobs` for all calls. A session reads from it with every utterance and reply, so
a change takes effect with the next one and never in the middle of a sentence. What belongs
to an engine is changed in the engine (`adjust`), wherever that runs.

Every knob has a ladder of values around the configured one. The first is the safest and
slowest, the last the fastest and riskiest, and no two ladders overlap where one setting
bounds another: any step of any knob is valid whatever the others are at.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Protocol, cast

from asr.whisper_options import WINDOWS
from latency.tuner import Knob
from tts.phrases import SHORTEST
from voice.settings import Settings, value_of


class Adjustable(Protocol):
    """An engine of which some settings may change while it works.

    Attributes:
        adjustable: Their names, as in the settings file; known once it has started.
    """

    @property
    def adjustable(self) -> tuple[str, ...]: ...

    def adjust(self, name: str, value: float) -> None:
        """Change one of them from the next utterance, answer or phrase on; never blocks.

        Raises:
            ValueError: If it cannot be changed, or not to this.
        """


@dataclass(frozen=True, slots=True)
class Effect:
    """What a knob does, made faster.

    Attributes:
        stages: Those it may shorten.
        guards: Guard rails that it strains.
        settle: Seconds until turns show the change: an utterance that has begun keeps what it
            began with, and a call that was admitted stays.
    """

    stages: tuple[str, ...]
    guards: tuple[str, ...] = ()
    settle: float = 0.0


ANSWER = ("asr", "llm", "first_phrase", "tts")
"""Stages of making an answer: what of them is done before the decision costs nobody time."""

UTTERANCE = 5.0
"""Seconds that most utterances are over in."""

CALL = 30.0
"""Seconds in which the number of calls may have followed its limit."""

EFFECTS: Mapping[str, Effect] = {
    "turn.wait": Effect(("endpoint",), ("cut_ins",)),
    "turn.shortest_wait": Effect(("endpoint",), ("cut_ins",)),
    "turn.longest_wait": Effect(("endpoint",), ("cut_ins",)),
    "turn.speculation_lead": Effect(ANSWER, ("wasted",)),
    "turn.speculations": Effect(ANSWER, ("wasted",)),
    "phrases.first": Effect(("first_phrase", "tts"), ("underruns",)),
    "phrases.later": Effect(("first_phrase", "tts")),  # shorter ones run dry less, if anything
    "whisper.interval": Effect(("asr", "llm"), settle=UTTERANCE),
    "whisper.beam": Effect(("asr",), ("misses",)),
    "whisper.window": Effect(("asr",), ("misses",)),
    "whisper.batch": Effect(("asr",)),
    "vllm.gather": Effect(("llm",), settle=UTTERANCE),
    "coqui.first": Effect(("tts",), ("underruns",)),
    "coqui.longest": Effect(("tts", "asr"), ("underruns",)),
    "coqui.batch": Effect(("tts",), ("underruns",)),
    "max_calls": Effect((*ANSWER, "send"), settle=CALL),
}
"""Every knob there is, the dearest to callers last: "turn.wait" is what `turn.shortest_wait` and
`turn.longest_wait` are together where both are configured alike; "max_calls" is one only where
calls are not admitted by prediction, which knows better how many there can be."""

WAITS = (3.0, 2.2, 1.6, 1.25, 1.0, 0.8, 0.65, 0.5)
"""Factors on a wait. Pauses inside a turn are 0.2 to 1.2 s (`voice.pauses`): from a wait of 0.2 s
the longest step must come near."""

LONGEST_WAITS = (2.0, 1.6, 1.25, 1.0, 0.8, 0.65, 0.5)
"""Factors on the longest wait, which is long as it is."""

LENGTHS = (2.0, 1.4, 1.0, 0.7, 0.5, 0.35)
"""Factors on a length of sound or text: steps of 3 dB."""

SHARED = (1.0, 0.5, 0.25, 0.125)
"""Factors on how many share a step: memory is planned for as many as configured, and no more."""

GATHERED = (16.0, 8.0, 4.0, 2.0, 1.0, 0.5)
"""Factors on the time in which words are gathered."""

LEADS = (0.25, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
"""Factors on how early an answer is begun."""

ADMITTED = (1.0, 0.85, 0.7, 0.5, 0.35)
"""Factors on the number of calls: no more than were configured."""

SPECULATIONS = (0, 1, 2, 4, 8)
BEAMS = (5, 3, 2, 1)

Ladder = tuple[tuple[float, ...], int]
"""Values, the safest first, and the place of the configured one."""


class Knobs:
    """The settings of one server that may change while calls go on.

    Attributes:
        turn: When the agent may speak; replaced as a whole.
        phrases: How long phrases are; replaced as a whole.
        max_calls: Calls taken at once.
        values: What each knob is at, by its name.
    """

    def __init__(self, settings: Settings, engines: Iterable[object] = ()) -> None:
        """Begin with what is configured; `engines` are those in use, started."""
        self.turn = settings.turn
        self.phrases = settings.phrases
        self.max_calls = settings.max_calls
        self._settings = settings
        self._engines = {
            name: cast(Adjustable, engine)
            for engine in engines
            for name in getattr(engine, "adjustable", ())
        }
        self._ladder = [
            Knob(name, effect.stages, *ladder, effect.guards, effect.settle)
            for name, effect in EFFECTS.items()
            if (ladder := self._steps(name)) is not None and len(ladder[0]) > 1
        ]
        self.values = {knob.name: knob.values[knob.start] for knob in self._ladder}

    def ladder(self) -> list[Knob]:
        """Return the knobs of this server; those of which nothing can be made are left out."""
        return list(self._ladder)

    def admitting(self, calls: int) -> Knob:
        """Return the knob "max_calls", which has to be one, with steps from `calls` down.

        A limit above the calls that go on does nothing.
        """
        knob = next(knob for knob in self._ladder if knob.name == "max_calls")
        fewer = {round(calls * share) for share in ADMITTED} - {0, calls}
        return replace(knob, values=(self._settings.max_calls, *sorted(fewer, reverse=True)))

    def set(self, name: str, value: float) -> None:
        """Change a setting, from the next utterance, answer or phrase on; never blocks.

        Raises:
            ValueError: If there is no such knob here, or the value is out of its range.
        """
        if name not in self.values:
            raise ValueError(f"no knob {name!r}; there are {', '.join(self.values)}")
        group, _, entry = name.rpartition(".")
        match group:
            case "turn" if entry == "wait":
                self.turn = replace(self.turn, shortest_wait=value, longest_wait=value)
            case "turn":
                given: dict[str, Any] = {entry: self._like(name, value)}
                self.turn = replace(self.turn, **given)
            case "phrases":
                self.phrases = replace(self.phrases, **{entry: _whole(name, value)})
            case "":
                if not 1 <= value <= self._settings.max_calls:
                    raise ValueError(
                        f"max_calls is {value:g}; expected 1 to {self._settings.max_calls}"
                    )
                self.max_calls = _whole(name, value)
            case _:
                self._engines[name].adjust(name, value)
        self.values[name] = value

    def _like(self, name: str, value: float) -> float | int:
        """Return `value` in the type that the setting has."""
        return _whole(name, value) if type(value_of(self._settings, name)) is int else value

    def _steps(self, name: str) -> Ladder | None:
        """Return the values of a knob; None if this server has it not."""
        settings = self._settings
        turn, phrases, coqui = settings.turn, settings.phrases, settings.coqui
        shortest, longest = turn.shortest_wait, turn.longest_wait
        wait_border = math.sqrt(shortest * longest)
        phrase_border = math.sqrt(phrases.first * phrases.later)
        chunk_border = math.sqrt(coqui.first * coqui.longest)
        if name.partition(".")[0] in ("whisper", "vllm", "coqui") and name not in self._engines:
            return None
        match name:
            case "turn.wait" if shortest == longest:
                return _scaled(longest, WAITS, 0.1, 3.0)
            case "turn.shortest_wait" if shortest != longest:
                return _scaled(shortest, WAITS, 0.1, min(3.0, wait_border))
            case "turn.longest_wait" if shortest != longest:
                return _scaled(longest, LONGEST_WAITS, wait_border, 5.0)
            case "turn.speculation_lead":  # one longer than the longest wait changes nothing
                start = turn.speculation_lead
                return _scaled(start, LEADS, 0.05, min(3.0, max(start, longest)))
            case "turn.speculations":
                return _listed(turn.speculations, SPECULATIONS)
            case "phrases.first":
                return _scaled(phrases.first, LENGTHS, SHORTEST, phrase_border, whole=True)
            case "phrases.later":
                low = max(40.0, phrase_border)
                return _scaled(phrases.later, LENGTHS, low, 1000, whole=True)
            case "whisper.interval" if settings.whisper.interval:
                return _scaled(settings.whisper.interval, LENGTHS, 0.1, 5.0)
            case "whisper.beam":
                start = settings.whisper.beam
                return _listed(start, [beam for beam in BEAMS if beam <= max(2, start)])
            case "whisper.window" if settings.whisper.window == "full":
                return tuple(map(float, range(len(WINDOWS)))), 0
            case "whisper.batch":
                return _scaled(settings.whisper.batch, SHARED, 1, 256, whole=True)
            case "vllm.gather":
                return _scaled(settings.vllm.gather, GATHERED, 0.0, 1.0)
            case "coqui.first":
                return _scaled(coqui.first, LENGTHS, 0.05, min(2.0, chunk_border))
            case "coqui.longest":
                return _scaled(coqui.longest, LENGTHS, chunk_border, 10.0)
            case "coqui.batch":
                return _scaled(coqui.batch, SHARED, 1, 256, whole=True)
            case "max_calls" if not settings.admission:  # else they follow the prediction
                return _scaled(settings.max_calls, ADMITTED, 1, settings.max_calls, whole=True)
        return None


def pins(text: str) -> frozenset[str]:
    """Return the names of knobs in a list with commas between.

    Pinning either of the two waits pins their common knob, and the other way round.

    Raises:
        ValueError: If one is no knob's; the message names the nearest.
    """
    found = {name.strip() for name in text.split(",")} - {""}
    for name in sorted(found - EFFECTS.keys()):
        close = get_close_matches(name, EFFECTS, n=1, cutoff=0.5)
        known = f"did you mean {close[0]}?" if close else f"known: {', '.join(EFFECTS)}"
        raise ValueError(f"pinned names {name!r}, which the tuner does not move; {known}")
    waits = {"turn.shortest_wait", "turn.longest_wait"}
    if found & waits:
        found.add("turn.wait")
    elif "turn.wait" in found:
        found |= waits
    return frozenset(found)


def _scaled(
    start: float, factors: Sequence[float], low: float, high: float, *, whole: bool = False
) -> Ladder:
    """Return `start` times each factor, in this order, those out of range at its border.

    `low` and `high` must have `start` between them. Where two come to lie within 5 % of each
    other, one is left out: the step would not be felt.
    """
    values: list[float] = []
    for factor in factors:
        value = float(start)
        if factor != 1.0:
            value = min(max(start * factor, low), high)
            value = float(round(value)) if whole else float(f"{value:.3g}")
            if _alike(value, start) or not low <= value <= high:  # by rounding
                continue
        if not (values and _alike(values[-1], value)):
            values.append(value)
    return tuple(values), values.index(start)


def _alike(one: float, other: float) -> bool:
    return abs(one - other) <= 0.05 * max(one, other)


def _listed(start: float, values: Sequence[float]) -> Ladder:
    """Return the values, in their order, with `start` put where it belongs."""
    falling = list(values) == sorted(values, reverse=True)
    found = sorted({*map(float, values), float(start)}, reverse=falling)
    return tuple(found), found.index(start)


def _whole(name: str, value: float) -> int:
    if not float(value).is_integer():
        raise ValueError(f"{name} is {value:g}; expected a whole number")
    return int(value)
