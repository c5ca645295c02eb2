"""How soon and how exactly the VAD knows, and what it costs.

    python tests/bench_vad.py [WAV ...] [--hush SECONDS ...] [--only times|cost]

One JSON line a condition and hush: every utterance (16 kHz, its first and last
sample are sound; without files, synthetic ones of four voices) comes as 20 ms
frames at each of 16 phases against the 32 ms windows, after 6 s of line and
before one. Times run to the end of the frame that told, in ms:

stop       last speech sample to the first `SpeechStopped` that stood
at         error of its `at`; negative is early
early      stops told while speech went on, per utterance
heard      first speech sample to the first `SoundHeard` or `SpeechStarted`
started    first speech sample to the first `SpeechStarted`
alarms     starts in a minute of line without the caller

Then what is no speech: how often single sounds are heard, or taken for speech.
Then CPU time per window, in us, by calls that run together.
"""

import argparse
import json
import sys
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).parent.parent))

from asr.edges import BLOCK
from asr.silero import CONTEXT, UNITS, WINDOW, Silero, shipped_model
from asr.vad import (
    SoundHeard,
    SpeechDetector,
    SpeechEvent,
    SpeechStarted,
    SpeechStopped,
    VadModel,
    VadSettings,
)

from speech import RATE, Pcm, babble, noise, say

FRAME = 320
"""Samples of a packet (20 ms)."""

PHASES = 16
"""Starts of an utterance, 10 ms apart: frames and windows meet every 160 ms."""

LEAD, TAIL = 6.0, 1.0
"""Seconds of line before and after."""

LEARNED = 3.0
"""Seconds of line after which its noise must be known."""

CONDITIONS: dict[str, tuple[Callable[[float, int], Pcm] | None, float]] = {
    "digital silence": (None, 0),
    "white -50 dBFS": (noise, -50),
    "white -40 dBFS": (noise, -40),
    "babble -50 dBFS": (babble, -50),
    "babble -40 dBFS": (babble, -40),
}

SENTENCES = (
    ("yes please", "en-us", 165),
    ("on tuesday at ten", "en-us+f3", 150),
    ("my name is emma miller", "en-us+m3", 160),
    ("first thing on monday", "en-us+f2", 140),
    ("half past four", "en-us", 165),
    ("i would like to book a cleaning appointment please", "en-us+f3", 150),
    ("can you check whether doctor black is back next week", "en-us+m3", 160),
    ("stop", "en-us+f2", 140),
    ("the back left tooth", "en-us", 165),
    ("actually make that wednesday", "en-us+f3", 150),
)


@dataclass(slots=True)
class Heard:
    """What a call's detector told: each event, and the samples that had come by then."""

    begin: int
    end: int
    events: list[tuple[int, SpeechEvent]] = field(default_factory=list)


def main() -> None:
    """Print a JSON line for every condition, sound and number of calls."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wavs", type=Path, nargs="*")
    parser.add_argument("--hush", type=float, nargs="+", default=[0.0, VadSettings().hush])
    parser.add_argument("--only", choices=("times", "cost"))
    arguments = parser.parse_args()
    model = VadModel(schedule=lambda flush: None)
    if arguments.only != "cost":
        utterances = [read(path) for path in arguments.wavs] or [say(*line) for line in SENTENCES]
        for hush in arguments.hush:
            for condition in CONDITIONS:
                calls = listen(model, VadSettings(hush=hush), list(lay(utterances, condition)))
                print(json.dumps({"condition": condition, "hush": hush, **score(calls)}))
        for name, sounds in single_sounds().items():
            print(json.dumps({"sound": name, **alarms(model, sounds)}))
    if arguments.only != "times":
        for line in costs():
            print(json.dumps(line), flush=True)


def read(path: Path) -> Pcm:
    """Read a recording, without the silence around it."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
            raise SystemExit(f"{path} is not mono PCM16 at {RATE} Hz")
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    pcm = samples.astype(np.float32) / np.float32(32768)
    sound = np.flatnonzero(np.abs(pcm) > 0.003 * np.abs(pcm).max())
    return pcm[sound[0] : sound[-1] + 1]


