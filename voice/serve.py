"""`voice serve`: one process that listens, loads its engines and takes calls."""

import asyncio
import contextlib
import errno
import gc
import logging
import resource
import signal
import socket

import uvicorn
from rich.console import Console

from transport.websocket_wire import Wire
from voice import __version__, planning
from voice.http_api import create_app
from voice.server import Server
from voice.settings import Settings

PING = 4.0
"""Seconds between two pings of a WebSocket client, and that it has to answer."""

UNACKNOWLEDGED_MS = 12_000
"""Milliseconds after which the kernel gives up a client that takes no more data."""

SENDING = 32_768
"""Bytes that the kernel may hold for a client: half a second of audio at 48 kHz, 1.7 s at 16 kHz.
More waits in the process, where a barge-in can drop it."""

MANY_FILES = 65_536
"""Open files and sockets asked of the system; the usual limit of 1024 is soon reached."""

LONGEST_MESSAGE = 16 * 2**20
"""Bytes of one WebSocket message that are read at all."""


def listen(host: str, port: int) -> socket.socket:
    """Open the server's socket.

    Raises:
        OSError: If that cannot be done; the message says what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENDING)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
    try:
        opened.bind((host, port))
        opened.listen(1024)
    except (OSError, TypeError, UnicodeError) as error:
        opened.close()
        if not isinstance(error, OSError):
            raise OSError(f"cannot listen on {host!r}: no such address") from None
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                f"port {port} of {host} is in use: stop what listens there, or choose another "
                f"with --port {port + 1}"
            ) from None
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
    return opened


class Web(uvicorn.Server):
    """Serves `server` with the limits above; ends its calls before it closes their sockets."""

    def __init__(self, server: Server) -> None:
        self._calls = server
        config = uvicorn.Config(
            create_app(server),
            ws=Wire,
            ws_max_size=LONGEST_MESSAGE,
            ws_ping_interval=PING,
            ws_ping_timeout=PING,
            ws_per_message_deflate=False,
            log_level="warning",
            timeout_graceful_shutdown=5,
            lifespan="off",
        )
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the server, then close what is still open."""
        await self._calls.stop()
        await super().shutdown(sockets)


async def serve(settings: Settings, console: Console) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        ValueError: If the settings name something that is not there.
        OSError: If the port cannot be had.
        RuntimeError: If an engine cannot start.
    """
    plans = planning.of_machine(settings)
    planning.show(console, plans)
    for plan in plans:
        plan.check()
    server = Server(planning.applied(settings, plans))
    with contextlib.closing(listen(settings.host, settings.port)) as opened:
        port = opened.getsockname()[1]
        web = Web(server)
        loop = asyncio.get_running_loop()
        listening = asyncio.create_task(web.serve(sockets=[opened]))
        console.print(
            f"sidetone {__version__}: loading {settings.asr}, {settings.llm}, {settings.tts} …"
        )
        started = loop.time()
        try:
            starting = asyncio.create_task(server.start())
            await asyncio.wait({starting, listening}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                gc.collect()
                gc.freeze()  # what is loaded stays; looking through it takes 80 ms of every call
                shown = f"[{settings.host}]" if ":" in settings.host else settings.host
                console.print(
                    f"[bold green]ready[/] after {loop.time() - started:.1f} s\n"
                    f"  browser  http://{shown}:{port}/\n"
                    f"  apps     ws://{shown}:{port}/v1/stream?rate=16000\n"
                    f"  try      voice call --say 'what are your opening hours'\n"
                    f"  stop     Ctrl-C",
                    highlight=False,
                )
                await listening
            else:
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
        finally:
            web.should_exit = True
            await listening


def run(settings: Settings, console: Console) -> None:
    """Run `serve` on a loop of its own.

    Raises:
        ValueError, OSError, RuntimeError: As `serve`.
    """
    import uvloop

    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, min(most, MANY_FILES)), most))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("aioice").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(settings, console))
