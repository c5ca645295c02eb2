"""A call over WebRTC, for browsers.

aiortc does ICE, DTLS, SRTP, RTCP and the data channel. Audio takes our own way: aiortc
would hold every packet for 80 ms and decode in a thread per call (measured one-way delay
83 ms). Packets go from its receiver straight into our jitter buffer and decoder, and
encoded packets go into its sender, which then needs no thread pool either.

Events are JSON texts on a data channel that the browser opens under the label "events".
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Final

import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidAccessError, InvalidStateError, OperationError
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcicetransport import parse_stun_turn_uri
from aiortc.rtp import RtpPacket
from aiortc.sdp import MediaDescription, SessionDescription
from av.audio.resampler import AudioResampler

from transport.codec import CLOCKS, SPEAKING_RATE, Decoder, Encoder
from transport.jitter import Heard, JitterBuffer, Lost, Packet, Silence
from transport.line import FRAME, HEARING_RATE, Call, Line, Pcm

LABEL: Final = "events"
"""Label of the data channel that carries the JSON events."""

LONGEST_OFFER = 64 * 1024
"""Characters that an offer may have; a browser's has 2000 to 6000."""

MAX_SECTIONS = 8
"""Media sections that an offer may have."""

MAX_CANDIDATES = 64
"""Addresses of the caller that an offer may name."""

LONGEST_TEXT = 64 * 1024
"""Characters that one message may have."""

SAMPLES = round(FRAME * SPEAKING_RATE)
"""Samples of one frame of agent audio."""

QUEUE = 3
"""Frames of agent audio that may wait for the sender: 60 ms."""

PAUSE = 0.05
"""Seconds without a new frame that are a pause; less than the pacer's lead, so that the browser
learns of it before it runs dry."""

ENDING = 2
"""Silent frames that open a pause. Chromium 156 then conceals 0.1 s of silence instead of 0.4 s
of the last sound."""

LATE = 2
"""Frames by which audio may be behind real time and still continue what was sent before."""

MAX_EVENTS = 256
"""Events kept until the data channel opens; then the oldest are dropped."""

UNREAD = 1024 * 1024
"""Bytes of events that may wait for a caller that does not read; more ends the call."""

CONNECT_TIMEOUT = 15.0
"""Seconds from the answer to the connection. Then the caller has gone."""

SILENT_TIMEOUT = 10.0
"""Seconds without an audio packet after which the caller has gone; a muted microphone sends."""

STALLED = 0.02
"""Seconds by which a timer is late when this process, not the caller, was away."""

CATCH_UP = 0.05
"""Seconds to read what came meanwhile, before silence is concluded from it."""

FLUSH_TIMEOUT = 2.0
"""Seconds that hanging up may wait until the caller has what was sent last."""

CLOSE_TIMEOUT = 5.0
"""Seconds that aiortc may take to close; it never did."""

JITTER_ATTRIBUTE: Final = "_RTCRtpReceiver__jitter_buffer"
"""Where aiortc 1.14 to 1.16 keeps a receiver's jitter buffer."""

PEER_CONNECTION_ERRORS = (ValueError, InvalidAccessError, InvalidStateError, OperationError)
"""What aiortc raises for an offer that it cannot answer."""

log = logging.getLogger(__name__)


class OfferError(ValueError):
    """An offer cannot be answered; the message says what to change in it."""


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
    try:
        await peer.negotiate(text, loopback=loopback)
    except BaseException as error:
        await peer.close()
        if isinstance(error, PEER_CONNECTION_ERRORS):
            raise OfferError(f"the offer cannot be answered: {error}") from error
        raise
    return peer


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


