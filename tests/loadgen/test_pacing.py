"""Timers: both kinds wake at the asked time, never before, and can be re-armed."""

import asyncio
import sys

import pytest

from loadgen.clock import NS_PER_MS, now_ns
from loadgen.pacing import LoopTimer, Timer, TimerFd, timer

KINDS: list[type[Timer]] = [LoopTimer, *([TimerFd] if sys.platform == "linux" else [])]


@pytest.mark.parametrize("kind", KINDS)
def test_a_timer_wakes_at_its_time(kind: type[Timer]) -> None:
    """Three wake-ups in turn come at or after their times, in order, and none comes after disarming."""
    loop = asyncio.new_event_loop()
    start_ns = now_ns()
    due = [start_ns + k * 5 * NS_PER_MS for k in (1, 2, 3)]
    woken: list[int] = []

    def wake() -> None:
        woken.append(now_ns())
        if len(woken) < len(due):
            paced.arm(due[len(woken)])
        else:
            paced.arm(now_ns() + 5 * NS_PER_MS)
            paced.disarm()
            loop.call_later(0.02, loop.stop)

    paced = kind(loop, wake)
    paced.arm(due[0])
    loop.run_forever()
    paced.close()
    loop.close()
    assert len(woken) == len(due)
    assert all(at >= asked - NS_PER_MS for at, asked in zip(woken, due, strict=True))  # the loop's own clock rounds


@pytest.mark.parametrize("kind", KINDS)
def test_a_time_that_has_passed_wakes_at_once(kind: type[Timer]) -> None:
    """Arming for the past is arming for now."""
    loop = asyncio.new_event_loop()
    paced = kind(loop, loop.stop)
    paced.arm(now_ns() - 10**9)
    loop.run_forever()  # would hang, and be ended by the suite's own time limit, if it did not wake
    paced.close()
    loop.close()


def test_a_coarse_timer_does_not_spin() -> None:
    """A wake-up less than a millisecond ahead is asked for in a whole one: uvloop would round it to none at all."""
    asked: list[float] = []

    class Loop:
        """Note the delays."""

        def call_later(self, delay_s: float, _callback: object) -> None:
            asked.append(delay_s)

    coarse = LoopTimer(Loop(), lambda: None)  # type: ignore[arg-type]
    coarse.arm(now_ns() + NS_PER_MS // 3)
    coarse.arm(now_ns() - 1)
    assert asked == [0.001, 0]


def test_linux_gets_the_finer_timer() -> None:
    """The timer in use is told by name."""
    loop = asyncio.new_event_loop()
    paced = timer(loop, loop.stop)
    assert paced.name == ("timerfd" if sys.platform == "linux" else "loop timer (1 ms)")
    paced.close()
    loop.close()
