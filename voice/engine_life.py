"""One life of an engine process: from its start to its end, with its last words."""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from llm.engine import Json
from voice.engine_wire import Kind, Message, Messages, pack

log = logging.getLogger("voice.engine")
"""What engines and their libraries have to say."""

LAST_WORDS = 20
"""Lines of output that are kept, for when the process dies."""

LONGEST_LINE = 4096
"""Characters of a line of output that are looked at."""

TIDYING = 20
"""Twentieths of a second that children of the process may take to give back shared memory,
before they are killed."""

LEVEL = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b")
"""How libraries mark the lines that an operator should see, near their beginning."""


class Output:
    """What a process and its children write: warnings go to our log, the last lines are kept."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=LAST_WORDS)
        self._rest = ""
        self._level = logging.WARNING
        self._in_traceback = False

    def __str__(self) -> str:
        """The last lines, to follow a sentence; "" if there are none."""
        return ". Its last words:\n  " + "\n  ".join(self.lines) if self.lines else ""

    def feed(self, data: bytes) -> None:
        """Take what was written."""
        *lines, rest = re.split(r"[\r\n]+", self._rest + data.decode(errors="replace"))
        self._rest = rest[:LONGEST_LINE]
        for line in filter(str.strip, lines):
            self.lines.append(line[:LONGEST_LINE])
            self._forward(line[:LONGEST_LINE])

    def _forward(self, line: str) -> None:
        """Log a line that warns, and the traceback that follows it."""
        if line.startswith("Traceback"):
            self._in_traceback = True
        elif self._in_traceback:
            self._in_traceback = line[0].isspace()
        elif found := LEVEL.search(line[:60]):
            self._level = getattr(logging, found[1])
        else:
            return
        log.log(self._level, "%s", line)


class Life(asyncio.Protocol):
    """One process that runs `voice.engine_worker`, and the socket to it.

    Attributes:
        ready: What the process says of its engines, once they are loaded.
        lost: Done once it is of no use any more: it has ended, or said that it is about to.
        reason: Why, in its own words, "" if it said nothing.
        faring: How its engines fared when they were last asked (`Kind.PONG`).
        heard: Whether anything came over the socket since this was last set to False.
    """

    process: asyncio.subprocess.Process
    transport: asyncio.Transport

    def __init__(self, deliver: Callable[[Message], None], died: Callable[["Life"], None]) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Json] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.reason = ""
        self.faring: Mapping[str, Json] = {}
        self.heard = False
        self.output = Output()
        self._deliver, self._died = deliver, died
        self._messages = Messages()
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def begin(
        cls, deliver: Callable[[Message], None], died: Callable[["Life"], None]
    ) -> "Life":
        """Start a process; its messages go to `deliver`, its death to `died`.

        Raises:
            OSError: If there is no room for a process or a socket.
        """
        life = cls(deliver, died)
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).parent.parent)
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        try:
            with theirs:
                life.process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "voice.engine_worker", str(theirs.fileno())),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                    env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                )
        except BaseException:
            ours.close()
            raise
        loop = asyncio.get_running_loop()
        life.transport, _ = await loop.create_unix_connection(lambda: life, sock=ours)
        life._tasks = [asyncio.create_task(life._read()), asyncio.create_task(life._watch())]
        return life

    @property
    def fate(self) -> str:
        """What became of the process: a verb and how, for a message."""
        code = self.process.returncode
        if self.reason:
            return f"has ended ({self.reason})"
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with status {code}"

    async def end(self, patience: float = 0.0) -> None:
        """End the process and all that it started; let it do so itself for `patience` seconds."""
        if patience and not self.lost.done():
            self.transport.write(pack(Kind.STOP, 0))
            await asyncio.wait({self.lost}, timeout=patience)
        nobody_left = contextlib.suppress(ProcessLookupError)
        with nobody_left:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                for _ in range(TIDYING):
                    await asyncio.sleep(0.05)
                    os.killpg(self.process.pid, 0)
            finally:  # also when the server stops meanwhile, and waits no longer
                with nobody_left:
                    os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        self.transport.abort()
        reading, watching = self._tasks
        await asyncio.wait({reading, watching}, timeout=1)  # somebody else may hold its output
        reading.cancel()
        await asyncio.wait({reading, watching})

    def give_up(self, reason: str) -> None:
        """Note that it is of no use any more, and why."""
        self.reason = reason
        self._end()

    def data_received(self, data: bytes) -> None:
        """Take what came over the socket."""
        self.heard = True
        for message in self._messages.feed(data):
            match message:
                case (Kind.READY, 0, value, _):
                    self.ready.set_result(value)
                case (Kind.FAILED, 0, str(reason), _):
                    self.give_up(reason)
                case (Kind.PONG, _, value, _):
                    self.faring = value or {}
                case _:
                    self._deliver(message)

    def connection_lost(self, error: Exception | None) -> None:
        """Note that nothing more can come."""
        self._end()

    async def _watch(self) -> None:
        """Note the end of the process: one of its children may hold the socket open."""
        await self.process.wait()
        self._end()

    async def _read(self) -> None:
        """Read what the process writes."""
        assert self.process.stdout is not None
        while data := await self.process.stdout.read(1 << 16):
            self.output.feed(data)

    def _end(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
            self._died(self)
