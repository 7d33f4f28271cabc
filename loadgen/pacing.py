"""Wake-ups at absolute monotonic times, finer than an event loop's 1 ms timers where the system offers it."""

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

from loadgen.clock import NS_PER_MS, NS_PER_S, now_ns

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK_CLOEXEC = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_TFD_TIMER_ABSTIME = 1


class TimerFd:
    """Call back at an absolute time through a Linux timerfd read by the loop.

    Arming anew clears an expiration, so the descriptor is never read: one system call a wake-up.
    """

    name = "timerfd"

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        libc: Any = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._settime = libc.timerfd_settime
        self._settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        self._spec = (ctypes.c_long * 4)()  # struct itimerspec: interval s and ns, then value s and ns
        self._address = ctypes.addressof(self._spec)
        self._loop = loop
        loop.add_reader(self._fd, callback)

    def arm(self, at_ns: int) -> None:
        """Call back once at `at_ns`, or at once if that has passed; replaces what was armed."""
        spec = self._spec
        spec[2], spec[3] = divmod(max(at_ns, 1), NS_PER_S)
        self._settime(self._fd, _TFD_TIMER_ABSTIME, self._address, None)

    def disarm(self) -> None:
        """Call back no more until armed again."""
        self._spec[2] = self._spec[3] = 0
        self._settime(self._fd, _TFD_TIMER_ABSTIME, self._address, None)

    def close(self) -> None:
        """Give the descriptor back."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


class LoopTimer:
    """Call back at an absolute time through the loop's own timers: 1 ms resolution, every system."""

    name = "loop timer (1 ms)"

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, at_ns: int) -> None:
        """Call back once at `at_ns`, or at once if that has passed; replaces what was armed."""
        self.disarm()
        delay_ns = at_ns - now_ns()  # uvloop takes less than half a millisecond for none at all, and would spin
        self._handle = self._loop.call_later(max(delay_ns, NS_PER_MS) / NS_PER_S if delay_ns > 0 else 0, self._callback)

    def disarm(self) -> None:
        """Call back no more until armed again."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def close(self) -> None:
        """Cancel what is armed."""
        self.disarm()


Timer = TimerFd | LoopTimer


def timer(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Timer:
    """Make the finest timer that this system has."""
    return TimerFd(loop, callback) if sys.platform == "linux" else LoopTimer(loop, callback)
