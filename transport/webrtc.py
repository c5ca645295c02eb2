"""A call over WebRTC, for browsers: `answer` an offer and there is a `Peer`.

aiortc does ICE, DTLS, SRTP, RTCP and the data channel; audio takes our own way
(`transport.webrtc_media`).
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidAccessError, InvalidStateError, OperationError
from aiortc.sdp import MediaDescription, SessionDescription

from transport.alarm import Alarm
from transport.codec import CLOCKS, DELAY, Encoder
from transport.line import FRAME, Call, Line, Pcm
from transport.rtp import RtpPacket
from transport.webrtc_addresses import IceServer, only_loopback
from transport.webrtc_line import LABEL, MessageError, WebRtcLine, read_event
from transport.webrtc_media import AgentTrack, Inlet, Outlet, delayed
from transport.webrtc_offer import OfferError, asking_for_repair, checked
from transport.webrtc_wire import Wire

CONNECT_TIMEOUT = 15.0
"""Seconds from the answer to the connection. Then the caller has gone."""

SILENT_TIMEOUT = 10.0
"""Seconds without an audio packet after which the caller has gone; a muted microphone sends."""

FLUSH_TIMEOUT = 2.0
"""Seconds that hanging up may wait until the caller has what was sent last."""

CLOSE_TIMEOUT = 5.0
"""Seconds that aiortc may take to close; it never did."""

PEER_CONNECTION_ERRORS = (ValueError, InvalidAccessError, InvalidStateError, OperationError)
"""What aiortc raises for an offer that it cannot answer."""

log = logging.getLogger(__name__)


async def answer(
    offer: str,
    attach: Callable[[Line], Call],
    *,
    ice_servers: Sequence[IceServer] = (),
    loopback: bool = False,
) -> "Peer":
    """Answer one SDP offer; `attach` is called when the caller is connected.

    The answer holds all candidates (no trickle). Without `ice_servers` nothing outside
    is asked and the candidates are the addresses of this machine; with `loopback` there
    is one candidate, 127.0.0.1.

    Raises:
        OfferError: If the offer cannot be answered; nothing is left open.
        RuntimeError: If this machine has no address to offer.
    """
    text = checked(offer)
    servers = [
        RTCIceServer(urls=server.url, username=server.username, credential=server.password)
        for server in ice_servers
    ]
    peer = Peer(attach, RTCPeerConnection(RTCConfiguration(iceServers=servers)))
    negotiating = asyncio.create_task(peer.negotiate(text, loopback=loopback))
    try:
        await asyncio.shield(negotiating)
    except BaseException as error:
        await asyncio.wait({negotiating})  # cancelled, it would lose a socket being opened
        await peer.close()
        if isinstance(error, PEER_CONNECTION_ERRORS):
            raise OfferError(f"the offer cannot be answered: {error}") from error
        raise
    return peer


class Peer:
    """One caller's connection. It ends by itself when the caller goes.

    Attributes:
        sdp: The answer.
        line: The agent's side of the wire.
        inlet: The caller's audio, with its statistics; None until negotiated and once freed.
    """

    def __init__(self, attach: Callable[[Line], Call], connection: RTCPeerConnection) -> None:
        self.sdp = ""
        self.line = WebRtcLine(self._hang_up, self._unread)
        self.inlet: Inlet | None = None
        self._attach = attach
        self._audio: RTCRtpTransceiver
        self._media: MediaDescription
        self._track = AgentTrack()
        self._connection = connection
        self._call: Call | None = None
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._look)
        self._goodbye = "the caller hung up"
        self._heard_at = 0.0
        self._connect_by = self._loop.time() + CONNECT_TIMEOUT
        self._closing: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def negotiate(self, offer: str, *, loopback: bool) -> None:
        """Agree on an offer that was `checked`; `answer` does both."""
        connection = self._connection
        connection.on("connectionstatechange", self._state_changed)
        connection.on("datachannel", self._channel_opened)
        sender = connection.addTrack(self._track)
        audio = next(t for t in connection.getTransceivers() if t.sender is sender)
        known = RTCRtpReceiver.getCapabilities("audio")
        assert known is not None
        capabilities = {codec.name.lower(): codec for codec in known.codecs}
        audio.setCodecPreferences([capabilities[name.lower()] for name in CLOCKS])
        await connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        for transceiver in connection.getTransceivers():
            if transceiver is not audio:
                transceiver.direction = "inactive"  # a camera, a second microphone
        if loopback:
            only_loopback(connection)
        await connection.setLocalDescription(await connection.createAnswer())
        self.sdp = asking_for_repair(connection.localDescription.sdp)
        media = next(m for m in SessionDescription.parse(self.sdp).media if m.kind == "audio")
        if not media.ice_candidates:
            raise RuntimeError(
                "this machine has no address to offer a caller but its loopback: "
                "serve on 127.0.0.1 or connect it to a network"
            )
        names = {name.lower(): name for name in CLOCKS}
        codecs = {
            codec.payloadType: names[codec.name.lower()]
            for codec in media.rtp.codecs
            if codec.payloadType is not None
        }
        self.inlet = Inlet(codecs, self._hear)
        self._audio, self._media = audio, media
        self._alarm.set(self._connect_by)

    def _open(self, encoder: Encoder) -> Callable[[bytes, int, bool], None]:
        """Take the caller's packets, and return what sends ours: past aiortc if possible."""
        sender, receiver = self._audio.sender, self._audio.receiver
        try:
            return Wire(sender, receiver, self._media, self._take).send
        except AttributeError as error:
            log.warning(
                "this aiortc keeps things elsewhere (%s): audio goes through its jitter buffer and "
                "is 80 ms late; install aiortc 1.14 to 1.16",
                error,
            )
            self._start(self._listen_late(receiver.track))
            self._track.rate = encoder.rate
            return self._track.put

    async def _listen_late(self, track: MediaStreamTrack) -> None:
        async for pcm in delayed(track):
            self._heard_at = self._loop.time()
            self._guard(self._hear, pcm, self._heard_at)

    def _state_changed(self) -> None:
        match self._connection.connectionState:
            case "connected" if self._call is None and self._closing is None:
                self._guard(self._begin)
            case "failed":
                self._end("the connection failed")
            case "closed":
                self._end(self._goodbye)

    def _begin(self) -> None:
        self._heard_at = self._loop.time()
        assert self.inlet is not None
        encoder = Encoder(self.inlet.codec)
        self.line.codec_delay = DELAY[self.inlet.codec]
        self.line.outlet = Outlet(encoder, self._open(encoder))
        self._call = self._attach(self.line)

    def _channel_opened(self, channel: RTCDataChannel) -> None:
        if channel.label == LABEL:
            channel.on("message", lambda message: self._guard(self._receive, message))
            channel.on("close", lambda: self._end(self._goodbye))
            self._guard(self.line.opened, channel)

    def _receive(self, message: bytes | str) -> None:
        """Take one message of the data channel."""
        if self._call is None or self._closing is not None:
            return
        try:
            event = read_event(message)
        except MessageError as error:
            self.line.tell({"type": "error", "turn": 0, "code": error.code, "message": str(error)})
        else:
            self._call.receive(event)

    def _take(self, packet: RtpPacket) -> None:
        """Take one audio packet."""
        if self._call is not None and self.inlet is not None and self._closing is None:
            self._heard_at = now = self._loop.time()
            self._guard(self.inlet.take, packet, now)
            if self.inlet.deadline is not None:
                self._alarm.set(self.inlet.deadline)

    def _hear(self, pcm: Pcm, arrived: float) -> None:
        if self._call is not None and self._closing is None and len(pcm):
            self._call.hear(pcm, arrived)

    def _look(self, now: float) -> None:
        """End the call of a caller who has gone; let time pass for one who has not."""
        if self._call is None:
            if now >= self._connect_by:
                self._end(f"not connected within {CONNECT_TIMEOUT:.0f} s")
            self._alarm.set(self._connect_by)
            return
        if now - self._heard_at >= SILENT_TIMEOUT:
            self._end(f"no audio for {SILENT_TIMEOUT:.0f} s")
            return
        assert self.inlet is not None
        self._guard(self.inlet.tick, now)
        self._alarm.set(self._heard_at + SILENT_TIMEOUT)
        if self.inlet.deadline is not None:
            self._alarm.set(self.inlet.deadline)

    def _guard(self, action: Callable[..., None], *arguments: object) -> None:
        """Do something for the call; what goes wrong ends this call and no other."""
        try:
            action(*arguments)
        except Exception:
            log.exception("a WebRTC call failed and is ended")
            self._end("the call failed")

    def _hang_up(self) -> None:
        if self._closing is None:
            self._goodbye = "the agent hung up"
            self._start(self._flush_and_end())

    def _unread(self) -> None:
        # not at once: the conversation is in the middle of telling something
        self._loop.call_soon(self._end, "the caller does not read")

    async def _flush_and_end(self) -> None:
        await asyncio.sleep(FRAME)  # the last frames leave
        self.line.finish()
        for _ in range(round(FLUSH_TIMEOUT / FRAME)):
            if self.line.finished:
                break
            await asyncio.sleep(FRAME)
        self._end(self._goodbye)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self, reason: str) -> None:
        """End the call, once: tell it and free everything."""
        if self._closing is not None:
            return
        self._closing = self._loop.create_task(self._free())
        self._ended.set()
        self._alarm.stop()
        if self._call is not None:
            try:
                self._call.lost(reason)
            except Exception:
                log.exception("a WebRTC call failed while it ended")

    async def _free(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._connection.close()
        except TimeoutError:
            log.warning("a peer connection did not close within %.0f s", CLOSE_TIMEOUT)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.line.outlet = self.inlet = None  # codecs; aiortc's circles wait for the collector

    async def wait_closed(self) -> None:
        """Wait until the call has ended and everything is freed."""
        await self._ended.wait()
        assert self._closing is not None
        await asyncio.shield(self._closing)

    async def close(self) -> None:
        """End the call and free everything. Safe at any time, also twice."""
        self._end("the server ended the call")
        assert self._closing is not None
        await asyncio.shield(self._closing)