def lay(utterances: list[Pcm], condition: str) -> Iterator[tuple[Pcm, int, int]]:
    """Yield calls: their samples, and the first and the end of the utterance in them."""
    make, level = CONDITIONS[condition]
    for number, speech in enumerate(utterances):
        for phase in range(PHASES):
            begin = int(LEAD * RATE) + phase * FRAME // 2
            end = begin + len(speech)
            pcm = np.zeros(end + int(TAIL * RATE), np.float32)
            pcm[begin:end] = speech
            if make is not None:
                line = make(len(pcm) / RATE + 0.1, PHASES * number + phase)
                pcm += line[: len(pcm)] * np.float32(10 ** (level / 20))
            yield np.clip(pcm, -1, 1), begin, end


def listen(
    model: VadModel, settings: VadSettings, calls: list[tuple[Pcm, int, int]]
) -> list[Heard]:
    """Let a detector hear each call, all at once, frame by frame."""
    heard = [Heard(begin, end) for _, begin, end in calls]
    now = 0

    def listener(call: Heard) -> SpeechDetector:
        return SpeechDetector(model, lambda event: call.events.append((now, event)), settings)

    detectors = [listener(call) for call in heard]
    for start in range(0, max(len(pcm) for pcm, _, _ in calls), FRAME):
        now = start + FRAME
        for detector, (pcm, _, _) in zip(detectors, calls, strict=True):
            detector.push(pcm[start : start + FRAME])
        model.flush()
    return heard


def score(calls: list[Heard]) -> dict[str, object]:
    """Return the figures of a condition."""
    stops, errors, early, sounds, starts = [], [], 0, [], []
    missed = unended = false = 0
    for call in calls:
        after = [(now, event) for now, event in call.events if now > call.begin]
        first = [now for now, event in after if isinstance(event, SoundHeard | SpeechStarted)]
        started = [now for now, event in after if isinstance(event, SpeechStarted)]
        if not started:
            missed += 1
            continue
        sounds.append(first[0] - call.begin)
        starts.append(started[0] - call.begin)
        early += sum(isinstance(event, SpeechStopped) for now, event in after if now <= call.end)
        kinds = [type(event) for _, event in after]
        last = len(kinds) - kinds[::-1].index(SpeechStarted)
        stood = [(now, event.at) for now, event in after[last:] if isinstance(event, SpeechStopped)]
        if stood:
            stops.append(stood[0][0] - call.end)
            errors.append(stood[-1][1] - call.end)
        else:
            unended += 1
        false += sum(
            isinstance(event, SpeechStarted) and now > LEARNED * RATE
            for now, event in call.events
            if now <= call.begin
        )
    line = sum(call.begin / RATE - LEARNED for call in calls) / 60
    return {
        "utterances": len(calls),
        "stop_ms_p50_p95": spread(stops, 50, 95),
        "at_ms_p5_p50_p95": spread(errors, 5, 50, 95),
        "at_within_20_ms_percent": round(
            100 * float(np.mean(np.abs(np.array(errors)) <= 0.02 * RATE)), 1
        ),
        "early_stops": round(early / len(calls), 2),
        "heard_ms_p50_p95": spread(sounds, 50, 95),
        "started_ms_p50_p95": spread(starts, 50, 95),
        "alarms_per_minute": round(false / line, 1),
        "missed": missed,
        "unended": unended,
    }


def spread(samples: list[int], *percentiles: int) -> list[float]:
    """Return percentiles of a number of samples, in ms."""
    times = np.percentile(samples, percentiles) / RATE * 1000
    return [round(float(time)) for time in times]


