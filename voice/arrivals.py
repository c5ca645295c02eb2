"""When the kernel received what a socket brings, however late the process reads it.

With SO_TIMESTAMPNS the kernel stamps each packet on its way in and tells the stamp with the
data (Linux, Documentation/networking/timestamping.rst, 1.2: "SO_TIMESTAMPNS … Reports the
timestamp via recvmsg() in a control message as struct timespec in nsec resolution"). On
loopback that happens within the sender's own `send`. For TCP the stamp is that of the last
segment among those read, and segments that wait together become one, with the later stamp
(`tcp_recvmsg_locked` and `tcp_try_coalesce` in net/ipv4): who reads within the 20 ms between
two frames gets each one's own. The stamps are of CLOCK_REALTIME; they are told in seconds of
CLOCK_MONOTONIC, by the difference of the two at the moment of reading. The first socket of a
machine to ask for stamps gets them a little later (`net_enable_timestamp` in net/core/dev.c
leaves that to a worker); until then data is stamped when it is read.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from time import monotonic, monotonic_ns, time_ns
from typing import Any, Final

STAMPED: Final = getattr(socket, "SO_TIMESTAMPNS", 35)
"""SO_TIMESTAMPNS, and the type of its control messages (asm-generic/socket.h)."""

TIMESPEC: Final = struct.Struct("@qq")

ANCILLARY = 64
"""Bytes for control messages: one header and one `TIMESPEC`."""

MOST = 64 * 1024
"""Bytes read at once."""

UNSENT = 16 * 1024 * 1024
"""Bytes that may wait for a server that does not read; more ends the call."""

TOGETHER = 5_000
"""Nanoseconds within which two clocks are read at once: else this process was interrupted."""

TORN = 2**62
ATTEMPTS = 4
"""How often they are read at most."""

Ancillary = list[tuple[int, int, bytes]]


def stamp(opened: socket.socket) -> bool:
    """Have the kernel stamp what `opened` receives; return whether it can."""
    try:
        opened.setsockopt(socket.SOL_SOCKET, STAMPED, 1)
    except OSError:
        return False
    return True


def received(ancillary: Ancillary) -> float:
    """Return when that was received which came with `ancillary`: now, if that does not tell."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == STAMPED and len(data) >= TIMESPEC.size:
            seconds, nanoseconds = TIMESPEC.unpack_from(data)
            return float(seconds * 10**9 + nanoseconds - _apart()) / 1e9
    return monotonic()


def _apart() -> int:
    """Return by how many nanoseconds CLOCK_REALTIME is ahead of CLOCK_MONOTONIC."""
    best, apart = TORN, 0
    for _ in range(ATTEMPTS):
        before, now, after = monotonic_ns(), time_ns(), monotonic_ns()
        if after - before < best:
            best, apart = after - before, now - (before + after) // 2
        if best < TOGETHER:
            break
    return apart


class StampedWire:
    """A TCP connection that tells with all it receives when the kernel did.

    It has what of `asyncio.Transport` a caller uses. For one event loop.

    Attributes:
        read_late: The longest that something waited for this process, in seconds.
    """

    def __init__(
        self,
        opened: socket.socket,
        take: Callable[[bytes, float], None],
        lost: Callable[[Exception | None], None],
    ) -> None:
        """Give `take` what `opened` brings, and tell `lost` its end, once."""
        self.read_late = 0.0
        self._socket, self._take, self._lost = opened, take, lost
        self._loop = asyncio.get_running_loop()
        self._unsent = bytearray()
        self._open = True
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stamp(opened)
        self._loop.add_reader(opened, self._read)

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        take: Callable[[bytes, float], None],
        lost: Callable[[Exception | None], None],
    ) -> "StampedWire":
        """Connect to a server.

        Raises:
            OSError: If nobody listens there.
        """
        opened = socket.socket()
        opened.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(opened, (host, port))
        except OSError:
            opened.close()
            raise
        return cls(opened, take, lost)

    def write(self, data: bytes) -> None:
        """Send `data`, after what still waits."""
        if not self._open:
            return
        if not self._unsent:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                pass
            except OSError as error:
                self._end(error)
                return
            if not data:
                return
            self._loop.add_writer(self._socket, self._write)
        self._unsent += data
        if len(self._unsent) > UNSENT:
            self._end(TimeoutError("the server does not read"))

    def close(self) -> None:
        """Close the connection."""
        self._end(None)

    def _read(self) -> None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(MOST, ANCILLARY)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        if not data:
            self._end(None)
            return
        at = received(ancillary)
        self.read_late = max(self.read_late, monotonic() - at)
        self._take(data, at)

    def _write(self) -> None:
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _end(self, error: Exception | None) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._loop.call_soon(self._lost, error)


class StampedDatagrams:
    """Stands in for the socket of one of asyncio's datagram transports, and reads the stamps.

    Attributes:
        at: When the kernel received the datagram that was read last.
    """

    def __init__(self, opened: socket.socket) -> None:
        self.at = 0.0
        self._socket = opened
        stamp(opened)

    @classmethod
    def under(cls, transport: asyncio.BaseTransport) -> "StampedDatagrams | None":
        """Read for `transport` from now on; None where its insides are others (uvloop's)."""
        opened = getattr(transport, "_sock", None)
        if not isinstance(opened, socket.socket):
            return None
        transport._sock = stamped = cls(opened)  # type: ignore[attr-defined]
        return stamped

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        """Return the next datagram and where it came from."""
        data, ancillary, _, address = self._socket.recvmsg(size, ANCILLARY)
        self.at = received(ancillary)
        return data, address

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)
