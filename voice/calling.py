"""`voice call` and `voice talk`: a caller in the terminal."""

import asyncio
import contextlib
import sys
import wave
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from websockets.exceptions import InvalidStatus, WebSocketException

from latency.waterfall import waterfall
from transport.audio import Pcm, from_pcm16, to_pcm16
from tts.espeak import Espeak
from voice.client import Caller, Event, dial
from voice.drawing import painted

RATE = 16_000
"""Sample rate of calls placed here, in hertz."""

LONGEST_LINE = 60.0
"""Seconds to wait for the agent to finish what it says."""

INDENT, WIDEST = 6, 120
"""Columns before a drawing, and in which it ends."""

ANSWER = 15.0
"""Seconds to wait for an answer to begin."""


class Printer:
    """Shows a call's events in the terminal as they come."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, event: Event) -> None:
        """Print one event, if it is for people."""
        match event:
            case {"type": "captions", "final": True, "role": role, "text": str(text)}:
                name = "[bold cyan]you[/]  " if role == "user" else "[bold green]agent[/]"
                more = " [dim](interrupted)[/]" if event.get("interrupted") else ""
                missed = " [dim](not understood)[/]" if event.get("understood") is False else ""
                self._console.print(f"{name} {escape(text)}{more}{missed}", highlight=False)
            case {"type": "tool", "name": name, "arguments": arguments}:
                result = event.get("result", event.get("error"))
                self._console.print(
                    f"[yellow]tool[/]  {name} {escape(str(arguments))} → {escape(str(result))}",
                    highlight=False,
                )
            case {"type": "turn", "stages": dict()}:
                width = min(self._console.width, WIDEST) - INDENT
                drawn = painted(self._console, waterfall(event, width), INDENT)
                self._console.print(drawn, end="")
            case {"type": "error", "message": str(message)}:
                self._console.print(f"[red]error[/] {escape(message)}", highlight=False)
            case {"type": "choices", "choices": list(choices)} if choices:
                self._console.print(f"[dim]say:  {escape(' | '.join(map(str, choices)))}[/]")
            case {"type": "end", "reason": reason}:
                self._console.print(f"[dim]call ended: {reason}[/]")


async def call(
    url: str,
    key: str,
    turns: Sequence[str | Path],
    voice: str,
    record: Path | None,
    console: Console,
) -> int:
    """Place one call that says `turns` (texts, or WAV files); return the exit status."""
    speech = [await _speech(turn, voice) for turn in turns]
    answered = 0
    async with _calling(url, key, console) as caller:
        await _agent_done(caller, 0)
        for pcm, rate in speech:
            if caller.ended:
                break
            since = len(caller.events)
            await caller.say(pcm, rate)
            if await caller.until(lambda: caller.answer_gap() is not None, ANSWER):
                answered += 1
                gap = caller.answer_gap() or 0.0
                console.print(f"      [dim]heard after {gap * 1000:.0f} ms[/]", highlight=False)
                await _agent_done(caller, since)
        if not caller.ended:
            await caller.hang_up()
    if record is not None:
        write_wav(record, caller.recording(), RATE)
        console.print(f"recorded in {record}", highlight=False)
    return 0 if answered == len(speech) else 1


async def talk(url: str, key: str, console: Console) -> int:
    """Converse until the call ends or input does; return the exit status."""
    async with _calling(url, key, console) as caller:
        with contextlib.ExitStack() as devices:
            microphone = devices.enter_context(_devices(caller, console))
            if not microphone:
                console.print("[dim]no microphone here: type, Ctrl-D hangs up[/]")
            loop = asyncio.get_running_loop()
            while not caller.ended:
                line = asyncio.ensure_future(loop.run_in_executor(None, sys.stdin.readline))
                ended = asyncio.create_task(caller.until(lambda: False, 24 * 3600.0))
                await asyncio.wait({line, ended}, return_when=asyncio.FIRST_COMPLETED)
                ended.cancel()
                if not line.done() or not line.result():
                    break
                if line.result().strip():
                    since = len(caller.events)
                    await caller.type(line.result().strip())
                    if not sys.stdin.isatty():
                        await _agent_done(caller, since)
    return 0


@contextlib.asynccontextmanager
async def _calling(url: str, key: str, console: Console) -> AsyncIterator[Caller]:
    """Dial, with errors that say what to do.

    Raises:
        RuntimeError: If the server cannot be reached or refuses.
    """
    try:
        async with dial(url, RATE, key, Printer(console).show) as caller:
            yield caller
    except InvalidStatus as error:
        body = (error.response.body or b"").decode(errors="replace")
        raise RuntimeError(
            f"{url} refused the call: HTTP {error.response.status_code} {body[:300]}"
        ) from None
    except (ConnectionError, WebSocketException, TimeoutError) as error:
        raise RuntimeError(
            f"nobody answers at {url} ({error}): start a server with voice serve, or give --url"
        ) from None


async def _agent_done(caller: Caller, since: int) -> None:
    """Wait until the agent has said something new to its end."""
    await caller.until(lambda: bool(caller.heard(since)), LONGEST_LINE)


async def _speech(turn: str | Path, voice: str) -> tuple[Pcm, int]:
    """Return what the caller plays in one turn, with its rate."""
    return read_wav(turn) if isinstance(turn, Path) else await synthesise(turn, voice)


async def synthesise(text: str, voice: str) -> tuple[Pcm, int]:
    """Return `text` as espeak-ng's `voice` says it, with its rate.

    Raises:
        EngineError: If there is no such voice.
    """

    async def once() -> AsyncIterator[str]:
        yield text

    engine = Espeak()
    await engine.start()
    try:
        deadline = asyncio.get_running_loop().time()
        chunks = [chunk.pcm async for chunk in engine.speak(once(), voice, deadline)]
    finally:
        await engine.stop()
    return np.concatenate(chunks), engine.rate


def read_wav(path: Path) -> tuple[Pcm, int]:
    """Return the first channel of a PCM16 WAV file, with its rate.

    Raises:
        ValueError: If it is something else.
    """
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            if width != 2:
                raise ValueError(f"{path} has {8 * width}-bit samples; expected 16-bit PCM")
            samples = from_pcm16(file.readframes(file.getnframes()))
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is no PCM WAV file: {error}") from None
    return samples.reshape(-1, channels)[:, 0], rate


def write_wav(path: Path, pcm: Pcm, rate: int) -> None:
    """Write samples as PCM16; `pcm` is (n,) or (n, channels)."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if pcm.ndim == 1 else pcm.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(to_pcm16(pcm))


@contextlib.contextmanager
def _devices(caller: Caller, console: Console) -> Any:
    """Connect the microphone and loudspeaker of this machine, if it has them; yield whether."""
    try:
        import sounddevice
    except (ImportError, OSError):  # OSError: PortAudio itself is missing
        yield False
        return
    samples = RATE // 50
    loop = asyncio.get_running_loop()

    def exchange(
        heard: Any, played: Any, frames: int, time: Any, status: Any
    ) -> None:  # on PortAudio's thread
        loop.call_soon_threadsafe(caller.hear_microphone, heard[:, 0].copy())
        played[:, 0] = caller.loudspeaker(frames)

    try:
        stream = sounddevice.Stream(
            RATE, samples, channels=1, dtype="float32", latency="low", callback=exchange
        )
    except sounddevice.PortAudioError as error:
        console.print(f"[dim]{escape(str(error))}[/]")
        yield False
        return
    with stream:
        console.print("[dim]speak; Ctrl-D hangs up (headphones, or it hears itself)[/]")
        yield True
