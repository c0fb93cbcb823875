"""The output of background shells: one file each, which keeps the newest part and can be read while it grows.

A file that becomes too long is cut to its newest part: that part is written to a new file, which then
replaces the old one, so a reader sees either. Its first line then gives the number of missing bytes. No other
state is needed, so the output can also be read when the daemon that ran the shell is gone.

The files contain UTF-8 text, whatever the shell wrote, so every part of a file is text.
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

from kheishd.hooks.os.shell.output import trim_start
from kheishd.kernel.reserve import RESERVE
from kheishd.kernel.shells import Written
from kheishd.kernel.state import Bell
from protocol.lazy import lazy_pattern
from protocol.limits.shell import MAX_SHELL_KEPT_BYTES, MAX_SHELL_OUTPUT_BYTES
from protocol.limits.units import KIB

PRIVATE_DIRECTORY: Final = 0o700
PRIVATE_FILE: Final = 0o600

MARKER: Final = "[... {} bytes of older output are no longer kept ...]\n"
_MARKER: Final = lazy_pattern(rb"\[\.\.\. (\d{1,19}) bytes of older output are no longer kept \.\.\.\]\n")
MAX_MARKER_BYTES: Final = 128

# The suffix of a file that is about to replace another.
NEW: Final = ".new"

# The end of the output that is kept in memory, to detect a prompt.
LAST_BYTES: Final = 1 * KIB

# A cut also removes the rest of the line, if it is no longer than this.
MAX_LINE_BYTES: Final = 4 * KIB

MAX_CHARACTER_BYTES: Final = 4


class ShellLog:
    """The file of one shell while that runs. Its methods wait for the disk.

    ``problem`` is the reason if output could not be kept. A full disk is no reason to stop a shell.
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
        """Create the file."""
        try:
            self.path.parent.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            self._descriptor = _open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        except OSError as error:
            self._fail(error)

    def write(self, data: bytes) -> None:
        """Append output; the oldest part is cut off if the file becomes too long."""
        self.total_bytes += len(data)
        self.last = (self.last + data)[-LAST_BYTES:]
        if self._descriptor < 0:
            return
        self.problem = RESERVE.find_problem(self._descriptor, len(data))
        if self.problem is not None:
            self.close()
            return
        try:
            if self._size + len(data) > self._max:
                self._cut(len(data))
            _write_all(self._descriptor, data)
            self._size += len(data)
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _cut(self, incoming: int) -> None:
        """Keep the newest part only, with room for the incoming bytes."""
        length = max(self._kept - incoming, 0)
        newest = os.pread(self._descriptor, length, self._size - length) if length else b""
        end = newest.find(b"\n", 0, MAX_LINE_BYTES)
        newest = newest[end + 1 :] if end >= 0 else trim_start(newest)
        marker = MARKER.format(self.total_bytes - incoming - len(newest)).encode()
        replacement = self.path.with_suffix(NEW)
        descriptor = _open(replacement, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            _write_all(descriptor, marker + newest)
            os.replace(replacement, self.path)
        except OSError:
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor, self._size = descriptor, len(marker) + len(newest)

    def _fail(self, error: OSError) -> None:
        self.problem = error.strerror or str(error)
        self.close()


class ShellFiles:
    """The files of shells, by the ids of their tasks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._bells: WeakValueDictionary[str, Bell] = WeakValueDictionary()

    def log(self, task_id: str) -> ShellLog:
        """Return the file of a shell that is about to start."""
        return ShellLog(self._directory / task_id)

    async def write(self, task_id: str, log: ShellLog, data: bytes) -> None:
        """Append to a file, and wake those who wait for more of it."""
        await trio.to_thread.run_sync(log.write, data)
        bell = self._bells.pop(task_id, None)
        if bell is not None:
            bell.ring()

    def growth(self, task_id: str) -> Bell:
        """Return a bell that rings when the file grows. Take it before reading."""
        bell = self._bells.get(task_id)
        if bell is None:
            bell = self._bells[task_id] = Bell()
        return bell

    async def read(self, task_id: str, max_bytes: int, offset: int | None = None) -> Written:
        """Read the end of a shell's output, or the part after an offset.

        Shape:  at most ``max_bytes``, whole characters; empty if there is no file.
        """
        return await trio.to_thread.run_sync(_read, self._directory / task_id, max_bytes, offset)

    async def prune(self, unwanted: Collection[str], live: Collection[str], max_bytes: int) -> None:
        """Remove unwanted files, then the oldest of those that do not grow, until the rest fits."""
        await trio.to_thread.run_sync(self._prune, frozenset(unwanted), frozenset(live), max_bytes)

    async def names(self) -> list[str]:
        """Return the ids of the tasks that have files."""
        return await trio.to_thread.run_sync(self._names)

    def _names(self) -> list[str]:
        with suppress(OSError):
            return sorted({name.removesuffix(NEW) for name in os.listdir(self._directory)})
        return []

    def _prune(self, unwanted: frozenset[str], live: frozenset[str], max_bytes: int) -> None:
        remaining = []
        for name in self._names():
            path = self._directory / name
            with suppress(OSError):
                if name not in live:
                    # A daemon may have died during a cut.
                    path.with_suffix(NEW).unlink(missing_ok=True)
                if name in unwanted:
                    path.unlink()
                elif name not in live:
                    status = path.lstat()
                    remaining.append((status.st_mtime_ns, status.st_size, path))
        total = 0
        for _, size, path in sorted(remaining, reverse=True):
            total += size
            if total > max_bytes:
                with suppress(OSError):
                    path.unlink()


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read(path: Path, max_bytes: int, offset: int | None) -> Written:
    try:
        descriptor = _open(path, os.O_RDONLY)
    except OSError:
        return Written()
    try:
        marker = _MARKER.match(os.pread(descriptor, MAX_MARKER_BYTES, 0))
        begin, missing = (marker.end(), int(marker[1])) if marker is not None else (0, 0)
        present = os.fstat(descriptor).st_size - begin
        total = missing + present
        # Whole characters only: with less room than one takes, a reader would never make progress.
        room = max(max_bytes, MAX_CHARACTER_BYTES)
        start = min(max(total - room if offset is None else offset, missing), total)
        data = os.pread(descriptor, room, begin + start - missing)
    finally:
        os.close(descriptor)
    skipped = len(data) - len(trim_start(data))
    decoder = getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data[skipped:])
    return Written(
        text=text,
        offset=start + len(data) - len(decoder.getstate()[0]),
        left_out_bytes=start + skipped,
        total_bytes=total,
        kept_bytes=present,
        path=str(path),
    )


# Prompts.

_ESCAPES: Final = lazy_pattern(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]")

# A question, even with a line end after it.
_QUESTION: Final = lazy_pattern(
    r"[(\[]\s*(y|yes|n|no)\s*(/[^)\]]{0,30})?[)\]]\W*$"
    r"|\b(password|passphrase|username|login)\b[^\n]{0,60}:\s*$"
    r"|\bpress (enter|return|any key)\b|\b(continue|proceed|overwrite|are you sure)\b[^\n]{0,60}\?\s*$",
    re.IGNORECASE,
)

# The end of an unfinished line that waits for input.
_PROMPT: Final = lazy_pattern(r"[?:>$#%»\]]\s*$")


def ends_in_prompt(tail: str) -> bool:
    """Whether the end of some output looks like a prompt: the program waits for input that cannot come."""
    text = _ESCAPES.sub("", tail).replace("\r", "\n")
    last = next((line for line in reversed(text.split("\n")) if line.strip()), "")
    if _QUESTION.search(last):
        return True
    return not text.endswith("\n") and _PROMPT.search(last) is not None
