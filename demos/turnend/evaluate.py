"""Measure end-of-turn decisions on calls that nothing was trained on.

    python -m demos.turnend.evaluate
    python -m demos.turnend.evaluate --calls 60 --ears

prints one JSON line for each setting and a table in the form of LiveKit's eot-bench. Every pause
inside a turn is a chance to cut in; at every true end a caller waits. *False cut-ins*: pauses that
outlast the wait. *Latency*: the wait at true ends, which is all of the dead air that the decision
is to blame for. "Told finished sentences" is who knows for sure whether a sentence is finished by
words and melody, and nothing else: a floor for rules that do not know what callers want.

`--ears` lets the front desk's recogniser hear every turn up to every silence, a minute for ten
calls; of numbers, spelling and the names here it knows nothing. All callers are synthetic: the
figures compare rules and promise nothing of people.
"""

import argparse
import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from asr.turn_end import LEAST, MOST, PRICE, Evidence, TurnEnd, prosody, wait
from demos.frontdesk import language
from demos.frontdesk.hearing import hear
from voice.pauses import RATE, CallerTurn, calls

from .decisions import Decision, Mishearing, decisions, late

RESAMPLES = 1000
"""Of calls, for the spread."""


@dataclass(frozen=True, slots=True)
class Point:
    """How a rule does with one of its settings; seconds and shares.

    Attributes:
        cut_ins: Share of pauses in which the wait ran out.
        cut_ins_spread: 95 % of resamples of the calls.
        latency: Mean wait at true ends.
        latency_spread: Likewise.
        p50: Median wait at true ends.
        p95: 95th percentile.
    """

    cut_ins: float
    cut_ins_spread: tuple[float, float]
    latency: float
    latency_spread: tuple[float, float]
    p50: float
    p95: float


Rule = Callable[[float], list[float]]
"""Gives the waits of all decisions at a knob's setting; more of it waits longer."""


class Bench:
    """The decisions of all calls, and what waits are worth on them."""

    def __init__(self, examples: Sequence[Decision]) -> None:
        self.examples = examples
        pauses = [one.pause for one in examples]
        self.ended = np.array([pause is None for pause in pauses])
        self.pauses = np.array([pause or 0.0 for pause in pauses])
        self._calls = np.array([one.call for one in examples])

    def cut_ins(self, waits: Sequence[float], chosen: Any = True) -> float:
        """Return the share of the (`chosen`) pauses that outlast their wait."""
        held = ~self.ended & chosen
        return float((np.array(waits) < self.pauses)[held].mean()) if held.any() else 0.0

    def latency(self, waits: Sequence[float]) -> float:
        """Return the mean wait at true ends."""
        return float(np.array(waits)[self.ended].mean())

    def point(self, waits: Sequence[float]) -> Point:
        """Return everything about some waits."""
        rng, array = np.random.default_rng(0), np.array(waits)
        ends = array[self.ended]
        count = int(self._calls.max()) + 1

        def per_call(weights: Any) -> Any:
            return np.bincount(self._calls, weights, minlength=count)

        drawn = rng.integers(0, count, (RESAMPLES, count))
        cut = per_call(~self.ended & (array < self.pauses))[drawn].sum(1)
        cut = cut / per_call(~self.ended)[drawn].sum(1)
        waited = per_call(np.where(self.ended, array, 0))[drawn].sum(1)
        waited = waited / per_call(self.ended)[drawn].sum(1)
        return Point(
            self.cut_ins(waits),
            _spread(cut),
            self.latency(waits),
            _spread(waited),
            float(np.percentile(ends, 50)),
            float(np.percentile(ends, 95)),
        )

    def saved(self, waits: Sequence[float]) -> tuple[float, tuple[float, float]]:
        """Return by which share the mean latency is below that of silence alone with as many
        false cut-ins, and its spread."""
        rng, array = np.random.default_rng(0), np.array(waits)
        count = int(self._calls.max()) + 1
        rows = [np.flatnonzero(self._calls == call) for call in range(count)]

        def share(chosen: Any) -> float:
            ended, pauses, waited = self.ended[chosen], self.pauses[chosen], array[chosen]
            cut = (waited < pauses)[~ended].mean()
            alone = np.quantile(pauses[~ended], 1 - cut)
            return float(1 - waited[ended].mean() / alone)

        drawn = rng.integers(0, count, (RESAMPLES, count))
        shares = [share(np.concatenate([rows[call] for call in resample])) for resample in drawn]
        return share(np.arange(len(array))), _spread(shares)

    def at_rate(self, rule: Rule, allowed: float) -> Point:
        """Return the point of the least knob with at most `allowed` false cut-ins."""
        return self.point(_least(rule, lambda waits: self.cut_ins(waits) <= allowed))

    def cut_ins_at(self, rule: Rule, latency: float) -> float:
        """Return the false cut-ins where the mean latency is the one given."""
        return self.cut_ins(_least(rule, lambda waits: self.latency(waits) >= latency))


