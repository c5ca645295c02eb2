"""Echo paths and sounds for tests: rooms, telephone codecs, clocks that drift, coughs, keyboards.

Rooms are synthetic: a direct path and a tail of noise that decays exponentially. Real ones have
single early reflections, loudspeakers that distort, and people who move.
"""

import numpy as np

from speech import FLOOR, RATE, Pcm, rms


def room(rt60: float, seed: int, direct_db: float = 0.0) -> Pcm:
    """Return an impulse response of energy 1 whose direct path is its first sample.

    `rt60` is the time in which the tail decays by 60 dB, in seconds, 0 for no tail;
    `direct_db` the direct path's energy over that of the tail.
    """
    if not rt60:
        return np.ones(1, np.float32)
    random = np.random.default_rng(seed)
    at = np.arange(int(0.7 * rt60 * RATE)) / RATE
    tail = random.standard_normal(len(at)) * 10 ** (-3 * at / rt60)
    tail[: int(0.0015 * RATE)] = 0  # nothing is reflected sooner than 1.5 ms
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return np.asarray(tail / np.sqrt(np.sum(tail**2)), np.float32)


def echo(played: Pcm, delay: float, level_db: float, response: Pcm) -> Pcm:
    """Return what a microphone hears of `played`, as long as it.

    `level_db` is the echo's level over the played one, where something is played.
    """
    size = len(played) + len(response)
    heard = np.fft.irfft(np.fft.rfft(played, size) * np.fft.rfft(response, size), size)
    late = np.concatenate([np.zeros(round(delay * RATE)), heard])[: len(played)]
    return np.asarray(late * 10 ** (level_db / 20), np.float32)


def level(pcm: Pcm) -> float:
    """Return the RMS of speech where it is loud enough to be speech."""
    return rms(pcm[np.abs(pcm) > FLOOR * np.abs(pcm).max()])


def at_level(pcm: Pcm, level_db: float) -> Pcm:
    """Bring speech to `level_db`, in dBFS."""
    return np.asarray(pcm * (10 ** (level_db / 20) / level(pcm)), np.float32)


def mu_law(pcm: Pcm) -> Pcm:
    """Code and decode samples as G.711 does, without the change to 8 kHz."""
    linear = np.clip(pcm, -1, 1)
    coded = np.round(np.sign(linear) * np.log1p(255 * np.abs(linear)) / np.log(256) * 127) / 127
    return np.asarray(np.sign(coded) * (256 ** np.abs(coded) - 1) / 255, np.float32)


def drifted(pcm: Pcm, ppm: float) -> Pcm:
    """Return what a clock that is `ppm` parts in a million off makes of samples."""
    at = np.arange(len(pcm)) * (1 + ppm * 1e-6)
    return np.interp(at, np.arange(len(pcm)), pcm).astype(np.float32)


def cough(seed: int) -> Pcm:
    """Return a cough of RMS 1: a burst of noise of 0.1 s, then a longer, softer, voiced one."""
    random = np.random.default_rng(seed)
    first, rest = random.uniform(0.06, 0.12), random.uniform(0.1, 0.25)
    at = np.arange(int((first + rest) * RATE)) / RATE
    envelope = np.where(at < first, np.exp(-at / 0.05), 0)
    later = at >= first
    envelope[later] = 0.4 * np.exp(-(at[later] - first) / (rest / 3))
    envelope *= np.minimum(at / 0.004, 1)
    pulses = np.zeros(len(at))
    pulses[:: int(RATE / random.uniform(120, 240))] = 8 * random.uniform(0, 1)
    source = random.standard_normal(len(at)) + np.where(at < first, 0, pulses)
    spectrum = np.fft.rfft(source)
    hertz = np.fft.rfftfreq(len(at), 1 / RATE)
    shape = sum(
        1 / (1 + ((hertz - centre * random.uniform(0.85, 1.15)) / width) ** 2)
        for centre, width in ((450, 200), (1500, 400), (2800, 800))
    )
    pcm = np.fft.irfft(spectrum * shape, len(at)) * envelope
    return np.asarray(pcm / rms(pcm), np.float32)


def keyboard(seconds: float, seed: int) -> Pcm:
    """Return typing of RMS 1: pairs of clicks of 3 to 8 ms, about seven keys a second."""
    random = np.random.default_rng(seed)
    pcm = np.zeros(int(seconds * RATE), np.float32)
    at = 0.0
    while at < seconds - 0.12:
        for offset, loudness in ((0.0, 1.0), (random.uniform(0.04, 0.09), 0.5)):
            length = int(random.uniform(0.003, 0.008) * RATE)
            click = random.standard_normal(length) * np.exp(-np.arange(length) / (length / 4))
            start = int((at + offset) * RATE)
            pcm[start : start + length] += (loudness * click).astype(np.float32)
        at += random.exponential(0.07) + 0.07
    return np.asarray(pcm / rms(pcm), np.float32)
