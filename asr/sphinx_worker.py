"""A process that decodes: many utterances, a few decoders, one thread.

`python -m asr.sphinx_worker SOCKET DECODERS [SPEECH]`, started by `asr.sphinx`,
with an open socket as file descriptor number SOCKET. It decodes in pieces of a
few milliseconds and reads its socket in between, so that a new utterance never
waits for a whole old one. A decoder belongs to an utterance from its first
audio to its end; who finds none free waits, and is caught up later.
"""

import contextlib
import json
import math
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr.engine import RATE, Hypothesis
from asr.sphinx_decoder import Decoder, Line, Models
from asr.sphinx_wire import Kind, Messages, pack_json, to_json

PIECE = RATE // 16
"""Samples decoded in one step: 62 ms of audio, about 3 ms of work."""

PATIENCE = 30
"""Seconds of audio of one utterance that may wait for its decoder."""

SETTLED = RATE // 2
"""Samples after a `SETTLE` that wait for more: its answer had ended the decoder's utterance, and
to go on all of it is decoded anew. Mostly nothing follows but silence and the end."""

PARTIALS = 0.1
"""Least seconds between two partial hypotheses of an utterance."""

Samples = NDArray[np.int16]


@dataclass(slots=True)
class Utterance:
    """What one caller says, from its first sample to the answer."""

    number: int
    topic: str
    line: Line | None = None
    """What is known of the caller's voice."""
    waiting: list[Samples] = field(default_factory=list)
    """Audio that has not been decoded yet."""
    decoded: list[Samples] = field(default_factory=list)
    """Audio that has."""
    settle: list[float] = field(default_factory=list)
    """When each answer is wanted after which the utterance may go on."""
    settled: bool = False
    """Whether the decoder has ended; it must begin anew for more."""
    decoder: Decoder | None = None
    deadline: float | None = None
    """When the answer is wanted (monotonic clock), once it is."""
    text: str = ""
    told: float = 0.0
    """When the last partial hypothesis left."""

    @property
    def backlog(self) -> int:
        """Samples that have not been decoded yet."""
        return sum(map(len, self.waiting))

    def take(self) -> Samples:
        """Return the next piece of audio, at most `PIECE` samples."""
        first = self.waiting.pop(0)
        while len(first) < PIECE and self.waiting:
            first = np.concatenate([first, self.waiting.pop(0)])
        if len(first) > PIECE:
            self.waiting.insert(0, first[PIECE:])
        self.decoded.append(first[:PIECE])
        return self.decoded[-1]

    def again(self) -> None:
        """Have all of it decoded anew."""
        self.waiting = [*self.decoded, *self.waiting]
        self.decoded, self.settled = [], False


class Desk:
    """Lends decoders to utterances and says what they heard through `tell`."""

    def __init__(self, decoders: list[Decoder], tell: Callable[[Kind, int, Any], None]) -> None:
        self._free = decoders
        self._tell = tell
        self._utterances: dict[int, Utterance] = {}

    def receive(self, kind: Kind, number: int, payload: bytes) -> None:
        """Take one message; the work follows in `step`."""
        if kind is Kind.OPEN:
            topic, line = json.loads(payload)
            known = Line(np.array(line[1:]), line[0]) if line else None
            self._utterances[number] = Utterance(number, topic, known)
            return
        utterance = self._utterances.get(number)
        if utterance is None:
            return  # it has been answered or given up
        match kind:
            case Kind.AUDIO:
                utterance.waiting.append(np.frombuffer(payload, "<i2"))
                if utterance.backlog > PATIENCE * RATE:
                    self._fail(utterance, f"no decoder had time within {PATIENCE} s of audio")
            case Kind.FINISH:
                utterance.deadline = json.loads(payload)
            case Kind.SETTLE:
                utterance.settle.append(json.loads(payload))
            case Kind.CLOSE:
                self._drop(utterance)
            case _:
                raise ValueError(f"a worker does not expect {kind.name}")

    def step(self, now: float) -> bool:
        """Do the most urgent piece of work; return whether there was any."""
        able = [u for u in self._utterances.values() if self._can_go_on(u)]
        if not able:
            return False
        utterance = min(able, key=_urgency)
        try:
            self._advance(utterance, now)
        except Exception as error:  # its binding raises whatever comes to its mind
            self._fail(utterance, f"pocketsphinx failed: {error}")
        return True

    def _can_go_on(self, utterance: Utterance) -> bool:
        asked = utterance.deadline is not None or bool(utterance.settle)
        enough = utterance.backlog >= SETTLED if utterance.settled else bool(utterance.waiting)
        wants = enough or asked
        return wants and (utterance.decoder is not None or bool(self._free))

    def _advance(self, utterance: Utterance, now: float) -> None:
        """Decode the next piece, or answer when there is none."""
        if utterance.decoder is None:
            utterance.decoder = self._free.pop()
            utterance.decoder.begin(utterance.topic, utterance.line)
        decoder = utterance.decoder
        if utterance.settled:
            utterance.again()
            decoder.begin(utterance.topic, utterance.line)
        if utterance.waiting:
            decoder.hear(utterance.take())
            due = not utterance.waiting and now - utterance.told >= PARTIALS
            if due and (text := decoder.text()) != utterance.text:
                utterance.text, utterance.told = text, now
                partial = Hypothesis(tentative=text, confidence=0.0, end=decoder.heard)
                self._tell(Kind.PARTIAL, utterance.number, to_json(partial))
            return
        final = decoder.end()
        answer = [to_json(final), [decoder.line.frames, *decoder.line.mean.round(2).tolist()]]
        for _ in utterance.settle:
            self._tell(Kind.SETTLED, utterance.number, answer)
        utterance.settle.clear()
        utterance.settled = True
        if utterance.deadline is not None:
            self._tell(Kind.FINAL, utterance.number, answer)
            self._drop(utterance)

    def _fail(self, utterance: Utterance, reason: str) -> None:
        self._tell(Kind.FAILED, utterance.number, reason)
        self._drop(utterance)

    def _drop(self, utterance: Utterance) -> None:
        """Forget an utterance; its decoder is free again."""
        del self._utterances[utterance.number]
        if utterance.decoder is not None:
            utterance.decoder.abandon()
            self._free.append(utterance.decoder)


def _urgency(utterance: Utterance) -> tuple[float, int]:
    """Order utterances: those that must answer first, then the longest backlog."""
    wanted = [*utterance.settle, math.inf if utterance.deadline is None else utterance.deadline]
    return min(wanted), -utterance.backlog


def main() -> None:
    """Load, say so, and decode until the socket ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who ends us
    wire = socket.socket(fileno=int(sys.argv[1]))
    models = Models(Path(sys.argv[3]) if len(sys.argv) > 3 else None)
    decoders = [Decoder(models) for _ in range(int(sys.argv[2]))]
    for decoder in decoders:
        decoder.warm_up()

    def tell(kind: Kind, number: int, value: Any) -> None:
        wire.sendall(pack_json(kind, number, value))

    tell(Kind.READY, 0, models.warnings)
    desk = Desk(decoders, tell)
    messages = Messages()
    busy = False
    with contextlib.suppress(ConnectionError):  # the parent was killed
        while True:
            if not busy or select.select([wire], [], [], 0)[0]:
                data = wire.recv(1 << 18)
                if not data:
                    return  # the parent ended
                for message in messages.feed(data):
                    desk.receive(*message)
            busy = desk.step(time.monotonic())


if __name__ == "__main__":
    main()
