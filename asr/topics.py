"""What callers say, as a recogniser needs it: sentences in, dictionary and language models out."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
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


def language_models(speech: Path, known: Collection[str], folder: Path) -> dict[str, Path]:
    """Write a trigram model for every topic into `folder`; return topic and file."""
    files = {}
    background = speech / f"{BACKGROUND}.txt"
    others = _known(sentences(background), known) if background.is_file() else {}
    for file in sorted(speech.glob("*.txt")):
        if file.stem == BACKGROUND:
            continue
        topic = _known(sentences(file), known)
        share = OUTSIDE * sum(topic.values()) / max(sum(others.values()), 1)
        weights = topic | {line: topic.get(line, 0) + share * n for line, n in others.items()}
        files[file.stem] = folder / f"{file.stem}.arpa"
        files[file.stem].write_text(arpa(weights))
    return files


def _known(lines: Mapping[Sentence, float], known: Collection[str]) -> dict[Sentence, float]:
    """Leave unknown words out."""
    kept: dict[Sentence, float] = defaultdict(float)
    for sentence, count in lines.items():
        if words := tuple(word for word in sentence if word in known):
            kept[words] += count
    return kept


def arpa(weights: Mapping[Sentence, float]) -> str:
    """Return a trigram model of weighted sentences, in ARPA format.

    Witten-Bell smoothing: what follows often and always the same leaves little
    room for anything else, which is how answers to a question are.
    """
    counts = _counts(weights)
    chances: list[dict[Sentence, float]] = [{}, {}, {}]
    del counts[0][("<s>",)]  # a sentence's beginning never follows anything
    total = sum(counts[0].values())
    chances[0] = {gram: count / total for gram, count in counts[0].items()}
    chances[0][("<s>",)] = NOBODY
    leftover: list[dict[Sentence, float]] = [{}, {}]
    for order in (1, 2):
        followers: dict[Sentence, list[Sentence]] = defaultdict(list)
        for gram in counts[order]:
            followers[gram[:-1]].append(gram)
        for context, grams in followers.items():
            seen = sum(counts[order][gram] for gram in grams)
            others = 1 - sum(chances[order - 1][gram[1:]] for gram in grams)
            kinds = TIGHT * sum(min(counts[order][gram], 1.0) for gram in grams)
            if others < NOBODY:  # every word there is has been seen here
                kinds = 0.0
            for gram in grams:
                chances[order][gram] = counts[order][gram] / (seen + kinds)
            room = kinds / (seen + kinds)
            leftover[order - 1][context] = max(room / max(others, NOBODY), NOBODY)
    lines = ["\\data\\", *(f"ngram {n}={len(table)}" for n, table in enumerate(chances, 1))]
    for order, table in enumerate(chances):
        lines += ["", f"\\{order + 1}-grams:"]
        for gram, chance in sorted(table.items()):
            line = f"{math.log10(chance):.4f} {' '.join(gram)}"
            if order < 2:
                line += f" {math.log10(leftover[order].get(gram, 1.0)):.4f}"
            lines.append(line)
    return "\n".join([*lines, "", "\\end\\", ""])


def _counts(weights: Mapping[Sentence, float]) -> list[dict[Sentence, float]]:
    """Count words, pairs and triples, with the ends of sentences."""
    counts: list[dict[Sentence, float]] = [defaultdict(float) for _ in range(3)]
    for sentence, weight in weights.items():
        words = ("<s>", *sentence, "</s>")
        for order in range(3):
            for gram in _grams(words, order + 1):
                counts[order][gram] += weight
    return counts


def _grams(words: Sentence, length: int) -> Iterable[Sentence]:
    return (words[at : at + length] for at in range(len(words) - length + 1))
