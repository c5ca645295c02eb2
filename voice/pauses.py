"""Callers who pause inside their turns: speech with known pauses and known ends, to measure
end-of-turn decisions with.

espeak-ng speaks; pauses are put between its words, where nothing of the sentence's melody says
that it is over, and between sentences, where everything does. Every caller has a voice, a line, a
manner of ending sentences and a length of pause of their own. Synthetic speech is not human
speech: its melody is tidier, so figures taken here compare rules and promise nothing of people.

A call is made from a `Language`. The one in this file, `HELD_OUT`, is for measuring only: nothing
is trained on its wordings, its names or its voices.

A wording is a tiny grammar: `(a|b)` is either, `[a]` is optional, `{day}` a slot. Marks tell what
a pause means there: `.` and `?` end a sentence, `,` ends a clause that is not complete, `/` stands
where the words could be all. Everywhere else the words are incomplete.
"""

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate, pairwise

import numpy as np

from transport.audio import Pcm
from tts import speak_lib

RATE = 16_000
"""Sample rate of all samples here, in hertz."""

SHORTEST, LONGEST = 0.2, 1.2
"""Pauses inside a turn, in seconds; what is shorter is part of speaking."""

USUAL = 0.38
"""Median of the callers' medians, in seconds. With the spreads below, 23 % of the pauses are longer
than 600 ms and 3 % longer than 1 s; of people it is 22 % and 10 % (what silence alone cuts off in
LiveKit's eot-bench, English, @10855b4), whose longest pauses are longer than ours."""

AMONG, WITHIN = 0.5, 0.4
"""Spread of ln(pause): of the callers' medians, and of one caller's pauses. An assumption."""

MEDIANS = 0.22, 0.9
"""Bounds of the callers' medians, in seconds: short and long pausers."""

FLOOR = 0.02
"""Amplitude under which speech counts as silence, of its loudest sample."""

BEFORE, AFTER = 0.3, 1.5
"""Silence around a turn, in seconds."""

FADE = 0.006
"""Seconds over which sound fades at a cut, so that nothing clicks."""

TURNS = 8
"""Turns in a call."""

_PITCH, _RANGE, _DEFAULT = 3, 4, 50  # espeakPITCH, espeakRANGE, and what both are by themselves


