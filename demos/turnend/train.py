"""Train what decides that a caller is done, from synthetic calls; needs numpy only.

    python -m demos.turnend.train

writes `asr/turn_end.npz`, in about ten minutes on one core, and prints what the constants of
`asr.turn_end` should be: the price of a cut-in, chosen on wordings that the network has not seen,
and how callers' pauses are spread.
"""

import argparse
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr import wording
from asr.prosody import Prosody
from asr.turn_end import SIZE, WEIGHTS, Evidence, features, outputs, wait
from demos.frontdesk import language as desk
from voice.pauses import Language, calls

from .decisions import Decision, Mishearing, decisions, late
from .wordings import TRAINING

Array = NDArray[np.float32]
Layers = list[tuple[Array, Array]]

DESK = 0.6
"""Turns with sentences of the front desk's own training language, for each of ours."""

SENTENCES = 8000
"""How many of those sentences there are."""

HIDDEN, KEPT = 32, 0.8
"""Hidden units, and how many of them take part in a step."""

EPOCHS, BATCH, STEP, DECAY = 20, 256, 4e-3, 0.1
"""Of AdamW; steps get smaller along a cosine. A wording's own words are soon learnt by heart, so
more epochs or units make wordings that were not seen worse."""

BEHIND = 0.2
"""How often the recogniser has not got to the last word yet. Much of that unlearns that a sentence
does not end with "the"."""

BEGUN = 1.0
"""Silences to which words are added that hold the sentence open, for each that is as spoken."""

FOLDS, CHECKED = 5, (0, 2)
"""In how many parts the wordings are, and which are left out to choose the price."""

ALLOWED = 0.03
"""False cut-ins for which the price is chosen. Two of the five in a hundred that a call may have
are kept in reserve, for wordings less like these than a fifth of these is like the rest."""


def with_desk(language: Language, count: int, rng: random.Random) -> Language:
    """Add sentences of the front desk, which carry no marks."""
    topics = [topic for topic in desk.TOPICS if topic != "person"]
    drawn = [(topic, desk.draw(topic, rng).text) for topic in rng.choices(topics, k=count)]
    total = sum(language.shares.values())
    return replace(
        language,
        wordings={**language.wordings, "desk": tuple(drawn)},
        shares={**language.shares, "desk": DESK * total},
    )


def part(language: Language, fold: int, folds: int, inside: bool) -> Language:
    """Return the language with only (or without) every `folds`-th wording of each group."""
    return replace(
        language,
        wordings={
            group: [w for n, w in enumerate(wordings) if (n % folds == fold) == inside]
            for group, wordings in language.wordings.items()
        },
    )


def corpus(language: Language, count: int, seed: int) -> list[Decision]:
    """Return every silence of `count` calls."""
    rng = random.Random(seed)
    return [one for call in calls(count, seed, language) for one in decisions(call, rng)]


def variants(evidence: Evidence, mishearing: Mishearing, rng: random.Random) -> list[Evidence]:
    """Return the evidence as it is, and with less and worse of it."""
    shaken = replace(evidence, prosody=_shaken(evidence.prosody, rng))
    found = [
        evidence,
        shaken,
        replace(evidence, prosody=None),
        replace(shaken, words=""),
        mishearing.mishear(shaken, rng),
    ]
    if rng.random() < BEHIND:
        found.append(late(shaken))
    return found


OPEN_CLASSES = (
    "to",
    "and",
    "because",
    "article",
    "owner",
    "of",
    "filler",
    "i",
    "i'm",
    "can",
    "be",
    "some",
)
"""Classes whose words hold a sentence open, whatever stands before them."""

OPEN_WORDS = (
    "and then",
    *(word for name in OPEN_CLASSES for word in wording.CLASSES[name].split()),
)


def opened(evidence: Evidence, rng: random.Random) -> Evidence:
    """Return the evidence of somebody who, after these words, began something new.

    Turns of a corpus pause after some words only; the rest of the language is open as well.
    """
    words = rng.choices(OPEN_WORDS, k=rng.choice((1, 1, 2)))
    return replace(evidence, words=" ".join((evidence.words, *words)))


def _shaken(sound: Prosody | None, rng: random.Random) -> Prosody | None:
    """Blur the melody: people's is less tidy than a synthesiser's."""
    if sound is None:
        return None
    return Prosody(
        pitch=sound.pitch + rng.gauss(0, 0.8),
        slope=sound.slope + rng.gauss(0, 0.8),
        fade=min(0.0, sound.fade + rng.gauss(0, 2.0)),
        voiced=sound.voiced * math.exp(rng.gauss(0, 0.15)),
        tail=sound.tail * math.exp(rng.gauss(0, 0.15)),
        drawl=sound.drawl * math.exp(rng.gauss(0, 0.15)),
        low=max(0.0, sound.low + rng.gauss(0, 0.8)),
        decay=sound.decay * math.exp(rng.gauss(0, 0.15)),
    )


def fit(examples: Sequence[Decision], seed: int) -> Layers:
    """Train the network."""
    rng, mishearing = random.Random(seed), Mishearing(0)
    melodies = [one.evidence.prosody for one in examples if one.kind == "incomplete"]
    rows, labels = [], []
    for one in examples:
        for evidence in variants(one.evidence, mishearing, rng):
            rows.append(features(evidence))
            labels.append(one.pause is None)
        if one.kind in ("end", "incomplete") and rng.random() < BEGUN:
            sound = rng.choice((None, *melodies))
            rows.append(features(opened(replace(one.evidence, prosody=sound), rng)))
            labels.append(False)
    return _descend(np.array(rows), np.array(labels, np.float32), np.random.default_rng(seed))


