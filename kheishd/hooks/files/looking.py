"""What a file is like now: its digest, and its content where that is to be changed."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import trio

from kheishd.hooks.files.confine import Root, explained
from kheishd.kernel.hook import ToolError
from protocol.limits.files import MAX_EDIT_BYTES, MAX_HASHED_BYTES

ABSENT = "absent"
"""Stands for the digest of a file that is not there."""

PIECE_BYTES = 1 << 18

Check = Callable[[], object]
"""Called now and then during long work: what it raises ends the work."""


def still_wanted() -> None:
    """The check of work in one of trio's threads. Errors: trio.Cancelled once its caller was cancelled."""
    try:
        trio.from_thread.check_cancelled()
    except RuntimeError:
        # Called outside such a thread: nobody could have cancelled it.
        return


@dataclass(frozen=True, slots=True)
class Found:
    """A file as it was found. ``content`` is None for one that is not there or is too large to be edited.

    ``digest`` is the SHA-256 of all of it, in hex. ``stamp`` is another as soon as the file is.
    """

    path: str
    digest: str
    size: int = 0
    content: bytes | None = None
    mode: int | None = None
    stamp: tuple[int, ...] | None = None

    @property
    def absent(self) -> bool:
        """Whether there is no such file."""
        return self.digest == ABSENT


def look(root: Root, path: str, check: Check = still_wanted) -> Found:
    """What is at a path.

    Errors: ToolError for what is no ordinary file, cannot be read or is over MAX_HASHED_BYTES.
    """
    with explained(path):
        try:
            with root.file(path) as descriptor:
                return _read(path, descriptor, check)
        except FileNotFoundError:
            return Found(path, ABSENT)


def _read(path: str, descriptor: int, check: Check) -> Found:
    status = os.fstat(descriptor)
    if status.st_size > MAX_HASHED_BYTES:
        raise ToolError(
            f"{path} has {status.st_size} bytes; file tools change nothing over {MAX_HASHED_BYTES}"
        )
    digest = hashlib.sha256()
    kept: list[bytes] | None = []
    size = 0
    for piece in pieces(descriptor, check):
        digest.update(piece)
        size += len(piece)
        kept = [*kept, piece] if kept is not None and size <= MAX_EDIT_BYTES else None
    content = b"".join(kept) if kept is not None else None
    return Found(path, digest.hexdigest(), size, content, stat.S_IMODE(status.st_mode), stamp_of(status))


def pieces(descriptor: int, check: Check, size: int = MAX_HASHED_BYTES) -> Iterator[bytes]:
    """What is in a file, ``size`` bytes of it at most, also if it grows meanwhile."""
    left = size
    while left > 0 and (piece := os.read(descriptor, min(PIECE_BYTES, left))):
        check()
        left -= len(piece)
        yield piece


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """What tells one state of a file from another without reading it; another name makes no difference."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
