"""Lines of history: which cursors a restored store shares with the lines before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kheishd.store.backup import restore
from kheishd.store.environment import Snapshot
from kheishd.store.epoch import (
    MAX_EPOCHS,
    Line,
    RestoreMark,
    find_shared_cursor,
    mark_restored,
    read_backup_mark,
    read_epoch,
    read_line,
    read_restore_mark,
)
from kheishd.store.opening import open_for_marking, open_for_reading
from tests.support.stores import append, open_inline

if TYPE_CHECKING:
    from pathlib import Path

    from kheishd.store.writer import Store

MARK = RestoreMark(backup_at_ms=1, cursor=2, restored_at_ms=3)


def line_of(directory: Path) -> Line:
    """Return the line of a closed store."""
    with open_for_reading(directory) as environment, Snapshot(environment) as snapshot:
        return read_line(snapshot)


def grown(directory: Path, events: int) -> Line:
    """Append events to a closed store; return its line."""
    store = open_inline(directory)
    for _ in range(events):
        append(store)
    store.close()
    return line_of(directory)


def test_the_first_epoch_follows_from_the_identity(store: Store) -> None:
    """A new store has an epoch without a row of its own; it does not show the identity."""
    with store.read() as snapshot:
        epoch = read_epoch(snapshot)
        assert (len(epoch), find_shared_cursor(snapshot, epoch)) == (32, 0)
        assert find_shared_cursor(snapshot, "other") is None
        assert read_restore_mark(snapshot) is None
    assert epoch not in (store.identity, "")


def test_only_a_backup_has_the_mark(store: Store, tmp_path: Path) -> None:
    """A backup says when it was made and where it ends; the store itself is not marked."""
    append(store)
    store.backup(tmp_path / "copy")
    with open_for_reading(tmp_path / "copy") as environment, Snapshot(environment) as snapshot:
        mark = read_backup_mark(snapshot)
        assert mark is not None
        assert (mark.cursor, mark.at_ms > 0) == (1, True)
    with store.read() as snapshot:
        assert read_backup_mark(snapshot) is None


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_restore_begins_a_line(store: Store, tmp_path: Path, by_hand: bool) -> None:
    """A restored store has a new epoch, a pending mark, and shares with the old line what the backup has."""
    append(store)
    with store.read() as snapshot:
        old = read_epoch(snapshot)
    store.backup(tmp_path / "copy")
    target = tmp_path / "copy"
    if not by_hand:
        target = tmp_path / "restored"
        restore(tmp_path / "copy", target)
    line = grown(target, 2)
    assert (line.shared, line.last_cursor) == ({old: 1}, 3)
    assert line.epoch != old
    with open_for_reading(target) as environment, Snapshot(environment) as snapshot:
        mark = read_restore_mark(snapshot)
        assert mark is not None
        assert (mark.cursor, mark.pending) == (1, True)
        assert read_backup_mark(snapshot) is None
    assert grown(target, 0) == line, "the next start begins no line"


def test_sibling_lines_share_what_their_backups_had(store: Store, tmp_path: Path) -> None:
    """After several restores, and after the way back, a follower of any line learns the common cursor."""
    append(store)
    store.backup(tmp_path / "at-1")
    append(store)
    store.backup(tmp_path / "at-2")
    target = tmp_path / "target"
    restore(tmp_path / "at-2", target)
    first = grown(target, 3)
    kept = restore(tmp_path / "at-1", target).kept
    assert kept is not None
    second = grown(target, 4)
    original = next(iter(second.shared))
    assert second.shared == {original: 1, first.epoch: 1}
    restore(kept, target)
    third = line_of(target)
    assert third.shared == {original: 2, first.epoch: 5, second.epoch: 1}


def test_a_replaced_store_of_another_origin_shares_nothing(store: Store, tmp_path: Path) -> None:
    """A store without a common line is not remembered."""
    append(store)
    store.backup(tmp_path / "copy")
    grown(tmp_path / "other", 5)
    restore(tmp_path / "copy", tmp_path / "other")
    assert len(line_of(tmp_path / "other").shared) == 1


def test_lines_are_limited(store_dir: Path) -> None:
    """Of very many lines, the oldest are forgotten."""
    line = grown(store_dir, 1)
    many = Line("last", 1, {f"epoch-{number}": 1 for number in range(2 * MAX_EPOCHS)})
    with open_for_marking(store_dir) as env:
        mark_restored(env, many, MARK, None)
    shared = line_of(store_dir).shared
    assert (len(shared), "last" in shared, line.epoch in shared) == (MAX_EPOCHS, True, False)
