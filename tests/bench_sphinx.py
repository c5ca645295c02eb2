"""How well pocketsphinx hears callers, and how well it knows when it did not.

    python tests/bench_sphinx.py demos/frontdesk/speech [--held-out FILE] [--count N]

One JSON line a condition: word error rate; how many utterances are believed
(confidence >= 0.5); how many are believed and wrong; real-time factor and the
time from the last sample to the answer, both in CPU time. Callers are
synthetic voices, and a person where Debian's asterisk-core-sounds-en-wav is
installed (single words joined to answers, 8 kHz). A call is three utterances of
one voice. FILE has lines of "TOPIC<tab>SENTENCE" that are in no topic file.
"""

import argparse
import json
import random
import sys
import time
import wave
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from asr.sphinx_decoder import Decoder, Line, Models
from asr.sphinx_worker import PIECE

from speech import RATE, Pcm, babble, mix, noise, resample, say, silence, telephone

VOICES = (("en-us", 165), ("en-us+f3", 150), ("en-us+m3", 160), ("en-us+f2", 140))

PERSON = Path("/usr/share/asterisk/sounds/en_US_f_Allison")

FILLERS = (
    "a an at for hello hi hmm i i'd i'm is it it's like me my oh on please so thank thanks the "
    "there to uh um well would you "
    "am be can could do go if let's say should suit think will"
)
IDLE = frozenset(FILLERS.split())
"""Words that change nothing about what an answer means."""

DAYS = {"monday": 1, "tuesday": 2, "wednesday": 3, "thursday": 4, "friday": 5}
HOURS = {"nine": 9, "ten": 10, "eleven": 11, "one": 1, "two": 2, "three": 3, "four": 4}

ELSEWHERE = (
    "The quick brown fox jumps over the lazy dog.",
    "My computer has been broken since yesterday evening.",
    "Do you know where the nearest gas station is?",
    "I would like a large pizza with mushrooms and onions.",
    "The stock market fell again this afternoon.",
    "She sells sea shells by the sea shore.",
    "Our flight to Chicago has been delayed.",
    "He plays football with his friends after school.",
    "The battery of my phone is almost empty.",
    "Set an alarm for my medication.",
    "This sandwich tastes terrible.",
    "Is there parking close to your building?",
    "I am allergic to penicillin and peanuts.",
    "Nobody told me that the meeting was moved.",
    "Elephant.",
    "Coffee.",
    "Louder.",
    "Hang on a moment I am driving.",
    "I have twenty seven dollars in my pocket.",
    "Turn left at the next traffic light.",
)
"""Out of the domain, in no topic and no background file."""


@dataclass(slots=True)
class Case:
    """One utterance: what was said, about which topic, by whom; "" means nothing to believe."""

    text: str
    topic: str
    caller: str
    pcm: Pcm


@dataclass(slots=True)
class Score:
    """What came of the utterances of one condition."""

    cases: int = 0
    words: int = 0
    errors: int = 0
    right: int = 0
    believed: int = 0
    wrong: int = 0
    audio: float = 0.0
    cpu: float = 0.0
    finals: list[float] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)


