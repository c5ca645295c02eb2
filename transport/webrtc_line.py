"""The agent's side of a call over WebRTC, and the events of its data channel.

Events are JSON texts on a data channel that the browser opens under the label "events".
"""

import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiortc import RTCDataChannel

from transport.codec import SPEAKING_RATE
from transport.line import Pcm
from transport.webrtc_media import Outlet

LABEL: Final = "events"
"""Label of the data channel that carries the JSON events."""

LONGEST_TEXT = 64 * 1024
"""Characters that one message may have."""

MAX_EVENTS = 256
"""Events kept until the data channel opens; then the oldest are dropped."""

UNREAD = 1024 * 1024
"""Bytes of events that may wait for a caller that does not read; more ends the call."""


class WebRtcLine:
    """The agent's side of the wire."""

    transport = "webrtc"
    rate = SPEAKING_RATE

    def __init__(self, hang_up: Callable[[], None], unread: Callable[[], None]) -> None:
        """`hang_up` is called by `close`, `unread` when a caller leaves its events unread."""
        self.codec_delay = 0.0
        self.outlet: Outlet | None = None
        """Takes the frames, from the connection's begin to its end."""
        self._hang_up, self._unread = hang_up, unread
        self._channel: RTCDataChannel | None = None
        self._unsent: deque[str] = deque(maxlen=MAX_EVENTS)

    def play(self, frame: Pcm) -> None:
        """Send one frame of `FRAME * rate` samples; nothing when the call is over."""
        if self.outlet is not None:
            self.outlet.put(frame)

    def tell(self, event: Mapping[str, Any]) -> None:
        """Send one JSON event, or keep it until the data channel is open."""
        text = json.dumps(event)
        if self._channel is None:
            self._unsent.append(text)
        elif self._channel.readyState == "open":
            self._channel.send(text)
            if self._channel.bufferedAmount > UNREAD:
                self._unread()

    def clear(self) -> None:
        """Fall silent; what was played has left."""
        if self.outlet is not None:
            self.outlet.pause()

    def close(self) -> None:
        """Hang up, after what was sent so far has left."""
        self._hang_up()

    def opened(self, channel: RTCDataChannel) -> None:
        """Send events over `channel` from now on, those first that had to wait."""
        self._channel = channel
        while self._unsent:
            channel.send(self._unsent.popleft())

    def finish(self) -> None:
        """Close the data channel once the caller has everything that was told."""
        if self._channel is not None:
            self._channel.close()

    @property
    def finished(self) -> bool:
        """Whether everything has left."""
        return self._channel is None or self._channel.readyState == "closed"


class MessageError(ValueError):
    """A message is no event; the text says what was expected.

    Attributes:
        code: What is wrong, for a program to read.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def read_event(message: bytes | str) -> dict[str, Any]:
    """Read one message of the data channel.

    Raises:
        MessageError: If it is no JSON object with a "type", or too long.
    """
    if isinstance(message, bytes):
        raise MessageError(
            "binary_message",
            f"{len(message)} bytes of binary; expected JSON text, audio as RTP",
        )
    if len(message) > LONGEST_TEXT:
        raise MessageError(
            "text_too_long", f"{len(message)} characters; expected at most {LONGEST_TEXT}"
        )
    try:
        content = json.loads(message)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and isinstance(content.get("type"), str):
        return content
    raise MessageError("bad_message", 'messages are JSON objects with a "type"')
