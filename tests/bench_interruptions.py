"""How well interruptions are told from echoes, back-channels, coughs and noise.

    python tests/bench_interruptions.py [echo] [judge] [cost] [--seeds N]

Tables in Markdown. *Echo*: how many echoes are taken for the caller (false) and
how many callers for an echo (missed), by condition and by how much of the sound
was heard. *Judge*: what becomes of the reply, by what the sound was. *Cost*:
microseconds, one JSON line each. Voices and rooms are synthetic.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from asr.echo import Echo, EchoGuard
from asr.vad import SpeechDetector, SpeechStarted, SpeechStopped, VadModel
from voice.interruption import InterruptionSettings, Ruling, Sound, judge

from rooms import at_level, cough, drifted, echo, keyboard, mu_law, room
from speech import RATE, Pcm, babble, noise, say, silence

AGENT = (
    (
        *("en-us+f2", 165),
        "Your appointment is on Tuesday at half past nine with Doctor Miller. "
        "Is there anything else that I can do for you today?",
    ),
    (
        *("en-us+m3", 160),
        "I have found three free times on Thursday morning. "
        "The first is at eight fifteen, the second at nine, and the last at eleven.",
    ),
    (
        *("en-us", 170),
        "Thank you for calling the practice. We are open from Monday to Friday, "
        "and I can book, move or cancel an appointment for you.",
    ),
    (
        *("en-us+f4", 150),
        "I'm sorry, nothing is free on that day. "
        "Shall I look at the week after, or would another doctor be all right?",
    ),
)

CALLERS = (
    ("en-us+m1", 150, "no that is not what I wanted, I need to come on Friday"),
    ("en-us+f3", 160, "wait a moment please, which doctor was that"),
    ("en-us+m7", 165, "stop, I want to cancel my appointment instead"),
    ("en-us+f1", 155, "could you say the last time again please"),
    ("en-us+m5", 170, "actually Wednesday would be better for me"),
    ("en-us+f5", 150, "I have to bring my daughter along, is that all right"),
    ("en-us", 170, "thank you for calling the practice, we are open from Monday"),
    ("en-us+m3", 160, "the first is at eight fifteen, the second at nine"),
)
"""The last two say the agent's words, in the agent's voice or another."""

PLAYED_DB = -20.0
"""Level of what is played, in dBFS."""

SPANS = (0.064, 0.1, 0.15, 0.2, 0.3)
"""Seconds of the sound after which the guard is asked."""

FRAME = 320
"""Samples of a frame (20 ms)."""

LEAD = 1.0
"""Seconds before the agent speaks."""

PAUSE = 0.18
"""Seconds from the beginning of a sound until the caller hears the agent pause: 64 to 100 ms to
notice, a frame, and 60 ms that have left already."""


@dataclass(frozen=True)
class Between:
    """What is between the loudspeaker and us."""

    delay: float = 0.15
    level_db: float = -15.0
    rt60: float = 0.4
    direct_db: float = 0.0
    noise_db: float = -50.0
    codec: bool = False
    ppm: float = 0.0

    def heard(self, played: Pcm, caller: Pcm | None, seed: int) -> Pcm:
        """Return what the microphone hears."""
        source = drifted(played, self.ppm) if self.ppm else played
        source = mu_law(source) if self.codec else source
        pcm = echo(source, self.delay, self.level_db, room(self.rt60, seed, self.direct_db))
        if caller is not None:
            pcm = pcm + caller
        pcm = pcm + noise(len(pcm) / RATE + 1, seed)[: len(pcm)] * 10 ** (self.noise_db / 20)
        return np.asarray(mu_law(pcm) if self.codec else pcm, np.float32)


ROOMS = ((0.0, 0.0), (0.2, 6.0), (0.4, 0.0), (0.6, -3.0))
"""RT60 in seconds and direct over reverberant energy in dB: none, handset, desk, hall."""


def agent(seed: int, seconds: float = 6.0) -> Pcm:
    voice, wpm, text = AGENT[seed % len(AGENT)]
    pcm = at_level(say(text, voice, wpm), PLAYED_DB)
    pcm = np.concatenate([silence(LEAD), pcm, silence(seconds)])
    return pcm[: int((LEAD + seconds) * RATE)]


def caller(seed: int) -> Pcm:
    voice, wpm, text = CALLERS[seed % len(CALLERS)]
    return say(text, voice, wpm)


class Ear:
    """A guard that hears a scene frame by frame. Time 0 of the scene is 100 s."""

    def __init__(self, played: Pcm, heard: Pcm) -> None:
        self.guard = EchoGuard()
        self._played, self._heard, self._frame = played, heard, 0

    def listen(self, until: float) -> None:
        while self._frame * FRAME < min(until * RATE, len(self._heard)):
            part = slice(self._frame * FRAME, (self._frame + 1) * FRAME)
            at = 100 + self._frame * 0.02
            self.guard.played(self._played[part], RATE, at)
            self.guard.heard(self._heard[part], at)
            self._frame += 1

    def asked(self, since: float, until: float, keep: bool = False) -> Echo:
        """Ask what a sound was; `keep` what the answer taught."""
        self.listen(until)
        guard = self.guard if keep else copy.deepcopy(self.guard)
        return guard.echo(100 + since, 100 + until)


def starts(model: VadModel, heard: Pcm) -> list[float]:
    """Return when speech began, in seconds, as the detector says."""
    detector = SpeechDetector(model)
    found = []
    for start in range(0, len(heard), FRAME):
        for event in detector.push(heard[start : start + FRAME]):
            if isinstance(event, SpeechStarted):
                found.append(event.at / RATE)
    return found


THRESHOLD = InterruptionSettings().similarity


class Rates:
    """Shares by how much of the sound was heard."""

    def __init__(self) -> None:
        self.rows: list[list[bool]] = []

    def add(self, row: list[bool]) -> None:
        self.rows.append(row)

    def __str__(self) -> str:
        if not self.rows:
            return " | ".join(["-"] * len(SPANS)) + " | 0"
        shares = 100 * np.mean(self.rows, axis=0)
        return " | ".join(f"{share:.0f}" for share in shares) + f" | {len(self.rows)}"


def falsely(model: VadModel, path: Between, seeds: range, paused: bool) -> tuple[Rates, Rates]:
    """Echoes taken for the caller: the first of a call, and the later ones of its reply."""
    first, later = Rates(), Rates()
    for seed in seeds:
        played = agent(seed)
        heard = path.heard(played, None, seed)
        found = starts(model, heard)
        if paused and found:
            played = played.copy()
            played[int((found[0] + PAUSE) * RATE) :] = 0
            heard, found = path.heard(played, None, seed), found[:1]
        ear = Ear(played, heard)
        for number, since in enumerate(found):
            row = [ear.asked(since, since + span).similarity < THRESHOLD for span in SPANS]
            (later if number else first).add(row)
            ear.asked(since, since + 0.2, keep=True)
    return first, later


def missed(path: Between, near_db: float, seeds: range, absolute: bool = False) -> Rates:
    """Callers taken for an echo, `near_db` over it, or in dBFS where `absolute`."""
    rates = Rates()
    for seed in seeds:
        played = agent(seed)
        since = LEAD + 1.5 + np.random.default_rng(seed).uniform(0, 2)
        level = near_db if absolute else PLAYED_DB + path.level_db + near_db
        speech = at_level(caller(seed // 2), level)
        over = np.concatenate([silence(since), speech, silence(8)])[: len(played)]
        played = played.copy()
        played[int((since + PAUSE) * RATE) :] = 0
        ear = Ear(played, path.heard(played, over, seed))
        rates.add([ear.asked(since, since + s).similarity >= THRESHOLD for s in SPANS])
    return rates


def conditions(seeds: int) -> Iterator[tuple[str, list[Between]]]:
    """Yield names and the paths to be averaged."""
    every = [
        Between(delay, level, rt60, direct)
        for delay in (0.02, 0.06, 0.15, 0.25, 0.4)
        for level in (-6.0, -15.0, -25.0)
        for rt60, direct in ROOMS
    ]
    yield "all below", every
    for delay in (0.02, 0.06, 0.15, 0.25, 0.4):
        yield f"delay {1000 * delay:.0f} ms", [p for p in every if p.delay == delay]
    for level in (-6.0, -15.0, -25.0):
        yield f"echo {level:.0f} dB", [p for p in every if p.level_db == level]
    for rt60, direct in ROOMS:
        name = f"RT60 {rt60} s, direct {direct:+.0f} dB" if rt60 else "no room"
        yield name, [p for p in every if p.rt60 == rt60]
    some = [p for p in every if p.delay in (0.06, 0.25)]
    yield "echo -30 dB", [replace(p, level_db=-30.0) for p in some if p.level_db == -25]
    yield "noise -40 dBFS", [replace(p, noise_db=-40.0) for p in some if p.level_db > -20]
    yield "mu-law", [replace(p, codec=True) for p in some]
    yield "300 ppm", [replace(p, ppm=300.0) for p in some]
    yield (
        "mu-law, 300 ppm, -40 dBFS",
        [replace(p, codec=True, ppm=300.0, noise_db=-40.0) for p in some if p.level_db > -20],
    )


def echo_tables(seeds: int) -> None:
    model = VadModel()
    head = " | ".join(f"{1000 * span:.0f} ms" for span in SPANS)
    rule = "---|" * (len(SPANS) + 2)
    print(f"\nFalse: echoes taken for the caller, %\n\n| echo | {head} | echoes |\n|{rule}")
    table: dict[str, dict[Between, tuple[Rates, Rates, Rates]]] = {}
    done: dict[Between, tuple[Rates, Rates, Rates]] = {}
    for name, paths in conditions(seeds):
        for number, path in enumerate(paths):
            if path not in done:
                which = range(number, number + seeds)
                first, later = falsely(model, path, which, paused=False)
                done[path] = (first, later, falsely(model, path, which, paused=True)[0])
        table[name] = {path: done[path] for path in paths}
    kinds = ("first of a call", "later", "first, agent paused")
    for name, rates in table.items():
        for number, kind in enumerate(kinds):
            both = Rates()
            for rate in rates.values():
                both.rows += rate[number].rows
            print(f"| {name}; {kind} | {both} |")
    print(f"\nMissed: callers taken for an echo, %\n\n| caller | {head} | callers |\n|{rule}")
    for name, paths in conditions(seeds):
        for ratio in (-5, 0, 5, 10, 20) if name == "all below" else (5,):
            both = Rates()
            for number, path in enumerate(paths):
                both.rows += missed(path, ratio, range(number, number + seeds)).rows
            print(f"| {name}; caller {ratio:+d} dB over the echo | {both} |")
    for level in (-120.0, -25.0, -15.0, -6.0):
        both = Rates()
        for number, path in enumerate(p for p in done if p in table["all below"]):
            path = replace(path, level_db=level)
            both.rows += missed(path, -28, range(number, number + seeds), absolute=True).rows
        name = f"echo {level:.0f} dB" if level > -100 else "no echo"
        print(f"| {name}; caller at -28 dBFS | {both} |")


@dataclass(frozen=True)
class Case:
    """A sound under the agent's words."""

    kind: str
    wanted: Ruling
    pcm: Pcm
    text: str = ""
    expects: str = ""


