"""A wall clock that a test sets, for workers that wait for times."""

import trio

from tests.support.desk import Desk, wall_clock


class SetClock:
    """A wall clock that goes with trio's clock, plus an offset that the test changes."""

    def __init__(self) -> None:
        self.offset_ms = 0
        self.waits = 0
        self._changed = trio.Event()

    def now_ms(self) -> int:
        """Return the time."""
        return wall_clock() + self.offset_ms

    def govern(self, desk: Desk) -> None:
        """Let a store take its time from this clock."""
        desk.state.now_ms = self.now_ms

    def set(self, at_ms: int) -> None:
        """Set the clock, or let the machine wake up at a time."""
        self.offset_ms += at_ms - self.now_ms()
        self._changed.set()
        self._changed = trio.Event()

    async def wait_until(self, at_ms: int | None) -> None:
        """Wait until a time, or until the clock is set."""
        self.waits += 1
        changed = self._changed
        seconds = float("inf") if at_ms is None else max((at_ms - self.now_ms()) / 1000, 0)
        with trio.move_on_after(seconds):
            await changed.wait()

    def close(self) -> None:
        """Release nothing."""
