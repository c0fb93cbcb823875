"""Compaction of the store of a stopped daemon: give its free pages back to the disk.

First the free pages are cut out of the file where it is, which needs no room: on a full disk, that is all
that can be done, and LMDB never reads a free page. Then, if there is room for a copy, the file is replaced by
a shorter one without free pages. Before both, the whole file is checked: a damaged one is not touched.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING, Final

from kheishd.store.backup import hold_lock, new_file, work_directory
from kheishd.store.checkup import check_data, describe_problems, write_note
from kheishd.store.environment import DATA, Environment, Snapshot
from kheishd.store.guards import COMPACTING, REPAIR, StoreUnusable, data_bytes, sync_directory, write_marker
from kheishd.store.opening import open_for_reading
from kheishd.store.pages import PageCursor, PageFile
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FALLOC_FL_KEEP_SIZE: Final = 1
FALLOC_FL_PUNCH_HOLE: Final = 2
"""Source: fallocate(2)."""

# The copy, its marker, and the directory.
_MARGIN_BYTES: Final = 64 * 1024
_COPY_FILES: Final = 4


class Compacted(Value, frozen=True):
    """The size of the data file before and after, and the bytes that were given back to the disk.

    ``needed_bytes`` is the room that a copy needs, if there was not enough.
    """

    before_bytes: int
    after_bytes: int
    freed_bytes: int
    needed_bytes: int | None = None


def compact(directory: Path) -> Compacted:
    """Give the free pages of the store in ``directory`` back to the disk.

    Errors: StoreUnusable; the store is unchanged then.
    """
    data = directory / DATA
    with hold_lock(directory):
        with open_for_reading(directory):
            before_bytes, before_blocks = data_bytes(directory), _allocated_bytes(data)
        checkup = check_data(data)
        if checkup.obstacle:
            raise StoreUnusable(f"{data} could not be checked, and was not changed: {checkup.obstacle}.")
        if checkup.problems:
            raise StoreUnusable(
                f"{data} is damaged, and was not changed: {describe_problems(checkup.problems)}. {REPAIR}"
            )
        used_bytes = _cut_out_free_pages(data)
        write_note(data)
        file_system = os.statvfs(directory)
        needed_bytes = used_bytes + _MARGIN_BYTES
        # A file system with a fixed number of files may have no other one free.
        has_files = not file_system.f_files or file_system.f_favail >= _COPY_FILES
        if not has_files or file_system.f_bavail * file_system.f_frsize < needed_bytes:
            freed = before_blocks - _allocated_bytes(data)
            return Compacted(before_bytes, data_bytes(directory), freed, needed_bytes)
        _replace(directory)
        freed = before_blocks - _allocated_bytes(data)
        return Compacted(before_bytes, data_bytes(directory), freed)


def _allocated_bytes(data: Path) -> int:
    return data.stat().st_blocks * 512


def _cut_out_free_pages(data: Path) -> int:
    """Give the free pages back to the file system; return the size of all others.

    A file system that cannot do this keeps them, which does no harm.
    """
    file = PageFile(data)
    try:
        size, pages = file.meta.page_bytes, file.meta.pages
        free = sorted(_free_pages(file))
    finally:
        file.close()
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    descriptor = os.open(data, os.O_RDWR | os.O_CLOEXEC)
    try:
        for first, count in _ranges(free):
            if fallocate(descriptor, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, first * size, count * size):
                break
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return (pages - len(free)) * size


def _free_pages(file: PageFile) -> Iterator[int]:
    """Yield the numbers in the lists of free pages of a file that was checked."""
    for _, numbers in PageCursor(file, file.meta.free).iternext():
        yield from struct.unpack(f"={len(numbers) // 8}Q", numbers)[1:]


def _ranges(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the runs of sorted numbers: the first, and how many follow without a gap, itself included."""
    start = count = 0
    for number in numbers:
        if count and number == start + count:
            count += 1
            continue
        if count:
            yield start, count
        start, count = number, 1
    if count:
        yield start, count


def _replace(directory: Path) -> None:
    """Copy the store without its free pages, compare the copy, and give it the name of the store."""
    data = directory / DATA
    with work_directory(directory, COMPACTING) as work:
        with open_for_reading(directory) as environment:
            with new_file(work / DATA) as target:
                environment.lmdb.copyfd(target, compact=True)
            write_marker(work, environment.identity)
            with open_for_reading(work) as copy, Snapshot(copy) as fresh, Snapshot(environment) as old:
                if _summarize(environment, old) != _summarize(copy, fresh):
                    raise StoreUnusable(f"The compacted copy of {data} differs from it; it was thrown away.")
        (work / DATA).replace(data)
        sync_directory(directory)
        write_note(data)


def _summarize(environment: Environment, snapshot: Snapshot) -> dict[str, int]:
    counts = {table.name: snapshot.count(table) for table in environment.handles}
    return counts | {"": snapshot.last_cursor}
