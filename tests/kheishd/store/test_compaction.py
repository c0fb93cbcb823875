"""Compaction: free pages are given back to the disk, also to a full one, and a kill does no harm."""

import os
import shutil
from pathlib import Path

import pytest

from kheishd.store.compaction import compact
from kheishd.store.environment import DATA
from kheishd.store.guards import StoreUnusable, read_marker
from kheishd.store.structure import check_structure
from kheishd.store.tables import CHECKPOINTS
from tests.support.disks import small_disk
from tests.support.stores import (
    append,
    closed,
    content,
    fill,
    kills,
    needs_strace,
    open_inline,
    point_free_page,
    update,
)

PAGE = os.sysconf("SC_PAGE_SIZE")


def bulky(directory: Path) -> Path:
    """Create a closed store most of whose pages are free."""
    store = open_inline(directory)
    for number in range(20):
        append(store)
        fill(store, number, 100_000)
    update(store, lambda tx: [tx.delete(CHECKPOINTS, *key) for key, _ in tx.scan(CHECKPOINTS)])
    append(store)
    store.close()
    return directory


def test_compact_gives_space_back(tmp_path: Path) -> None:
    """After a compaction the file is smaller and the store is the same."""
    target = bulky(tmp_path / "s")
    previous, identity, size = content(target), read_marker(target), (target / DATA).stat().st_size
    done = compact(target)
    assert (done.before_bytes, done.after_bytes) == (size, (target / DATA).stat().st_size)
    assert done.after_bytes < done.before_bytes // 4
    assert (content(target), read_marker(target)) == (previous, identity)
    store = open_inline(target)
    assert append(store) == 22
    store.close()
    assert sorted(path.name for path in target.iterdir()) == ["checked", "data.mdb", "identity", "lock.mdb"]


def test_compact_refuses_what_opening_refuses(tmp_path: Path) -> None:
    """A store that cannot be opened is not compacted, and nothing is left behind."""
    target = closed(tmp_path / "s", 40)
    os.truncate(target / DATA, 5 * PAGE)
    with pytest.raises(StoreUnusable, match="cut short"):
        compact(target)
    assert not (target / ".compacting").exists()


def test_without_room_for_a_copy_free_pages_are_cut_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the file keeps its length and takes less of the disk; the store is the same."""
    target = bulky(tmp_path / "s")
    previous, status = content(target), (target / DATA).stat()
    full = os.statvfs_result((PAGE, PAGE, 0, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr("kheishd.store.compaction.os.statvfs", lambda path: full)
    done = compact(target)
    assert (done.before_bytes, done.after_bytes) == (status.st_size, status.st_size)
    assert done.needed_bytes is not None
    assert done.freed_bytes == status.st_blocks * 512 - (target / DATA).stat().st_blocks * 512
    assert done.freed_bytes > status.st_size // 2
    assert content(target) == previous
    store = open_inline(target)
    fill(store, 99, 100_000)
    store.close()
    assert check_structure(str(target / DATA)) == []


def test_without_a_free_inode_free_pages_are_cut_out(tmp_path: Path) -> None:
    """Where no file can be created, compaction gives the free pages back and makes no copy."""
    with small_disk(tmp_path / "disk", "24m,nr_inodes=30") as disk:
        store = open_inline(disk / "s")
        for number in range(20):
            fill(store, number, 200_000)
        update(store, lambda tx: [tx.delete(CHECKPOINTS, "s", number) for number in range(20)])
        store.close()
        for number in range(os.statvfs(disk).f_favail):
            (disk / str(number)).touch()
        with pytest.raises(OSError, match="No space left"):
            (disk / "one more").touch()
        compacted = compact(disk / "s")
        assert compacted.needed_bytes is not None
        assert compacted.freed_bytes > 3_000_000


def test_a_damaged_store_is_not_compacted(tmp_path: Path) -> None:
    """A wrong list of free pages must not decide which pages are cut out."""
    target = bulky(tmp_path / "s")
    point_free_page(target / DATA)
    before = (target / DATA).read_bytes()
    with pytest.raises(StoreUnusable, match="which is in use"):
        compact(target)
    assert (target / DATA).read_bytes() == before


@needs_strace
def test_compact_can_be_killed_at_any_point(tmp_path: Path) -> None:
    """After each kill the store opens complete, and compacting again works."""
    target = bulky(tmp_path / "s")
    previous = content(target)
    shutil.copytree(target, tmp_path / "pristine")
    killed = set()
    for where in kills("compact", target):
        killed.add(where)
        assert content(target) == previous
        open_inline(target).close()
        assert not (target / ".compacting").exists(), "what the killed one left takes no room"
        assert content(target) == previous
        shutil.rmtree(target)
        shutil.copytree(tmp_path / "pristine", target)
    assert {"mkdir 1", "fsync 1", "rename 1", "rename 2", "rmdir 1"} <= killed