def _least(rule: Rule, enough: Callable[[list[float]], bool]) -> list[float]:
    """Return the waits of the least knob that is enough."""
    low, high = 1e-3, 1e4
    for _ in range(24):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if enough(rule(middle)) else (middle, high)
    return rule(high)


def _spread(values: Any) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


# Rules.


def silence(examples: Sequence[Decision]) -> Rule:
    """Wait equally long for everybody; the knob is the wait."""
    return lambda seconds: [seconds] * len(examples)


def weighed(evidences: Sequence[Evidence], model: TurnEnd) -> Rule:
    """Wait as `asr.turn_end` says; the knob is the price of a cut-in."""
    chances = [model.probability(evidence) for evidence in evidences]
    return lambda price: [
        wait(chance, LEAST, MOST, evidence.pauses, price)
        for chance, evidence in zip(chances, evidences, strict=True)
    ]


def own_pauses_only(examples: Sequence[Decision]) -> Rule:
    """Wait as `asr.turn_end` would if every silence looked alike."""
    chance = sum(one.pause is None for one in examples) / len(examples)
    return lambda price: [wait(chance, LEAST, MOST, one.evidence.pauses, price) for one in examples]


def told_finished(examples: Sequence[Decision]) -> Rule:
    """Wait the most inside sentences, and as `asr.turn_end` would if all their ends were alike."""
    finished = [one.kind in ("final", "end") for one in examples]
    chance = sum(one.pause is None for one in examples) / sum(finished)
    return lambda price: [
        wait(chance, LEAST, MOST, one.evidence.pauses, price) if over else MOST
        for one, over in zip(examples, finished, strict=True)
    ]


def survived(examples: Sequence[Decision], model: TurnEnd, price: float) -> list[float]:
    """Wait as `asr.turn_end` says, where pauses that were cut into are never learnt."""
    known: dict[int, tuple[float, ...]] = defaultdict(tuple)
    waits = []
    for one in examples:
        evidence = replace(one.evidence, pauses=known[one.call])
        seconds = wait(model.probability(evidence), LEAST, MOST, evidence.pauses, price)
        waits.append(seconds)
        if one.pause is not None and seconds >= one.pause:
            known[one.call] += (one.pause,)
    return waits


def settings(examples: Sequence[Decision], model: TurnEnd) -> dict[str, Rule]:
    """Return every rule that is measured, by name."""
    rng, mishearing = random.Random(1), Mishearing(1)
    known = [one.evidence for one in examples]
    wordless = [replace(one, words="") for one in known]

    def strange(evidences: Sequence[Evidence]) -> list[Evidence]:
        return [replace(one, pauses=()) for one in evidences]

    return {
        "silence only": silence(examples),
        "silence, own pauses": own_pauses_only(examples),
        "words": weighed(strange([replace(one, prosody=None) for one in known]), model),
        "melody": weighed(strange(wordless), model),
        "words, melody": weighed(strange(known), model),
        "words, melody, own pauses": weighed(known, model),
        "misheard words, melody, own pauses": weighed(
            [mishearing.mishear(one, rng) for one in known], model
        ),
        "last word late, melody, own pauses": weighed([late(one) for one in known], model),
        "no words, melody, own pauses": weighed(wordless, model),
        "told finished sentences, own pauses": told_finished(examples),
        "own pauses without those cut into": lambda price: survived(examples, model, price),
    }


