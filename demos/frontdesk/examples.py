"""What the model is trained on: prompts as the chat template renders them, and their answers."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from . import clinic, language
from .language import Meaning, Moment, Said
from .wordings import HESITATIONS

MOMENTS: Sequence[tuple[Moment, float]] = (
    (Moment("", ""), 26),
    (Moment("book", "day"), 5),
    (Moment("move", "day"), 3),
    (Moment("book", "time"), 10),
    (Moment("move", "time"), 6),
    (Moment("book", "day_time"), 7),
    (Moment("move", "day_time"), 6),
    (Moment("book", "name"), 6),
    (Moment("move", "name"), 4),
    (Moment("cancel", "name"), 4),
    (Moment("book", "yes_no"), 7),
    (Moment("move", "yes_no"), 5),
    (Moment("cancel", "yes_no"), 3),
    (Moment("", "kind"), 8),
    (Moment("", "person"), 2),
    (Moment("book", "person"), 1),
    (Moment("move", "person"), 1),
    (Moment("cancel", "person"), 1),
    (Moment("book", "kind"), 1),
    (Moment("move", "kind"), 1),
)
"""Where a call can be when its caller speaks, and how often; `person` and `kind` may follow
words of the model's own while something is being done."""

CONTENT = frozenset(
    [
        *("appointment", "book", "booking", "move", "change", "reschedule", "shift", "postpone"),
        *("cancel", "cancellation", "today", "tomorrow", "morning", "afternoon", "noon", "midday"),
        *("open", "close", "closed", "hours", "person", "human", "yes", "no", "not", "yeah"),
        *("yep", "yup", "nope", "first", "last", "earliest", "latest", "goodbye", "bye", "new"),
        *("patient", "day", "time", "name", "past", "quarter", "half", "o'clock", "repeat"),
        *("again", "free", "available", "times", "else", "other", "another", "different"),
        *("wrong", "mean", "meant", "said", "actually", "rather", *clinic.DAYS),
    ]
)
"""Words that carry what is meant; rough speech keeps them, as it keeps numbers and names."""

ORDER = ("name", "day", "time", "part", "answer", "reason")
"""In which a tool call gives its arguments."""


@dataclass(frozen=True, slots=True)
class Example:
    """One answer to learn."""

    moment: Moment
    text: str
    answer: str


def prompt(moment: Moment, text: str) -> str:
    """Return what the chat template renders for a caller's words in a moment."""
    doing, ask = moment.doing or "nothing", moment.ask or "nothing"
    return f"<|moment|>{doing} {ask}<|caller|>{text}<|desk|>"


def answer(meaning: Meaning, moment: Moment) -> str:
    """Return what the model shall write: a tool call in Hermes form, or words."""
    if meaning.tool:
        ordered = {key: meaning.arguments[key] for key in ORDER if key in meaning.arguments}
        call = {"name": meaning.tool, "arguments": ordered}
        return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
    return language.reply(meaning.reply, moment)


def some_moment(rng: random.Random) -> Moment:
    """Draw a moment of a call."""
    return rng.choices([moment for moment, _ in MOMENTS], [weight for _, weight in MOMENTS])[0]


def clean(moment: Moment, rng: random.Random) -> Example:
    """Draw an example as it is spoken, now and then as it is typed."""
    said = language.draw(moment.ask, rng, typed=rng.random() < 0.08)
    return Example(moment, said.text, answer(language.meaning(said, moment), moment))


def rough(moment: Moment, rng: random.Random, function_words: Sequence[str]) -> Example:
    """Draw an example with words lost, doubled and put in that carry no meaning."""
    said = language.draw(moment.ask, rng)
    kept: list[str] = []
    fixed = said.family in ("yes", "no", "bye", "thanks", "hello", "who", "unclear", "never_mind")
    for word in said.text.split():
        light = not fixed and word in function_words and word not in CONTENT
        roll = rng.random()
        if light and roll < 0.12:
            continue
        if light and roll < 0.22:
            kept.append(rng.choice(function_words))
        else:
            kept.append(word)
        if roll > 0.97:
            kept.append(rng.choice(HESITATIONS))
    text = " ".join(kept) or said.text
    return Example(moment, text, answer(language.meaning(said, moment), moment))


def nonsense(moment: Moment, rng: random.Random, function_words: Sequence[str]) -> Example:
    """Draw words that mean nothing: the desk asks again."""
    text = " ".join(rng.choice(function_words) for _ in range(rng.randint(1, 7)))
    meaning = language.meaning(Said(text, "unclear"), moment)
    return Example(moment, text, answer(meaning, moment))


def elsewhere(moment: Moment, rng: random.Random, words: Sequence[str]) -> Example:
    """Draw a sentence with words that no clinic knows, also in the clinic's own phrases."""
    patterns = (
        "{w} {w} {w} {w}",
        "the {w} {w} the {w}",
        "(i'd like|i want) to (book|move|cancel|change|make|get) (a|my|the) {w} [{w}]",
        "(can|could) you (book|cancel|move|tell me about|find|show) (a|my|the) {w} [{w}]",
        "(cancel|move|book|change) (my|the|a|me a) {w} [{w}]",
        "what (is|are) (a|the|your) {w} [{w}]",
        "what {w} do you have",
        "do you (have|know|like) [any|a|the] {w} [{w}]",
        "when (is|does) the {w} [{w}]",
        "how (do i|do you|many|much) {w} [a|the] {w}",
        "(i|we|they|he|she) {w} (a|the|my) {w} [{w}]",
        "my {w} (is|was|has) {w}",
        "(he|she|it|there) (is|was) (a|the) {w} (in|on|at|of) the {w}",
        "(tell|give|send|bring) (me|him|her|them) (a|the|some) {w}",
        "(please|) {w} the {w}",
        "who (is|was|wrote|made) {w} [and {w}]",
        "(is|are) there {w} (on|in|at) {w}",
        "{w} (and|or|with|without|of) {w} [{w}]",
        "{w} (to|from|in) {w} (and|is|was) {w} {w} {w}",
        "turn {w} at the next {w}",
        "(yes|no|okay|hello|well) the {w} (is|was|and) {w} {w}",
    )
    text = language.expand(rng.choice(patterns), rng)
    while "{w}" in text:
        text = text.replace("{w}", rng.choice(words), 1)
    meaning = language.meaning(Said(text, "elsewhere"), moment)
    return Example(moment, text, answer(meaning, moment))
