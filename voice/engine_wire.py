"""What the media process and an engine process say to each other. Pure.

A message is 17 bytes of head (what it means, the work it belongs to, the length of either
part), then JSON for everything with a structure, then samples as they are. The JSON of a
dataclass is its fields, so that a field more in an engine's data needs nothing here.

Everything under way has a number that the media process gives it: an utterance, a question
about one (`settle`, `finish`), an answer of the mind and each generation of it, a speech.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import IntEnum
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import asr.engine
import llm.engine
import tts.engine
from llm.engine import Json

T = TypeVar("T")

HEAD = struct.Struct("<BQII")

LONGEST = 1 << 28
"""Bytes of either part that no message of ours reaches: an hour of samples."""

CHUNKS_AHEAD = 4
"""Chunks of one speech that an engine process makes before the first of them was taken; with
those that were taken the bound moves on."""

PIECES_AHEAD = 64
"""Pieces of one answer of the mind, likewise."""


class Kind(IntEnum):
    """What a message means."""

    # To the engine process.
    BUILD = 1
    """Load what is described; the answer is READY or FAILED. Number 0, as in all about itself."""
    STOP = 2
    """Free everything and end."""
    LISTEN = 3
    """An utterance begins: `Listening`. Its ITEMs are hypotheses."""
    PUSH = 4
    """Its next samples."""
    SETTLE = 5
    """A question: [utterance, deadline]; the DONE that answers has the hypothesis."""
    FINISH = 6
    """Likewise; nothing is pushed afterwards."""
    OPEN = 7
    """An answer of the mind begins: [items, tools]."""
    APPEND = 8
    """Words for it."""
    GENERATE = 9
    """Write it: [answer, `Params`, deadline]. Its ITEMs are pieces."""
    SPEAK = 10
    """A speech begins: [voice, deadline]. Its ITEMs are chunks."""
    PHRASE = 11
    """Its next phrase; null after the last. Each but the first answers a WANT."""
    MORE = 12
    """So many more of its ITEMs were taken."""
    CLOSE = 13
    """Stop this work, whatever it is; nothing of it is wanted any more."""
    RESERVE = 14
    """Another process works on the same device, for a result that is wanted by then and takes
    about so long: [deadline, seconds]. The number is its own."""
    RELEASE = 15
    """It has its result."""
    PING = 16
    """Does it still run? The answer is PONG."""
    ADJUST = 17
    """An engine is to work otherwise from its next utterance, answer or phrase on: [room, name of
    the setting, value]. The number is its own."""

    # From the engine process.
    READY = 32
    """What the engine of each room says of itself: about, rate, voices, prefills, adjustable."""
    ITEM = 33
    """The next result of some work."""
    DONE = 34
    """This work is complete; for a question, with its answer."""
    FAILED = 35
    """Why this work will not be completed; number 0: why the process ends."""
    WANT = 36
    """The mouth waits for the next phrase."""
    PONG = 37
    """It does, and this is how its engines fare: device, load."""


Message = tuple[Kind, int, Json, bytearray]
"""Kind, number, structure (None if there is none), samples."""


def _plain(value: Any) -> Any:
    """Return what JSON can write of a dataclass, a mapping or a number of numpy."""
    if is_dataclass(value):
        return {name: getattr(value, name) for name in _names(value.__class__)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot go to another process")


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(entry.name for entry in fields(kind))


_encode = json.JSONEncoder(separators=(",", ":"), default=_plain).encode


def pack(kind: Kind, number: int, value: Json = None, raw: bytes = b"") -> bytes:
    """Return one message."""
    structure = b"" if value is None else _encode(value).encode()
    return HEAD.pack(kind, number, len(structure), len(raw)) + structure + raw


class Messages:
    """Cuts a stream of bytes into messages; keeps what is incomplete."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield every message that is complete now. The receiver owns its samples.

        Raises:
            ValueError: If this is not what `pack` makes.
        """
        self._bytes += data
        while len(self._bytes) >= HEAD.size:
            kind, number, structured, raw = HEAD.unpack_from(self._bytes)
            if structured > LONGEST or raw > LONGEST:
                raise ValueError(f"a message of {structured + raw} bytes; expected {LONGEST}")
            middle = HEAD.size + structured
            end = middle + raw
            if len(self._bytes) < end:
                return
            value = json.loads(self._bytes[HEAD.size : middle]) if structured else None
            samples = self._bytes[middle:end]
            del self._bytes[:end]
            yield Kind(kind), number, value, samples


def to_raw(pcm: NDArray[np.float32]) -> bytes:
    """Return samples as they travel."""
    return np.ascontiguousarray(pcm, "<f4").tobytes()


def from_raw(raw: bytearray) -> NDArray[np.float32]:
    """Return the samples in `raw`, without a copy."""
    return np.frombuffer(raw, "<f4")


def made(kind: type[T], value: Mapping[str, Json]) -> T:
    """Return the dataclass with these fields, in which no sequence can be changed."""
    return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in value.items()})


def hypothesis(value: Mapping[str, Json]) -> asr.engine.Hypothesis:
    """Return what a recogniser believes."""
    words = [made(asr.engine.Word, word) for word in value["committed"]]
    return made(asr.engine.Hypothesis, {**value, "committed": words})


def chunk(words: Sequence[Mapping[str, Json]], raw: bytearray) -> tts.engine.Chunk:
    """Return a piece of speech."""
    return tts.engine.Chunk(from_raw(raw), tuple(made(tts.engine.Word, word) for word in words))


_TAGGED: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (
        llm.engine.Message,
        llm.engine.ToolCall,
        llm.engine.ToolResult,
        llm.engine.Text,
        llm.engine.Usage,
    )
}


def tagged(value: Any) -> list[Any]:
    """Return one of several kinds of data with the name of its kind."""
    return [type(value).__name__, value]


def untagged(value: Sequence[Any]) -> Any:
    """Return the data that `tagged` named."""
    name, found = value
    return made(_TAGGED[name], found)


@dataclass(frozen=True, slots=True)
class Make:
    """Something for the engine process to make: nothing of it is imported before that.

    Attributes:
        target: "module:name" of what is called.
        arguments: What it is called with: JSON, paths, frozen dataclasses, other `Make`s.
        keywords: Likewise, by name.
    """

    target: str
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)


def plan(value: Any) -> Json:
    """Return `value` as JSON that `voice.engine_worker.built` makes again."""
    match value:
        case Make(target, arguments, keywords):
            given = {name: plan(argument) for name, argument in keywords.items()}
            return {"make": target, "arguments": [plan(a) for a in arguments], "keywords": given}
        case _ if hasattr(value, "__fspath__"):
            return plan(Make("pathlib:Path", (value.__fspath__(),)))
        case _ if is_dataclass(value):
            kind = value.__class__
            given = {name: getattr(value, name) for name in _names(kind)}
            return plan(Make(f"{kind.__module__}:{kind.__qualname__}", keywords=given))
        case _:
            return value
