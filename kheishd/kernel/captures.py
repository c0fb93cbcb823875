"""The trio face of what is captured: jobs are handed over at once and done in order, by one thread at a time.

Whoever captures waits for nothing: text goes on being streamed, however slow the disk is. What waits to be
written is bounded; beyond that it is not taken, and whoever gave it says so where it would have stood. A job
that fails harms nobody: the first of a run is logged.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import trio

from kheishd.core.text.redaction import Redactor
from kheishd.core.text.scrub import Scrubber
from kheishd.kernel.capture_files import CallArtifacts, CaptureFiles, CaptureRefused, Limits
from protocol.limits.units import MIB
from protocol.objects.run import DebugArtifact

log = logging.getLogger(__name__)

Job = Callable[[], None]

# What waits to be written: the requests of a few long conversations, and what a gigabit brings in a second.
MAX_WAITING_BYTES: Final = 64 * MIB

# What a job takes besides what it writes.
JOB_BYTES: Final = 512

# How long the end of the daemon waits for what is not written yet.
CLOSE_SECONDS: Final = 2.0

# Of how many runs it is remembered that their failing was logged.
MAX_LOGGED: Final = 1_000


class Captures:
    """What is captured of the model calls of a daemon.

    ``in_thread`` runs what waits for the disk; ``clock`` is the wall clock, in seconds.
    """

    def __init__(
        self,
        files: CaptureFiles,
        *,
        in_thread: Callable[..., Awaitable[Any]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.scrubber = Scrubber()
        self.veil: Final = Redactor(os.urandom(32))
        self._files = files
        self._clock = clock
        self._in_thread = in_thread or _own_thread()
        # The loop adds to the jobs and counts what it handed over; the thread takes and counts what it did.
        self._jobs: deque[tuple[str, int, Job]] = deque()
        self._handed = self._handed_bytes = 0
        self._done = self._done_bytes = 0
        self._work = trio.Event()
        self._progress = trio.Event()
        self._logged: dict[str, None] = {}

    @property
    def limits(self) -> Limits:
        """How much is kept of one run."""
        return self._files.limits

    def scrub(self, scrubber: Scrubber) -> None:
        """From now on, let no secret of these into a file, or out of one."""
        self.scrubber = scrubber

    # Writing.

    def put(self, run_id: str, size: int, job: Job) -> bool:
        """Have a job done, after all before it; whether it was taken. One without a size always is."""
        if size and self._handed_bytes - self._done_bytes + size > MAX_WAITING_BYTES:
            return False
        self._jobs.append((run_id, size + JOB_BYTES, job))
        self._handed += 1
        self._handed_bytes += size + JOB_BYTES
        self._work.set()
        return True

    def open(self, run_id: str, stem: str) -> CallArtifacts:
        """The place for the artifacts of one call; for jobs. Errors: OSError, CaptureRefused."""
        return self._files.open(run_id, stem)

    def collect(self, max_age_s: float, max_bytes: int) -> None:
        """Have removed what is old, and as much as is too much."""
        self.put("", 0, lambda: self._files.collect(self._clock(), max_age_s, max_bytes))

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do the jobs until cancelled; those that are left then, as far as time allows."""
        task_status.started()
        try:
            while True:
                await self._work.wait()
                self._work = trio.Event()
                await self._write()
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await self._write()

    async def flushed(self) -> None:
        """Until every job is done that was handed over by now."""
        handed = self._handed
        while self._done < handed:
            await self._progress.wait()

    async def _write(self) -> None:
        while self._jobs:
            await self._in_thread(self._do, len(self._jobs))
            self._progress.set()
            self._progress = trio.Event()

    def _do(self, count: int) -> None:
        """Do so many jobs. Each is taken when its turn has come: if nobody came to it, it is still there."""
        for _ in range(count):
            try:
                run_id, size, job = self._jobs.popleft()
            except IndexError:
                return
            try:
                job()
            except Exception as error:
                self._complain(run_id, error)
            self._done += 1
            self._done_bytes += size

    def _complain(self, run_id: str, error: Exception) -> None:
        if run_id in self._logged:
            return
        if len(self._logged) >= MAX_LOGGED:
            del self._logged[next(iter(self._logged))]
        self._logged[run_id] = None
        foreseen = isinstance(error, OSError | CaptureRefused)
        extra = {"run_id": run_id} if run_id else {}
        log.warning("debug capture failed: %s", error, exc_info=None if foreseen else error, extra=extra)

    # Reading.

    async def artifacts(self, run_id: str) -> list[DebugArtifact]:
        """What was captured of a run by now, the oldest first. Errors: DebugNotFound."""
        await self.flushed()
        found: list[DebugArtifact] = await self._in_thread(self._files.artifacts, run_id)
        return found

    async def text(
        self, run_id: str, artifact_id: str, offset: int, limit: int
    ) -> tuple[DebugArtifact, str, int | None]:
        """A part of an artifact, ``limit`` bytes at most, and where it goes on.

        Errors: DebugNotFound, ArtifactNotFound.
        """
        await self.flushed()
        read = partial(self._files.text, run_id, artifact_id, offset, limit, self.scrubber)
        found: tuple[DebugArtifact, str, int | None] = await self._in_thread(read)
        return found


def _own_thread() -> Callable[..., Awaitable[Any]]:
    """One thread at a time, whatever else threads are used for; who is cancelled does not wait for it."""
    one = trio.CapacityLimiter(1)
    return partial(trio.to_thread.run_sync, abandon_on_cancel=True, limiter=one)