def cases(seeds: int) -> Iterator[Case]:
    """Yield sounds, with what should become of the reply."""
    go, stop = Ruling.RESUME, Ruling.INTERRUPT
    for voice, wpm in VOICES:
        for text in ("stop", "wait", "no", "hold on", "what", "sorry"):
            yield Case("one word that wants something", stop, say(text, voice, wpm), text)
        for text in ("mm hmm", "yeah", "okay", "yes yes", "uh huh", "right", "I see", "oh okay"):
            yield Case("back-channel", go, say(text, voice, wpm), text)
        for text in ("yes", "no", "yes please", "okay"):
            pcm = say(text, voice, wpm)
            yield Case("answer to yes or no", stop, pcm, text, "yes_no")
        for text in ("yes but not on Friday", "okay and what does it cost"):
            yield Case("back-channel that goes on", stop, say(text, voice, wpm), text)
    for _ in range(12 * seeds):
        yield Case("nothing but the echo", go, silence(0.1))
    for seed in range(len(CALLERS)):
        yield Case("sentence", stop, caller(seed), CALLERS[seed][2])
    for seed in range(16 * seeds):
        one = cough(seed)
        yield Case("cough", go, one)
        gap = silence(0.1 + 0.02 * (seed % 8))
        yield Case("two coughs", go, np.concatenate([one, gap, cough(seed + 100)]))
        yield Case("keyboard, 2 s", go, keyboard(2.0, seed))
    for seed in range(8 * seeds):
        yield Case("babble, 2 s", go, babble(2.0, seed))
        voice, wpm, text = AGENT[seed % 4]
        far = say(text, voice, wpm)[seed * 4000 : seed * 4000 + 2 * RATE]
        yield Case("somebody far away, 2 s", go, far)


