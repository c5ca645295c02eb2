"""Whether the caller is done, from more than silence, and how long to wait for them to go on.

`TurnEnd.probability` weighs the words so far, what the agent has asked and the melody of the last
second, in one small network trained by `python -m demos.turnend.train`. `wait` turns its answer
into a time, from this caller's own pauses. Nothing here reads a clock; weights are read once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asr import wording
from asr.prosody import Prosody, prosody

__all__ = ["PRICE", "Evidence", "Prosody", "TurnEnd", "prosody", "wait"]

WEIGHTS = Path(__file__).with_name("turn_end.npz")

LEAST, MOST = 0.15, 1.5
"""Bounds of `wait` unless others are given, in seconds."""

USUAL = 0.42
"""Median pause inside turns of a caller of whom nothing is known, in seconds. This and the spreads
are those of the training calls (`python -m demos.turnend.train` prints them)."""

AMONG, WITHIN = 0.31, 0.32
"""Spread of ln(pause): of the callers' medians, and of one caller's pauses."""

PRICE = 11.8
"""Seconds of waiting that one cut-in is worth: 3 % false cut-ins on training wordings that were
left out (2026-11-25, printed by the training), at most 5 % on others. Less answers sooner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known when the caller falls silent.

    Attributes:
        words: What the recogniser believes so far of this turn, "" when nothing yet.
        expects: Topic the agent has just asked about, "" for anything.
        prosody: How the last second of speech sounded; None if unknown.
        pauses: This caller's own pauses inside turns so far in the call (after which they went
            on, whether or not the agent had begun to speak), in seconds.
        speech: Seconds of speech in this turn so far.
    """

    words: str
    expects: str = ""
    prosody: Prosody | None = None
    pauses: tuple[float, ...] = ()
    speech: float


class TurnEnd:
    """Tells how likely a caller is done; loaded once and shared by all calls."""

    def __init__(self, weights: Path = WEIGHTS) -> None:
        """Read the weights, 18 kB.

        Raises:
            ValueError: If they are not for these features.
        """
        with np.load(weights) as arrays:
            self._layers = [
                (arrays[f"w{n}"].astype(np.float32), arrays[f"b{n}"])
                for n in range(len(arrays) // 2)
            ]
        if self._layers[0][0].shape[0] != SIZE:
            raise ValueError(
                f"{weights} takes {self._layers[0][0].shape[0]} features, expected {SIZE}: "
                "train it anew with python -m demos.turnend.train"
            )

    def probability(self, evidence: Evidence) -> float:
        """Return how likely the caller is done, 0 to 1; 0.1 ms of CPU."""
        return float(outputs(features(evidence), self._layers))


def outputs(
    inputs: NDArray[np.float32], layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> NDArray[np.float32]:
    """Run the network over features, (`SIZE`,) or (n, `SIZE`); return probabilities."""
    for weights, bias in layers[:-1]:
        inputs = np.tanh(inputs @ weights + bias)
    weights, bias = layers[-1]
    return np.asarray(1 / (1 + np.exp(-np.clip(inputs @ weights + bias, -30, 30)))[..., 0])


SIZE = wording.SIZE + 15
"""Features of the network."""


def features(evidence: Evidence) -> NDArray[np.float32]:
    """Return what the network sees of the evidence, shape (`SIZE`,), float32."""
    words = wording.features(evidence.words, evidence.expects)
    speech = max(0.0, evidence.speech)
    rest = np.zeros(SIZE - wording.SIZE, np.float32)
    rest[0] = math.log1p(min(speech, 20.0))
    rest[1] = speech < 0.6
    rest[2] = speech < 1.2
    rest[3] = min(len(evidence.pauses), 6) / 6
    if (sound := evidence.prosody) is not None:
        rest[4:] = (
            1.0,
            sound.pitch / 4,
            sound.slope / 4,
            sound.fade / 15,
            sound.voiced * 3,
            sound.tail * 5,
            sound.drawl - 1,
            sound.low / 4,
            sound.decay * 5,
            sound.pitch < -1.5,
            sound.low < 0.8,
        )
    return np.concatenate((words, np.clip(rest, -3, 3)))


def wait(
    probability: float,
    least: float = LEAST,
    most: float = MOST,
    pauses: Sequence[float] = (),
    price: float = PRICE,
) -> float:
    """Return how long to wait from the last speech sample, in seconds, `least` to `most`.

    It is the time that costs least: waiting costs its seconds if they are done, stopping costs
    `price` if they are not and their pause lasts longer. A likelier end never waits longer.
    Pauses are taken as log-normal, around this caller's own median as far as `pauses` tell it.
    """
    odds = max(probability, 1e-9) / max(1 - probability, 1e-9)
    middle, spread = _usual(pauses)

    # Cost(w) = odds * w + price * P(pause > w) falls, if anywhere, up to the later root of
    # odds = price * density(w), which is a square equation in ln w.
    inside = spread**2 - 2 * middle - 2 * math.log(spread * math.sqrt(2 * math.pi) * odds / price)
    if inside <= 0:
        return least
    best = min(max(math.exp(middle - spread**2 + spread * math.sqrt(inside)), least), most)

    def cost(seconds: float) -> float:
        beyond = (math.log(seconds) - middle) / spread
        return odds * seconds + price * 0.5 * math.erfc(beyond / math.sqrt(2))

    return best if cost(best) < cost(least) else least


def _usual(pauses: Sequence[float]) -> tuple[float, float]:
    """Return mean and spread of ln(next pause), given a caller's pauses so far."""
    logs = [math.log(min(max(pause, 0.05), 5.0)) for pause in pauses[-12:]]
    trust = AMONG**2 / (AMONG**2 + WITHIN**2 / len(logs)) if logs else 0.0
    own = sum(logs) / len(logs) if logs else 0.0
    middle = math.log(USUAL) * (1 - trust) + own * trust
    return middle, math.sqrt(WITHIN**2 + AMONG**2 * (1 - trust))