async def overheard(turns: Sequence[CallerTurn]) -> list[str]:
    """Return what the front desk's recogniser makes of every turn up to every silence."""
    from asr.sphinx import Sphinx

    ears, words = Sphinx(language.SPEECH, 1, 1), []
    await ears.start()
    try:
        for turn in turns:
            for end in (*(pause.at for pause in turn.pauses), turn.end):
                pcm = turn.pcm[: end + RATE // 10]
                asked = turn.expects if turn.expects in language.TOPICS else ""
                found = await hear(ears, pcm, asked, f"call {turn.call}")
                words.append(found.text)
    finally:
        await ears.stop()
    return words


def by_kind(bench: Bench, waits: Sequence[float]) -> dict[str, Any]:
    """Return false cut-ins by what a pause follows, and latency by what a turn is."""
    kinds = np.array([one.kind for one in bench.examples])
    groups = np.array([one.about for one in bench.examples])
    array = np.array(waits)
    held, ends = {}, {}
    for kind in ("final", "complete", "incomplete", "number"):
        chosen = kinds == kind
        held[kind] = {
            "pauses": int(chosen.sum()),
            "false_cut_ins": round(bench.cut_ins(waits, chosen), 3),
        }
    for group in dict.fromkeys(groups.tolist()):
        found = array[bench.ended & (groups == group)]
        ends[group] = {
            "turns": len(found),
            "latency_ms": {
                "mean": round(1000 * float(found.mean())),
                "p50": round(1000 * float(np.percentile(found, 50))),
                "p95": round(1000 * float(np.percentile(found, 95))),
            },
            "false_cut_ins": round(bench.cut_ins(waits, groups == group), 3),
        }
    return {"pauses": held, "turns": ends}


def cost(examples: Sequence[Decision], model: TurnEnd) -> dict[str, float]:
    """Return the CPU time of one decision, in milliseconds."""
    pcm = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    times: dict[str, list[float]] = {"prosody": [], "probability": [], "wait": []}
    for one in examples[:500]:
        begin = time.thread_time()
        prosody(pcm)
        heard = time.thread_time()
        chance = model.probability(one.evidence)
        weighed_at = time.thread_time()
        wait(chance, pauses=one.evidence.pauses)
        times["prosody"].append(heard - begin)
        times["probability"].append(weighed_at - heard)
        times["wait"].append(time.thread_time() - weighed_at)
    return {name: round(1000 * float(np.median(found)), 4) for name, found in times.items()}


def as_row(point: Point) -> dict[str, Any]:
    """Return a point for JSON: shares, and milliseconds."""
    return {
        "false_cut_ins": round(point.cut_ins, 4),
        "false_cut_ins_95": [round(one, 4) for one in point.cut_ins_spread],
        "latency_ms": {
            "mean": round(1000 * point.latency),
            "mean_95": [round(1000 * one) for one in point.latency_spread],
            "p50": round(1000 * point.p50),
            "p95": round(1000 * point.p95),
        },
    }


def main(count: int, seed: int, ears: bool) -> None:
    """Make the calls, measure, print."""
    rng, model = random.Random(seed), TurnEnd()
    made = list(calls(count, seed))
    examples = [one for call in made for one in decisions(call, rng)]
    bench = Bench(examples)
    rules = settings(examples, model)
    if ears:
        words = asyncio.run(overheard([turn for call in made for turn in call]))
        rules["the recogniser's words, melody, own pauses"] = weighed(
            [replace(one.evidence, words=text) for one, text in zip(examples, words, strict=True)],
            model,
        )
    held = bench.pauses[~bench.ended]
    complete = [one.kind in ("final", "complete") for one in examples if one.pause is not None]
    print(
        json.dumps(
            {
                "what": "corpus",
                "calls": count,
                "turns": int(bench.ended.sum()),
                "pauses": len(held),
                "after_complete_sentences": round(sum(complete) / len(complete), 3),
                "pause_s": {p: round(float(np.percentile(held, p)), 2) for p in (50, 90, 95)},
                "cpu_ms": cost(examples, model),
            }
        )
    )
    table = []
    for name, rule in rules.items():
        row: dict[str, Any] = {"what": "end of turn", "setting": name}
        at5, at10 = bench.at_rate(rule, 0.05), bench.at_rate(rule, 0.10)
        row |= {"at_5": as_row(at5), "at_10": as_row(at10)}
        cut = [bench.cut_ins_at(rule, latency) for latency in (0.3, 0.6)]
        row["cut_ins_at_ms"] = {"300": round(cut[0], 3), "600": round(cut[1], 3)}
        default = None
        if not name.startswith(("silence", "told")):
            default = bench.point(rule(PRICE))
            row |= {"default": as_row(default), "kinds": by_kind(bench, rule(PRICE))}
            saved, spread = bench.saved(rule(PRICE))
            row["default"]["below_silence"] = round(saved, 3)
            row["default"]["below_silence_95"] = [round(one, 3) for one in spread]
        print(json.dumps(row))
        table.append((name, cut, at5, at10, default))
    print(f"\n{'':43}{'cut-ins at':>14}{'latency ms at':>16}   default")
    print(f"{'':43}{'300 ms':>7}{'600':>7}{'5 %':>8}{'10 %':>8}   cut-ins, mean p50 p95 ms")
    for name, cut, at5, at10, default in table:
        line = f"{name:43}{cut[0]:7.1%}{cut[1]:7.1%}"
        line += f"{1000 * at5.latency:8.0f}{1000 * at10.latency:8.0f}"
        if default:
            low, high = default.cut_ins_spread
            line += (
                f"   {default.cut_ins:.1%} ({low:.1%}..{high:.1%}), {1000 * default.latency:.0f}"
            )
            line += f" {1000 * default.p50:.0f} {1000 * default.p95:.0f}"
        print(line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--seed", type=int, default=202)
    parser.add_argument("--ears", action="store_true", help="let the real recogniser hear, too")
    given = parser.parse_args()
    main(given.calls, given.seed, given.ears)
