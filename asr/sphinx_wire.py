"""What `asr.sphinx` and its worker processes say to each other.

A message is nine bytes of head (length of the payload, stream, kind) and the
payload: samples as 16 bit integers, everything else as JSON.
"""

import json
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

from asr.engine import Hypothesis, Word

HEAD = struct.Struct("<IIB")

LONGEST = 1 << 24
"""Bytes of payload that no message of ours reaches."""


class Kind(IntEnum):
    """What a message means; `READY` belongs to stream 0, all others to an utterance."""

    OPEN = 1
    """To the worker: an utterance begins; topic, and the line of the call or null."""
    AUDIO = 2
    """To the worker: samples at 16 kHz, 16 bit little-endian."""
    FINISH = 3
    """To the worker: nothing follows, answer; the deadline on the monotonic clock."""
    CLOSE = 4
    """To the worker: forget the utterance."""
    READY = 5
    """From the worker: everything is loaded; what to tell the operator."""
    PARTIAL = 6
    """From the worker: what it believes so far."""
    FINAL = 7
    """From the worker: the answer to `FINISH`, and the line as it is known now."""
    FAILED = 8
    """From the worker: why this utterance has no answer."""
    SETTLE = 9
    """To the worker: answer as if nothing followed, and go on listening; the deadline."""
    SETTLED = 10
    """From the worker: the answer to `SETTLE`, as `FINAL`."""


def pack(kind: Kind, stream: int = 0, payload: bytes = b"") -> bytes:
    """Return one message."""
    return HEAD.pack(len(payload), stream, kind) + payload


def pack_json(kind: Kind, stream: int, value: Any) -> bytes:
    """Return one message with a JSON payload."""
    return pack(kind, stream, json.dumps(value, separators=(",", ":")).encode())


class Messages:
    """Cuts a stream of bytes into messages; keeps what is incomplete."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, int, bytes]]:
        """Yield kind, stream and payload of every message that is complete now.

        Raises:
            ValueError: If this is not what `pack` makes.
        """
        self._bytes += data
        while len(self._bytes) >= HEAD.size:
            length, stream, kind = HEAD.unpack_from(self._bytes)
            if length > LONGEST:
                raise ValueError(f"a message of {length} bytes; expected at most {LONGEST}")
            end = HEAD.size + length
            if len(self._bytes) < end:
                return
            payload = bytes(self._bytes[HEAD.size : end])
            del self._bytes[:end]
            yield Kind(kind), stream, payload


def to_json(hypothesis: Hypothesis) -> Any:
    """Return a hypothesis as lists and numbers."""
    return {
        "words": [[w.text, w.start, w.end, w.confidence] for w in hypothesis.committed],
        "tentative": hypothesis.tentative,
        "confidence": hypothesis.confidence,
        "end": hypothesis.end,
    }


def from_json(value: Any) -> Hypothesis:
    """Return the hypothesis that `to_json` described."""
    return Hypothesis(
        tuple(Word(*word) for word in value["words"]),
        value["tentative"],
        value["confidence"],
        value["end"],
    )