class AgentTrack(MediaStreamTrack):
    """What the agent says: frames in, encoded packets out.

    A frame's timestamp is its place in real time, so that a browser sees pauses as
    pauses and not as packets that come late. Nothing is sent in a pause; two frames of
    silence open it, without which a browser draws the last sound out for half a second.
    """

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0
        """Frames that the sender did not take in time."""
        self.encoder: Encoder | None = None
        """Set once the codec is agreed, before anything is received."""
        self._frames: deque[tuple[int, Pcm]] = deque()
        self._ready = asyncio.Event()
        self._event_loop = asyncio.get_running_loop()
        self._origin = self._put_at = self._event_loop.time()
        self._next = 0  # number of the next frame, in frames since the origin
        self._pause: asyncio.TimerHandle | None = None  # looks for one while frames come

    def put(self, frame: Pcm) -> None:
        """Send one frame of `SAMPLES`; keeps `frame`."""
        if len(frame) != SAMPLES:
            raise ValueError(
                f"a frame of {len(frame)} samples; expected {SAMPLES} "
                f"({FRAME * 1000:.0f} ms at {SPEAKING_RATE} Hz)"
            )
        self._put_at = self._event_loop.time()
        now = int((self._put_at - self._origin) / FRAME)
        if now > self._next + LATE:
            self._next = now  # there was a pause
        self._append(frame)
        if self._pause is None:
            self._pause = self._event_loop.call_at(self._put_at + PAUSE, self._look_for_pause)

    def clear(self) -> None:
        """Drop the frames that were not taken yet, and fall silent."""
        self._frames.clear()
        if self._pause is not None:
            self._pause.cancel()
            self._fall_silent()

    def _append(self, frame: Pcm) -> None:
        if len(self._frames) == QUEUE:
            self._frames.popleft()
            self.dropped += 1
        self._frames.append((self._next, frame))
        self._next += 1
        self._ready.set()

    def _look_for_pause(self) -> None:
        if self._event_loop.time() < self._put_at + PAUSE:
            self._pause = self._event_loop.call_at(self._put_at + PAUSE, self._look_for_pause)
        else:
            self._fall_silent()

    def _fall_silent(self) -> None:
        self._pause = None
        for _ in range(ENDING):
            self._append(np.zeros(SAMPLES, np.float32))

    @property
    def empty(self) -> bool:
        """Whether the sender has taken everything."""
        return not self._frames

    async def recv(self) -> "av.Packet[Any]":
        """Return the next packet; aiortc's sender calls this."""
        while not self._frames:
            self._ready.clear()
            await self._ready.wait()
        number, frame = self._frames.popleft()
        assert self.encoder is not None
        packet = av.Packet(self.encoder.encode(frame))
        packet.pts = number * SAMPLES
        packet.time_base = Fraction(1, SPEAKING_RATE)
        return packet


class WebRtcLine:
    """The agent's side of the wire."""

    transport = "webrtc"
    rate = SPEAKING_RATE

    def __init__(self, hang_up: Callable[[], None], unread: Callable[[], None]) -> None:
        """`hang_up` is called by `close`, `unread` when a caller leaves its events unread."""
        self.track = AgentTrack()
        self._hang_up, self._unread = hang_up, unread
        self._channel: RTCDataChannel | None = None
        self._unsent: deque[str] = deque(maxlen=MAX_EVENTS)

    def play(self, frame: Pcm) -> None:
        """Send one frame of `FRAME * rate` samples."""
        self.track.put(frame)

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
        """Drop the frames that have not left yet."""
        self.track.clear()

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
        told = self._channel is None or self._channel.readyState == "closed"
        return told and self.track.empty


class Inlet:
    """The caller's audio, from packets to samples."""

    def __init__(self, codecs: Mapping[int, str], hear: Callable[[Pcm], None]) -> None:
        """Decode the payload types of `codecs` and give the samples to `hear`."""
        self.broken = 0
        """Packets that held no audio of their codec."""
        self._codecs, self._hear = codecs, hear
        self._payload_type: int | None = None
        self._switch(next(iter(codecs)))

    def _switch(self, payload_type: int) -> None:
        if payload_type != self._payload_type:
            self._payload_type = payload_type
            self._decoder = Decoder(self._codecs[payload_type])
            self.jitter = JitterBuffer(self._decoder.rate)

    @property
    def deadline(self) -> float | None:
        """When to call `tick`, in seconds of loop time."""
        return self.jitter.deadline

    def take(self, packet: RtpPacket, now: float) -> None:
        """Take one packet that came at `now`."""
        self._switch(packet.payload_type)
        samples = self._decoder.samples(packet.payload)
        if not samples:
            self.broken += 1
            return
        self._give(
            self.jitter.put(
                packet.sequence_number,
                packet.timestamp,
                packet.payload,
                samples,
                now,
                packet.ssrc,
            )
        )

    def tick(self, now: float) -> None:
        """Let time pass."""
        self._give(self.jitter.tick(now))

    def _give(self, heard: list[Heard]) -> None:
        for item in heard:
            match item:
                case Packet(payload=payload):
                    self._hear(self._decoder.decode(payload))
                case Lost(samples):
                    self._hear(self._decoder.conceal(samples))
                case Silence(samples):
                    self._hear(self._decoder.silence(samples))


