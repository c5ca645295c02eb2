"""Whisper's tokens: what a transcript begins with, and which tokens make a word."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.agreement import Piece
from asr.engine import EngineError

log = logging.getLogger(__name__)

UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages that are written without spaces: every character counts as a word."""

PROMPT = 200
"""Tokens of vocabulary at most: of the 448 that fit, as many must be left for the transcript."""


class Tokens:
    """The tokenizer of one model.

    Attributes:
        languages: Codes of the languages it knows with their tokens; empty if English only.
        start: The token before a transcript.
        end: The one behind it; every token from here on is no text.
        no_speech: The one whose probability tells that nobody speaks.
        no_timestamps: The one that asks for text without times.
    """

    def __init__(self, file: Path, multilingual: bool) -> None:
        """Load tokenizer.json.

        Args:
            file: The tokenizer's file.
            multilingual: Whether the model knows more than English; the tokenizer does not tell.

        Raises:
            EngineError: If it is none of Whisper's.
        """
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Any = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exception
            raise EngineError(
                f"{file} cannot be read ({error}): fetch the model again, with its tokenizer.json"
            ) from error
        self.start = self._special(file, "<|startoftranscript|>")
        self.end = self._special(file, "<|endoftext|>")
        self.no_timestamps = self._special(file, "<|notimestamps|>")
        self.no_speech = self._special(file, "<|nospeech|>", "<|nocaptions|>")
        self._previous = self._special(file, "<|startofprev|>")
        self._transcribe = self._special(file, "<|transcribe|>")
        self.languages: dict[str, int] = {}
        if multilingual:
            first, last = self.start + 1, self._special(file, "<|translate|>")
            self.languages = {
                str(self._tokenizer.id_to_token(token))[2:-2]: token for token in range(first, last)
            }

    def encode(self, text: str) -> list[int]:
        """Return the tokens of words that stand behind others; no special ones."""
        return list(self._tokenizer.encode(f" {text.strip()}", add_special_tokens=False).ids)

    def vocabulary(self, text: str) -> list[int]:
        """Return what makes the model expect the names and words of `text`; [] for none."""
        if not text.strip():
            return []
        tokens = self.encode(text)
        if len(tokens) >= PROMPT:
            log.warning(
                "whisper.vocabulary has %d tokens: only the first %d are read",
                *(len(tokens), PROMPT - 1),
            )
        return [self._previous, *tokens[: PROMPT - 1]]

    def beginning(self, language: str) -> list[int]:
        """Return what a transcript in `language` begins with, without `no_timestamps`."""
        if not self.languages:
            return [self.start]
        return [self.start, self.languages[language], self._transcribe]

    def words(self, tokens: Sequence[int], language: str) -> list[Piece]:
        """Return the words of a transcript; special tokens are left out."""
        pieces: list[Piece] = []
        for text, made_of in self._characters([token for token in tokens if token < self.end]):
            new = text.startswith(" ") or language in UNSPACED or not pieces
            if new:
                pieces.append(Piece(text.strip(), made_of))
            else:
                pieces[-1].text += text.rstrip()
                pieces[-1].tokens += made_of
        return [piece for piece in pieces if piece.text]

    def _characters(self, tokens: Sequence[int]) -> list[tuple[str, tuple[int, ...]]]:
        """Return text with its tokens: as few together as make whole characters."""
        parts: list[tuple[str, tuple[int, ...]]] = []
        waiting: list[int] = []
        for token in tokens:
            waiting.append(token)
            text = self._tokenizer.decode(waiting)
            if not text.endswith("\ufffd") or len(waiting) == 4:  # no character has more bytes
                parts.append((text, tuple(waiting)))
                waiting = []
        if waiting:
            parts.append((self._tokenizer.decode(waiting), tuple(waiting)))
        return parts

    def _special(self, file: Path, *names: str) -> int:
        for name in names:
            token = self._tokenizer.token_to_id(name)
            if token is not None:
                return int(token)
        raise EngineError(f"{file} has no {names[0]}: it is no tokenizer of Whisper")
