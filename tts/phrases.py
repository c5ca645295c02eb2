"""Cuts a stream of tokens into phrases that can be spoken.

The cut is made on the punctuation token itself: waiting for the token after it
would be certain, but costs the caller the time of one token in every sentence.
So a mark is judged by what precedes it wherever that tells ("Dr." goes on,
"ten." does not), and by what follows only where it must ("10." may become
"10.30", "a.m." may end the sentence or not).
"""

import re
from dataclasses import dataclass

SHORTEST = 8
"""Characters that a phrase has before it may end at a comma, at least: two or three words, half a
second of speech. What comes after must be there by then, or the reply stumbles over its first
comma; and a single word ("Okay,") is spoken as if it were the whole sentence."""

FEW_WORDS = 2
"""Words that a phrase has before it may end at a comma, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhraseSettings:
    """How long the phrases are in which a reply is spoken.

    Attributes:
        first: Characters after which the first phrase may end at a comma, so that sound starts
            early. Less starts sooner, and sounds more like a sentence of its own.
        later: Characters after which any phrase is cut at a space: 220 are some 15 s of speech.
    """

    first: int = 24
    later: int = 220

    def __post_init__(self) -> None:
        if not 40 <= self.later <= 1000:
            raise ValueError(f"phrases.later is {self.later}; expected 40 to 1000 characters")
        if not SHORTEST <= self.first <= self.later:
            raise ValueError(
                f"phrases.first is {self.first}; expected {SHORTEST} to phrases.later "
                f"({self.later}) characters"
            )


USUAL = PhraseSettings()

_CLOSING = "\"'”’»)]}*_"
_MARK = re.compile(rf"\n|[。！？]+|[.!?…]+[{re.escape(_CLOSING)}]*|[,;:，；：、—–]")
_WIDE = frozenset("。！？，；：、")
_CLAUSE_MARK = frozenset(",;:，；：、—–")

_GOES_ON = re.compile(
    "dr|mr|mrs|ms|prof|st|mt|rev|gen|sen|rep|gov|capt|lt|col|sgt|hon|vs|ext|approx|dept|fig", re.I
)
_MAY_GO_ON = re.compile(
    "etc|inc|ltd|co|corp|jr|sr|ave|blvd|rd|apt|min|max|mon|tue|tues|wed|thu|thur|thurs|fri|"
    "jan|feb|apr|jun|jul|aug|sep|sept|oct|nov|dec|www",
    re.I,
)


class Phrases:
    """Turn tokens into phrases; made for one reply.

    The words of the phrases are the words of the tokens, in order, with single
    spaces between them. Of closing marks that come in a token after the one
    which ended their sentence (`."`, `?!`), the late part is left out.
    """

    def __init__(self, first: int = USUAL.first, later: int = USUAL.later) -> None:
        """Cut after as many characters as `PhraseSettings` says; any number will do here."""
        self._shortest = first
        self._longest = later
        self._text = ""
        self._first = True
        self._just_cut = False

    def push(self, text: str) -> list[str]:
        """Add the next token, of any length; return the phrases it completes."""
        if self._just_cut:
            text = text.lstrip(_CLOSING + ".!?…")
            self._just_cut = not text
        self._text += text
        phrases = []
        while end := self._cut():
            phrases.append(" ".join(self._text[:end].split()))
            self._text = self._text[end:]
            self._just_cut = not self._text
            self._text = self._text.lstrip()
            self._first = False
        return phrases

    def flush(self) -> list[str]:
        """Return what is left, at the end of the reply or before a pause in it."""
        rest, self._text, self._just_cut = " ".join(self._text.split()), "", False
        return [rest] if _has_word(rest) else []

    def _cut(self) -> int:
        """Return where the next phrase ends in the text, 0 if that is not known yet."""
        text = self._text
        for mark in _MARK.finditer(text):
            before, after = text[: mark.start()], text[mark.end() :]
            if mark.end() > self._longest:
                break
            if not _has_word(before):
                continue
            if mark[0] in _CLAUSE_MARK:
                if (
                    self._first
                    and len(before) >= self._shortest
                    and _is_clause(before, mark[0], after)
                    and (mark[0] in _WIDE or len(before.split()) >= FEW_WORDS)
                ):
                    return mark.end()
            elif _is_end(before, mark[0], after):
                return mark.end()
        return self._cut_by_length() if len(text) > self._longest else 0

    def _cut_by_length(self) -> int:
        """Return the best place to cut a text that is too long, 0 if it has none."""
        text, longest = self._text, self._longest
        for place in (r"[,;:—–]\s", r"\s"):
            ends = [found.end() for found in re.finditer(place, text[: longest + 1])]
            if ends and ends[-1] > longest // 2 and _has_word(text[: ends[-1]]):
                return ends[-1]
        for space in re.finditer(r"\s", text):
            if _has_word(text[: space.end()]):
                return space.end()
        return 0


def _has_word(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _last_word(text: str) -> str:
    """Return the word that `text` ends with, "" after a space."""
    return re.split(r"\s", text)[-1].lstrip("\"'“‘«([{*_")


def _is_clause(before: str, mark: str, after: str) -> bool:
    """Tell whether a comma or the like separates, rather than stands inside a word."""
    if mark in _WIDE or after[:1].isspace():
        return True
    # At the end of what has come: "3," may become "3,000" and "https:" an address.
    return not after and mark in ",;" and not before[-1:].isdigit()


def _is_end(before: str, mark: str, after: str) -> bool:
    """Tell whether a sentence ends with `mark`, as far as is known: no means "not yet" too."""
    if mark == "\n" or mark[0] in _WIDE:
        return True
    if after and not after[0].isspace():
        return False
    word = _last_word(before)
    if "?" in mark or "!" in mark:
        return bool(after) or "://" not in word
    if mark.startswith(("..", "…")) or _may_go_on(word):
        return _starts_sentence(after)
    if word.isdigit() and before.strip() == word:
        return False  # "1." numbers what follows
    if word[-1:].isdigit():
        return bool(after)
    return not (_GOES_ON.fullmatch(word) or (len(word) == 1 and word.isupper() and word != "I"))


def _may_go_on(word: str) -> bool:
    """Tell whether a full stop after `word` may be part of it: "a.m.", "etc.", "www."."""
    inside = any(character in word for character in "./@")
    letter = len(word) == 1 and word.islower()
    return inside or letter or bool(_MAY_GO_ON.fullmatch(word))


def _starts_sentence(after: str) -> bool:
    """Tell whether the next word has come and looks like the first of a sentence."""
    following = after.lstrip().lstrip("\"'“‘«([{*_")[:1]
    return following.isupper()
