"""The two ends of a wire: what a conversation needs of it, what it needs of a conversation."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.float32]
"""Mono samples in [-1, 1], shape (n,)."""

FRAME = 0.02
"""Length of one frame of agent audio, in seconds."""

HEARING_RATE = 16_000
"""Sample rate of what a line gives to a call, in hertz."""


class Line(Protocol):
    """A wire to one caller, as the conversation sees it. Nothing here blocks.

    Attributes:
        transport: "websocket" or "webrtc"; a label of metrics.
        rate: Sample rate at which the line wants agent audio, in hertz.
        codec_delay: Seconds by which its codec delays sound, each way.
    """

    transport: str
    rate: int
    codec_delay: float

    def play(self, frame: Pcm) -> None:
        """Send one frame: `FRAME * rate` samples. The caller of this paces it."""

    def tell(self, event: Mapping[str, Any]) -> None:
        """Send one JSON event."""

    def clear(self) -> None:
        """Drop the frames that were played but have not left yet."""

    def close(self) -> None:
        """Hang up, after what was sent so far has left."""


class Call(Protocol):
    """A conversation, as the wire sees it. Nothing here blocks."""

    def hear(self, pcm: Pcm, arrived: float | None = None) -> None:
        """Take the caller's next samples at `HEARING_RATE`.

        They came at `arrived`, in monotonic seconds, if that was not now: packets wait for those
        that they overtook.
        """

    def receive(self, message: Mapping[str, Any]) -> None:
        """Take one JSON message of the caller."""

    def lost(self, reason: str) -> None:
        """The wire has gone; nothing more will come or can be sent."""
