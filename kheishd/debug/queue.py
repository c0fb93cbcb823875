"""A queue of writes to disk: handed over at once, done in order by one thread at a time.

The loop never waits for the disk, so text keeps streaming however slow the disk is. The queue is bounded;
beyond the bound it refuses a write, and the caller records the gap. A failing write has no effect on others;
the first failure of each run is logged.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import trio

from kheishd.debug.directories import CaptureRefused
from protocol.limits.units import MIB

log = logging.getLogger(__name__)

Write = Callable[[], None]

# The requests of a few long conversations, and the bytes that a gigabit link receives in half a second.
MAX_QUEUED_BYTES: Final = 64 * MIB

# The overhead of a write, in addition to its content.
WRITE_OVERHEAD_BYTES: Final = 512

# How long the stopping daemon waits for the queue.
CLOSE_SECONDS: Final = 2.0

# Runs whose failure has been logged.
MAX_LOGGED_RUNS: Final = 1_000


class WriteQueue:
    """A queue of writes. ``in_thread`` runs a function that may wait for the disk."""

    def __init__(self, in_thread: Callable[..., Awaitable[Any]]) -> None:
        self._in_thread = in_thread
        # The loop appends writes and counts those queued; the thread removes them and counts those done.
        self._writes: deque[tuple[str, int, Write]] = deque()
        self._queued = self._queued_bytes = 0
        self._done = self._done_bytes = 0
        self._work = trio.Event()
        self._progress = trio.Event()
        self._logged: dict[str, None] = {}

    def put(self, run_id: str, size: int, write: Write) -> bool:
        """Queue a write; return whether the queue had room. A write of size 0 is always queued."""
        if size and self._queued_bytes - self._done_bytes + size > MAX_QUEUED_BYTES:
            return False
        self._writes.append((run_id, size + WRITE_OVERHEAD_BYTES, write))
        self._queued += 1
        self._queued_bytes += size + WRITE_OVERHEAD_BYTES
        self._work.set()
        return True

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do the writes until cancelled; then do the remaining ones for at most ``CLOSE_SECONDS``."""
        task_status.started()
        try:
            while True:
                await self._work.wait()
                self._work = trio.Event()
                await self._drain()
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await self._drain()

    async def flush(self) -> None:
        """Wait until all writes queued so far are done."""
        queued = self._queued
        while self._done < queued:
            await self._progress.wait()

    async def _drain(self) -> None:
        while self._writes:
            await self._in_thread(self._perform, len(self._writes))
            self._progress.set()
            self._progress = trio.Event()

    def _perform(self, count: int) -> None:
        """Do up to ``count`` writes; each stays queued until its turn, as the thread may be abandoned."""
        for _ in range(count):
            try:
                run_id, size, write = self._writes.popleft()
            except IndexError:
                return
            try:
                write()
            except Exception as error:
                self._log_failure(run_id, error)
            self._done += 1
            self._done_bytes += size

    def _log_failure(self, run_id: str, error: Exception) -> None:
        if run_id in self._logged:
            return
        if len(self._logged) >= MAX_LOGGED_RUNS:
            del self._logged[next(iter(self._logged))]
        self._logged[run_id] = None
        expected = isinstance(error, OSError | CaptureRefused)
        extra = {"run_id": run_id} if run_id else {}
        log.warning("debug capture failed: %s", error, exc_info=None if expected else error, extra=extra)


def make_thread_runner() -> Callable[..., Awaitable[Any]]:
    """Return a function that runs others in a thread, one at a time; a cancelled caller does not wait."""
    limiter = trio.CapacityLimiter(1)
    return partial(trio.to_thread.run_sync, abandon_on_cancel=True, limiter=limiter)
