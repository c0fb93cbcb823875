"""What background shells wrote: a file each, of which the newest part is kept, to be read while it grows.

A file is cut to its newest part when it becomes too long: what is kept is written to a new file that takes
the old one's place, so whoever reads sees the one or the other. Its first line then says how much is missing.
That is all there is to know, so what a shell wrote can be read as well when the daemon that ran it is gone.

What is written is text in UTF-8, whatever the shell wrote: so every part of it is text.
"""

import os
import re
from codecs import getincrementaldecoder
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import trio

from kheishd.kernel.shells import Written
from kheishd.kernel.state import Bell
from protocol.limits.shell import MAX_SHELL_KEPT_BYTES, MAX_SHELL_OUTPUT_BYTES
from protocol.limits.units import KIB

PRIVATE_DIRECTORY: Final = 0o700
PRIVATE_FILE: Final = 0o600

MARKER: Final = "[... {} bytes of older output are no longer kept ...]\n"
_MARKER: Final = re.compile(rb"\[\.\.\. (\d{1,19}) bytes of older output are no longer kept \.\.\.\]\n")
MAX_MARKER_BYTES: Final = 128

# What a file is called while it is to take another's place.
NEW: Final = ".new"

# The end of what is written, kept in memory to see whether it is a question.
LAST_BYTES: Final = 1 * KIB

# Where a file is cut, the rest of the line is left out, too, if it is no longer than that.
MAX_LINE_BYTES: Final = 4 * KIB

MAX_CHARACTER_BYTES: Final = 4


class ShellLog:
    """The file of one shell while that runs. Its methods wait for the disk.

    ``problem`` says why something could not be kept. A disk that is full is no reason to stop a shell.
    """

    def __init__(
        self, path: Path, max_bytes: int = MAX_SHELL_OUTPUT_BYTES, bytes_kept: int = MAX_SHELL_KEPT_BYTES
    ) -> None:
        self.path = path
        self.total_bytes = 0
        self.last = b""
        self.problem: str | None = None
        self._max = max_bytes
        self._kept = bytes_kept
        self._size = 0
        self._descriptor = -1

    def begin(self) -> None:
        """Make the file."""
        try:
            self.path.parent.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            self._descriptor = _open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        except OSError as error:
            self._failed(error)

    def write(self, data: bytes) -> None:
        """Add to it; the oldest of it goes where it becomes too long."""
        self.total_bytes += len(data)
        self.last = (self.last + data)[-LAST_BYTES:]
        if self._descriptor < 0:
            return
        try:
            if self._size + len(data) > self._max:
                self._cut(len(data))
            _write_all(self._descriptor, data)
            self._size += len(data)
        except OSError as error:
            self._failed(error)

    def close(self) -> None:
        """No more will come."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _cut(self, coming: int) -> None:
        """Keep the newest part only, with room for what is coming."""
        wanted = max(self._kept - coming, 0)
        kept = os.pread(self._descriptor, wanted, self._size - wanted) if wanted else b""
        kept = kept[_line_start(kept) :]
        marker = MARKER.format(self.total_bytes - coming - len(kept)).encode()
        fresh = self.path.with_suffix(NEW)
        descriptor = _open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            _write_all(descriptor, marker + kept)
            os.replace(fresh, self.path)
        except OSError:
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor, self._size = descriptor, len(marker) + len(kept)

    def _failed(self, error: OSError) -> None:
        self.problem = error.strerror or str(error)
        self.close()


class ShellFiles:
    """Where what shells wrote is written and read, by the ids of their tasks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._bells: WeakValueDictionary[str, Bell] = WeakValueDictionary()

    def log(self, task_id: str) -> ShellLog:
        """The file of a shell that is about to begin."""
        return ShellLog(self._directory / task_id)

    async def write(self, task_id: str, log: ShellLog, data: bytes) -> None:
        """Add to a file, and tell those who wait for more of it."""
        await trio.to_thread.run_sync(log.write, data)
        bell = self._bells.pop(task_id, None)
        if bell is not None:
            bell.ring()

    def grown(self, task_id: str) -> Bell:
        """A bell that rings once there is more. Take it before reading."""
        bell = self._bells.get(task_id)
        if bell is None:
            bell = self._bells[task_id] = Bell()
        return bell

    async def read(self, task_id: str, max_bytes: int, offset: int | None = None) -> Written:
        """The end of what a shell wrote, or what follows an offset: so many bytes at most.

        Shape:  whole characters; nothing where there is no file.
        """
        return await trio.to_thread.run_sync(_read, self._directory / task_id, max_bytes, offset)

    async def prune(self, unwanted: Collection[str], live: Collection[str], max_bytes: int) -> None:
        """Remove what is unwanted, and then the oldest of those that do not grow, until the rest fits."""
        await trio.to_thread.run_sync(self._prune, frozenset(unwanted), frozenset(live), max_bytes)

    async def names(self) -> list[str]:
        """The ids of the tasks that there are files of."""
        return await trio.to_thread.run_sync(self._names)

    def _names(self) -> list[str]:
        with suppress(OSError):
            return sorted({name.removesuffix(NEW) for name in os.listdir(self._directory)})
        return []

    def _prune(self, unwanted: frozenset[str], live: frozenset[str], max_bytes: int) -> None:
        found = []
        for name in self._names():
            path = self._directory / name
            with suppress(OSError):
                if name not in live:
                    # A daemon may have died while it cut one.
                    path.with_suffix(NEW).unlink(missing_ok=True)
                if name in unwanted:
                    path.unlink()
                elif name not in live:
                    known = path.lstat()
                    found.append((known.st_mtime_ns, known.st_size, path))
        kept = 0
        for _, size, path in sorted(found, reverse=True):
            kept += size
            if kept > max_bytes:
                with suppress(OSError):
                    path.unlink()


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _line_start(data: bytes) -> int:
    """Where the first whole line begins, or at least the first whole character."""
    end = data.find(b"\n", 0, MAX_LINE_BYTES)
    return end + 1 if end >= 0 else _character_start(data)


def _character_start(data: bytes) -> int:
    start = 0
    while start < min(MAX_CHARACTER_BYTES - 1, len(data)) and 0x80 <= data[start] < 0xC0:
        start += 1
    return start


def _read(path: Path, max_bytes: int, offset: int | None) -> Written:
    try:
        descriptor = _open(path, os.O_RDONLY)
    except OSError:
        return Written()
    try:
        marker = _MARKER.match(os.pread(descriptor, MAX_MARKER_BYTES, 0))
        begin, gone = (marker.end(), int(marker[1])) if marker is not None else (0, 0)
        kept = os.fstat(descriptor).st_size - begin
        total = gone + kept
        # Whole characters only: with less room than one takes, nothing would ever be read.
        room = max(max_bytes, MAX_CHARACTER_BYTES)
        start = min(max(total - room if offset is None else offset, gone), total)
        data = os.pread(descriptor, room, begin + start - gone)
    finally:
        os.close(descriptor)
    skipped = _character_start(data)
    decoder = getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data[skipped:])
    return Written(
        text=text,
        offset=start + len(data) - len(decoder.getstate()[0]),
        left_out_bytes=start + skipped,
        total_bytes=total,
        kept_bytes=kept,
        path=str(path),
    )
