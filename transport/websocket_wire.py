"""One WebSocket: uvicorn's, until a call takes it over.

The handshake, pings, the close and all limits stay uvicorn's, and whatever is
rare goes its way. What comes fifty times a second does not: a message of audio
is given to the call where the socket was read, and a frame is written where it
was played. ASGI would have put a queue, two events and two tasks between, and
switched the socket off and on for every message.
"""

from collections.abc import Callable
from typing import Any, Self

from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from transport.websocket_frames import Borders, frame, plain

EXTENSION = "sidetone.wire"
"""Name under which an ASGI scope holds the wire itself."""

UNSENT = 64 * 1024
"""Bytes of answers to pings that may wait for a client; one that pings must also read."""

Take = Callable[[bytes | str], None]


class Wire(WebSocketsSansIOProtocol):
    """A client's connection, made by uvicorn; for one event loop."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._borders = Borders()
        self._take: Take | None = None
        self._resumed: Callable[[], None] | None = None

    @classmethod
    def of(cls, socket: WebSocket) -> Self:
        """Return the wire under `socket`.

        Raises:
            RuntimeError: If another server than `voice serve` has accepted it.
        """
        wire = socket.scope.get("extensions", {}).get(EXTENSION)
        if not isinstance(wire, cls):
            raise RuntimeError("calls need uvicorn.Config(ws=transport.websocket_wire.Wire)")
        return wire

    # For the call.

    def take_over(self, take: Take, resumed: Callable[[], None]) -> None:
        """Give every message to `take` from now on, those that wait included.

        `resumed` is called when `write` may be tried again. The end of the connection
        remains ASGI's to tell. Neither function may raise.
        """
        self._take, self._resumed = take, resumed
        self.transport.set_write_buffer_limits(high=0)  # tell at once when the kernel is full
        for _ in range(self.queue.qsize()):
            event = self.queue.get_nowait()
            if event["type"] == "websocket.receive":
                data = event.get("bytes")
                take(data if data is not None else event.get("text") or "")
            else:
                self.queue.put_nowait(event)
        if self.read_paused and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    def write(self, message: bytes | str) -> bool:
        """Send one message now; return False if the client has to read first.

        Nothing is sent, and that is all right, once either side has begun to close.
        """
        if not self.writable.is_set():
            return False
        if self.conn.state is State.OPEN and not self.transport.is_closing():
            self.transport.write(frame(message))
        return True

    # What uvicorn does otherwise.

    async def run_asgi(self) -> None:
        """Run the application, which may ask for this wire; forget both when it is done."""
        extensions: dict[str, object] = self.scope["extensions"]  # type: ignore[assignment]
        extensions[EXTENSION] = self
        try:
            await super().run_asgi()
        finally:
            del extensions[EXTENSION]
            self._take = self._resumed = None

    def data_received(self, data: bytes) -> None:
        """Take the common messages here; leave all else to the library."""
        if self._take is not None and self._borders.between and self.conn.state is State.OPEN:
            messages = plain(data)
            if messages is not None:
                for message in messages:
                    self._take(message)
                return
        if self.handshake_initiated:  # what comes before is the request
            self._borders.push(data)
        super().data_received(data)

    def send_receive_event_to_app(self) -> None:
        """Give a message that the library has read to the call."""
        if self._take is None or self.close_sent:
            super().send_receive_event_to_app()
            return
        data = b"".join(self.frames)
        try:
            message = data if self.curr_msg_data_type == "bytes" else data.decode()
        except UnicodeDecodeError:
            super().send_receive_event_to_app()  # closes with 1007
            return
        self.frames = []
        self._take(message)

    def handle_ping(self) -> None:
        """Answer, unless the client reads no answers."""
        super().handle_ping()
        if self.transport.get_write_buffer_size() > UNSENT:
            self.transport.abort()

    def keepalive_timeout(self) -> None:
        """Close, without waiting for a client that does not even read."""
        super().keepalive_timeout()
        if not self.writable.is_set():
            self.transport.abort()

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        super().resume_writing()
        if self._resumed is not None:
            self._resumed()