VOICES = (("en-us+m1", 150), ("en-us+f3", 160), ("en-us+m7", 165), ("en-us+f1", 150))

LEVELS = {
    "cough": -22.0,
    "two coughs": -22.0,
    "babble, 2 s": -46.0,
    "somebody far away, 2 s": -46.0,
    "keyboard, 2 s": -40.0,
}
"""Levels of what is not the caller, in dBFS; the caller's is -26, a cough's -22."""

USUAL = -26.0

Words = Callable[[Case, float, bool], tuple[str, float]]
"""What a recogniser says: of a case, so many seconds into it, finished or not."""

RECOGNISED = 0.3
"""Seconds after a word until a good streaming recogniser shows it."""

FINISHED = 0.25
"""Seconds of silence after which the recogniser has finished."""


def deaf(case: Case, seconds: float, final: bool) -> tuple[str, float]:
    return "", 1.0


def perfect(case: Case, seconds: float, final: bool) -> tuple[str, float]:
    """Return the words that ended long enough ago; they end in proportion to their letters."""
    if final:
        return case.text, 1.0
    heard = (seconds - RECOGNISED) / (len(case.pcm) / RATE) * len(case.text)
    ends = [n for n in range(1, len(case.text) + 1) if (case.text + " ")[n] == " "]
    return case.text[: max((end for end in ends if end <= heard), default=0)], 1.0


