"""Waiting for times of the wall clock, by the kernel's timer and without it."""

import time
from typing import Any

import pytest
import trio

from kheishd.kernel.state import wall_clock_ms
from kheishd.kernel.wall_clock import POLL_SECONDS, KernelClock


async def test_the_timer_wakes_at_the_time_and_not_before() -> None:
    """A time that has passed wakes at once; a time to come wakes then."""
    clock = KernelClock(wall_clock_ms)
    try:
        await clock.wait_until(wall_clock_ms() - 10**9)
        at_ms = wall_clock_ms() + 30
        await clock.wait_until(at_ms)
        assert 0 <= wall_clock_ms() - at_ms < 5_000
        # Until the clock is set: not now. A later wait replaces the timer.
        with trio.move_on_after(0.01) as scope:
            await clock.wait_until(None)
        assert scope.cancelled_caught
        await clock.wait_until(0)
    finally:
        clock.close()
        clock.close()


async def test_without_timer_files_the_clock_is_read_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Any
) -> None:
    """The wait ends at the time, and at the latest after half a minute."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError

    monkeypatch.setattr("ctypes.CDLL", refuse)
    clock = KernelClock(lambda: 1_000_000)
    for at_ms, seconds in ((1_005_000, 5.0), (10**12, POLL_SECONDS), (None, POLL_SECONDS), (0, 0.0)):
        began = trio.current_time()
        await clock.wait_until(at_ms)
        assert trio.current_time() - began == pytest.approx(seconds)
    clock.close()
    assert time.time() > 0