def single_sounds() -> dict[str, list[Pcm]]:
    """Return sounds that are no speech, a dozen of each kind."""
    draw = np.random.default_rng(5)
    sounds: dict[str, list[Pcm]] = {}
    for _ in range(12):
        t = np.arange(int(draw.uniform(0.1, 0.6) * RATE)) / RATE
        hiss = draw.standard_normal(len(t))
        keys = np.zeros(RATE)
        for at in np.cumsum(draw.integers(1500, 3500, 5)):
            keys[at : at + 60] = draw.standard_normal(60)
        dull = np.convolve(hiss, np.ones(14) / 14, "same")
        low, high, pitch = draw.choice([697, 770, 852]), draw.choice([1209, 1336]), 220
        made = {
            "click": hiss[:80],
            "keys": keys,
            "hiss": hiss,
            "cough": np.convolve(hiss, np.hanning(9), "same") * np.exp(-t / 0.07),
            "knock": dull * np.exp(-t / 0.02),
            "slam": dull * np.exp(-t / 0.08),
            "key tone": np.sin(2 * np.pi * low * t) + np.sin(2 * np.pi * high * t),
            "tune": sum(np.sin(2 * np.pi * pitch * h * t) / h for h in range(1, 5)),
        }
        for name, sound in made.items():
            pcm = (sound / np.abs(sound).max() * 0.5).astype(np.float32)
            sounds.setdefault(name, []).append(pcm)
    return sounds


def alarms(model: VadModel, sounds: list[Pcm]) -> dict[str, object]:
    """Return how many of some sounds, in a hiss of -50 dBFS, are heard, and are speech."""
    calls = listen(model, VadSettings(), list(lay(sounds, "white -50 dBFS")))
    share = {
        name: sum(any(isinstance(event, kind) for _, event in call.events) for call in calls)
        for name, kind in (("heard_percent", SoundHeard), ("speech_percent", SpeechStarted))
    }
    return {name: round(100 * count / len(calls), 1) for name, count in share.items()}


def costs() -> Iterator[dict[str, object]]:
    """Yield CPU time per window: the network's alone, onnxruntime's, and all of it."""
    speech = np.concatenate([say(*line) for line in SENTENCES[:6]])
    speech = np.resize(speech, 8 * RATE) + noise(8) * np.float32(0.003)
    network = Silero(shipped_model())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(shipped_model()), options)
    for calls in (1, 4, 8, 16, 64, 200):
        windows = np.resize(speech, (calls, CONTEXT + WINDOW))
        state = np.zeros((calls, 2 * UNITS), np.float32)
        rounds = max(20, 1500 // calls)
        yield {
            "calls": calls,
            "unit": "us CPU per window",
            "network": lasted(lambda w=windows, s=state: network.step(w, s), rounds, calls),  # type: ignore[misc]
            "all": whole(speech, calls),
        }
    one = {"input": windows[:1], "h": state[None, :1, :UNITS], "c": state[None, :1, UNITS:]}
    yield {
        "calls": 1,
        "unit": "us CPU per window",
        "onnxruntime": lasted(lambda: session.run(None, one), 1500, 1),
    }


def lasted(work: Callable[[], object], rounds: int, calls: int) -> float:
    """Return the median CPU time of one window, of nine runs of `rounds`."""
    times = []
    for _ in range(9):
        start = time.process_time()
        for _ in range(rounds):
            work()
        times.append((time.process_time() - start) / rounds / calls * 1e6)
    return round(float(np.median(times)), 1)


def whole(speech: Pcm, calls: int) -> float:
    """Return the CPU time of a window with all that is around it: frames in, events out."""
    model = VadModel(schedule=lambda flush: None)
    detectors = [SpeechDetector(model, lambda event: None) for _ in range(calls)]
    for number, detector in enumerate(detectors):
        detector.push(np.zeros(number * BLOCK // 4 % WINDOW, np.float32))
    model.flush()
    seconds = max(2, 60 // calls)
    frames = np.resize(speech, (seconds * RATE // FRAME, FRAME))
    start = time.process_time()
    for number in range(len(frames)):
        for shift, detector in enumerate(detectors):
            detector.push(frames[(number + 7 * shift) % len(frames)])
        model.flush()
    return round((time.process_time() - start) / (calls * seconds * RATE / WINDOW) * 1e6, 1)


if __name__ == "__main__":
    main()