def sphinx() -> Words:
    """Return the default ears, told to expect anything; they speak when they have finished."""
    from asr.sphinx_decoder import Decoder, Models

    decoder = Decoder(Models(Path(__file__).parent.parent / "demos/frontdesk/speech"))

    def words(case: Case, seconds: float, final: bool) -> tuple[str, float]:
        if not final:
            return "", 1.0
        level = LEVELS.get(case.kind, USUAL)
        pcm = np.concatenate([silence(0.3), at_level(case.pcm, level), silence(0.3)])
        pcm = pcm + noise(len(pcm) / RATE + 1)[: len(pcm)] * 10 ** (-50 / 20)
        decoder.begin(case.expects or "open", None)
        decoder.hear((np.clip(pcm, -1, 1) * 32767).astype(np.int16))
        heard = decoder.end()
        return heard.text, heard.confidence

    return words


@dataclass
class Outcome:
    """What became of a reply.

    Attributes:
        interrupted: Whether it was given up.
        pauses: How often it paused before that.
        paused: For how many seconds, together.
        after: Seconds from the sound's beginning until it was given up.
    """

    interrupted: bool = False
    pauses: int = 0
    paused: float = 0.0
    after: float = float("nan")


class Speaking:
    """The agent's words on their way: what a pause stops, and what a microphone hears of them."""

    AHEAD = 3
    """Frames that have left already when the agent pauses (60 ms)."""

    def __init__(self, words: Pcm, path: Between, others: Pcm, seed: int) -> None:
        self._words, self._at = words, 0
        self._sent = [words[:0]] * self.AHEAD
        self._delay = round(path.delay * RATE)
        response = room(path.rt60, seed, path.direct_db) * np.float32(10 ** (path.level_db / 20))
        self._size = 1 << (len(response) + FRAME).bit_length()
        self._response = np.fft.rfft(response, self._size)
        self._microphone = np.concatenate([others, silence(2)])
        self._frame = 0

    def step(self, paused: bool) -> tuple[Pcm, Pcm]:
        """Return the next frame as the caller hears it, and what the microphone hears."""
        if paused:
            self._sent.append(silence(FRAME / RATE))
        else:
            self._sent.append(self._words[self._at : self._at + FRAME])
            self._at += FRAME
        played = np.zeros(FRAME, np.float32)
        frame = self._sent.pop(0)
        played[: len(frame)] = frame
        start = self._frame * FRAME
        back = np.fft.irfft(np.fft.rfft(played, self._size) * self._response, self._size)
        late = self._microphone[start + self._delay : start + self._delay + self._size]
        late += back[: len(late)].astype(np.float32)
        self._frame += 1
        return played, self._microphone[start : start + FRAME]


BEGINS = 2.5
"""Seconds into a scene at which the sound begins."""

ASKED = 5
"""Frames between two looks at a sound (0.1 s)."""


STRETCH = 0.2
"""Seconds of a sound that the guard is asked about, the last ones."""


