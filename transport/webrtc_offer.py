"""What an offer must have, to be answered, and what the answer asks for.

All of it is read before a socket is opened: aiortc fails on a bad offer halfway, in its own words.
"""

import re

from aiortc.sdp import MediaDescription, SessionDescription

from transport.codec import CLOCKS

LONGEST_OFFER = 64 * 1024
"""Characters that an offer may have; a browser's has 2000 to 6000."""

MAX_SECTIONS = 8
"""Media sections that an offer may have."""

MAX_CANDIDATES = 64
"""Addresses of the caller that an offer may name."""


class OfferError(ValueError):
    """An offer cannot be answered; the message says what to change in it."""


def checked(offer: str) -> str:
    """Return an offer that can be answered, without what would only cost time.

    Addresses that the browser hides behind mDNS names are left out: looking them up
    takes seconds and fails between networks, while the browser's own checks tell us
    its address anyway.

    Raises:
        OfferError: If it cannot be answered.
    """
    if len(offer) > LONGEST_OFFER:
        raise OfferError(f"the offer has {len(offer)} characters; expected at most {LONGEST_OFFER}")
    kept = []
    for line in offer.splitlines():
        hidden = line.startswith("a=candidate:") and ".local " in line
        if not hidden and line != "a=end-of-candidates":
            kept.append(line)
    text = "\r\n".join(kept) + "\r\n"
    try:
        description = SessionDescription.parse(text)
    except Exception as error:  # a foreign parser on foreign text: it raises whatever it meets
        raise OfferError(f"the offer is no SDP: {type(error).__name__} {error}".rstrip()) from error
    audio = [media for media in description.media if media.kind == "audio"]
    if not audio:
        kinds = ", ".join(media.kind for media in description.media) or "nothing"
        raise OfferError(f"the offer has no audio section, only {kinds}: add a microphone track")
    if len(description.media) > MAX_SECTIONS:
        raise OfferError(
            f"the offer has {len(description.media)} media sections; expected at most "
            f"{MAX_SECTIONS}, best one audio and one data channel"
        )
    codecs = [codec.name for codec in audio[0].rtp.codecs]
    if not {name.lower() for name in codecs} & {name.lower() for name in CLOCKS}:
        raise OfferError(
            f"no common audio codec: the offer has {', '.join(codecs) or 'none'}; "
            f"expected one of {', '.join(CLOCKS)}"
        )
    if audio[0].direction in ("recvonly", "inactive"):
        raise OfferError(f"the offered audio is {audio[0].direction}; expected sendrecv")
    for media in description.media:
        _check_section(media)
    mids = {media.rtp.muxId for media in description.media}
    if len(mids) < len(description.media):
        raise OfferError("the media sections need an a=mid each, all different")
    for group in description.group:
        if group.semantic == "BUNDLE" and not mids.issuperset(group.items):
            raise OfferError(f"a=group:{group} names a section that is not in the offer")
    return text


def asking_for_repair(answer: str) -> str:
    """Return an SDP answer that asks for Opus packets which can repair the one before them.

    A sender leaves that out unless it is asked for (`useinbandfec`, RFC 7587, section 6.1).
    """
    lines = []
    for line in answer.splitlines():
        lines.append(line)
        if (opus := re.match(r"a=rtpmap:(\d+) opus/", line)) and f"a=fmtp:{opus[1]} " not in answer:
            lines.append(f"a=fmtp:{opus[1]} useinbandfec=1")
    return "\r\n".join(lines) + "\r\n"


def _check_section(media: MediaDescription) -> None:
    """Check what every section has to say.

    Raises:
        OfferError: If it lacks something or has too much.
    """
    is_rtp = media.kind in ("audio", "video")
    if not is_rtp and media.kind != "application":
        raise OfferError(f"the offer has a {media.kind} section; expected audio and application")
    if media.ice is None or not media.ice.usernameFragment or not media.ice.password:
        raise OfferError(f"the {media.kind} section has no a=ice-ufrag and a=ice-pwd")
    if media.dtls is None or not media.dtls.fingerprints:
        raise OfferError(f"the {media.kind} section has no a=setup and a=fingerprint")
    if is_rtp and not media.rtcp_mux:
        raise OfferError(f"the {media.kind} section has no a=rtcp-mux")
    if is_rtp and media.direction is None:
        raise OfferError(f"the {media.kind} section has no direction, for example a=sendrecv")
    if not is_rtp and media.sctp_port is None and media.profile != "DTLS/SCTP":
        raise OfferError(f"the {media.kind} section has no a=sctp-port")
    if len(media.ice_candidates) > MAX_CANDIDATES:
        raise OfferError(
            f"the {media.kind} section has {len(media.ice_candidates)} candidates; "
            f"expected at most {MAX_CANDIDATES}"
        )
