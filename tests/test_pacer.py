import asyncio
import math

import numpy as np
import pytest

from transport.line import FRAME, Pcm
from transport.pacer import LEAD, TAIL, Pacer, Playout

RATE = 1000
SAMPLES = round(RATE * FRAME)


class Ear:
    """What a listener got, with the time of each frame."""

    def __init__(self) -> None:
        self.frames: list[tuple[float, Pcm]] = []

    def take(self, frame: Pcm) -> None:
        self.frames.append((asyncio.get_running_loop().time(), frame))


def speech(seconds: float) -> Pcm:
    return np.arange(1, round(seconds * RATE) + 1, dtype=np.float32)


async def test_the_first_frames_leave_before_write_returns_and_no_more_than_the_lead() -> None:
    ear = Ear()
    playout = Playout(Pacer(), ear.take, RATE)
    playout.write(speech(1.0))
    assert len(ear.frames) == round(LEAD / FRAME)


async def test_all_is_sent_in_order_at_the_speed_of_speech() -> None:
    ear, done = Ear(), asyncio.Event()
    playout = Playout(Pacer(), ear.take, RATE)
    playout.write(speech(0.15))
    playout.write(speech(0.15))
    playout.finish(done.set)
    await done.wait()
    sound = np.concatenate([frame for _, frame in ear.frames])
    assert np.array_equal(sound, np.concatenate([speech(0.15), speech(0.15)]))
    start = ear.frames[0][0]
    for number, (at, _) in enumerate(ear.frames):
        # Never early: at most the lead is ahead of what the listener has heard.
        assert (number + 1) * FRAME - (at - start) <= LEAD + 0.005


async def test_done_is_told_when_all_was_heard_and_not_when_it_was_sent() -> None:
    ear, done = Ear(), asyncio.Event()
    playout = Playout(Pacer(), ear.take, RATE)
    playout.write(speech(0.04))
    playout.finish(done.set)
    assert len(ear.frames) == 2
    assert not done.is_set()
    await done.wait()


async def test_a_last_short_frame_is_filled_with_silence() -> None:
    ear, done = Ear(), asyncio.Event()
    playout = Playout(Pacer(), ear.take, RATE)
    playout.write(speech(0.01))
    assert ear.frames == []
    playout.finish(done.set)
    await done.wait()
    assert len(ear.frames[0][1]) == SAMPLES
    assert not ear.frames[0][1][SAMPLES // 2 :].any()


async def test_an_empty_reply_is_heard_at_once() -> None:
    done = asyncio.Event()
    Playout(Pacer(), Ear().take, RATE).finish(done.set)
    assert done.is_set()


async def test_clear_tells_what_was_heard_and_sends_no_more() -> None:
    ear = Ear()
    playout = Playout(Pacer(), ear.take, RATE)
    playout.write(speech(1.0))
    await asyncio.sleep(0.1)
    sent = len(ear.frames)
    heard = playout.clear()
    assert 0 < heard <= sent * SAMPLES
    assert sent * SAMPLES - heard <= (LEAD + FRAME) * RATE
    await asyncio.sleep(0.05)
    assert len(ear.frames) == sent


async def test_a_reply_that_runs_dry_goes_on_and_is_counted() -> None:
    ear, done = Ear(), asyncio.Event()
    playout = Playout(Pacer(), ear.take, RATE)
    playout.write(speech(0.04))
    await asyncio.sleep(0.1)
    assert playout.underruns == 1
    assert playout.heard(asyncio.get_running_loop().time()) == 2 * SAMPLES
    playout.write(speech(0.04))
    playout.finish(done.set)
    await done.wait()
    assert len(ear.frames) == 4
    assert playout.underruns == 1


async def test_one_pacer_keeps_many_calls_apart() -> None:
    pacer = Pacer()
    ears = [Ear() for _ in range(20)]
    finished = [asyncio.Event() for _ in ears]
    for number, (ear, done) in enumerate(zip(ears, finished, strict=True)):
        playout = Playout(pacer, ear.take, RATE)
        playout.write(np.full(100, number, np.float32))
        playout.finish(done.set)
        await asyncio.sleep(0.003)
    await asyncio.gather(*(done.wait() for done in finished))
    for number, ear in enumerate(ears):
        sound = np.concatenate([frame for _, frame in ear.frames])
        assert sound.tolist() == [number] * 100


async def test_a_wire_that_fails_silences_no_other_call() -> None:
    def broken(frame: Pcm) -> None:
        if frames:
            raise OSError("gone")
        frames.append(frame)

    frames: list[Pcm] = []
    pacer, ear, done = Pacer(), Ear(), asyncio.Event()
    failing = Playout(pacer, broken, RATE, lead=FRAME)
    failing.write(speech(0.5))
    playout = Playout(pacer, ear.take, RATE)
    playout.write(speech(0.2))
    playout.finish(done.set)
    await done.wait()
    assert len(ear.frames) == 10
    assert len(frames) == 1


async def test_until_says_when_all_will_have_been_heard() -> None:
    playout = Playout(Pacer(), Ear().take, RATE)
    playout.write(speech(1.0))
    now = asyncio.get_running_loop().time()
    assert playout.until(now) == pytest.approx(now + 1.0, abs=0.05)


async def test_a_pause_takes_back_what_was_not_heard_and_sends_no_more() -> None:
    ear = Ear()
    playout = Playout(Pacer(), ear.take, RATE)
    playout.write(speech(1.0))
    await asyncio.sleep(0.1)
    heard, sent = playout.pause(), len(ear.frames)
    assert 0 < heard < sent * SAMPLES
    playout.write(speech(0.5))
    await asyncio.sleep(0.05)
    assert len(ear.frames) == sent
    assert playout.heard(asyncio.get_running_loop().time()) == heard


async def test_a_paused_reply_goes_on_where_it_is_told_to() -> None:
    ear, done = Ear(), asyncio.Event()
    playout = Playout(Pacer(), ear.take, RATE)
    for piece in np.split(speech(0.5), [7, 30, 31, 200]):
        playout.write(piece)
    playout.finish(done.set)
    await asyncio.sleep(0.2)
    word = playout.pause() - 50
    before = len(ear.frames)
    playout.resume(word)
    await done.wait()
    again = np.concatenate([frame for _, frame in ear.frames[before:]])[: 500 - word]
    assert np.array_equal(again, speech(0.5)[word:])


async def test_of_a_long_reply_only_the_tail_is_kept() -> None:
    clock = asyncio.get_running_loop().time
    playout, began = Playout(Pacer(), Ear().take, RATE, lead=60.0), clock()
    for _ in range(100):
        playout.write(speech(0.1))
    assert playout.pause() <= math.ceil((clock() - began) * RATE)  # all else was not heard
    assert sum(map(len, playout._pieces)) <= (TAIL + 0.2) * RATE
    playout.resume(0)  # forgotten: the nearest that is kept
    assert playout.clear() >= (10 - TAIL - 0.2) * RATE
