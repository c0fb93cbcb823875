"""The captures of a home as files: ``<home>/debug/<run id>/<artifact>``, never in the store.

When a limit leaves no space, the oldest are deleted: artifacts of a run, or whole runs, except runs that are
being written. One thread at a time may write; other threads may read meanwhile.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from kheishd.core.text.scrub import Scrubber, replace_spans
from kheishd.debug.directories import (
    TRUNCATED_LINE,
    ArtifactKind,
    CaptureRefused,
    create_file,
    describe,
    find_unused_stem,
    list_files,
    name_artifact,
    open_directory,
    open_run_directory,
    read_file,
    write_all,
)
from kheishd.kernel.reserve import RESERVE
from protocol.errors.run import ArtifactNotFound, DebugNotFound
from protocol.limits.debug import (
    DEFAULT_DEBUG_BYTES,
    MAX_DEBUG_ARTIFACT_BYTES,
    MAX_DEBUG_ARTIFACTS,
    MAX_DEBUG_RUN_BYTES,
)
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from protocol.objects.run import DebugArtifact

# The share of ``max_bytes`` that remains after an eviction, so that evictions, which read all directories,
# are rare.
EVICTION_TARGET: Final = 0.9


class CaptureLimits(Value, frozen=True):
    """The limits of one run's captures."""

    artifact_bytes: int = MAX_DEBUG_ARTIFACT_BYTES
    run_bytes: int = MAX_DEBUG_RUN_BYTES
    artifacts: int = MAX_DEBUG_ARTIFACTS


class CaptureFiles:
    """All captures of a home. ``max_bytes`` limits all of them together, until ``collect`` changes it."""

    def __init__(
        self, directory: Path, limits: CaptureLimits | None = None, max_bytes: int = DEFAULT_DEBUG_BYTES
    ) -> None:
        self.limits = limits or CaptureLimits()
        self._directory = str(directory)
        self._max_bytes = max_bytes
        self._used_bytes: int | None = None
        self._writing: Counter[str] = Counter()

    # Writing.

    def open_call(self, run_id: str, stem: str) -> CallArtifacts:
        """Return the artifacts of a model call, for writing. Errors: OSError, CaptureRefused."""
        with open_directory(self._directory, create=True) as parent:
            directory = open_run_directory(run_id, parent, create=True)
        try:
            artifacts = CallArtifacts(self, run_id, directory, find_unused_stem(directory, stem))
        except BaseException:
            os.close(directory)
            raise
        self._writing[run_id] += 1
        return artifacts

    def close_call(self, run_id: str) -> None:
        """Allow the run to be evicted again, once all its open calls are closed."""
        self._writing[run_id] -= 1
        if not self._writing[run_id]:
            del self._writing[run_id]

    def reserve(self, count: int) -> None:
        """Reserve bytes before writing them.

        Errors: CaptureRefused if evictions cannot make enough space, or the rest of the disk is the store's.
        """
        problem = RESERVE.find_problem(str(self._directory), count)
        if problem is not None:
            raise CaptureRefused(problem)
        if self._used_bytes is None:
            self._used_bytes = sum(size for _, _, size in self._list_runs())
        if self._used_bytes + count > self._max_bytes:
            self._evict(int(self._max_bytes * EVICTION_TARGET) - count)
        if self._used_bytes + count > self._max_bytes:
            raise CaptureRefused(
                f"the captures of active runs take all of debug.max_bytes ({self._max_bytes})"
            )
        self._used_bytes += count

    def release(self, count: int) -> None:
        """Return bytes that were reserved or deleted."""
        self._used_bytes = max((self._used_bytes or 0) - count, 0)

    def collect(self, now_s: float, max_age_s: float, max_bytes: int) -> None:
        """Delete runs older than ``max_age_s`` (0: none), and the oldest while all exceed ``max_bytes``.

        Errors: OSError, CaptureRefused.
        """
        self._max_bytes = max_bytes
        for run_id, modified_s, _ in self._list_runs():
            if max_age_s and modified_s < now_s - max_age_s and run_id not in self._writing:
                self._delete(run_id)
        self._used_bytes = sum(size for _, _, size in self._list_runs())
        if self._used_bytes > max_bytes:
            self._evict(int(max_bytes * EVICTION_TARGET))

    def _evict(self, target: int) -> None:
        """Delete the oldest runs until at most ``target`` bytes remain."""
        runs = sorted(self._list_runs(), key=lambda run: run[1])
        self._used_bytes = sum(size for _, _, size in runs)
        for run_id, _, size in runs:
            if self._used_bytes <= target:
                break
            if run_id not in self._writing:
                self._delete(run_id)
                self._used_bytes -= size

    def _list_runs(self) -> list[tuple[str, float, int]]:
        """Return each run with captures: its id, the time of its last write in seconds, and its bytes."""
        runs = []
        with suppress(FileNotFoundError), open_directory(self._directory) as parent:
            for run_id in os.listdir(parent):
                with suppress(OSError, CaptureRefused), _open_run(run_id, parent) as directory:
                    files = list_files(directory)
                    default = os.fstat(directory).st_mtime_ns
                    modified_ns = max((file.modified_ns for file in files), default=default)
                    runs.append((run_id, modified_ns / 1e9, sum(file.bytes for file in files)))
        return runs

    def _delete(self, run_id: str) -> None:
        """Delete a run's artifacts, and its directory unless it holds other files."""
        with open_directory(self._directory) as parent:
            with _open_run(run_id, parent) as directory:
                for file in list_files(directory):
                    os.unlink(file.name, dir_fd=directory)
            with suppress(OSError):
                os.rmdir(run_id, dir_fd=parent)

    # Reading.

    def list_artifacts(self, run_id: str) -> list[DebugArtifact]:
        """Return the artifacts of a run, oldest first. Errors: DebugNotFound."""
        artifacts = []
        with self._open_captured_run(run_id) as directory:
            for file in list_files(directory):
                # It may be evicted meanwhile.
                with suppress(OSError):
                    artifacts.append(describe(file, read_file(directory, file.name)))
        if not artifacts:
            raise DebugNotFound(field="$.params.run_id")
        return artifacts

    def read_text(
        self, run_id: str, artifact_id: str, offset: int, limit: int, scrubber: Scrubber
    ) -> tuple[DebugArtifact, str, int | None]:
        """Return an artifact, a scrubbed part of its text, and the offset of the next part.

        The text is scrubbed again, because more secrets may be known than when it was written.

        Errors: DebugNotFound, ArtifactNotFound.
        """
        with self._open_captured_run(run_id) as directory:
            file = next((file for file in list_files(directory) if file.name == artifact_id), None)
            if file is None:
                raise ArtifactNotFound(field="$.params.artifact")
            try:
                content = read_file(directory, file.name)
            except OSError:
                raise ArtifactNotFound(field="$.params.artifact") from None
        end = _find_part_end(content, offset, limit)
        # One character per byte: secrets are ASCII, and offsets remain those of the file.
        letters = content.decode("latin-1")
        part = replace_spans(letters, scrubber.find_spans(letters), offset, end).encode("latin-1")
        text = part.decode(errors="replace")
        return describe(file, content), text, end if end < len(content) else None

    @contextmanager
    def _open_captured_run(self, run_id: str) -> Iterator[int]:
        """Open the directory of a run. Errors: DebugNotFound."""
        try:
            with open_directory(self._directory) as parent:
                directory = open_run_directory(run_id, parent)
        except (OSError, CaptureRefused):
            raise DebugNotFound(field="$.params.run_id") from None
        try:
            yield directory
        finally:
            os.close(directory)


