"""RTP packets to bytes and back, without a wire."""

import pytest
from aiortc.rtp import RtpPacket as Reference
from hypothesis import given
from hypothesis import strategies as st

from transport.rtp import HEADER, RtpPacket, RtpSource, is_rtp, parse


def test_a_packet_comes_back_as_it_was_sent() -> None:
    source = RtpSource(7, 111, 65_535, 2**32 - 960)
    sent = [source.packet(b"sound", position, False) for position in (0, 960, 1920)]
    assert [parse(data) for data in sent] == [
        RtpPacket(111, 65_535, 2**32 - 960, 7, b"sound"),
        RtpPacket(111, 0, 0, 7, b"sound"),
        RtpPacket(111, 1, 960, 7, b"sound"),
    ]


def test_only_what_opens_speech_is_marked() -> None:
    source = RtpSource(7, 111, 0, 0)
    marks = [Reference.parse(source.packet(b"x", 0, marker)).marker for marker in (True, False)]
    assert marks == [1, 0]


def test_an_extension_is_sent_with_every_packet_and_skipped_by_the_listener() -> None:
    extension = bytes.fromhex("bede000110300000")
    data = RtpSource(7, 111, 0, 0, extension).packet(b"sound", 0, False)
    assert data[HEADER.size :] == extension + b"sound"
    packet = parse(data)
    assert packet is not None
    assert packet.payload == b"sound"


@given(
    st.integers(0, 15),
    st.integers(0, 20),
    st.binary(max_size=60),
    st.integers(0, 127),
)
def test_packets_are_read_as_aiortc_reads_them(
    sources: int, padding: int, payload: bytes, payload_type: int
) -> None:
    sent = Reference(payload_type=payload_type, sequence_number=9, timestamp=8, ssrc=7)
    sent.csrc, sent.payload, sent.padding_size = list(range(sources)), payload, padding
    assert parse(sent.serialize()) == RtpPacket(payload_type, 9, 8, 7, payload)


@given(st.binary(max_size=80))
def test_whatever_comes_is_a_packet_or_none(data: bytes) -> None:
    packet = parse(data)
    assert packet is None or packet.payload in data
    try:
        reference: Reference | None = Reference.parse(data)
    except (ValueError, IndexError, UnicodeDecodeError):
        reference = None
    if reference is not None:
        assert packet is not None
        assert packet.payload == reference.payload


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        (b"", False),
        (bytes([128]), False),
        (bytes([0, 1]), False),  # STUN
        (bytes([22, 254]), False),  # DTLS
        (bytes([128, 111]), True),
        (bytes([144, 0x80 | 111]), True),
        (bytes([128, 200]), False),  # sender report
        (bytes([128, 201]), False),  # receiver report
        (bytes([128, 206]), False),  # feedback
    ],
)
def test_rtp_is_told_from_what_shares_its_socket(datagram: bytes, expected: bool) -> None:
    assert is_rtp(datagram) == expected
