"""What words tell about whether a sentence is over: a short list of features, no grammar.

English is held open by small words ("to", "my", "and", "would") and by what was asked (a phone
number has ten digits, not six). So each word becomes one of some forty classes, mostly closed ones
that can be listed, and a model (`asr.turn_end`) sees the last three classes, what there is of days,
digits and answers, and what the agent has asked about. Pure.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from asr.engine import Pcm

LONGEST = 60
"""Words that are looked at, the last ones; of each its first 30 letters."""

CLASSES: Mapping[str, str] = {
    "digit": "zero one two three four five six seven eight nine oh double triple",
    "number": "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen "
    "twenty thirty forty fifty sixty seventy eighty ninety hundred thousand",
    "part": "half quarter past",
    "day": "monday tuesday wednesday thursday friday saturday sunday",
    "near": "today tomorrow yesterday tonight",
    "ordinal": "first second third fourth fifth sixth seventh eighth ninth tenth next last",
    "hour": "o'clock am pm noon midday morning afternoon evening",
    "month": "january february march april june july august september october november december "
    "week month year minute hour days weeks months years minutes hours",
    "article": "a an the",
    "owner": "my your his her our their whose",
    "some": "this that these those some any another each every no all both few many much more "
    "other one's either",
    "of": "of for with from about at between into during without against than as like per via "
    "until till since under",
    "in": "in on up by over off out after before around through down back along",
    "to": "to",
    "and": "and but or nor plus",
    "because": "because if whether while unless although though",
    "wh": "which who whom where when how why what",
    "so": "so",
    "then": "then",
    "i": "i we he she they",
    "you": "you it",
    "i'm": "i'm i've i'd i'll we're we've we'd we'll you're you've you'd you'll he's she's they're "
    "they've it's it'd it'll there's that'd what's who's where's here's",
    "that's": "that's that'll",
    "be": "is are was were am be been being isn't aren't wasn't weren't",
    "do": "do does did have has had having doing",
    "can": "can could would will should might must may shall ought gonna wanna",
    "can't": "can't couldn't wouldn't won't shouldn't don't doesn't didn't haven't hasn't cannot",
    "not": "not never",
    "want": "want need like love prefer wish hope hoping wanted needed wondering trying going "
    "looking calling called supposed able think believe guess say said mean meant ask know tell",
    "get": "get make take give bring book have put find send set keep leave let use see visit "
    "getting making taking giving bringing having seeing change move cancel check reach fix",
    "come": "come go call talk speak help wait stay work works finish start started happen come "
    "hurt hurts pay register reschedule prepare explain repeat hear",
    "very": "very really quite too just only even also still almost rather pretty bit",
    "maybe": "maybe perhaps probably actually basically anyway otherwise",
    "filler": "um uh er erm hmm hm mm eh uhm ah",
    "well": "well okay ok so right alright look listen wait sorry",
    "hello": "hello hi hey morning good welcome",
    "yes": "yes yeah yep yup sure absolutely definitely exactly correct certainly",
    "no": "no nope nah",
    "thanks": "thanks thank cheers",
    "please": "please instead again too either though soon now later earlier yet already anymore",
    "bye": "bye goodbye",
    "me": "me him us them myself yourself mine yours everyone somebody someone anybody anyone "
    "everything something anything nothing there here",
    "fine": "fine good great perfect better best okay possible free available wrong bad early late "
    "ready done alone nice sooner",
    "is": "name number address called spelled",
    "thing": "appointment doctor nurse visit time slot question person desk clinic patient results "
    "prescription checkup bill wife husband son daughter mother father",
}
"""Class and its words; of a word in two the later one counts."""

_OF = {word: name for name, words in CLASSES.items() for word in words.split()}
_OF |= {"no": "no", "good": "fine", "morning": "hour", "one": "digit"}
_OF |= {"okay": "well", "have": "do", "too": "please"}

_ENDINGS = ("ing", "ed", "ly", "s")
_NAMES = ("", "letter", *CLASSES, *(f"-{ending}" for ending in _ENDINGS), "word")
_INDEX = {name: number for number, name in enumerate(_NAMES)}

_TOPICS = (
    "",
    "day",
    "time",
    "day_time",
    "name",
    "yes_no",
    "kind",
    "phone",
    "number",
    "spelling",
    "other",
)
_DIGITS = (*CLASSES["digit"].split()[:10],)

_ANSWERS: dict[str, frozenset[str]] = {
    "day": frozenset({"day", "near", "ordinal"}),
    "time": frozenset({"digit", "number", "hour", "part"}),
    "day_time": frozenset({"day", "near", "digit", "number", "hour", "part"}),
    "name": frozenset({"word"}),
    "yes_no": frozenset({"yes", "no"}),
    "phone": frozenset({"digit", "number"}),
    "number": frozenset({"digit", "number"}),
    "spelling": frozenset({"letter"}),
}
"""Classes of which one must have been said to answer a question."""

_LENGTHS = (0, 1, 2, 3, 4, 6, 9, 14)
_RUNS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)

SIZE = 4 * len(_NAMES) + len(_TOPICS) + len(_LENGTHS) + 3 * len(_RUNS) + 4
"""Features of `features`."""


def topic(expects: str) -> str:
    """Return which of the kinds of questions a topic of an agent is; "other" if none."""
    if "phone" in expects or "mobile" in expects:
        return "phone"
    if "number" in expects or "code" in expects:
        return "number"
    if "spell" in expects:
        return "spelling"
    return expects if expects in _TOPICS else "other"


def split(text: str) -> list[str]:
    """Return the last words of a text in lower case; digits in figures become words."""
    text = text[-40 * LONGEST :].casefold().replace("’", "'")
    text = re.sub(r"\d", lambda digit: f" {_DIGITS[int(digit[0])]} ", text)
    return [word[:30] for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", text)[-LONGEST:]]


def classes(words: Sequence[str]) -> list[str]:
    """Return the class of each word."""
    found: list[str] = []
    for number, word in enumerate(words):
        name = _OF.get(word, "")
        if word == "then" and found[-1:] == ["and"]:
            name = "and"  # "monday then" may be all, "and then" never is
        if len(word) == 1 and (name == "" or _spelled(words, number)):
            name = "letter"
        elif not name:
            ending = next((end for end in _ENDINGS if word.endswith(end) and len(word) > 4), "")
            name = f"-{ending}" if ending else "word"
        found.append(name)
    return found


def features(text: str, expects: str = "") -> Pcm:
    """Return what words tell, shape (`SIZE`,), float32, 0 to 1."""
    names = classes(split(text))
    asked = topic(expects)
    count = len(names)
    digits, letters = (_run(names, name) for name in ("digit", "letter"))
    all_digits = names.count("digit")
    answers = _ANSWERS.get(asked)
    last = [""] * max(0, 3 - count) + names[-3:]
    found = np.zeros(SIZE, np.float32)
    at = 0
    for name in last:
        found[at + _INDEX[name]] = 1
        at += len(_NAMES)
    found[at + _TOPICS.index(asked)] = 1
    at += len(_TOPICS)
    for name in names[:-3]:  # what was said before, whatever the order
        found[at + _INDEX[name]] = 1
    at += len(_NAMES)
    for length in _LENGTHS:  # a staircase: each step is one feature
        found[at] = count > length
        at += 1
    for run in (digits, letters, all_digits if asked == "phone" else 0):
        for length in _RUNS:
            found[at] = run == length or (length == _RUNS[-1] and run > length)
            at += 1
    found[at] = answers is not None and not answers.isdisjoint(names)
    found[at + 1] = answers is not None and not answers.isdisjoint(names[-2:])
    found[at + 2] = all(name in ("hello", "fine", "well", "filler", "hour") for name in names)
    found[at + 3] = "filler" in names[-2:]
    return found


def _spelled(words: Sequence[str], number: int) -> bool:
    """Tell whether "a" or "i" is a letter here: another single letter stands beside it."""
    before = number > 0 and len(words[number - 1]) == 1
    return before or (number + 1 < len(words) and len(words[number + 1]) == 1)


def _run(names: Sequence[str], name: str) -> int:
    """Return how many classes at the end are `name`."""
    count = 0
    while count < len(names) and names[-1 - count] == name:
        count += 1
    return count