def _descend(inputs: Array, labels: Array, rng: np.random.Generator) -> Layers:
    """Minimise the cross-entropy with AdamW and a falling step."""
    w0 = rng.standard_normal((SIZE, HIDDEN)).astype(np.float32) * np.float32(2 / math.sqrt(SIZE))
    w1 = rng.standard_normal((HIDDEN, 1)).astype(np.float32) / np.float32(math.sqrt(HIDDEN))
    learnt = [w0, np.zeros(HIDDEN, np.float32), w1, np.zeros(1, np.float32)]
    means = [(np.zeros_like(one), np.zeros_like(one)) for one in learnt]
    steps = EPOCHS * (len(labels) // BATCH)
    order = np.concatenate([rng.permutation(len(labels)) for _ in range(EPOCHS)])
    for step in range(1, steps + 1):
        rows = order[(step - 1) * BATCH : step * BATCH]
        gradients = _gradients(learnt, inputs[rows], labels[rows], rng)
        rate = STEP * 0.5 * (1 + math.cos(math.pi * step / steps))
        rate *= math.sqrt(1 - 0.998**step) / (1 - 0.9**step)
        for one, gradient, (first, second) in zip(learnt, gradients, means, strict=True):
            first += 0.1 * (gradient - first)
            second += 0.002 * (gradient**2 - second)
            one -= rate * (first / (np.sqrt(second) + 1e-8) + (DECAY * one if one.ndim > 1 else 0))
    return [(w0, learnt[1]), (w1, learnt[3])]


def _gradients(
    learnt: Sequence[Array], inputs: Array, labels: Array, rng: np.random.Generator
) -> tuple[Array, Array, Array, Array]:
    """Return the gradient of the mean cross-entropy, with a fifth of the hidden units dropped."""
    w0, b0, w1, b1 = learnt
    hidden = np.tanh(inputs @ w0 + b0)
    kept = (rng.random(hidden.shape) < KEPT).astype(np.float32) / np.float32(KEPT)
    error = (outputs(hidden * kept, [(w1, b1)]) - labels)[:, None] / np.float32(len(labels))
    back = (error @ w1.T) * kept * (1 - hidden**2)
    return inputs.T @ back, back.sum(0), (hidden * kept).T @ error, error.sum(0)


def cut_ins(examples: Sequence[Decision], probabilities: Array, price: float) -> float:
    """Return the share of pauses in which the wait ran out."""
    cut = [
        wait(float(p), pauses=one.evidence.pauses, price=price) < one.pause
        for one, p in zip(examples, probabilities, strict=True)
        if one.pause is not None
    ]
    return sum(cut) / len(cut)


def price_for(examples: Sequence[Decision], layers: Layers, allowed: float) -> float:
    """Return the lowest price with at most `allowed` false cut-ins."""
    probabilities = outputs(np.array([features(one.evidence) for one in examples]), layers)
    low, high = 0.05, 200.0
    for _ in range(25):
        middle = math.sqrt(low * high)
        enough = cut_ins(examples, probabilities, middle) <= allowed
        low, high = (low, middle) if enough else (middle, high)
    return high


def spread(examples: Sequence[Decision]) -> tuple[float, float, float]:
    """Return the usual pause, and the spread of ln(pause) among callers and within one."""
    logs: dict[int, list[float]] = defaultdict(list)
    for one in examples:
        if one.pause is not None:
            logs[one.call].append(math.log(one.pause))
    callers = [np.array(own) for own in logs.values() if len(own) > 1]
    within = np.mean([own.var(ddof=1) for own in callers])
    means = np.array([own.mean() for own in callers])
    among = means.var() - within * np.mean([1 / len(own) for own in callers])
    return math.exp(means.mean()), math.sqrt(max(among, 0.0)), math.sqrt(within)


def main(count: int, seed: int, output: Path) -> None:
    """Choose the price, train on everything, write."""
    whole = with_desk(TRAINING, SENTENCES, random.Random(seed))
    prices = []
    for fold in CHECKED:
        seen = corpus(part(whole, fold, FOLDS, inside=False), count // 2, seed + fold)
        unseen = corpus(part(TRAINING, fold, FOLDS, inside=True), count // 4, seed - fold)
        layers = fit(seen, seed)
        prices.append(price_for(unseen, layers, ALLOWED))
        print(f"without fold {fold}: a cut-in costs {prices[-1]:.2f} s", flush=True)
    examples = corpus(whole, count, seed)
    layers = fit(examples, seed)
    arrays: dict[str, Any] = {}
    for number, (weights, bias) in enumerate(layers):
        arrays |= {f"w{number}": weights.astype(np.float16), f"b{number}": bias}
    np.savez_compressed(output, **arrays)
    usual, among, within = spread(examples)
    print(f"{len(examples)} silences, {output.stat().st_size} bytes in {output}")
    print(f"PRICE = {np.mean(prices):.1f}")
    print(f"USUAL = {usual:.2f}, AMONG, WITHIN = {among:.2f}, {within:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    given = parser.parse_args()
    main(given.calls, given.seed, given.output)