def main() -> None:
    """Print a JSON line for every condition."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("speech", type=Path)
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("--count", type=int, default=60, help="utterances a condition")
    arguments = parser.parse_args()
    decoder = Decoder(Models(arguments.speech))
    sets = {"in": in_domain(arguments.speech, arguments.count)}
    if arguments.held_out:
        lines = arguments.held_out.read_text().splitlines()
        pairs = [tuple(line.split("\t")) for line in lines][: arguments.count]
        sets["held out"] = spoken(pairs)  # type: ignore[arg-type]
    sets["elsewhere"] = spoken(
        [(topic, text) for text in ELSEWHERE for topic in ("open", "day_time", "yes_no")],
        believable=False,
    )
    for name, cases in sets.items():
        for condition in ("clean", "noise 15 dB", "babble 10 dB", "telephone"):
            report(name, condition, score(decoder, lay(cases, condition)))
    report("noises", "clean", score(decoder, noises()))
    if PERSON.is_dir():
        for name, cases in (("person", person(arguments.count)), ("person elsewhere", prompts())):
            for condition in ("clean", "babble 10 dB"):
                report(name, condition, score(decoder, lay(cases, condition)))


def report(name: str, condition: str, score: Score) -> None:
    """Print one line."""
    line = {
        "what": name,
        "condition": condition,
        "utterances": score.cases,
        "wer_percent": round(100 * score.errors / score.words, 1) if score.words else None,
        "right_percent": round(100 * score.right / score.cases, 1),
        "believed_percent": round(100 * score.believed / score.cases, 1),
        "believed_wrong_percent": round(100 * score.wrong / score.cases, 1),
        "real_time_factor": round(score.cpu / score.audio, 3),
        "final_ms_p50_p95": np.percentile(score.finals, [50, 95]).round(1).tolist(),
        "believed_wrong": score.examples[:8],
    }
    print(json.dumps(line), flush=True)


def score(decoder: Decoder, cases: Iterable[Case]) -> Score:
    """Decode as a worker does, in pieces."""
    total = Score()
    calls: dict[str, tuple[Line | None, int]] = {}
    for case in cases:
        line, turns = calls.get(case.caller, (None, 0))
        samples = (np.clip(case.pcm, -1, 1) * 32767).astype(np.int16)
        start = time.process_time()
        decoder.begin(case.topic, line)
        last = start
        for at in range(0, len(samples), PIECE):
            last = time.process_time()
            decoder.hear(samples[at : at + PIECE])
        heard = decoder.end()
        end = time.process_time()
        calls[case.caller] = (decoder.line, turns + 1) if turns < 2 else (None, 0)
        total.cases += 1
        total.audio += len(samples) / RATE
        total.cpu += end - start
        total.finals.append((end - last) * 1000)
        right = bool(case.text) and meant(case.text) == meant(heard.text)
        total.right += right
        if case.text:
            total.errors += distance(case.text.split(), heard.text.split())
            total.words += len(case.text.split())
        if heard.confidence >= 0.5:
            total.believed += 1
            total.wrong += not right
            if not right:
                total.examples.append(f"{case.text or '-'} -> {heard.text} ({case.topic})")
    return total


def meant(text: str) -> list[str]:
    """Return the words that matter."""
    return [word for word in text.split() if word not in IDLE]


def distance(said: list[str], heard: list[str]) -> int:
    """Return how many words must be changed, left out or added."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            best = min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
            diagonal, row[j] = row[j], best
    return row[-1]


def padded(pcm: Pcm) -> Pcm:
    """Add the silence that a voice activity detector leaves around speech."""
    return np.concatenate([silence(0.2), pcm, silence(0.1)])


def in_domain(speech: Path, count: int) -> list[Case]:
    """Draw sentences from all topics, by every voice in turn."""
    draw = random.Random(1)
    files = [file for file in sorted(speech.glob("*.txt")) if file.stem != "background"]
    pairs = []
    for number in range(count):
        file = files[number % len(files)]
        pairs.append((file.stem, draw.choice(file.read_text().splitlines())))
    return spoken(pairs)


def spoken(pairs: Iterable[tuple[str, str]], believable: bool = True) -> list[Case]:
    """Let the voices say topics' sentences."""
    cases = []
    for number, (topic, text) in enumerate(pairs):
        voice, wpm = VOICES[number % len(VOICES)]
        pcm = padded(say(text, voice, wpm))
        cases.append(Case(text if believable else "", topic, voice, pcm))
    return cases


def lay(cases: Iterable[Case], condition: str) -> Iterator[Case]:
    """Put a condition on clean utterances."""
    for number, case in enumerate(cases):
        length = len(case.pcm) / RATE + 0.1
        match condition:
            case "noise 15 dB":
                pcm = mix(case.pcm, noise(length, number), 15)
            case "babble 10 dB":
                pcm = mix(case.pcm, babble(length, number), 10)
            case "telephone":
                pcm = telephone(case.pcm)
            case _:
                pcm = case.pcm
        yield Case(case.text, case.topic, case.caller, pcm)


