"""Ears that need no download: pocketsphinx, told what callers say.

pocketsphinx holds the interpreter lock while it decodes, so it never runs in
the process that moves the audio: worker processes decode (`asr.sphinx_worker`),
this end only packs samples and unpacks words. A worker that dies fails the
utterances it was hearing and is started again; workers end with this process,
however it ends, because they then read the end of their socket.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np

from asr.engine import EngineError, Hypothesis, Listening, Pcm
from asr.latest import Latest
from asr.sphinx_wire import Kind, Messages, from_json, pack, pack_json

log = logging.getLogger(__name__)

START_WITHIN = 30.0
"""Seconds a worker may take to load before it counts as failed; it needs about one."""

RESTART_AFTER = (0.1, 5.0)
"""Seconds before a dead worker's first restart, and at most before any later one."""

CALLS = 1000
"""Calls whose voice and line are remembered; the longest unheard is forgotten."""

UNSENT = 4 << 20
"""Bytes that may wait in front of a worker (2 min of one caller's audio)."""


class Sphinx:
    """pocketsphinx in processes of its own.

    Args:
        speech: Directory of what callers say, one file a topic (`TOPIC.txt`, a
            sentence a line, "open.txt" for anything), and `background.txt` for
            what is not meant for this agent. Without it a general model of
            English is used, which is poor.
        processes: Worker processes; each uses up to one core.
        decoders: Utterances heard at the same time in each; more wait their turn.
    """

    name = "sphinx"

    def __init__(self, speech: Path | None = None, processes: int = 1, decoders: int = 4) -> None:
        if processes < 1 or decoders < 1:
            raise ValueError(
                f"processes is {processes} and decoders {decoders}; expected at least 1 of each"
            )
        self.speech = speech
        self.about = (
            "pocketsphinx, which understands what callers are expected to say, and little else"
            if speech
            else "pocketsphinx with its general model: gets about every second word of anybody"
        )
        self._workers = [_Worker(speech, decoders) for _ in range(processes)]
        self._numbers = itertools.count(1)
        self._lines: dict[str, list[float]] = {}

    async def start(self) -> None:
        """Start the workers; on return every decoder is loaded and warm.

        Raises:
            EngineError: If one does not start; the message names the remedy.
        """
        if self.speech and not (self.speech / "open.txt").is_file():
            raise EngineError(
                f"no open.txt in {self.speech}: expected a directory with one TOPIC.txt for "
                "each topic and open.txt for anything"
            )
        try:
            await asyncio.gather(*(worker.start() for worker in self._workers))
        except BaseException:
            await self.stop()
            raise

    def open(self, listening: Listening) -> "SphinxStream":
        """Begin one utterance; never blocks."""
        worker = min(self._workers, key=lambda worker: (not worker.alive, len(worker.streams)))
        line = self._lines.get(listening.call)
        stream = SphinxStream(worker, next(self._numbers), listening.expects, line)
        if listening.call:
            stream.learned = lambda line: self._remember(listening.call, line)
        return stream

    def _remember(self, call: str, line: list[float]) -> None:
        """Keep what an utterance taught about the voice and line of its call."""
        self._lines.pop(call, None)
        self._lines[call] = line
        if len(self._lines) > CALLS:
            del self._lines[next(iter(self._lines))]

    async def stop(self) -> None:
        """End the workers."""
        await asyncio.gather(*(worker.stop() for worker in self._workers))


class SphinxStream:
    """One utterance, decoded in a worker while it is spoken."""

    def __init__(
        self, worker: "_Worker", number: int, topic: str, line: list[float] | None
    ) -> None:
        self.number = number
        self.learned: Callable[[list[float]], None] = lambda line: None
        self._worker = worker
        self._latest = Latest(Hypothesis())
        self._failure: str | None = None
        self._final: asyncio.Future[Hypothesis] | None = None
        self._settling: list[asyncio.Future[Hypothesis]] = []
        worker.open(self, topic, line)

    def push(self, pcm: Pcm) -> None:
        """Add samples at 16 kHz; they leave for the worker at once."""
        samples = (np.clip(pcm, -1, 1) * 32767).astype("<i2")
        self._worker.send(self, pack(Kind.AUDIO, self.number, samples.tobytes()))

    def hypotheses(self) -> AsyncIterator[Hypothesis]:
        """Yield a hypothesis whenever it changed; end after `finish` or `close`."""
        return self._latest.each()

    async def settle(self, deadline: float) -> Hypothesis:
        """Return the words so far as if they were all; it can go on after that.

        Raises:
            EngineError: If the worker failed during this utterance.
        """
        if self._failure is not None:
            raise EngineError(self._failure)
        settled: asyncio.Future[Hypothesis] = asyncio.get_running_loop().create_future()
        self._settling.append(settled)
        self._worker.send(self, pack_json(Kind.SETTLE, self.number, deadline))
        return await settled

    async def finish(self, deadline: float) -> Hypothesis:
        """Return the final words, a few milliseconds after this was asked.

        Raises:
            EngineError: If the worker failed during this utterance.
        """
        if self._final is None:
            self._final = asyncio.get_running_loop().create_future()
            if self._failure is not None:
                self._final.set_exception(EngineError(self._failure))
            else:
                self._worker.send(self, pack_json(Kind.FINISH, self.number, deadline))
        return await asyncio.shield(self._final)

    def close(self) -> None:
        """Stop the work, also in the worker. Safe at any time, also twice."""
        if not self._latest.over:
            self._worker.send(self, pack(Kind.CLOSE, self.number))
            self.fail("the utterance was closed before its end")

    def hear(self, hypothesis: Hypothesis, final: bool) -> None:
        """Take what the worker believes."""
        self._latest.tell(hypothesis)
        if final:
            self._end()
            if self._final is not None and not self._final.done():
                self._final.set_result(hypothesis)

    def settled(self, hypothesis: Hypothesis) -> None:
        """Take what the worker believes of the words so far; answers come in order."""
        settled = self._settling.pop(0)
        if not settled.done():
            settled.set_result(hypothesis)

    def fail(self, reason: str) -> None:
        """End without an answer; `finish` raises `EngineError(reason)`."""
        if self._latest.over:
            return
        self._failure = reason
        self._end()
        for settled in self._settling:
            if not settled.done():
                settled.set_exception(EngineError(reason))
        if self._final is not None and not self._final.done():
            self._final.set_exception(EngineError(reason))
            self._final.exception()  # it may be that nobody waits any more

    def _end(self) -> None:
        self._worker.streams.pop(self.number, None)
        self._latest.end()


