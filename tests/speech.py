"""Speech for tests, made by espeak-ng: what callers say, with an exact first and last sample.

Run as a program it is the part that must live in a process of its own: the
library keeps state from one utterance to the next, so each is made by a fresh
process and is then the same samples on every run.
"""

import ctypes
import subprocess
import sys
from functools import cache

import espeakng_loader
import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.float32]

RATE = 16_000
"""Sample rate of everything here, in hertz."""

FLOOR = 0.01
"""Amplitude under which speech counts as over, of full scale 1."""

PEAK = 0.5
"""Amplitude that utterances are scaled to."""


@cache
def say(text: str, voice: str = "en-us", wpm: int = 165) -> Pcm:
    """Speak `text`: the first and the last sample are the first and the last sound.

    `voice` may name a variant ("en-us+f3"). The samples are cached, and read only.
    """
    made = subprocess.run(
        [sys.executable, __file__, voice, str(wpm), text], capture_output=True, check=True
    ).stdout
    source_rate = int.from_bytes(made[:4], "little")
    raw = np.frombuffer(made, "<i2", offset=4).astype(np.float32)
    pcm = resample(raw / np.float32(32768), source_rate)
    loud = np.flatnonzero(np.abs(pcm) > FLOOR * np.abs(pcm).max() / PEAK)
    pcm = pcm[loud[0] : loud[-1] + 1]
    pcm = pcm * np.float32(PEAK / np.abs(pcm).max())
    pcm.flags.writeable = False
    return pcm


def resample(pcm: Pcm, rate: int, to: int = RATE) -> Pcm:
    """Change the sample rate with a windowed sinc; slow, exact, without delay."""
    if rate == to:
        return pcm
    reach = 32 * max(1.0, rate / to)  # input samples on each side
    cutoff = 0.95 * min(1.0, to / rate)
    at = np.arange(int(len(pcm) * to / rate)) * (rate / to)
    offsets = np.arange(-int(reach), int(reach) + 1)
    nearest = np.round(at).astype(np.int64)
    distance = at[:, None] - (nearest[:, None] + offsets)
    window = np.where(np.abs(distance) < reach, 0.5 + 0.5 * np.cos(np.pi * distance / reach), 0)
    padded = np.pad(pcm, int(reach) + 1)
    taps = padded[nearest[:, None] + offsets + int(reach) + 1]
    return np.asarray((taps * np.sinc(cutoff * distance) * window).sum(1) * cutoff, np.float32)


def silence(seconds: float) -> Pcm:
    """Return digital silence."""
    return np.zeros(int(seconds * RATE), np.float32)


def noise(seconds: float, seed: int = 0) -> Pcm:
    """Return white noise of RMS 1; scale it with `mix`."""
    return np.random.default_rng(seed).standard_normal(int(seconds * RATE)).astype(np.float32)


def babble(seconds: float, seed: int = 0) -> Pcm:
    """Return five voices that talk at once about other things, RMS 1."""
    shift = np.random.default_rng(seed).integers(0, 4 * RATE, len(_BYSTANDERS))
    length = int(seconds * RATE)
    voices = [
        np.roll(np.resize(say(text, voice, wpm), length), start)
        for (voice, wpm, text), start in zip(_BYSTANDERS, shift, strict=True)
    ]
    together = np.sum(voices, axis=0)
    return np.asarray(together / rms(together), np.float32)


def rms(pcm: Pcm) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(pcm, dtype=np.float64))))


def mix(speech: Pcm, noise: Pcm, snr_db: float) -> Pcm:
    """Add `noise` (at least as long) to `speech`, `snr_db` below it in RMS.

    The level of speech is taken where it is loud enough to be speech, so that
    silence around it does not count.
    """
    level = rms(speech[np.abs(speech) > FLOOR])
    scale = level / rms(noise) / 10 ** (snr_db / 20)
    return np.asarray(np.clip(speech + noise[: len(speech)] * scale, -1, 1), np.float32)


def telephone(pcm: Pcm) -> Pcm:
    """Keep what a telephone keeps: 300 to 3400 Hz."""
    spectrum = np.fft.rfft(pcm)
    hertz = np.fft.rfftfreq(len(pcm), 1 / RATE)
    spectrum[(hertz < 300) | (hertz > 3400)] = 0
    return np.asarray(np.fft.irfft(spectrum, len(pcm)), np.float32)


_BYSTANDERS = (
    ("en-us+m1", 150, "The match was over long before the rain came down on the stadium roof."),
    ("en-us+f1", 170, "She bought eleven oranges and a melon, and then walked home by the river."),
    ("en-us+m5", 160, "Nobody in the kitchen had noticed that the kettle was boiling again."),
    ("en-us+f4", 180, "My brother keeps telling everybody about his new motorcycle and the trip."),
    ("en-us+m7", 140, "If the train is late again we should have lunch somewhere near the market."),
)


def _speak(voice: str, wpm: str, text: str) -> bytes:
    """Return the library's own sample rate (4 bytes) and its samples, 16 bit."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    rate = library.espeak_Initialize(2, 0, data, 0x8000)  # 2: synchronous, no audio device
    made = bytearray()

    def collect(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            made.extend(ctypes.string_at(samples, 2 * count))
        return 0  # go on

    signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    callback = signature(collect)  # the library keeps no reference: this one must live
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise SystemExit(f"espeak-ng has no voice {voice!r}")
    library.espeak_SetParameter(1, int(wpm), 0)  # 1: words a minute
    spoken = text.encode()
    library.espeak_Synth(spoken, len(spoken) + 1, 0, 1, 0, 1, None, None)  # 1: UTF-8
    library.espeak_Synchronize()
    return int(rate).to_bytes(4, "little") + bytes(made)


if __name__ == "__main__":
    sys.stdout.buffer.write(_speak(*sys.argv[1:]))