def person(count: int) -> list[Case]:
    """Join recorded words to answers as a caller of a clinic gives them."""
    draw = random.Random(2)
    cases = []
    for number in range(count):
        day, hour = draw.choice(list(DAYS)), draw.choice(list(HOURS))
        half = "a m" if HOURS[hour] >= 9 else "p m"
        at = [hour, *draw.choice(([], [half], ["thirty"], ["o'clock"]))]
        topic, words = (
            ("day", [day]),
            ("time", at),
            ("time", ["at", *at]),
            ("day_time", [day, "at", *at]),
            ("day_time", [day, *at]),
        )[number % 5]
        pieces = [piece for word in words for piece in (recorded(_file(word)), _gap(draw))]
        cases.append(Case(" ".join(words), topic, "person", padded(np.concatenate(pieces[:-1]))))
    return cases


def _gap(draw: random.Random) -> Pcm:
    return silence(draw.uniform(0.06, 0.1))


def _file(word: str) -> str:
    """Return where a word was recorded."""
    if word in DAYS:
        return f"digits/day-{DAYS[word]}"
    others = {"thirty": "30", "a m": "a-m", "p m": "p-m", "o'clock": "oclock", "at": "at"}
    return f"digits/{others.get(word) or HOURS[word]}"


def prompts() -> list[Case]:
    """Return recorded announcements of a telephone system: a person, out of the domain."""
    files = sorted(PERSON.glob("*.wav"))[::2]
    cases = []
    for number, file in enumerate(files):
        pcm = recorded(file.stem)
        if len(pcm) > RATE // 2 and "tone" not in file.stem and "beep" not in file.stem:
            topic = ("open", "day_time", "yes_no", "time")[number % 4]
            cases.append(Case("", topic, "person", padded(pcm[: 4 * RATE])))
    return cases


def recorded(name: str) -> Pcm:
    """Read a recording, without the silence around it."""
    with wave.open(str(PERSON / f"{name}.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        pcm = resample(samples.astype(np.float32) / np.float32(32768), file.getframerate())
    loud = np.flatnonzero(np.abs(pcm) > 0.01)
    pcm = pcm[max(loud[0] - 160, 0) : loud[-1] + 320]
    return np.asarray(pcm * np.float32(0.5 / np.abs(pcm).max()), np.float32)


def noises() -> Iterator[Case]:
    """Yield what is no speech at all: hiss, hum, tones, tunes, coughs, clicks, a hmm."""
    draw = np.random.default_rng(3)
    for number in range(60):
        length = int(draw.uniform(0.3, 2.5) * RATE)
        t = np.arange(length) / RATE
        hiss = draw.standard_normal(length)
        match number % 6:
            case 0:
                sound = hiss
            case 1:
                sound = np.sin(2 * np.pi * 50 * t) + 0.5 * np.sin(2 * np.pi * 150 * t) + 0.05 * hiss
            case 2:
                pitch = draw.choice([220, 262, 330, 440])
                sound = sum(np.sin(2 * np.pi * pitch * h * t) / h for h in range(1, 5))
            case 3:
                steps = np.repeat(draw.integers(0, 24, length // 4000 + 1), 4000)[:length]
                phase = np.cumsum(220 * 2 ** (steps / 12)) / RATE
                sound = sum(np.sin(2 * np.pi * phase * h) / h for h in range(1, 7))
            case 4:
                sound = np.convolve(hiss, np.ones(8) / 8, "same") * np.exp(-(t % 0.4) / 0.08)
            case _:
                phase = np.cumsum(120 + 20 * np.sin(4 * np.pi * t)) / RATE
                sound = sum(np.sin(2 * np.pi * h * phase) / h for h in range(1, 9))
                sound = sound * np.hanning(length)
        pcm = (sound / np.abs(sound).max() * 0.4).astype(np.float32)
        yield Case("", ("yes_no", "time", "open")[number % 3], "-", padded(pcm))


if __name__ == "__main__":
    main()
