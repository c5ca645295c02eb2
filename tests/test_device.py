"""Engines' threads take turns at the device."""

import threading
from collections.abc import Callable
from time import monotonic, sleep

import pytest

import asr.engine
import tts.engine
from voice.device import Device
from voice.schedule import Schedule

PATIENCE = 10.0
"""Seconds that a test waits for a thread."""


def turns_of_asr(device: Device) -> asr.engine.Turns:
    return device


def turns_of_tts(device: Device) -> tts.engine.Turns:
    return device


class Threads:
    """Threads that each want the device once, and the order in which they had it."""

    def __init__(self, device: Device) -> None:
        self.device, self.order = device, list[str]()
        self._threads: list[threading.Thread] = []

    def ask(self, kind: str, deadline: float | Callable[[], float], cost: float = 0.0) -> None:
        """Let another thread ask; return once it waits, or has the device."""
        before = len(self.order) + len(self.device._schedule.waiting)

        def work() -> None:
            with self.device.turn(kind, deadline, cost):
                self.order.append(kind)

        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()
        until(lambda: len(self.order) + len(self.device._schedule.waiting) > before)

    def join(self) -> None:
        """Wait for all of them."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "it waits for ever"


def until(happened: Callable[[], bool]) -> None:
    deadline = monotonic() + PATIENCE
    while not happened():
        assert monotonic() < deadline
        sleep(0.001)


def test_threads_have_the_device_in_the_order_of_their_deadlines() -> None:
    device = Device()
    threads = Threads(device)
    with device.turn("busy", 0.0, 0.1):
        for kind, deadline in (("chunk", 4.0), ("partial", 3.0), ("final", 1.0), ("phrase", 2.0)):
            threads.ask(kind, deadline)
        assert threads.order == []
    threads.join()
    assert threads.order == ["final", "phrase", "partial", "chunk"]


def test_a_deadline_that_came_nearer_while_its_thread_waited_counts() -> None:
    device = Device()
    threads = Threads(device)
    queue = [3.0]
    with device.turn("busy", 0.0, 0.1):
        threads.ask("ears", lambda: min(queue))
        threads.ask("voice", 2.0)
        queue.append(1.0)
    threads.join()
    assert threads.order == ["ears", "voice"]


def test_as_many_as_there_are_slots_have_it_at_once() -> None:
    device = Device(Schedule(slots=2))
    both = threading.Barrier(2, timeout=PATIENCE)
    inside, most = [0], [0]
    lock = threading.Lock()

    def work() -> None:
        for _ in range(50):
            with device.turn("work", 0.0, 0.0):
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                with lock:
                    inside[0] -= 1
        with device.turn("work", 0.0, 0.0):
            both.wait()  # the last two meet inside

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert most[0] <= 2
    assert not both.broken


def test_an_error_inside_gives_the_device_back() -> None:
    device = Device()
    with pytest.raises(RuntimeError, match="CUDA"), device.turn("phrase", 0.0, 0.0):
        raise RuntimeError("CUDA error")
    with device.turn("phrase", 0.0, 0.0):
        pass
    assert device.stats()["phrase"].served == 2


def test_an_error_while_waiting_leaves_nothing_behind() -> None:
    device = Device()
    threads = Threads(device)

    def fails() -> float:
        if device._schedule.waiting:
            raise KeyboardInterrupt
        return 0.0

    with device.turn("busy", 0.0, 0.1):
        with pytest.raises(KeyboardInterrupt), device.turn("partial", fails, 0.0):
            pass
        threads.ask("final", 1.0)
    threads.join()
    assert threads.order == ["final"]
    assert device._schedule.waiting == []


def test_a_reservation_holds_later_work_until_it_is_released() -> None:
    device = Device(Schedule(longest_hold=1000.0))
    threads = Threads(device)
    device.reserve("call 1", monotonic(), 0.03)
    threads.ask("partial", monotonic() + 1000.0)
    sleep(0.05)
    assert threads.order == []
    device.release("call 1")
    threads.join()
    assert threads.order == ["partial"]


def test_a_reservation_that_nobody_releases_ends_by_itself() -> None:
    device = Device(Schedule(longest_hold=0.05))
    device.reserve("lost", monotonic(), 0.03)
    asked = monotonic()
    with device.turn("partial", asked + 5.0, 0.01):
        assert monotonic() - asked >= 0.04


def test_it_is_known_how_each_kind_has_fared() -> None:
    now = [0.0]
    device = Device(clock=lambda: now[0])
    with device.turn("final", 0.0, 0.1):
        now[0] = 0.2
    with device.turn("chunk", 0.5, 0.1):
        now[0] = 0.4
    stats = device.stats()
    assert stats["final"].busy == pytest.approx(0.2)
    assert (stats["final"].late, stats["chunk"].late) == (0, 0)  # nobody had to wait

    threads = Threads(device)
    with device.turn("busy", 0.0, 0.0):
        threads.ask("chunk", 0.5)
        now[0] = 0.9
    threads.join()
    chunks = device.stats()["chunk"]
    assert (chunks.served, chunks.late) == (2, 1)
    assert (chunks.waited_p50, chunks.waited_p95) == (pytest.approx(0.5), pytest.approx(0.5))