class CallArtifacts:
    """The artifacts of one model call, open for writing."""

    def __init__(self, files: CaptureFiles, run_id: str, directory: int, stem: str) -> None:
        self._files = files
        self._run_id = run_id
        self._directory = directory
        self._stem = stem
        self._events: int | None = None
        self._events_bytes = 0
        self._truncated = False
        self._others_bytes = 0

    def write_whole(self, kind: ArtifactKind, content: bytes) -> None:
        """Write a whole artifact. Errors: OSError, CaptureRefused; then nothing of it remains."""
        assert len(content) <= self._files.limits.artifact_bytes, "the caller truncates the content"
        self._make_space(len(content), new=True)
        name = name_artifact(self._stem, kind)
        descriptor = create_file(self._directory, name)
        try:
            write_all(descriptor, content)
        except OSError:
            os.unlink(name, dir_fd=self._directory)
            self._files.release(len(content))
            raise
        finally:
            os.close(descriptor)

    def append_line(self, line: bytes) -> None:
        """Append a line to the events; beyond their limit, mark them as truncated.

        Errors: OSError, CaptureRefused; then nothing of the line remains.
        """
        if self._truncated:
            return
        space = self._files.limits.artifact_bytes - self._events_bytes - len(TRUNCATED_LINE)
        if len(line) > space:
            self.truncate()
            return
        self._append(line)

    def truncate(self) -> None:
        """Mark the events as truncated; further lines are dropped. Errors: OSError, CaptureRefused."""
        if not self._truncated:
            self._truncated = True
            self._append(TRUNCATED_LINE)

    def close(self) -> None:
        """End the writing."""
        if self._events is not None:
            os.close(self._events)
        os.close(self._directory)
        self._files.close_call(self._run_id)

    def _append(self, line: bytes) -> None:
        new = self._events is None
        if new or self._others_bytes + self._events_bytes + len(line) > self._files.limits.run_bytes:
            self._make_space(len(line), new=new)
        else:
            self._files.reserve(len(line))
        if self._events is None:
            self._events = create_file(self._directory, name_artifact(self._stem, "events"))
        try:
            write_all(self._events, line)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._events, self._events_bytes)
            self._files.release(len(line))
            raise
        self._events_bytes += len(line)

    def _make_space(self, count: int, *, new: bool) -> None:
        """Delete the run's oldest artifacts until the limits allow ``count`` bytes or a new artifact."""
        limits = self._files.limits
        files = list_files(self._directory)
        used = sum(file.bytes for file in files)
        remaining = len(files)
        for file in files:
            if remaining + new <= limits.artifacts and used + count <= limits.run_bytes:
                break
            if file.name != name_artifact(self._stem, "events"):
                os.unlink(file.name, dir_fd=self._directory)
                self._files.release(file.bytes)
                used -= file.bytes
                remaining -= 1
        self._others_bytes = used - self._events_bytes
        self._files.reserve(count)


@contextmanager
def _open_run(run_id: str, parent: int) -> Iterator[int]:
    directory = open_run_directory(run_id, parent)
    try:
        yield directory
    finally:
        os.close(directory)


def _find_part_end(content: bytes, offset: int, limit: int) -> int:
    """Return the end of a part of a text; it is never inside a character."""
    end = min(offset + limit, len(content))
    boundary = end
    while boundary > offset and boundary < len(content) and content[boundary] & 0xC0 == 0x80:
        boundary -= 1
    return boundary if boundary > offset else end
