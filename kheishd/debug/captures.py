"""The debug captures of a daemon: started by model calls, written by a queue, read by handlers."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kheishd.core.text.redaction import Redactor
from kheishd.core.text.scrub import Scrubber
from kheishd.debug.queue import WriteQueue, make_thread_runner
from kheishd.kernel.captures import NO_CAPTURE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from kheishd.debug.files import CaptureFiles
    from kheishd.debug.recorder import CallRecorder
    from kheishd.kernel.captures import Capture
    from kheishd.kernel.runtime import ModelRequest
    from protocol.objects.run import DebugArtifact


class CaptureService:
    """The ``kernel.captures.Captures`` of the real daemon.

    ``in_thread`` runs a function that may wait for the disk; ``clock`` is the wall clock, in seconds.
    """

    def __init__(
        self,
        files: CaptureFiles,
        *,
        in_thread: Callable[..., Awaitable[Any]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = files
        self._clock = clock
        self._in_thread = in_thread or make_thread_runner()
        self._scrubber = Scrubber()
        self.redactor: Final = Redactor(os.urandom(32))
        self.queue: Final = WriteQueue(self._in_thread)

    def scrub(self, scrubber: Scrubber) -> None:
        """Replace the scrubber: its secrets are scrubbed from everything written or read from now on."""
        self._scrubber = scrubber

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Write until cancelled."""
        await self.queue.serve(task_status=task_status)

    def start(self, request: ModelRequest) -> Capture:
        """Return a new capture of a model call; NO_CAPTURE if its run is not captured."""
        if request.pinned.debug == "off" or not request.run_id:
            return NO_CAPTURE
        from kheishd.debug.capture import CallCapture

        return CallCapture(self.queue, self.make_recorder(request), request)

    def make_recorder(self, request: ModelRequest) -> CallRecorder:
        """Return a recorder of a model call."""
        from kheishd.debug.recorder import CallRecorder

        redactor = self.redactor if request.pinned.debug == "redacted" else None
        return CallRecorder(self._files, lambda: self._scrubber, redactor, request)

    def collect(self, max_age_s: float, max_bytes: int) -> None:
        """Start to delete old captures, and the oldest while all together exceed ``max_bytes``."""
        self.queue.put("", 0, lambda: self._files.collect(self._clock(), max_age_s, max_bytes))

    async def list_artifacts(self, run_id: str) -> list[DebugArtifact]:
        """Return the artifacts of a run, oldest first. Errors: DebugNotFound."""
        await self.queue.flush()
        artifacts: list[DebugArtifact] = await self._in_thread(self._files.list_artifacts, run_id)
        return artifacts

    async def read_text(
        self, run_id: str, artifact_id: str, offset: int, limit: int
    ) -> tuple[DebugArtifact, str, int | None]:
        """Return an artifact, at most ``limit`` bytes of its text, and the offset of the next part.

        Errors: DebugNotFound, ArtifactNotFound.
        """
        await self.queue.flush()
        read = partial(self._files.read_text, run_id, artifact_id, offset, limit, self._scrubber)
        part: tuple[DebugArtifact, str, int | None] = await self._in_thread(read)
        return part