class Tap:
    """Stands where aiortc keeps a receiver's jitter buffer and takes the packets out.

    aiortc calls `add` for every packet after its RTCP statistics were counted. It never
    gets a frame back, so its decoder thread has nothing to do; it is ended at the first
    packet.
    """

    def __init__(self, receiver: RTCRtpReceiver, take: Callable[[RtpPacket], None]) -> None:
        """Replace the jitter buffer of `receiver`.

        Raises:
            AttributeError: If this aiortc has none where it used to be.
        """
        getattr(receiver, JITTER_ATTRIBUTE)
        self._end_thread: Callable[[], None] | None = receiver._handle_disconnect
        self._take = take
        setattr(receiver, JITTER_ATTRIBUTE, self)

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """Take one packet; never asks for a key frame, never completes a frame."""
        if self._end_thread is not None:
            self._end_thread()
            self._end_thread = None
        self._take(packet)
        return False, None


class Peer:
    """One caller's connection. It ends by itself when the caller goes.

    Attributes:
        sdp: The answer.
        line: The agent's side of the wire.
        inlet: The caller's audio, with its statistics; None until negotiated.
    """

    def __init__(self, attach: Callable[[Line], Call], connection: RTCPeerConnection) -> None:
        self.sdp = ""
        self.line = WebRtcLine(self._hang_up, self._unread)
        self.inlet: Inlet | None = None
        self._attach = attach
        self._connection = connection
        self._call: Call | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0  # uvloop's handles cannot tell
        self._catching_up = False
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
        sender = connection.addTrack(self.line.track)
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
        self.sdp = connection.localDescription.sdp
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
        self.line.track.encoder = Encoder(next(iter(codecs.values())))
        self.inlet = Inlet(codecs, self._hear)
        self._listen(audio.receiver)
        self._arm(self._connect_by)

    def _listen(self, receiver: RTCRtpReceiver) -> None:
        """Take the caller's audio from `receiver`."""
        try:
            Tap(receiver, self._take)
        except AttributeError:
            log.warning(
                "this aiortc keeps its jitter buffer elsewhere: audio goes through it and is "
                "80 ms late; install aiortc 1.14 to 1.16"
            )
            self._start(self._listen_late(receiver.track))

    async def _listen_late(self, track: MediaStreamTrack) -> None:
        """Hear what aiortc has buffered and decoded."""
        resampler = AudioResampler(format="flt", layout="mono", rate=HEARING_RATE)
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, av.AudioFrame)
            self._heard_at = self._loop.time()
            frame.pts = None
            for ready in resampler.resample(frame):
                self._guard(self._hear, ready.to_ndarray()[0])

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
        if isinstance(message, bytes):
            self._refuse(
                "binary_message",
                f"{len(message)} bytes of binary; expected JSON text, audio as RTP",
            )
        elif len(message) > LONGEST_TEXT:
            self._refuse(
                "text_too_long", f"{len(message)} characters; expected at most {LONGEST_TEXT}"
            )
        else:
            try:
                content = json.loads(message)
            except (ValueError, RecursionError):
                content = None
            if isinstance(content, dict) and isinstance(content.get("type"), str):
                self._call.receive(content)
            else:
                self._refuse("bad_message", 'messages are JSON objects with a "type"')

    def _refuse(self, code: str, message: str) -> None:
        self.line.tell({"type": "error", "turn": 0, "code": code, "message": message})

    def _take(self, packet: RtpPacket) -> None:
        """Take one audio packet from aiortc."""
        if self._call is not None and self.inlet is not None and self._closing is None:
            self._heard_at = now = self._loop.time()
            self._guard(self.inlet.take, packet, now)
            if self.inlet.deadline is not None:
                self._arm(self.inlet.deadline)

    def _hear(self, pcm: Pcm) -> None:
        if self._call is not None and self._closing is None and len(pcm):
            self._call.hear(pcm)

    def _arm(self, at: float) -> None:
        """Call `_tick` at loop time `at`, if it would not be called before."""
        if self._closing is not None or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        stalled = now - self._timer_at > STALLED and not self._catching_up
        self._timer = None
        self._catching_up = stalled
        if stalled:
            self._arm(now + CATCH_UP)
            return
        if self._call is None:
            if now >= self._connect_by:
                self._end(f"not connected within {CONNECT_TIMEOUT:.0f} s")
            self._arm(self._connect_by)
            return
        if now - self._heard_at >= SILENT_TIMEOUT:
            self._end(f"no audio for {SILENT_TIMEOUT:.0f} s")
            return
        assert self.inlet is not None
        self._guard(self.inlet.tick, now)
        self._arm(self._heard_at + SILENT_TIMEOUT)
        if self.inlet.deadline is not None:
            self._arm(self.inlet.deadline)

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
        if self._timer is not None:
            self._timer.cancel()
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
