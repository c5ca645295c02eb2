"""What the model is trained on: prompts as the chat template renders them, and their answers."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import clinic, language
from .heard import TRANSCRIPTS, Heard, learn, read
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
        *("a", "p", "m", "doctor", "nurse", "who", "what", "when", "how"),
        *("don't", "can't", "won't"),
        *("hi", "hello", "sure", "okay", "right", "correct", "fine", "good", "thanks", "thank"),
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


def rough(
    moment: Moment, rng: random.Random, function_words: Sequence[str], foreign: Sequence[str]
) -> Example:
    """Draw an example with words lost, replaced and put in that carry no meaning."""
    said = language.draw(moment.ask, rng)
    kept: list[str] = []
    fixed = said.family in ("yes", "no", "bye", "thanks", "hello", "who", "unclear", "never_mind")
    for word in said.text.split():
        light = not fixed and word in function_words and word not in CONTENT
        roll = rng.random()
        if light and roll < 0.12:
            continue
        if light and roll < 0.22:
            kept.append(rng.choice(foreign if rng.random() < 0.3 else function_words))
        else:
            kept.append(word)
        if roll > 0.97:
            kept.append(rng.choice(HESITATIONS))
    text = " ".join(kept) or said.text
    return Example(moment, text, answer(language.meaning(said, moment), moment))


def misheard(moment: Moment, rng: random.Random, heard: Sequence[Heard]) -> Example | None:
    """Draw what the recogniser made of a sentence; None if it cannot be learnt from.

    Most of what it made nonsense of is left out: there would be little else to learn.
    """
    one = rng.choice(heard)
    meaning = learn(one, moment)
    if meaning and meaning.reply == "unclear" and rng.random() < 0.7:
        return None
    return Example(moment, one.transcript, answer(meaning, moment)) if meaning else None


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
        "the {w} [{w}] (is|was|will be|are) (closed|open|free|late|full|booked) [for {w}|today]",
        "(they|people|we) (say|said|know) the {w} (is|was|will be) (closed|open|{w})",
        "(can|could) you (recommend|read|lend me|find) (a|the) (good|new|{w}) (book|{w})",
        "(let|put|leave) the {w} (out|in|on the {w}|there) [please]",
        "i'd like to (book|reserve|order|cancel) (a|two|three|four) {w} [for (two|four|six)]",
        "(book|cancel|move|change|reserve) (two|the|my) {w} [to|in|for] [the] [other|next] {w}",
        "(he|she|they|we) {w} (his|her|the|a) {w} (on (monday|friday|tuesday)|yesterday|last week)",
        "(he|she|they) (moved|cancelled|changed|booked) (the|a|his|her) {w} [to {w}]",
        "the (first|last|next|other) {w} (was|is|of) [the] {w}",
        "(every|last|next) (monday|friday|sunday|morning) (he|she|they|the {w}) {w} [{w}]",
        "(what|which) time (does|is|will) the {w} (start|{w}|leave|arrive)",
        "(ten|five|two|three|nine) {w} (and|of|in) {w} [{w}]",
        "(time|day|name|hour) of (the|a) {w} [{w}]",
        "what's the name of (that|the|this) {w}",
    )
    text = language.expand(rng.choice(patterns), rng)
    while "{w}" in text:
        text = text.replace("{w}", rng.choice(words), 1)
    meaning = language.meaning(Said(text, "elsewhere"), moment)
    return Example(moment, text, answer(meaning, moment))


def dictionary() -> Sequence[str]:
    """Return English words that the clinic's callers do not use, from pocketsphinx."""
    import pocketsphinx

    file = Path(pocketsphinx.get_model_path()) / "en-us" / "cmudict-en-us.dict"
    ours = {word for topic in language.TOPICS for word in " ".join(_spoken(topic)).split()}
    words = {line.split()[0] for line in file.read_text().splitlines()}
    return sorted(word for word in words - ours if word.isalpha() and 2 < len(word) < 11)


def _spoken(topic: str) -> Sequence[str]:
    return language.sentences(topic, random.Random(f"words {topic}"), 4000, loose=0)


def function_words() -> Sequence[str]:
    """Return the words of the callers that carry no meaning by themselves."""
    rng = random.Random("function words")

    def words(*families: str) -> set[str]:
        texts = [language.speak(family, rng).text for family in families for _ in range(400)]
        return {word for text in texts for word in text.split()}

    everyday = words("book", "move", "day", "time", "find", "unclear", "yes", "kind")
    names = {word for name in clinic.PATIENTS for word in name.split()}
    numbers = {word for value in range(60) for word in clinic.number(value).split()}
    return sorted(everyday - names - numbers - CONTENT)


def stream(seed: int) -> Iterator[Example]:
    """Yield examples without end."""
    rng = random.Random(seed)
    light, foreign = function_words(), dictionary()
    by_topic: dict[str, list[Heard]] = {topic: [] for topic in language.TOPICS}
    for one in read() if TRANSCRIPTS.is_file() else []:
        if one.transcript:
            by_topic[one.ask].append(one)
    while True:
        moment = some_moment(rng)
        roll = rng.random()
        if roll < 0.25 and by_topic[moment.ask]:
            example = misheard(moment, rng, by_topic[moment.ask])
            if example:
                yield example
        elif roll < 0.60:
            yield clean(moment, rng)
        elif roll < 0.83:
            yield rough(moment, rng, light, foreign)
        elif roll < 0.86:
            yield nonsense(moment, rng, light)
        else:
            yield elsewhere(moment, rng, foreign)


def texts(model: Path) -> frozenset[str]:
    """Return every sentence that the model in a directory, or the recogniser, was told."""
    trained = json.loads((model / "training.json").read_text())
    source = stream(trained["seed"])
    spoken = [file.read_text().splitlines() for file in language.SPEECH.glob("*.txt")]
    return frozenset(next(source).text for _ in range(trained["examples"])).union(*spoken)
