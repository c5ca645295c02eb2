"""An engine process: it runs what it is told to build, for the media process that started it.

`python -m voice.engine_worker SOCKET`, started by `voice.engine_life` with an open socket as
file descriptor number SOCKET. It ends when it is told to, when an engine says that it has
failed for good, and when the media process is gone.
"""

import asyncio
import faulthandler
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from llm.engine import Json
from voice.engine_host import ERRORS, Host, reason
from voice.engine_wire import Kind, Message, Messages, pack

log = logging.getLogger(__name__)


class Peer(asyncio.Protocol):
    """This end of the socket: messages of the media process go to `receive`."""

    def __init__(self, receive: Callable[[Message], None]) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._receive = receive
        self._messages = Messages()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        for message in self._messages.feed(data):
            self._receive(message)

    def connection_lost(self, error: Exception | None) -> None:
        """Note the end; `end_with_parent` deals with one that was not meant."""
        if not self.closed.done():
            self.closed.set_result(None)


async def serve(wire: socket.socket) -> bool:
    """Build the engines and run them until told to stop; return whether all went well."""
    loop = asyncio.get_running_loop()
    plans: asyncio.Future[Json] = loop.create_future()
    stopped: asyncio.Future[None] = loop.create_future()

    def tell(kind: Kind, number: int, value: Json = None, raw: bytes = b"") -> None:
        transport.write(pack(kind, number, value, raw))

    def receive(message: Message) -> None:
        match message[0]:
            case Kind.BUILD:
                plans.set_result(message[2])
            case Kind.STOP:
                stopped.set_result(None)
            case Kind.PING:
                tell(Kind.PONG, 0, host.faring())
            case _:
                host.receive(*message)

    host = Host(tell)
    transport, peer = await loop.create_unix_connection(lambda: Peer(receive), sock=wire)
    try:
        tell(Kind.READY, 0, await host.start(await plans))
        gc.collect()
        gc.freeze()  # what is loaded stays
        failing = asyncio.create_task(host.failed())
        ends: set[asyncio.Future[Any]] = {stopped, failing}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            tell(Kind.FAILED, 0, failing.result())
            return False
        failing.cancel()
        await host.stop()
    except Exception as error:
        if not isinstance(error, ERRORS):
            log.exception("the engine process ends")
        tell(Kind.FAILED, 0, reason(error))
        return False
    else:
        return True
    finally:
        transport.close()
        await peer.closed


def end_with_parent(wire: int) -> None:
    """Wait until the other end of a socket is gone, then end this process and all its children.

    On a thread of its own: the loop may be busy importing, or hang in a model.
    """
    poll = select.poll()
    poll.register(wire, 0)  # errors and hang-ups are always told
    poll.poll()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main() -> None:
    """Serve the socket that is named by the command line."""
    import uvloop

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who ends us
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    wire = socket.socket(fileno=int(sys.argv[1]))
    wire.set_inheritable(False)
    threading.Thread(target=end_with_parent, args=(os.dup(wire.fileno()),), daemon=True).start()
    well = uvloop.run(serve(wire))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if well else 1)  # everything is freed; some libraries crash when they are unloaded


if __name__ == "__main__":
    main()
