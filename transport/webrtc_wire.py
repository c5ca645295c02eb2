"""RTP straight from and to the socket of a peer connection.

aiortc takes a packet through two queues, three tasks and a parser that reads every
header extension, and sends one through a task of its own. A `Wire` stands at the ICE
connection's door: what is RTP is decrypted and given on in the same call, everything
else (STUN, DTLS, RTCP) goes its usual way. aiortc's RTCP goes on: it is told what was
received and sent, so that its reports stay true.
"""

import secrets
import time
from collections.abc import Callable

import pylibsrtp
from aiortc import RTCRtpReceiver, RTCRtpSender
from aiortc.rtcrtpreceiver import StreamStatistics
from aiortc.rtp import HeaderExtensions, HeaderExtensionsMap
from aiortc.rtp import RtpPacket as AiortcPacket
from aiortc.sdp import MediaDescription

from transport.rtp import HEADER, RtpPacket, RtpSource, is_rtp, parse

NTP_EPOCH = 2_208_988_800
"""Seconds from 1900, where NTP begins, to 1970 (RFC 5905, section 6)."""

RECEIVED = "_RTCRtpReceiver__remote_streams"
"""Where aiortc 1.14 to 1.16 keeps what its receiver reports say, by SSRC."""

SENT = {
    name: f"_RTCRtpSender__{name}"
    for name in ("packet_count", "octet_count", "rtp_timestamp", "ntp_timestamp")
}
"""Where aiortc 1.14 to 1.16 keeps what its sender reports say."""


class Wire:
    """The RTP of one call. Make it when the connection is connected."""

    def __init__(
        self,
        sender: RTCRtpSender,
        receiver: RTCRtpReceiver,
        media: MediaDescription,
        take: Callable[[RtpPacket], None],
    ) -> None:
        """Give `take` every packet from now on. `media` is the answer's audio section.

        Raises:
            AttributeError: If this aiortc keeps what is needed elsewhere.
        """
        dtls = receiver.transport
        ice = dtls.transport._connection
        for name in SENT.values():
            getattr(sender, name)
        self._reported: dict[int, StreamStatistics] = getattr(receiver, RECEIVED)
        self._streams: dict[int, StreamStatistics] = {}
        self._clock: int = media.rtp.codecs[0].clockRate
        self._route = dtls._rtp_router.route_rtp
        self._unprotect = dtls._rx_srtp.unprotect
        self._protect = dtls._tx_srtp.protect
        self._pairs = ice._nominated
        self._end_thread = receiver._handle_disconnect
        self._pass_on = ice.data_received
        self._sender, self._receiver, self._take = sender, receiver, take
        self._source = RtpSource(
            sender._ssrc,
            media.rtp.codecs[0].payloadType or 0,
            secrets.randbits(16),
            secrets.randbits(32),
            _extension(media),
        )
        ice.data_received = self._receive  # type: ignore[method-assign, assignment]

    def _receive(self, datagram: bytes, component: int) -> None:
        """Take one datagram that is not STUN."""
        if not is_rtp(datagram):
            self._pass_on(datagram, component)
            return
        try:
            packet = parse(self._unprotect(datagram))
        except (pylibsrtp.Error, ValueError):  # forged, repeated, or longer than any packet
            return
        if packet is None:
            return
        stream = self._streams.get(packet.ssrc)
        if stream is None:
            stream = self._new_stream(packet)
        if stream is not None:
            stream.add(packet)  # type: ignore[arg-type]
        self._take(packet)

    def _new_stream(self, packet: RtpPacket) -> StreamStatistics | None:
        """Make aiortc know the source of `packet`; return None until its receiver runs."""
        if self._route(packet) is not self._receiver:  # type: ignore[arg-type]
            return None
        self._end_thread()  # its decoder would wait for ever
        stream = self._reported.setdefault(packet.ssrc, StreamStatistics(self._clock))
        self._streams[packet.ssrc] = stream
        return stream

    def send(self, payload: bytes, position: int, marker: bool) -> None:
        """Send one payload whose first sample is at `position`; nothing if not connected."""
        pair = self._pairs.get(1)
        if pair is None:
            return
        packet = self._source.packet(payload, position, marker)
        pair.protocol.transport.sendto(self._protect(packet), pair.remote_addr)
        sent = self._sender.__dict__
        sent[SENT["packet_count"]] += 1
        sent[SENT["octet_count"]] += len(payload)
        sent[SENT["rtp_timestamp"]] = self._source.timestamp(position)
        sent[SENT["ntp_timestamp"]] = int((time.time() + NTP_EPOCH) * 2**32)


def _extension(media: MediaDescription) -> bytes:
    """Return the header extension that names the section a packet belongs to (RFC 9143)."""
    extensions = HeaderExtensionsMap()
    extensions.configure(media.rtp)
    packet = AiortcPacket()
    packet.extensions = HeaderExtensions(mid=media.rtp.muxId)
    return bytes(packet.serialize(extensions)[HEADER.size :])
