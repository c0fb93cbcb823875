"""The check of a data file in a child process, and the note that it was closed in order.

Reading a file through a map ends the process if the disk cannot read a page, so the check has a process of
its own. After an orderly stop the newest transaction, size and time of the file are noted beside it. A file
that differs from its note was not closed in order, or was changed by another program: it is checked before
LMDB opens it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from kheishd.store.environment import Snapshot
from kheishd.store.pages import META_BYTES, newest, parse_meta, read_metas
from protocol.structs import Value

if TYPE_CHECKING:
    from kheishd.store.environment import Environment

NOTE: Final = "checked"
"""The file beside the data with the state of the data at the last orderly stop."""

# A gigabyte takes two seconds, a quick check half of that; a loaded machine takes longer.
# The slowest disks read a few megabytes a second, and a check that ends too early leaves the store read-only.
MIN_SECONDS: Final = 60.0
SECONDS_PER_BYTE: Final = 600.0 / 2**30
# Up to here even the whole check takes a fraction of a second.
SMALL_BYTES: Final = 128 * 2**20

log = logging.getLogger("kheishd.store")

FAULTS: Final = (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT)
"""The signals that end a process because of what it reads; others say nothing about the file."""

# Two commits rarely come between two steps.
SNAPSHOT_ATTEMPTS: Final = 20

ROOT: Final = Path(__file__).parents[2]
PROGRAM: Final = (
    "import sys; sys.path.append(sys.argv[1]); from kheishd.store.structure import main; main(sys.argv[2:])"
)


class Checkup(Value, frozen=True):
    """The result of a check: the problems, and the reason if it did not reach the end of the file."""

    problems: list[str]
    obstacle: str = ""

    @property
    def doubts(self) -> list[str]:
        """The reasons not to write to the file: its problems, or that they are not known."""
        unknown = f"its file could not be checked ({self.obstacle}); the next start checks it again"
        return self.problems or ([unknown] if self.obstacle else [])


def describe_problems(problems: list[str]) -> str:
    """Return the first problem and the number of the others."""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return problems[0] + more


def limit_seconds(size: int) -> float:
    """Return the time that a check of a file of this size may take."""
    return MIN_SECONDS + size * SECONDS_PER_BYTE


def expect_check(data: Path) -> float | None:
    """Return the time that a check before opening may take; None if the file needs none or is small."""
    try:
        size = data.stat().st_size
    except OSError:
        return None
    return limit_seconds(size) if size > SMALL_BYTES and needs_check(data) else None


def check_data(data: Path, *, quick: bool = False, meta_page: bytes | None = None) -> Checkup:
    """Check a data file in a child process, as of its newest meta page or of a copy of an older one.

    If the child cannot do it, a small file is read into memory and checked here.
    """
    size = data.stat().st_size
    quick = quick and size > SMALL_BYTES
    checkup = _check_in_child(data, size, meta_page, quick=quick)
    if checkup.obstacle:
        log.error("the process that checks the store failed: %s", checkup.obstacle)
        if size <= SMALL_BYTES:
            # Imported here, because a start after an orderly stop checks nothing.
            from kheishd.store.structure import find_problems

            return Checkup(find_problems(str(data), meta_page, quick=quick, is_mapped=False))
    return checkup


def _check_in_child(data: Path, size: int, meta_page: bytes | None, *, quick: bool) -> Checkup:
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(ROOT), str(data), "quick" if quick else "all"]
    if meta_page is not None:
        command.append(meta_page.hex())
    timeout_s = limit_seconds(size)
    try:
        # All other descriptors, such as a lock, are closed in the child.
        child = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    except OSError as error:
        return Checkup([], f"no process could be started: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Checkup([], f"it took longer than {timeout_s:.0f} seconds")
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        if -child.returncode in FAULTS:
            return Checkup([f"a part of the file cannot be read: reading it ended with {name}"])
        return Checkup([], f"its process was ended by {name}; perhaps memory was short")
    try:
        problems = msgspec.json.decode(child.stdout, type=list[str])
    except msgspec.DecodeError:
        # The program did not even begin, which says nothing about the file.
        lines = child.stderr.decode(errors="replace").strip().splitlines() or ["it printed no result"]
        return Checkup([], lines[-1])
    return Checkup(problems)


def check_snapshot(environment: Environment) -> Checkup:
    """Check the file of an open environment, as of a snapshot that keeps its pages from being overwritten."""
    for _ in range(SNAPSHOT_ATTEMPTS):
        with Snapshot(environment) as snapshot:
            pages = _read_meta_pages(environment.data)
            metas = [parse_meta(page) for page in pages]
            if not all(metas):
                # The child finds the same, and names it.
                return check_data(environment.data)
            for page, meta in zip(pages, metas, strict=True):
                if meta is not None and meta.transaction == snapshot.number:
                    return check_data(environment.data, meta_page=page)
    return Checkup([], "it was written to too often meanwhile")


def _read_meta_pages(data: Path) -> list[bytes]:
    descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
    try:
        first = os.pread(descriptor, META_BYTES, 0)
        meta = parse_meta(first)
        return [first] if meta is None else [first, os.pread(descriptor, META_BYTES, meta.page_bytes)]
    finally:
        os.close(descriptor)


def write_note(data: Path) -> None:
    """Note the state of a data file that was closed in order. A note that cannot be written is none."""
    state = _describe(data)
    if state is not None:
        _write(data, f"closed {state}")


def needs_check(data: Path) -> bool:
    """Whether the file is not as an orderly stop left it."""
    return _read(data) != f"closed {_describe(data)}"


def note_opening(data: Path) -> None:
    """Note that a data file is being opened: if that ends the process, the next start checks the file."""
    _write(data, "open")


def count_unclean_start(data: Path) -> int:
    """Note that the file was not closed in order; return how often that has been so in a row."""
    word, _, number = _read(data).partition(" ")
    count = int(number) + 1 if word == "unclean" and number.isdigit() else 1
    _write(data, f"unclean {count}")
    return count


def _describe(data: Path) -> str | None:
    with suppress(OSError):
        descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
        try:
            meta = newest(*read_metas(descriptor))
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if meta is not None:
            return f"{meta.transaction} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
    return None


def _read(data: Path) -> str:
    try:
        return data.with_name(NOTE).read_text("ascii", errors="replace").strip()
    except OSError:
        return ""


def _write(data: Path, text: str) -> None:
    with suppress(OSError):
        descriptor = os.open(
            data.with_name(NOTE), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            # In place and of one length: a full disk has room for it.
            os.pwrite(descriptor, f"{text:<100}\n".encode(), 0)
        finally:
            os.close(descriptor)
