"""Waiting for a time of the wall clock, which can be set, and which goes on while the machine sleeps.

The kernel's timer file wakes the waiting task at the time itself, after a suspend, and as soon as the clock
is set. Without such timers, the clock is read twice a minute.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Final, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_SECONDS: Final = 30.0
"""How often the clock is read where the kernel has no timer files."""

_CLOCK_REALTIME: Final = 0
_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK
_ABSOLUTE_AND_CANCEL_ON_SET: Final = 1 | 2


class WallClock(Protocol):
    """A clock that can be waited for."""

    async def wait_until(self, at_ms: int | None) -> None:
        """Wait until a time, or until the clock is set, whichever is first; None: until it is set."""
        ...

    def close(self) -> None:
        """Release the timer."""
        ...


class _Span(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _Span), ("value", _Span))


class KernelClock:
    """The wall clock of the kernel, by a timer file."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._file = -1
        try:
            self._library = ctypes.CDLL(None, use_errno=True)
            self._file = self._library.timerfd_create(_CLOCK_REALTIME, _FLAGS)
        except (OSError, AttributeError):
            pass

    async def wait_until(self, at_ms: int | None) -> None:
        """Wait until a time, or until the clock is set."""
        if self._file < 0:
            remaining_s = POLL_SECONDS if at_ms is None else (at_ms - self._now_ms()) / 1000
            await trio.sleep(min(max(remaining_s, 0.0), POLL_SECONDS))
            return
        # A timer at zero is off, and one a century ahead only tells that the clock was set.
        at_ms = max(at_ms if at_ms is not None else self._now_ms() + 100 * 366 * 86_400_000, 1)
        timer = _Timer(_Span(0, 0), _Span(at_ms // 1000, at_ms % 1000 * 1_000_000))
        reference = ctypes.byref(timer)
        if self._library.timerfd_settime(self._file, _ABSOLUTE_AND_CANCEL_ON_SET, reference, None) < 0:
            # The clock was set since the last call: the caller looks again.
            await trio.lowlevel.checkpoint()
            return
        await trio.lowlevel.wait_readable(self._file)

    def close(self) -> None:
        """Close the timer file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