class _Worker:
    """One worker process, kept alive, and the utterances it hears."""

    def __init__(self, speech: Path | None, decoders: int) -> None:
        self.streams: dict[int, SphinxStream] = {}
        self._arguments = [str(decoders), *([str(speech)] if speech else [])]
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._life: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether it can hear somebody now."""
        return self._writer is not None

    async def start(self) -> None:
        """Start the process and wait until it has loaded."""
        reader = await self._spawn()
        self._life = asyncio.create_task(self._live(reader))

    async def stop(self) -> None:
        """End the process."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life])
            self._life = None
        await self._bury("the recogniser was stopped")

    def open(self, stream: SphinxStream, topic: str, line: list[float] | None) -> None:
        """Begin an utterance."""
        self.streams[stream.number] = stream
        self.send(stream, pack_json(Kind.OPEN, stream.number, [topic, line]))

    def send(self, stream: SphinxStream, message: bytes) -> None:
        """Send a message of `stream`, or fail it; never blocks."""
        if stream.number not in self.streams:
            return  # it is over
        if self._writer is None:
            stream.fail("the recogniser is being restarted: ask the caller again")
        elif self._writer.transport.get_write_buffer_size() > UNSENT:
            stream.fail("the recogniser does not keep up: give it more processes")
        else:
            self._writer.write(message)

    async def _spawn(self) -> asyncio.StreamReader:
        """Start the process; return what it says, after it said that it is ready."""
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).parent.parent)
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "asr.sphinx_worker", str(theirs.fileno()), *self._arguments),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": path},
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        messages, said = Messages(), list[tuple[Kind, int, bytes]]()
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(START_WITHIN):
                while not said and (data := await reader.read(1 << 16)):
                    said += messages.feed(data)
        if said:  # it is ready
            for line in json.loads(said[0][2]):
                log.warning("%s", line)
            self._writer = writer
            return reader
        writer.close()
        await self._bury("")
        raise EngineError(
            f"the worker of pocketsphinx did not start within {START_WITHIN:.0f} s; "
            "its own words are above. Is pocketsphinx installed, and are the topics readable?"
        )

    async def _live(self, reader: asyncio.StreamReader) -> None:
        """Pass on what the process says; start it again when it has died."""
        while True:
            messages = Messages()
            with contextlib.suppress(ConnectionError):  # died with audio unread
                while data := await reader.read(1 << 16):
                    for kind, number, payload in messages.feed(data):
                        self._dispatch(kind, number, payload)
            await self._bury("the recogniser died during this utterance")
            log.error("a worker of pocketsphinx died; starting another")
            reader = await self._again()

    async def _again(self) -> asyncio.StreamReader:
        """Start the process until that succeeds."""
        wait, longest = RESTART_AFTER
        while True:
            await asyncio.sleep(wait)
            try:
                return await self._spawn()
            except (EngineError, OSError) as error:
                log.error("%s", error)
            wait = min(2 * wait, longest)

    def _dispatch(self, kind: Kind, number: int, payload: bytes) -> None:
        stream = self.streams.get(number)
        if stream is None:
            return  # closed while its words were on the way
        value = json.loads(payload)
        match kind:
            case Kind.FAILED:
                stream.fail(value)
            case Kind.PARTIAL:
                stream.hear(from_json(value), final=False)
            case Kind.FINAL:
                hypothesis, line = value
                stream.learned(line)
                stream.hear(from_json(hypothesis), final=True)
            case Kind.SETTLED:
                hypothesis, line = value
                stream.learned(line)
                stream.settled(from_json(hypothesis))

    async def _bury(self, reason: str) -> None:
        """Close the socket, see the process end, and fail what it was hearing."""
        writer, self._writer = self._writer, None
        process, self._process = self._process, None
        for stream in list(self.streams.values()):
            stream.fail(reason)
        if writer is not None:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        if process is not None:
            try:
                async with asyncio.timeout(2):  # it ends when it reads the socket's end
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