class Kind(Enum):
    """What a pause follows, or what the last words of a turn are."""

    FINAL = "final"
    """A sentence, spoken to its end: by words and by melody the turn could be over."""
    COMPLETE = "complete"
    """Words that could be all, without the melody of an end."""
    INCOMPLETE = "incomplete"
    """Words that must go on."""
    NUMBER = "number"
    """Some digits of a number, or letters of a word."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A silence inside a turn.

    Attributes:
        at: The sample after the last speech before it, counted from the turn's first.
        seconds: Its length.
        words: Everything said before it in the turn, lower case, digits and letters as words.
        kind: What it follows.
    """

    at: int
    seconds: float
    words: str
    kind: Kind

    @property
    def complete(self) -> bool:
        """Whether the words before it could be all."""
        return self.kind in (Kind.FINAL, Kind.COMPLETE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerTurn:
    """What a caller says between two lines of the agent.

    Attributes:
        call: Number of the call; its turns are by one caller.
        voice: espeak's name of the voice.
        expects: Topic the agent has just asked about.
        about: The group of wordings it is from ("yes_no", "number" …).
        text: Everything said.
        pcm: The sound at `RATE`, silence before and after the speech included.
        begin: First sample of the speech.
        pauses: In order.
        end: The sample after the last speech.
    """

    call: int
    voice: str
    expects: str
    about: str
    text: str
    pcm: Pcm
    begin: int
    pauses: tuple[Pause, ...]
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """What callers say, and who they are.

    Attributes:
        wordings: Topic asked about and wording, by group.
        shares: How often a turn is of each group.
        firsts: First names.
        lasts: Last names.
        reasons: What fills `{reason}`.
        voices: espeak's.
    """

    wordings: Mapping[str, Sequence[tuple[str, str]]]
    shares: Mapping[str, float]
    firsts: Sequence[str]
    lasts: Sequence[str]
    reasons: Sequence[str]
    voices: Sequence[str]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, the same for a whole call.

    Attributes:
        voice: espeak's name of the voice.
        speed: Words a minute.
        pitch: 0 to 99.
        liveliness: How much the pitch moves, 0 to 99.
        uptalk: How often a statement ends like a question or like a list.
        pause: Median pause, in seconds.
        hesitant: How many pauses there are, of what is usual.
        telephone: Whether the line cuts off what is below 300 and above 3400 Hz.
        snr_db: How far noise is below speech.
        peak: Loudest sample, of full scale 1.
    """

    voice: str
    speed: int
    pitch: int
    liveliness: int
    uptalk: float
    pause: float
    hesitant: float
    telephone: bool
    snr_db: float
    peak: float


def calls(count: int, seed: int, language: Language | None = None) -> Iterator[list[CallerTurn]]:
    """Yield the turns of `count` calls, of `HELD_OUT` unless another language is given.

    The same seed gives the same texts and pauses, and in a fresh process the same samples:
    espeak-ng keeps state from one utterance to the next. A turn takes about 15 ms of CPU.
    """
    language = language or HELD_OUT
    for call in range(count):
        rng = random.Random(f"{seed} {call}")
        caller = some_caller(language.voices, rng)
        groups = rng.choices(tuple(language.shares), tuple(language.shares.values()), k=TURNS)
        yield [_turn(call, group, language, caller, rng) for group in groups]


def some_caller(voices: Sequence[str], rng: random.Random) -> Caller:
    """Draw a caller."""
    telephone = rng.random() < 0.35
    return Caller(
        voice=rng.choice(voices),
        speed=rng.randint(135, 185),
        pitch=rng.randint(30, 70),
        liveliness=rng.randint(15, 75),
        uptalk=rng.choice((0.0, 0.0, 0.1, 0.4)),
        pause=min(max(USUAL * math.exp(rng.gauss(0, AMONG)), MEDIANS[0]), MEDIANS[1]),
        hesitant=rng.uniform(0.4, 1.6),
        telephone=telephone,
        snr_db=rng.uniform(12, 30) if telephone else rng.uniform(18, 45),
        peak=rng.uniform(0.15, 0.7),
    )


def pause_length(median: float, rng: random.Random) -> float:
    """Draw a pause of a caller whose median is given: log-normal, within the limits."""
    while True:
        seconds = median * math.exp(rng.gauss(0, WITHIN))
        if SHORTEST <= seconds <= LONGEST:
            return seconds


# Texts.


@dataclass(slots=True)
class Word:
    """A word and the gap after it.

    Attributes:
        text: Lower case.
        kind: What a pause in the gap would follow.
        mark: How the words up to here end for espeak: ".", "?" or ",", "" for not at all.
        paused: Whether there is a pause in the gap.
    """

    text: str
    kind: Kind = Kind.INCOMPLETE
    mark: str = ""
    paused: bool = False


_DIGITS = ("oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday")
_HOURS = ("nine", "ten", "eleven", "one", "two", "three", "four")


def expand(wording: str, rng: random.Random) -> str:
    """Choose among the `(a|b)` and `[a]` of a wording; slots and marks stay."""
    while match := re.search(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]", wording):
        if match[1] is not None:
            chosen = rng.choice(match[1].split("|"))
        else:
            chosen = match[2] if rng.random() < 0.5 else ""
        wording = f"{wording[: match.start()]}{chosen}{wording[match.end() :]}"
    return " ".join(wording.split())


def fill(slot: str, language: Language, rng: random.Random) -> str:
    """Fill a slot; a tilde joins what belongs to one number or one spelled word."""
    match slot:
        case "day":
            day = rng.choice(_DAYS)
            return rng.choice((day, day, day, f"next {day}", f"this {day}", "tomorrow"))
        case "time":
            hour = rng.choice(_HOURS)
            half = "morning" if hour in _HOURS[:3] else "afternoon"
            plain = (hour, f"{hour} o'clock", f"half past {hour}", f"quarter past {hour}")
            return rng.choice((*plain, f"{hour} / thirty", f"{hour} / in the {half}"))
        case "first":
            return rng.choice(language.firsts)
        case "last":
            return rng.choice(language.lasts)
        case "name":
            return f"{rng.choice(language.firsts)} / {rng.choice(language.lasts)}"
        case "phone":
            return _number(rng.choice(((3, 3, 4), (3, 3, 4), (3, 4), (3, 3, 2, 2))), rng)
        case "code":
            return _number(rng.choice(((2, 2), (3, 3), (4,), (3, 2))), rng)
        case "spelled":
            name = rng.choice(language.lasts)
            middle = rng.randint(2, len(name) - 2)
            return _joined([name[:middle], name[middle:]])
        case "reason":
            return rng.choice(language.reasons)
    raise ValueError(f"unknown slot {{{slot}}} in a wording")


def _number(sizes: Sequence[int], rng: random.Random) -> str:
    """Draw a number in groups of digits."""
    return _joined([rng.choices(_DIGITS, k=size) for size in sizes])


def _joined(groups: Sequence[Sequence[str]]) -> str:
    """Join the digits or letters of one thing; a group ends like a clause."""
    return " ~, ".join(" ~ ".join(group) for group in groups)


def read(text: str) -> list[Word]:
    """Read a filled wording."""
    words: list[Word] = []
    for token in re.findall(r"[^\s.?,/~]+|[.?,/~]+", text):
        match token:
            case "." | "?":
                words[-1].kind, words[-1].mark = Kind.FINAL, token
            case "/":
                words[-1].kind = Kind.COMPLETE
            case ",":
                words[-1].mark = ","
            case "~" | "~,":
                words[-1].kind, words[-1].mark = Kind.NUMBER, token[1:]
            case _:
                words.append(Word(token))
    last = words[-1]
    last.kind, last.mark = Kind.FINAL, last.mark if last.mark == "?" else "."
    return words


_WEIGHTS = {Kind.FINAL: 5.0, Kind.COMPLETE: 2.2, Kind.NUMBER: 0.6, Kind.INCOMPLETE: 0.6}
"""How likely a pause is in a gap, by what it follows."""

_AT_CLAUSE = 3.0
"""Factor on that where a clause ends, too."""

_FILLED = 0.25
"""Share of the pauses after incomplete words that an "um" or "uh" comes before."""


def _hesitate(words: Sequence[Word], caller: Caller, rng: random.Random) -> list[Word]:
    """Choose the gaps in which there are pauses, never two in a row, and what comes before."""
    usual = rng.choices((0, 1, 2, 3, 4), (30, 36, 22, 9, 3))[0]
    wanted = round(usual * caller.hesitant + rng.uniform(-0.5, 0.5))
    weights = [
        _WEIGHTS[word.kind] * (_AT_CLAUSE if word.mark == "," else 1.0) for word in words[:-1]
    ]
    for _ in range(wanted):
        if not any(weights):
            break
        place = rng.choices(range(len(weights)), weights)[0]
        words[place].paused = True
        for near in range(max(0, place - 1), min(len(weights), place + 2)):
            weights[near] = 0.0
    said: list[Word] = []
    for word in words:
        said.append(word)
        if word.paused and word.kind is Kind.COMPLETE:
            # An afterthought follows a whole sentence; others break off where they breathe.
            word.mark = rng.choices(("", ",", "."), (45, 30, 25))[0]
            word.kind = Kind.FINAL if word.mark == "." else word.kind
        elif word.paused and word.kind is Kind.INCOMPLETE and rng.random() < _FILLED:
            word.paused = False
            said.append(Word(rng.choice(("um", "uh")), paused=True))
        if word.mark == "." and rng.random() < caller.uptalk:
            word.mark = rng.choice("?,")
    return said


# Sound.

BETWEEN = {".": 0.12, "?": 0.12, ",": 0.06, "": 0.0}
"""Silence after a sentence or a clause where there is no pause, in seconds."""


def _turn(
    call: int, group: str, language: Language, caller: Caller, rng: random.Random
) -> CallerTurn:
    """Draw a turn and speak it."""
    expects, wording = rng.choice(language.wordings[group])
    text = re.sub(r"\{(\w+)\}", lambda slot: fill(slot[1], language, rng), expand(wording, rng))
    words = _hesitate(read(text), caller, rng)
    sound = [_quiet(BEFORE)]
    begin = end = len(sound[0])
    said: list[str] = []
    pauses: list[Pause] = []
    for part, pcm in _parts(words, caller):
        said += [word.text for word in part]
        sound.append(pcm)
        end = sum(map(len, sound))
        last = part[-1]
        if last.paused:
            seconds = pause_length(caller.pause, rng)
            pauses.append(Pause(end, seconds, " ".join(said), last.kind))
            sound.append(_quiet(seconds))
        else:
            sound.append(_quiet(BETWEEN[last.mark]))
    sound.append(_quiet(AFTER))
    return CallerTurn(
        call=call,
        voice=caller.voice,
        expects=expects,
        about=group,
        text=" ".join(said),
        pcm=_over_the_line(np.concatenate(sound), caller, rng),
        begin=begin,
        pauses=tuple(pauses),
        end=end,
    )


def _parts(words: Sequence[Word], caller: Caller) -> Iterator[tuple[Sequence[Word], Pcm]]:
    """Speak clause by clause; yield the words between two cuts and their sound, trimmed."""
    ends = [number + 1 for number, word in enumerate(words) if word.mark]
    for first, after in pairwise([0, *ends]):
        yield from _clause(words[first:after], caller)


def _clause(words: Sequence[Word], caller: Caller) -> Iterator[tuple[Sequence[Word], Pcm]]:
    """Speak one clause in one go and cut it in the gaps with a pause.

    A gap that espeak-ng reports no word after ("of the" is one to it) stays whole.
    """
    texts = [
        word.text.upper() if len(word.text) == 1 and _letter(words, number) else word.text
        for number, word in enumerate(words)
    ]
    places = accumulate((len(text) + 1 for text in texts), initial=0)
    pcm, begins = _say(" ".join(texts) + words[-1].mark, caller)
    cuts = {0: 0, len(words): len(pcm)}
    for number, place in enumerate(places):
        if 0 < number < len(words) and words[number - 1].paused and place in begins:
            cuts[number] = _quietest(pcm, begins[place])
    loudest = float(np.abs(pcm).max())
    for first, after in pairwise(sorted(cuts)):
        yield words[first:after], trimmed(pcm[cuts[first] : cuts[after]], FLOOR * loudest)


def _letter(words: Sequence[Word], number: int) -> bool:
    """Tell whether a one-letter word is a letter: alone, espeak-ng reads "a" as an article."""
    return Kind.NUMBER in (words[number].kind, words[max(0, number - 1)].kind)


def _say(text: str, caller: Caller) -> tuple[Pcm, dict[int, int]]:
    """Return `text` at `RATE`, and the first sample of each word by its place in `text`."""
    pieces: list[Pcm] = []
    begins: dict[int, int] = {}

    def receive(pcm: Pcm, words: Sequence[tuple[int, int]]) -> bool:
        pieces.append(pcm)
        begins.update(words)
        return True

    library = speak_lib.load()
    library.espeak_SetParameter(_PITCH, caller.pitch, 0)
    library.espeak_SetParameter(_RANGE, caller.liveliness, 0)
    try:
        speak_lib.synthesise(text, caller.voice, caller.speed, receive)
    finally:
        library.espeak_SetParameter(_PITCH, _DEFAULT, 0)
        library.espeak_SetParameter(_RANGE, _DEFAULT, 0)
    pcm = np.concatenate(pieces)
    length = len(pcm) * RATE // speak_lib.RATE
    spectrum = np.fft.rfft(pcm)[: length // 2 + 1]
    resampled = np.fft.irfft(spectrum, length) * (length / len(pcm))
    return resampled.astype(np.float32), {
        place: sample * RATE // speak_lib.RATE for place, sample in begins.items()
    }


def _quietest(pcm: Pcm, near: int) -> int:
    """Return the middle of the quietest 5 ms within 25 ms of a sample."""
    size, reach = RATE // 200, RATE // 40
    first = max(0, near - reach)
    power = np.convolve(np.square(pcm[first : near + reach]), np.ones(size), "valid")
    return first + int(power.argmin()) + size // 2 if len(power) else near


def trimmed(pcm: Pcm, floor: float) -> Pcm:
    """Return the samples from the first to the last above `floor`, faded in and out."""
    loud = np.flatnonzero(np.abs(pcm) > floor)
    if not len(loud):
        return pcm[:0]
    pcm = pcm[loud[0] : loud[-1] + 1].copy()
    size = min(round(FADE * RATE), len(pcm) // 2)
    slope = np.linspace(0, 1, size, endpoint=False, dtype=np.float32)
    pcm[:size] *= slope
    pcm[len(pcm) - size :] *= slope[::-1]
    return pcm


def _over_the_line(pcm: Pcm, caller: Caller, rng: random.Random) -> Pcm:
    """Bring the sound to the caller's level and add their line's noise."""
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(pcm))
    power = np.square(pcm)
    level = math.sqrt(float(power[power > 1e-4 * power.max()].mean()))
    pcm = pcm + noise.astype(np.float32) * np.float32(level / 10 ** (caller.snr_db / 20))
    if caller.telephone:
        spectrum, hertz = np.fft.rfft(pcm), np.fft.rfftfreq(len(pcm), 1 / RATE)
        spectrum[(hertz < 300) | (hertz > 3400)] = 0
        pcm = np.fft.irfft(spectrum, len(pcm)).astype(np.float32)
    return np.asarray(pcm * np.float32(caller.peak / np.abs(pcm).max()), np.float32)


def _quiet(seconds: float) -> Pcm:
    return np.zeros(round(seconds * RATE), np.float32)


# What callers say who are only measured with.

HELD_OUT = Language(
    wordings={
        "yes_no": (
            ("yes_no", "(yeah|yes|yep) / that works / for me"),
            *[("yes_no", "(yes|yeah|no|nope)")] * 6,  # what most people say to such a question
            ("yes_no", "(yes|yeah) / that's the one"),
            ("yes_no", "correct"),
            ("yes_no", "(no|nah) / i don't think so"),
            ("yes_no", "absolutely"),
            ("yes_no", "no . i said {day} / not {day}"),
            ("yes_no", "yes . but (could you|can you) make it {time} / instead"),
            ("yes_no", "i guess so / yes"),
            ("yes_no", "no / it's not right . it ought to be {time}"),
            ("yes_no", "yeah / go for it"),
            ("kind", "no / that would be everything"),
            ("kind", "nope / i'm good"),
            ("kind", "yes . one more thing . do you also do vaccinations ?"),
            ("yes_no", "sure / why not"),
        ),
        "short": (
            ("day", "{day}"),
            ("day", "{day} / would be good"),
            ("day", "any day / but {day}"),
            ("day", "the earliest / you've got"),
            ("time", "{time}"),
            ("time", "around {time}"),
            ("time", "{time} / or a bit later"),
            ("time", "not before {time}"),
            ("name", "{name}"),
            ("name", "it's {name}"),
            ("name", "{first} / my last name is {last}"),
            ("day_time", "{day} / at {time}"),
            ("day_time", "the (day|time|name) / is wrong"),
            ("kind", "just a checkup"),
            ("", "hello . (anyone|anybody) / there ?"),
        ),
        "sentence": (
            ("", "i'd like to see the doctor / about {reason}"),
            ("", "i was hoping you could fit me in / on {day} / around {time}"),
            ("", "when do you (close|open) / on {day} ?"),
            ("", "could you tell me when my appointment is / please ?"),
            ("", "we'd like to bring our appointment forward / to {day} / if that's possible"),
            ("", "i have to call off my visit / on {day}"),
            ("", "do i need to bring anything / with me / to the appointment ?"),
            ("", "is there any way i could be seen / before {day} ?"),
            ("day", "well , i'm working / on {day} / so it'd have to be {day}"),
            ("day", "let me think , how about {day} / in the morning ?"),
            ("time", "i finish work / at {time} / so anything after that / is fine"),
            ("time", "if you've got something around {time} , i'd take that"),
            ("name", "the appointment's under {name} / but it's for my (son|mother|wife)"),
            ("name", "you'll have it under {last} / {first} / {last}"),
            ("kind", "it's because of {reason} / that started / last week"),
            ("kind", "my (son|daughter|husband) has had {reason} / since {day}"),
            ("", "um , do you have anything free / on {day} ?"),
            ("day_time", "what i meant was {day} / at {time} / not {day}"),
        ),
        "multi": (
            ("", "hi . my name's {name} . i'd like to see someone / about {reason}"),
            (
                "",
                "morning . i got a letter / from you . it says i should call / to arrange a visit",
            ),
            ("", "hello . i missed my appointment / on {day} . could i get another one ?"),
            ("", "i have a question . do you take new patients / at the moment ?"),
            ("day", "i can't do {day} . i'm away / then . what about {day} ?"),
            ("time", "that's too early . i have to drop off the kids . {time} / is better"),
            ("yes_no", "yes . and could you send me a reminder / the day before ?"),
            ("kind", "it's {reason} . i've had it for a week . nothing seems to help"),
            ("kind", "actually , yes . i also need a prescription . it's for {reason}"),
            ("", "thanks for picking up . i'm calling for my mother . she has {reason}"),
            ("name", "sorry . i should have said . this is {name}"),
            ("day_time", "hold on . let me check / my calendar . {day} / at {time} / works"),
        ),
        "number": (
            ("phone", "{phone}"),
            ("phone", "(my number is|it's) {phone}"),
            ("phone", "the best number to reach me on , is {phone}"),
            ("phone", "sure . you can call me on {phone}"),
            ("phone", "{phone} / that's my mobile"),
            ("number", "my patient number's {code}"),
            ("number", "{code}"),
            ("number", "i think it's {code} / but i'm not sure"),
            ("", "this is {first} / my reference is {code}"),
        ),
        "spelled": (
            ("spelling", "{spelled}"),
            ("spelling", "that's {spelled}"),
            ("name", "{last} , that's spelled {spelled}"),
            ("name", "{first} / {last} . {spelled}"),
        ),
    },
    shares={"yes_no": 20, "short": 22, "sentence": 24, "multi": 17, "number": 12, "spelled": 5},
    firsts=(
        *("marcus", "elena", "tobias", "priya", "gavin", "nadia"),
        *("colin", "ingrid", "abigail", "dominic", "fiona", "leroy"),
    ),
    lasts=(
        *("harlow", "petrov", "nakamura", "olsen", "whitaker"),
        *("banerjee", "costa", "delaney", "goldberg", "mercer"),
    ),
    reasons=(
        *("my knee", "a sore throat", "back pain", "my blood pressure", "an ear infection"),
        *("some test results", "a skin rash", "my asthma"),
    ),
    voices=("en-us+f3", "en-us+m3", "en-us+f5", "en-us+m6", "en-gb-x-rp"),
)
"""Nothing is trained on these wordings, names, reasons or voices."""
