"""What callers say, as a recogniser needs it: sentences in, dictionary and language models out."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

Sentence = tuple[str, ...]

BACKGROUND = "background"
"""The file of what people say that is not meant for this agent."""

OUTSIDE = 0.05
"""Share of what a caller says that is expected to be background."""


TIGHT = 0.1
"""Factor on the room that Witten-Bell smoothing leaves for what was never seen."""

NOBODY = 1e-6
"""A chance that stands for none."""

PRONUNCIATIONS = {"o'clock": ("OW K L AA K",)}
"""How people also say words, besides what the dictionary knows (CMU phones)."""


def sentences(file: Path) -> Counter[Sentence]:
    """Return the sentences of a topic file as words, and how often each stands there."""
    lines = file.read_text().lower().splitlines()
    return Counter(words for line in lines if (words := tuple(line.split())))


def spoken_words(speech: Path, dictionary: Path, into: Path) -> tuple[set[str], set[str]]:
    """Write the part of `dictionary` that the topics need; return known and unknown words."""
    files = sorted(speech.glob("*.txt"))
    wanted = {word for file in files for sentence in sentences(file) for word in sentence}
    known: set[str] = set()
    with dictionary.open() as every, into.open("w") as ours:
        for line in every:
            word = line.split(maxsplit=1)[0].split("(")[0]
            if word in wanted:
                ours.write(line)
                known.add(word)
        for word in known & PRONUNCIATIONS.keys():
            for number, phones in enumerate(PRONUNCIATIONS[word]):
                ours.write(f"{word}({number + 9}) {phones}\n")
    return known, wanted - known


class Trigrams:
    """How likely a word is after two others, learned from weighted sentences.

    Witten-Bell smoothing, tightened: what follows often and always the same
    leaves little room for anything else, which is how answers to a question are.
    """

    def __init__(self, weights: Mapping[Sentence, float]) -> None:
        counts = _counts(weights)
        del counts[0][("<s>",)]  # a sentence's beginning never follows anything
        total = sum(counts[0].values())
        self.chances: list[dict[Sentence, float]] = [{}, {}, {}]
        """Probability of the last word after the others, by length of the key."""
        self.leftover: dict[Sentence, float] = {}
        """Factor on the chance after one word less, of what was never seen after these."""
        self.chances[0] = {gram: count / total for gram, count in counts[0].items()}
        self.chances[0][("<s>",)] = NOBODY
        for order in (1, 2):
            followers: dict[Sentence, list[Sentence]] = defaultdict(list)
            for gram in counts[order]:
                followers[gram[:-1]].append(gram)
            for context, grams in followers.items():
                self._learn(context, {gram: counts[order][gram] for gram in grams})

    def _learn(self, context: Sentence, counts: Mapping[Sentence, float]) -> None:
        """Share the chances after `context` among what was seen there, and the rest."""
        shorter = self.chances[len(context) - 1]
        others = 1 - sum(shorter[gram[1:]] for gram in counts)
        room = TIGHT * sum(min(count, 1.0) for count in counts.values())
        if others < NOBODY:  # every word there is has been seen here
            room = 0.0
        seen = sum(counts.values()) + room
        for gram, count in counts.items():
            self.chances[len(context)][gram] = count / seen
        self.leftover[context] = max(room / seen / max(others, NOBODY), NOBODY)

    def chance(self, gram: Sentence) -> float:
        """Return the probability of the last word after the one or two before it."""
        known = self.chances[len(gram) - 1].get(gram)
        if known is not None:
            return known
        return self.leftover.get(gram[:-1], 1.0) * self.chance(gram[1:]) if gram[1:] else NOBODY

    def surprise(self, sentence: Sentence) -> float:
        """Return the mean of -ln(chance) over the words of a sentence and its end."""
        words = ("<s>", *sentence, "</s>")
        grams = [words[max(0, at - 2) : at + 1] for at in range(1, len(words))]
        return -sum(math.log(self.chance(gram)) for gram in grams) / len(grams)

    def arpa(self) -> str:
        """Return the model in ARPA format."""
        lines = [
            "\\data\\",
            *(f"ngram {n}={len(table)}" for n, table in enumerate(self.chances, 1)),
        ]
        for order, table in enumerate(self.chances):
            lines += ["", f"\\{order + 1}-grams:"]
            for gram, chance in sorted(table.items()):
                line = f"{math.log10(chance):.4f} {' '.join(gram)}"
                if order < 2:
                    line += f" {math.log10(self.leftover.get(gram, 1.0)):.4f}"
                lines.append(line)
        return "\n".join([*lines, "", "\\end\\", ""])


@dataclass(frozen=True, slots=True)
class Topic:
    """What is said about one topic.

    Attributes:
        model: How likely words are, background included.
        words: Its own words, without those of the background.
    """

    model: Trigrams
    words: frozenset[str]


def topics(speech: Path, known: Collection[str]) -> dict[str, Topic]:
    """Learn every topic of a directory, from the words that are `known`."""
    background = speech / f"{BACKGROUND}.txt"
    others = _known(sentences(background), known) if background.is_file() else {}
    learned = {}
    for file in sorted(speech.glob("*.txt")):
        own = _known(sentences(file), known)
        if file.stem == BACKGROUND or not own:
            continue
        share = OUTSIDE * sum(own.values()) / max(sum(others.values()), 1)
        weights = own | {line: own.get(line, 0) + share * n for line, n in others.items()}
        words = frozenset(word for sentence in own for word in sentence)
        learned[file.stem] = Topic(Trigrams(weights), words)
    return learned


def _known(lines: Mapping[Sentence, float], known: Collection[str]) -> dict[Sentence, float]:
    """Leave unknown words out."""
    kept: dict[Sentence, float] = defaultdict(float)
    for sentence, count in lines.items():
        if words := tuple(word for word in sentence if word in known):
            kept[words] += count
    return kept


def _counts(weights: Mapping[Sentence, float]) -> list[dict[Sentence, float]]:
    """Count words, pairs and triples, with the ends of sentences."""
    counts: list[dict[Sentence, float]] = [defaultdict(float) for _ in range(3)]
    for sentence, weight in weights.items():
        words = ("<s>", *sentence, "</s>")
        for order in range(3):
            for at in range(len(words) - order):
                counts[order][words[at : at + order + 1]] += weight
    return counts
