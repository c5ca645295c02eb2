"""WebSocket frames as calls send them fifty times a second: whole, in one piece, binary.

RFC 6455, section 5.2. Only that kind is read here; all others are the library's
affair, which takes 25 times as long and knows every rule. `Borders` tells when
its turn is over: it walks from header to header and looks at nothing else.
"""

try:
    from websockets.speedups import apply_mask
except ImportError:  # the library was built without C
    from websockets.utils import apply_mask

FIN, MASKED = 0x80, 0x80
"""Bits of the first and the second byte of a header."""

TEXT, BINARY, CONTROL = 0x1, 0x2, 0x8
"""Opcodes; those from CONTROL on may stand within a message of several frames."""

TWO_BYTES, EIGHT_BYTES = 126, 127
"""Lengths that say that the real length follows in so many bytes."""

MASK = 4
"""Bytes of a masking key."""


def frame(message: bytes | str) -> bytes:
    """Return one frame with all of `message`, as a server sends it."""
    if isinstance(message, bytes):
        first, payload = FIN | BINARY, message
    else:
        first, payload = FIN | TEXT, message.encode()
    length = len(payload)
    if length < TWO_BYTES:
        return bytes((first, length)) + payload
    if length < 1 << 16:
        return bytes((first, TWO_BYTES, length >> 8, length & 0xFF)) + payload
    return bytes((first, EIGHT_BYTES)) + length.to_bytes(8) + payload


def plain(data: bytes) -> list[bytes] | None:
    """Return the messages of `data` if it is whole binary frames of a client and nothing else.

    None if it is not, or if one of them has 64 KiB or more: no such frame is common.
    `data` begins where a message may begin.
    """
    messages = []
    at = 0
    while at < len(data):
        start = at + 2 + MASK
        if start > len(data) or data[at] != FIN | BINARY or not data[at + 1] & MASKED:
            return None
        length = data[at + 1] ^ MASKED
        if length == TWO_BYTES:
            length = int.from_bytes(data[at + 2 : at + 4])
            start += 2
        elif length == EIGHT_BYTES:
            return None
        at = start + length
        if at > len(data):
            return None
        messages.append(apply_mask(data[start:at], data[start - MASK : start]))
    return messages


class Borders:
    """Where a stream of bytes stands between two messages."""

    def __init__(self) -> None:
        self.between = True
        """Whether a message may begin with the next byte."""
        self._head = b""
        self._left = 0
        self._unfinished = False

    def push(self, data: bytes) -> None:
        """Walk on over `data`. What is no frame leads astray; the library ends the call then."""
        data, at = self._head + data, self._left
        while at + 2 <= len(data):
            length = data[at + 1] & ~MASKED
            more = {TWO_BYTES: 2, EIGHT_BYTES: 8}.get(length, 0)
            start = at + 2 + more + (MASK if data[at + 1] & MASKED else 0)
            if start > len(data):
                break
            if data[at] & 0xF < CONTROL:
                self._unfinished = not data[at] & FIN
            at = start + (int.from_bytes(data[at + 2 : at + 2 + more]) if more else length)
        self._head, self._left = data[at:], max(0, at - len(data))
        self.between = not self._head and not self._left and not self._unfinished
