"""The WebSocket between a client and a call: the short cut for common frames, and its edges."""

import asyncio
import gc
import json
import struct
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, WebSocket
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from uvicorn.server import ServerState
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from transport import websocket
from transport.line import Line, Pcm
from transport.websocket import Gaps, Inlet, WebSocketLine
from transport.websocket_frames import Borders, frame, plain
from transport.websocket_wire import Wire
from voice.serve import SENDING, listen

LARGEST = 70_000
"""Bytes of a message from which the connections of these tests are closed."""

KEY = b"\x12\x34\x56\x78"


def masked(opcode: int, payload: bytes, *, fin: bool = True, flags: int = 0) -> bytes:
    """Return a frame as a client sends it; `flags` are added to the first byte."""
    head = bytearray(frame(payload)[: -len(payload) or None])
    head[0] = (0x80 if fin else 0) | flags | opcode
    head[1] |= 0x80
    key = KEY * (len(payload) // 4 + 1)
    return bytes(head) + KEY + bytes(a ^ b for a, b in zip(payload, key, strict=False))


# Frames.


@pytest.mark.parametrize("length", [0, 1, 125, 126, 640, 65_535, 65_536, 100_000])
def test_a_frame_is_what_the_library_would_send(length: int) -> None:
    library = ServerProtocol(state=State.OPEN)
    library.send_binary(bytes(length))
    library.send_text(b"x" * length)
    assert b"".join(library.data_to_send()) == frame(bytes(length)) + frame("x" * length)


def test_text_beyond_ascii_is_utf8() -> None:
    assert frame("é") == b"\x81\x02\xc3\xa9"


def test_whole_binary_frames_are_read_and_nothing_else_is() -> None:
    one, two = masked(2, b"one"), masked(2, bytes(640))
    assert plain(one + two) == [b"one", bytes(640)]
    assert plain(masked(2, b"")) == [b""]
    assert plain(masked(2, bytes(65_535))) == [bytes(65_535)]
    assert plain(masked(2, bytes(65_536))) is None
    assert plain(masked(1, b"text")) is None
    assert plain(masked(2, b"first", fin=False)) is None
    assert plain(masked(2, b"x", flags=0x40)) is None
    assert plain(frame(b"not masked") + bytes(132)) is None
    assert plain(one + masked(9, b"")) is None
    for end in range(1, len(two)):
        assert plain(one + two[:end]) is None


# What clients may send, good and bad, in any pieces.

PIECES = st.one_of(
    st.builds(lambda data: masked(2, data), st.binary(max_size=300)),
    st.just(masked(2, b"looks like three") * 3),
    st.just(masked(2, bytes(a ^ b for a, b in zip(masked(2, b"inside"), KEY * 3, strict=True)))),
    st.builds(lambda text: masked(1, text.encode()), st.text(max_size=90)),
    st.builds(lambda data: masked(9, data), st.binary(max_size=125)),
    st.builds(lambda data: masked(10, data), st.binary(max_size=9)),
    st.builds(
        lambda kind, parts: b"".join(
            masked(0 if place else kind, part, fin=place == len(parts) - 1) + masked(9, b"p")
            for place, part in enumerate(parts)
        ),
        st.sampled_from((1, 2)),
        st.lists(st.just(b"part"), min_size=2, max_size=4),
    ),
)
RARE = st.one_of(
    st.sampled_from((300, 65_535, 65_536, LARGEST, LARGEST + 1)).map(
        lambda length: masked(2, bytes(length))
    ),
    st.just(masked(8, struct.pack(">H", 1000) + b"bye")),
    st.just(masked(8, b"")),
    st.just(masked(2, b"begun, never finished", fin=False)),
    st.just(masked(0, b"goes on with nothing")),
    st.just(masked(2, b"compressed", flags=0x40)),
    st.just(masked(2, b"reserved", flags=0x10)),
    st.just(frame(b"not masked")),
    st.just(bytes((0x83, 0x80)) + KEY),
    st.just(bytes((0x82, 0xFE, 0, 5)) + KEY + b"hello"),
    st.just(masked(2, b"in the middle")[:-3]),
    st.binary(max_size=30),
)


@st.composite
def reads(draw: st.DrawFn) -> list[bytes]:
    """Draw what a socket might give, read by read: frames cut in two, or several together."""
    read = [b""]
    good, rare = st.lists(PIECES, max_size=5), st.lists(RARE, max_size=2)
    for piece in draw(good) + draw(rare) + draw(good):
        cut = draw(st.sampled_from((0, 0, 1, 2, 5, 6, 7, 8, 14, 300)))
        if draw(st.booleans()):
            read.append(b"")
        read[-1] += piece[: cut or None]
        if cut:
            read.append(piece[cut:])
    return [data for data in read if data]


@given(reads())
@example([masked(2, b"begun", fin=False), masked(2, b"and interrupted")])
@example([masked(1, b"\xfe\x01"), masked(2, b"after it")])
@settings(max_examples=500, deadline=None)
def test_a_stream_means_what_it_means_to_the_library_however_it_is_cut(read: list[bytes]) -> None:
    messages, answered = understood(b"".join(read))
    wire, far = open_wire()
    taken: list[bytes | str] = []
    wire.take_over(taken.append, lambda: None)
    for data in read:
        if not far.closing:
            wire.data_received(data)
    if wire.conn.parser_exc is None and answered is not None:
        assert taken == messages
    else:  # what came with the fault in one piece may be lost
        assert taken == messages[: len(taken)]
    if answered is not None:
        assert bytes(far.written) == answered


@given(reads())
@settings(max_examples=200, deadline=None)
def test_borders_are_the_same_however_the_stream_is_cut(read: list[bytes]) -> None:
    whole, pieces = Borders(), Borders()
    whole.push(b"".join(read))
    for data in read:
        pieces.push(data)
    assert pieces.between == whole.between


def understood(stream: bytes) -> tuple[list[bytes | str], bytes | None]:
    """Return the messages that the library finds in `stream`, and what it answers.

    Text that is no UTF-8 ends the call, which is uvicorn's affair: nothing is known of the answer.
    """
    library = ServerProtocol(state=State.OPEN, max_size=LARGEST)
    library.receive_data(stream)
    messages: list[bytes | str] = []
    for event in library.events_received():
        assert isinstance(event, Frame)
        if event.opcode in (Opcode.TEXT, Opcode.BINARY):
            opcode, data = event.opcode, b""
        if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            data += bytes(event.data)
            if event.fin and opcode is Opcode.TEXT:
                try:
                    messages.append(data.decode())
                except UnicodeDecodeError:
                    return messages, None
            elif event.fin:
                messages.append(data)
    return messages, b"".join(library.data_to_send())


# The wire, with a client of the test's own making.


class FarEnd(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = self.aborted = False
        self.reading = True

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return len(self.written)


def open_wire() -> tuple[Wire, FarEnd]:
    """Return a wire after its handshake, and what it is connected to."""
    config = uvicorn.Config(FastAPI(), ws=Wire, ws_max_size=LARGEST)
    config.load()
    loop = cast(asyncio.AbstractEventLoop, object())  # nothing here waits
    wire = Wire(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    far = FarEnd()
    wire.connection_made(far)
    wire.conn = ServerProtocol(state=State.OPEN, max_size=LARGEST)
    wire.handshake_initiated = wire.handshake_complete = True
    return wire, far


def test_what_came_before_the_call_took_over_is_taken_first() -> None:
    wire, far = open_wire()
    bird = masked(1, b"bird")
    wire.data_received(masked(2, b"early") + bird[:4])
    assert not far.reading  # ASGI takes one message at a time
    taken: list[bytes | str] = []
    wire.take_over(taken.append, lambda: None)
    assert far.reading
    wire.data_received(bird[4:] + masked(2, b"late"))
    wire.data_received(masked(2, b"last"))
    assert taken == [b"early", "bird", b"late", b"last"]
    assert far.reading


def test_an_end_that_came_before_the_call_took_over_is_still_told() -> None:
    wire, _ = open_wire()
    wire.data_received(masked(2, b"hello") + masked(8, b""))
    taken: list[bytes | str] = []
    wire.take_over(taken.append, lambda: None)
    assert taken == [b"hello"]
    assert wire.queue.get_nowait()["type"] == "websocket.disconnect"


def test_text_that_is_not_utf8_closes_with_1007() -> None:
    wire, far = open_wire()
    taken: list[bytes | str] = []
    wire.take_over(taken.append, lambda: None)
    wire.data_received(masked(1, b"\xff"))
    assert far.written[:4] == b"\x88\x02\x03\xef"
    assert far.closing
    assert taken == []
    assert wire.queue.get_nowait()["type"] == "websocket.disconnect"


def test_a_client_that_pings_and_does_not_read_is_cut_off() -> None:
    wire, far = open_wire()
    wire.take_over(lambda message: None, lambda: None)
    for _ in range(700):
        wire.data_received(masked(9, bytes(125)))
        if far.aborted:
            break
    assert far.aborted
    assert 64 * 1024 < len(far.written) < 65 * 1024


def test_nothing_is_written_while_the_kernel_is_full_or_after_the_close() -> None:
    wire, far = open_wire()
    resumed: list[None] = []
    wire.take_over(lambda message: None, lambda: resumed.append(None))
    assert far.high == 0
    assert wire.write(b"one")
    wire.pause_writing()
    assert not wire.write(b"two")
    wire.resume_writing()
    assert resumed == [None]
    assert wire.write("three")
    assert far.written == frame(b"one") + frame("three")
    wire.data_received(masked(8, b""))
    assert wire.write(b"four")  # there is nobody to wait for
    assert far.written == frame(b"one") + frame("three") + b"\x88\x00"


def test_what_comes_after_the_close_is_not_taken() -> None:
    wire, _ = open_wire()
    taken: list[bytes | str] = []
    wire.take_over(taken.append, lambda: None)
    wire.conn.send_close(1000)
    wire.close_sent = True
    wire.data_received(masked(2, b"late"))
    wire.data_received(masked(1, b"late"))
    assert taken == []


def test_another_server_than_ours_is_told_what_is_missing() -> None:
    app = FastAPI()

    @app.websocket("/")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        with pytest.raises(RuntimeError, match=r"uvicorn\.Config\(ws="):
            Wire.of(socket)
        await socket.close()

    with TestClient(app) as client, client.websocket_connect("/"):
        pass


# The line.


class Sink:
    """A wire that takes what it is told to take."""

    def __init__(self) -> None:
        self.open = True
        self.written: list[bytes | str] = []

    def write(self, message: bytes | str) -> bool:
        if self.open:
            self.written.append(message)
        return self.open


def a_line(sink: Sink, rate: int = 16_000) -> WebSocketLine:
    return WebSocketLine(rate, cast(Wire, sink))


SOUND = np.full(320, 0.5, np.float32)


async def test_a_frame_has_left_when_play_returns() -> None:
    sink = Sink()
    line = a_line(sink)
    line.play(SOUND)
    line.tell({"type": "captions"})
    assert sink.written == [struct.pack("<h", 16383) * 320, '{"type": "captions"}']


async def test_what_a_slow_client_has_not_taken_keeps_its_order_and_clear_drops_its_audio() -> None:
    sink = Sink()
    line = a_line(sink)
    line.tell({"n": 1})
    sink.open = False
    line.play(SOUND)
    line.tell({"n": 2})
    sink.open = True
    line.tell({"n": 3})  # behind what waits, though the wire is free again
    assert [type(message) for message in sink.written] == [str]
    line.resumed()
    assert [type(message) for message in sink.written] == [str, bytes, str, str]
    sink.open = False
    line.play(SOUND)
    line.tell({"n": 4})
    line.play(SOUND)
    line.clear()
    line.tell({"n": 5})
    sink.open = True
    line.resumed()
    assert sink.written[4:] == ['{"n": 4}', '{"n": 5}']


async def test_a_closed_line_ends_once_everything_has_left() -> None:
    sink = Sink()
    line = a_line(sink)
    sink.open = False
    line.tell({"type": "end"})
    line.close()
    assert not line.ended.done()
    sink.open = True
    line.resumed()
    assert line.ended.result() == (1000, "the caller hung up")
    assert sink.written == ['{"type": "end"}']


async def test_a_client_that_does_not_read_is_given_up_after_three_seconds_of_audio() -> None:
    sink = Sink()
    line = a_line(sink)
    sink.open = False
    for _ in range(150):
        line.play(SOUND)
    assert not line.ended.done()
    line.play(SOUND)
    assert line.ended.result() == (1008, "the client does not read")


async def test_audio_that_was_cleared_does_not_count() -> None:
    sink = Sink()
    line = a_line(sink)
    sink.open = False
    for _ in range(3):
        for _ in range(150):
            line.play(SOUND)
        line.clear()
    assert not line.ended.done()


async def test_a_client_that_does_not_read_is_given_up_after_a_thousand_events() -> None:
    sink = Sink()
    line = a_line(sink)
    sink.open = False
    for _ in range(1000):
        line.tell({})
    assert not line.ended.done()
    line.tell({})
    assert line.ended.result() == (1008, "the client does not read")


async def test_nothing_is_taken_once_the_call_ends() -> None:
    line = a_line(Sink())
    call = Recorder(line)
    inlet = Inlet(call, line, 0.0)
    inlet.take(bytes(640), 0.1)
    line.end(1008, "enough")
    inlet.take(bytes(640), 0.2)
    inlet.take('{"type": "x"}', 0.2)
    assert call.heard == [320]
    assert call.received == []


# Time.


async def test_one_timer_ticks_for_all_calls_while_there_are_any() -> None:
    gaps = Gaps()
    ticked: list[str] = []
    with gaps.filled(lambda now: ticked.append("a")):
        with gaps.filled(lambda now: ticked.append("b")):
            async with asyncio.timeout(5):
                while len(ticked) < 2:
                    await asyncio.sleep(0.01)
            assert sorted(ticked) == ["a", "b"]
        ticked.clear()
        async with asyncio.timeout(5):
            while len(ticked) < 2:
                await asyncio.sleep(0.01)
        assert ticked == ["a", "a"]
    ticked.clear()
    await asyncio.sleep(0.3)
    assert ticked == []


async def test_a_tick_that_comes_late_is_left_out() -> None:
    """Whatever held the loop up: what clients sent meanwhile is not read yet."""
    gaps = Gaps()
    ticked: list[float] = []
    with gaps.filled(ticked.append):
        time.sleep(0.5)  # noqa: ASYNC251
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert ticked == []
        async with asyncio.timeout(5):
            while not ticked:
                await asyncio.sleep(0.01)


# Calls on real sockets.


class Recorder:
    """A call that keeps what it hears."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.heard: list[int] = []
        self.received: list[Mapping[str, Any]] = []
        self.why: list[str] = []

    def hear(self, pcm: Pcm, arrived: float | None = None) -> None:
        self.heard.append(len(pcm))
        if len(pcm) == 13:
            raise ZeroDivisionError

    def receive(self, message: Mapping[str, Any]) -> None:
        self.received.append(message)
        self.line.tell({"echo": message})

    def lost(self, reason: str) -> None:
        self.why.append(reason)


@asynccontextmanager
async def calls() -> AsyncIterator[tuple[int, list[Recorder]]]:
    """Serve recorders; yield the port and the calls so far."""
    app, gaps = FastAPI(), Gaps()
    taken: list[Recorder] = []

    def attach(line: Line) -> Recorder:
        taken.append(Recorder(line))
        return taken[-1]

    @app.websocket("/")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        await websocket.serve(socket, 16_000, attach, gaps)

    server = uvicorn.Server(
        uvicorn.Config(app, ws=Wire, log_level="critical", lifespan="off", ws_max_size=LARGEST)
    )
    opened = listen("127.0.0.1", 0)
    serving = asyncio.create_task(server.serve(sockets=[opened]))
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield opened.getsockname()[1], taken
    finally:
        server.should_exit = True
        await serving
        opened.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def by_hand(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a WebSocket without a library."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    try:
        await reader.readuntil(b"\r\n\r\n")
        yield reader, writer
    finally:
        writer.close()


async def test_frames_arrive_in_order_whether_together_or_byte_by_byte() -> None:
    async with calls() as (port, taken), by_hand(port) as (_, writer):
        frames = [masked(2, bytes(2 * length)) for length in (1, 2, 300, 4)]
        writer.write(b"".join(frames))
        await until(lambda: bool(taken) and len(taken[0].heard) == 4)
        for byte in b"".join(frames):
            writer.write(bytes((byte,)))
            await asyncio.sleep(0.0005)
        await until(lambda: len(taken[0].heard) == 8)
        writer.write(b"".join(frames))
        await until(lambda: len(taken[0].heard) == 12)
        assert taken[0].heard == [1, 2, 300, 4] * 3


async def test_a_call_that_is_over_is_freed_without_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        async with calls() as (port, taken):
            async with connect(f"ws://127.0.0.1:{port}") as socket:
                await socket.send(bytes(640))
                await until(lambda: bool(taken))
                wire = weakref.ref(cast(WebSocketLine, taken[0].line)._wire)
            await until(lambda: bool(taken[0].why))
            taken.clear()
            await until(lambda: wire() is None)
    finally:
        gc.enable()


async def test_common_frames_bypass_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    async with calls() as (port, taken), by_hand(port) as (_, writer):
        await until(lambda: bool(taken))
        wire = cast(WebSocketLine, taken[0].line)._wire
        seen: list[bytes | bytearray] = []
        monkeypatch.setattr(wire.conn, "receive_data", seen.append)
        writer.write(masked(2, bytes(640)))
        await until(lambda: taken[0].heard == [320])
        assert seen == []


async def test_messages_in_fragments_pings_and_the_close_are_the_librarys_own() -> None:
    async with calls() as (port, taken), connect(f"ws://127.0.0.1:{port}") as socket:
        await socket.send([bytes(2), bytes(4), bytes(6)])
        await socket.send(['{"type": ', '"x"}'])
        await (await socket.ping(b"are you there"))
        assert json.loads(await socket.recv()) == {"echo": {"type": "x"}}
        await socket.close(1000, "thank you")
        assert socket.close_code == 1000
        await until(lambda: bool(taken[0].why))
        assert taken[0].heard == [6]
        assert taken[0].received == [{"type": "x"}]
        assert taken[0].why == ["the caller hung up"]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 1002),
        (masked(2, bytes(640), flags=0x40), 1002),
        (masked(2, bytes(640), flags=0x20), 1002),
        (bytes((0x83, 0x80)) + KEY, 1002),
        (frame(bytes(640)), 1002),
        (masked(0, bytes(640)), 1002),
        (masked(2, b"", fin=False) + masked(2, b""), 1002),
        (bytes((0x82, 0xFF)) + (17 * 2**20).to_bytes(8) + KEY, 1009),
        (masked(1, b"\xff\xfe"), 1007),
    ],
    ids=[
        "another protocol",
        "compressed",
        "reserved bit",
        "unknown opcode",
        "not masked",
        "continues nothing",
        "interrupted",
        "too long",
        "not UTF-8",
    ],
)
async def test_what_is_no_websocket_closes_with_the_right_code(wrong: bytes, code: int) -> None:
    async with calls() as (port, taken), by_hand(port) as (reader, writer):
        writer.write(masked(2, bytes(640)))
        await until(lambda: bool(taken) and taken[0].heard == [320])
        writer.write(wrong)
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert answer[:1] == b"\x88"
        assert struct.unpack(">H", answer[2:4]) == (code,)
        await until(lambda: bool(taken[0].why))
        assert taken[0].heard == [320]


async def test_a_client_that_closes_its_half_of_the_connection_has_hung_up() -> None:
    async with calls() as (port, taken), by_hand(port) as (_, writer):
        await until(lambda: bool(taken))
        writer.write_eof()
        await until(lambda: taken[0].why == ["the caller hung up"])


async def test_a_call_that_fails_is_closed_with_1011_and_no_other_is() -> None:
    async with (
        calls() as (port, taken),
        connect(f"ws://127.0.0.1:{port}") as one,
        connect(f"ws://127.0.0.1:{port}") as other,
    ):
        await one.send(bytes(26))
        with pytest.raises(ConnectionClosed) as closed:
            await one.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1011, "something failed here")
        await other.send('{"type": "still here"}')
        assert json.loads(await other.recv()) == {"echo": {"type": "still here"}}
        assert [call.why for call in taken] == [["something failed here"], []]


async def test_a_slow_client_gets_everything_in_order_once_it_reads() -> None:
    async with calls() as (port, taken), by_hand(port) as (reader, writer):
        await until(lambda: bool(taken))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        call, sent = taken[0], 0
        line = cast(WebSocketLine, call.line)
        while not line._held:
            for _ in range(10):
                line.tell({"n": sent, "filler": "x" * 5000})
                sent += 1
            await asyncio.sleep(0)
        line.play(np.zeros(320, np.float32))
        line.close()
        await asyncio.sleep(0.05)
        assert not line.ended.done()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        expected = b"".join(frame(json.dumps({"n": n, "filler": "x" * 5000})) for n in range(sent))
        expected += frame(bytes(640)) + b"\x88\x14\x03\xe8the caller hung up"
        async with asyncio.timeout(10):
            assert await reader.readexactly(len(expected)) == expected
            writer.write(masked(8, struct.pack(">H", 1000)))
            assert await reader.read() == b""
        assert call.why == ["the caller hung up"]


async def test_the_kernel_holds_little_for_a_client_that_does_not_read() -> None:
    async with calls() as (port, taken), by_hand(port) as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: bool(taken))
        socket = cast(WebSocketLine, taken[0].line)._wire.transport.get_extra_info("socket")
        assert socket.getsockopt(1, 7) == 2 * SENDING  # SOL_SOCKET, SO_SNDBUF; Linux doubles it
        assert socket.getsockopt(6, 1) == 1  # IPPROTO_TCP, TCP_NODELAY