def outcome(model: VadModel, case: Case, path: Between, words: Words, seed: int) -> Outcome:
    """Live through one sound under the agent's words, as a session would."""
    settings, length = InterruptionSettings(), int(6.5 * RATE)
    level_db = LEVELS.get(case.kind, USUAL)
    pcm = at_level(case.pcm, level_db) if case.pcm.any() else case.pcm
    others = np.concatenate([silence(BEGINS), pcm, silence(8)])[:length]
    others = others + noise(7, seed)[:length] * np.float32(10 ** (path.noise_db / 20))
    speaking = Speaking(agent(seed), path, others.astype(np.float32), seed)
    guard, detector, result = EchoGuard(), SpeechDetector(model), Outcome()
    sound: Sound | None = None
    began = stopped = heard_from = 0.0
    paused, look = False, 0
    for frame in range(length // FRAME):
        now = (frame + 1) * FRAME / RATE
        played, heard = speaking.step(paused)
        guard.played(played, RATE, 100 + now - 0.02)
        guard.heard(heard, 100 + now - 0.02)
        result.paused += 0.02 * paused
        for event in detector.push(heard):
            match event:
                case SpeechStarted(at):
                    if sound is None:
                        sound, began, look = Sound(0.0), at / RATE, frame
                        heard_from = began
                    sound.ended = False
                case SpeechStopped(at):
                    stopped = at / RATE
                    if sound is not None:
                        sound.ended = True
        if sound is None or (frame - look) % ASKED:
            continue
        until = max(stopped, began) if sound.ended else now
        sound.seconds, sound.silence = until - began, now - until
        sound.final = sound.ended and sound.silence >= FINISHED
        if now >= BEGINS:
            sound.words, sound.confidence = words(case, now - BEGINS, sound.final)
        sound.expects, sound.level_db, sound.usual_db = case.expects, level_db, USUAL
        if not sound.ended or sound.echo is None:
            sound.explained(guard.echo(100 + max(heard_from, until - STRETCH), 100 + until))
        ruling = judge(sound, settings)
        if ruling is Ruling.INTERRUPT:
            result.interrupted, result.after = True, now - BEGINS
            return result
        result.pauses += ruling is Ruling.WAIT and not paused
        paused = ruling is Ruling.WAIT
        if ruling is Ruling.RESUME:
            sound, began = (None if sound.ended else Sound(0.0)), now
    return result


def judge_tables(seeds: int, recognisers: Sequence[str]) -> None:
    model = VadModel()
    every = list(cases(seeds))
    for name in recognisers:
        words = {"perfect": lambda: perfect, "deaf": lambda: deaf, "sphinx": sphinx}[name]()
        for level in (-60.0, -25.0, -15.0):
            print(f"\nRecogniser: {name}; echo {level:.0f} dB\n")
            print("| sound | sounds | right | interrupts | after, s | pauses | paused, s |")
            print("|---|---|---|---|---|---|---|")
            found: dict[str, list[Outcome]] = {}
            for seed, case in enumerate(every):
                path = Between(delay=(0.06, 0.15, 0.25)[seed % 3], level_db=level)
                found.setdefault(case.kind, []).append(outcome(model, case, path, words, seed))
            wanted = {case.kind: case.wanted is Ruling.INTERRUPT for case in every}
            for kind, outcomes in found.items():
                stopped = [o.after for o in outcomes if o.interrupted]
                right = np.mean([o.interrupted == wanted[kind] for o in outcomes])
                print(
                    f"| {kind} | {len(outcomes)} | {100 * right:.0f} % | {len(stopped)} "
                    f"| {np.median(stopped) if stopped else 0:.2f} "
                    f"| {np.mean([o.pauses for o in outcomes]):.1f} "
                    f"| {np.mean([o.paused for o in outcomes]):.2f} |",
                    flush=True,
                )


def costs() -> None:
    """Print what each call of the guard and the judge takes."""
    played = agent(1)
    heard = Between().heard(played, None, 1)
    ear = Ear(played, heard)
    ear.listen(3.0)
    guard = ear.guard
    frame, fast = np.zeros(FRAME, np.float32), np.zeros(960, np.float32)
    sound = Sound(0.4, words="yes I see", level_db=-30, usual_db=-25, echo=Echo(0.2, 0.1, -30, -31))
    works: dict[str, Callable[[int], object]] = {
        "echo, 0.1 s": lambda n: guard.echo(102.9, 103.0),
        "echo, 0.3 s": lambda n: guard.echo(102.7, 103.0),
        "played, 48 kHz": lambda n: guard.played(fast, 48_000, 200 + n * 0.02),
        "heard, 16 kHz": lambda n: guard.heard(frame, 200 + n * 0.02),
        "judge": lambda n: judge(sound, InterruptionSettings()),
    }
    for what, work in works.items():
        micros = []
        for n in range(1000):
            start = time.perf_counter_ns()
            work(n)
            micros.append((time.perf_counter_ns() - start) / 1e3)
        p50, p95, p99 = (round(float(np.percentile(micros, p)), 1) for p in (50, 95, 99))
        line = {"what": what, "unit": "us", "p50": p50, "p95": p95, "p99": p99, "rounds": 1000}
        print(json.dumps(line))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["echo", "judge", "cost"])
    parser.add_argument("--ears", nargs="*", default=["perfect", "deaf", "sphinx"])
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    if "echo" in options.what:
        echo_tables(options.seeds)
    if "judge" in options.what:
        judge_tables(options.seeds, options.ears)
    if "cost" in options.what:
        costs()
