"""RTP packets (RFC 3550, section 5.1) as bytes and as fields. No I/O, no clock."""

from dataclasses import dataclass
from struct import Struct

HEADER = Struct("!BBHLL")
"""Version and flags, marker and payload type, sequence number, timestamp, SSRC."""

VERSION = 2

SHORTEST_EXTENSION = 4
"""Bytes of a header extension that holds nothing."""


@dataclass(slots=True)
class RtpPacket:
    """What a listener needs of one packet; the names are aiortc's."""

    payload_type: int
    sequence_number: int
    timestamp: int
    ssrc: int
    payload: bytes


def is_rtp(datagram: bytes) -> bool:
    """Whether a datagram is (S)RTP: neither (S)RTCP nor DTLS, STUN or TURN (RFC 7983, RFC 5761)."""
    return len(datagram) > 1 and 127 < datagram[0] < 192 and not 192 <= datagram[1] < 224


def parse(data: bytes) -> RtpPacket | None:
    """Return the packet in `data`, or None if it is none. Header extensions are skipped."""
    if len(data) < HEADER.size:
        return None
    flags, kind, sequence_number, timestamp, ssrc = HEADER.unpack_from(data)
    if flags >> 6 != VERSION:
        return None
    start = HEADER.size + 4 * (flags & 0x0F)
    end = len(data)
    if flags & 0x10:
        if end < start + SHORTEST_EXTENSION:
            return None
        start += SHORTEST_EXTENSION + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
    if flags & 0x20:
        end -= data[-1]
        if end == len(data):
            return None  # padding of length 0 does not count itself
    if start > end:
        return None
    return RtpPacket(kind & 0x7F, sequence_number, timestamp, ssrc, data[start:end])


class RtpSource:
    """Numbers the packets of one sender."""

    def __init__(
        self,
        ssrc: int,
        payload_type: int,
        sequence_number: int,
        timestamp: int,
        extension: bytes = b"",
    ) -> None:
        """Begin with `sequence_number` at `timestamp`; both should be random (RFC 3550).

        `extension` is a whole header extension, sent with every packet.
        """
        self.ssrc = ssrc
        self._payload_type = payload_type
        self._sequence_number = sequence_number & 0xFFFF
        self._origin = timestamp
        self._flags = VERSION << 6 | (0x10 if extension else 0)
        self._extension = extension

    def timestamp(self, position: int) -> int:
        """Return the timestamp of the sample at `position`, counted from 0."""
        return (self._origin + position) & 0xFFFFFFFF

    def packet(self, payload: bytes, position: int, marker: bool) -> bytes:
        """Return the next packet; its first sample is at `position`, counted from 0.

        `marker` says that it is the first after a pause (RFC 3551, section 4.1).
        """
        header = HEADER.pack(
            self._flags,
            self._payload_type | (0x80 if marker else 0),
            self._sequence_number,
            self.timestamp(position),
            self.ssrc,
        )
        self._sequence_number = (self._sequence_number + 1) & 0xFFFF
        return header + self._extension + payload
