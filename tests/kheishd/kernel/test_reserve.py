"""The free space that is kept for the store on its disk."""

import os
from pathlib import Path

import pytest

from kheishd.kernel.reserve import MAX_SHARE, RESERVE, DiskReserve
from protocol.limits.units import GIB, MIB


def set_free_bytes(monkeypatch: pytest.MonkeyPatch, free: int, total: int = 100 * GIB) -> None:
    """Make all disks have this size and this free space."""
    page = 4096
    status = os.statvfs_result((page, page, total // page, free // page, free // page, 0, 0, 0, 0, 255))
    monkeypatch.setattr("kheishd.kernel.reserve.os.statvfs", lambda target: status)


def test_nothing_is_kept_by_default(tmp_path: Path) -> None:
    """Without a store there is no reserve."""
    assert DiskReserve().get_bytes(str(tmp_path)) == 0
    assert DiskReserve().find_problem(str(tmp_path), 10**15) is None
    assert RESERVE is not None


def test_the_last_part_of_the_disk_is_the_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that would leave less than the reserve is refused, and the refusal names the setting."""
    reserve = DiskReserve()
    reserve.keep(tmp_path, 100 * MIB)
    set_free_bytes(monkeypatch, 150 * MIB)
    assert reserve.get_bytes(str(tmp_path)) == 100 * MIB
    assert reserve.find_problem(str(tmp_path), 50 * MIB) is None
    problem = reserve.find_problem(str(tmp_path), 50 * MIB + 1)
    assert problem is not None
    assert "daemon.reserve_bytes" in problem
    descriptor = os.open(tmp_path, os.O_RDONLY)
    assert reserve.find_problem(descriptor, 50 * MIB + 1) == problem
    os.close(descriptor)


def test_a_small_disk_is_not_reserved_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reserve is at most a twentieth of the disk."""
    reserve = DiskReserve()
    reserve.keep(tmp_path, 100 * MIB)
    set_free_bytes(monkeypatch, 10 * MIB, total=20 * MIB)
    assert reserve.get_bytes(str(tmp_path)) == 20 * MIB // MAX_SHARE


def test_other_disks_are_not_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file on another disk than the store's, or one that does not exist, has no reserve."""
    reserve = DiskReserve()
    reserve.keep(tmp_path, 100 * MIB)
    set_free_bytes(monkeypatch, 0)
    assert reserve.find_problem("/proc", 1) is None
    assert reserve.find_problem(str(tmp_path / "none"), 1) is None
    reserve.keep(tmp_path / "none", 100 * MIB)
    assert reserve.find_problem(str(tmp_path), 1) is None
