"""Which addresses of this machine a caller over WebRTC is told."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiortc import RTCPeerConnection
from aiortc.rtcicetransport import parse_stun_turn_uri


@dataclass(frozen=True, slots=True, kw_only=True)
class IceServer:
    """A STUN or TURN server, for servers behind address translation.

    Attributes:
        url: For example "stun:stun.example.org:3478" or "turn:turn.example.org?transport=udp".
        username: For TURN.
        password: For TURN.
    """

    url: str
    username: str | None = None
    password: str | None = None

    def __post_init__(self) -> None:
        try:
            parse_stun_turn_uri(self.url)
        except ValueError:
            raise ValueError(
                f"ICE server {self.url!r}; expected for example stun:stun.example.org:3478"
            ) from None


def only_loopback(connection: RTCPeerConnection) -> None:
    """Make 127.0.0.1 the only address of `connection`; aioice would use every other.

    Call it when all tracks and data channels are there, before `setLocalDescription`.
    """
    transports = {t.receiver.transport for t in connection.getTransceivers()}
    if connection.sctp is not None:
        transports.add(connection.sctp.transport)
    for transport in transports:
        ice = transport.transport.iceGatherer._connection
        ice.get_component_candidates = partial(_gather_loopback, ice.get_component_candidates)  # type: ignore[method-assign]


def _gather_loopback(gather: Callable[..., Any], component: int, addresses: list[str]) -> Any:
    return gather(component=component, addresses=["127.0.0.1"])
