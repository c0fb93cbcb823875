"""Helpers for tests of the store: events, updates, programs under strace."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from kheishd.store.environment import Snapshot
from kheishd.store.opening import MAP_BYTES, open_for_reading
from kheishd.store.pages import NODE_HEADER, PAGE_HEADER, PageFile, newest, read_metas
from kheishd.store.tables import CHECKPOINTS
from kheishd.store.writer import Store
from protocol.events.run import InputReceived
from protocol.transcript import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kheishd.store.environment import Transaction

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

T = TypeVar("T")
NOW_MS = 1_800_000_000_000
ROOT = Path(__file__).parents[2]


def make_input(text: str = "hello") -> InputReceived:
    """Return an input with a text."""
    return InputReceived(input_id="inp_1", items=[Text(text)], sender="user")


def open_inline(directory: Path, version: str = "test", map_bytes: int = MAP_BYTES) -> Store:
    """Return a store whose writer runs inline."""
    return Store.open(
        directory, on_group=lambda group: None, threaded=False, version=version, map_bytes=map_bytes
    )


def update(store: Store, fn: Callable[[Transaction], T]) -> T:
    """Run one transaction on a store whose writer is inline; return its value or raise its error."""
    return store.submit(fn, NOW_MS).unwrap()


def append(store: Store, stream: str = "ses_1", text: str = "hello") -> int:
    """Append one event; return its cursor."""
    return update(store, lambda tx: tx.append(stream, make_input(text))[0].cursor)


def fill(store: Store, number: int, size: int) -> None:
    """Write one large row; the same number writes the same row."""
    update(store, lambda tx: tx.put(CHECKPOINTS, "s", number, value=bytes(size)))


def strace_with(injection: str) -> list[str]:
    """Return an strace command that makes system calls of a program fail or kills the program there."""
    calls = injection.partition(":")[0]
    return ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={injection}"]


def python(
    program: str, *arguments: str | Path, under: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a Python program, perhaps under another one such as strace."""
    command = [*under, sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def content(directory: Path) -> tuple[list[tuple[int, str]], int]:
    """Return the journal and the bulk of a closed store."""
    with open_for_reading(directory) as environment, Snapshot(environment) as snapshot:
        return list(snapshot.feed()), snapshot.count(CHECKPOINTS)


def closed(directory: Path, events: int) -> Path:
    """Create a store with a number of events, and close it."""
    store = open_inline(directory)
    for _ in range(events):
        append(store)
    store.close()
    return directory


KILLED = """
import sys
from pathlib import Path
from kheishd.store.backup import restore
from kheishd.store.compaction import compact
if sys.argv[1] == "compact":
    compact(Path(sys.argv[2]))
else:
    restore(Path(sys.argv[3]), Path(sys.argv[2]))
"""
CALLS = ("mkdir", "unlink", "unlinkat", "rmdir", "rename", "link", "fsync", "fdatasync", "ftruncate")


def kills(*arguments: str | Path) -> Iterator[str]:
    """Run the program again and again, killed at the first, second, … of each call that changes files.

    Gives which it was after each kill; strace counts each call by itself.
    """
    for call in CALLS:
        for number in range(1, 100):
            under = strace_with(f"{call}:signal=SIGKILL:when={number}")
            if python(KILLED, *arguments, under=under).returncode == 0:
                break
            yield f"{call} {number}"


def point_free_page(data: Path) -> int:
    """Change one number in the list of free pages to that of a page in use; return that page."""
    descriptor = os.open(data, os.O_RDWR)
    try:
        meta = newest(*read_metas(descriptor))
        assert meta is not None
        assert meta.free.depth == 1
        leaf = bytearray(os.pread(descriptor, meta.page_bytes, meta.free.root * meta.page_bytes))
        lower = PAGE_HEADER.unpack_from(leaf)[3]
        offsets = struct.unpack_from(f"={(lower - PAGE_HEADER.size) // 2}H", leaf, PAGE_HEADER.size)
        # The key of each node is a transaction, 8 bytes; then come the number of pages, and the pages.
        list_ = offsets[-1] + NODE_HEADER.size + 8
        count = struct.unpack_from("=Q", leaf, list_)[0]
        struct.pack_into("=Q", leaf, list_ + 8 * count, meta.main.root)
        os.pwrite(descriptor, leaf, meta.free.root * meta.page_bytes)
        return meta.main.root
    finally:
        os.close(descriptor)


def damage_page(data: Path, page: int, content: bytes | None = None) -> None:
    """Overwrite a page, with zeros unless ``content`` is given."""
    size = os.sysconf("SC_PAGE_SIZE")
    descriptor = os.open(data, os.O_RDWR)
    try:
        os.pwrite(descriptor, content or bytes(size), page * size)
    finally:
        os.close(descriptor)


def find_leaf(data: Path, table: str, *, last: bool = False) -> int:
    """Return the number of a leaf of a table: the first, or the last."""
    file = PageFile(data)
    try:
        cursor = file.begin().cursor(table.encode())
        assert cursor.last() if last else cursor.first()
        return cursor._path[-1][0].number
    finally:
        file.close()


def find_older_meta(data: Path) -> int:
    """Return the number of the meta page that is not the newest."""
    with data.open("rb") as file:
        first, second = read_metas(file.fileno())
    assert first is not None
    assert second is not None
    return 0 if first.transaction < second.transaction else 1
