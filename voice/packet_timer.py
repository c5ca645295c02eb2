"""A timer to the microsecond for those who send packets in time.

uvloop's timers count whole milliseconds and asyncio's round up to the next one, so that every
packet of a call may be late by the same half a millisecond: a microphone is not. Linux has
timers that are files (timerfd_create(2)); elsewhere the loop's own must do.
"""

import asyncio
import ctypes
import errno
import os
from collections.abc import Callable
from time import monotonic

CLOCK_MONOTONIC = 1
AT_A_TIME = 1
NON_BLOCKING = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
"""TFD_TIMER_ABSTIME, TFD_NONBLOCK and TFD_CLOEXEC of timerfd_create(2)."""

SOON = 1e-6
"""Seconds until a time that is past already: a time of zero would switch it off."""


class Timespec(ctypes.Structure):
    """`struct timespec`."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Timing(ctypes.Structure):
    """`struct itimerspec`: how often it goes off again, and when first."""

    _fields_ = (("interval", Timespec), ("first", Timespec))


class PacketTimer:
    """Calls back once at each time it is set to. For one event loop."""

    def __init__(self, ring: Callable[[], None], *, exact: bool = True) -> None:
        """Call `ring` when it goes off; it may set the timer again.

        Without `exact` the loop's own timers do, which costs less.
        """
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._file = _timer_file() if exact else None
        if self._file is not None:
            self._loop.add_reader(self._file, self._read)

    def set(self, at: float) -> None:
        """Go off at `at`, in `monotonic` seconds, and not when it was set to before."""
        if self._file is None:
            self._cancel()
            self._timer = self._loop.call_at(at, self._ring)
            return
        nanoseconds = round(max(at, monotonic() + SOON) * 1e9)
        timing = Timing(Timespec(0, 0), Timespec(*divmod(nanoseconds, 10**9)))
        _c_library().timerfd_settime(self._file, AT_A_TIME, ctypes.byref(timing), None)

    def close(self) -> None:
        """Never go off again, and free what it holds."""
        self._cancel()
        if self._file is not None:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = None

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read(self) -> None:
        assert self._file is not None
        try:
            os.read(self._file, 8)
        except BlockingIOError:
            return  # it was set anew meanwhile
        self._ring()


def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _timer_file() -> int | None:
    """Open a timer, None where the system has none."""
    create = getattr(_c_library(), "timerfd_create", None)
    if create is None:
        return None
    opened = int(create(CLOCK_MONOTONIC, NON_BLOCKING))
    if opened < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"no timer: {errno.errorcode.get(number, number)}")
    return opened
