"""Copies: backup while the store runs, restore and compaction while it does not, a kill at any point."""

import os
import shutil
import threading
from pathlib import Path

import msgspec
import pytest

from kheishd.store.backup import restore, verify_copy
from kheishd.store.compaction import compact
from kheishd.store.environment import DATA, Snapshot, Transaction
from kheishd.store.guards import MARKER, StoreUnusable, read_marker
from kheishd.store.opening import open_for_reading
from kheishd.store.tables import CHECKPOINTS, CURSORS, JOURNAL, META, RUNS
from kheishd.store.upgrades import SCHEMA_KEY
from kheishd.store.writer import Store
from protocol.errors.daemon import DaemonDraining, PathRefused
from protocol.errors.store import StorageFull
from tests.support.stores import (
    NOW_MS,
    append,
    closed,
    content,
    fill,
    kills,
    make_input,
    needs_strace,
    open_inline,
    python,
    update,
)

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def copy(store: Store, tmp_path: Path) -> Path:
    """Provide a backup of a store with three events and some bulk."""
    for number in range(3):
        append(store, text=f"number {number}")
        fill(store, number, 50_000)
    store.backup(tmp_path / "copy")
    return tmp_path / "copy"


# While the store runs.


def test_a_backup_is_a_whole_store(store: Store, tmp_path: Path) -> None:
    """A backup holds every earlier commit, is private, and opens by itself."""
    append(store)
    assert store.backup(tmp_path / "copy") == 1
    append(store)
    assert content(tmp_path / "copy") == ([(1, "ses_1")], 0)
    assert read_marker(tmp_path / "copy") == store.identity
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "copy").iterdir()} == {0o600}
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "state"]


def test_a_backup_leaves_out_free_pages(store: Store, tmp_path: Path) -> None:
    """Deleted rows take no space in a backup."""
    for number in range(40):
        fill(store, number, 100_000)
    update(store, lambda tx: [tx.delete(CHECKPOINTS, *key) for key, _ in tx.scan(CHECKPOINTS)])
    store.backup(tmp_path / "copy")
    assert (tmp_path / "copy" / DATA).stat().st_size < 500_000 < (store.directory / DATA).stat().st_size


def test_a_backup_while_others_write(store_dir: Path, tmp_path: Path) -> None:
    """A backup is one moment of the journal, complete up to its newest cursor, however busy the writer is."""
    enough = threading.Event()
    store = Store.open(store_dir, on_group=lambda group: None, version="test")

    def write() -> None:
        # As many at once as there may be in a group, and no more: the queue has no end of its own.
        room = threading.Semaphore(256)

        def say(tx: Transaction) -> None:
            tx.append("ses_1", make_input("x" * 1000))
            room.release()

        while not enough.is_set():
            room.acquire()
            store.submit(say, NOW_MS)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        cursors = [store.backup(tmp_path / f"copy-{number}") for number in range(3)]
    finally:
        enough.set()
        writer.join()
        store.close()
    for number, cursor in enumerate(cursors):
        assert verify_copy(tmp_path / f"copy-{number}")[1] == cursor
        assert content(tmp_path / f"copy-{number}")[0] == [(seen, "ses_1") for seen in range(1, cursor + 1)]
    assert cursors == sorted(cursors)


def test_a_backup_never_overwrites(store: Store, tmp_path: Path) -> None:
    """A backup to an existing or impossible path is refused and leaves nothing."""
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "there", tmp_path / "nowhere" / "copy"):
        with pytest.raises(PathRefused):
            store.backup(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "there"]
    assert list((tmp_path / "there").iterdir()) == []


def test_a_backup_has_a_deadline(store: Store, tmp_path: Path) -> None:
    """A backup that takes too long is abandoned and leaves neither files nor an open snapshot."""
    fill(store, 1, 200_000)
    with pytest.raises(PathRefused, match="too long"):
        store.backup(tmp_path / "copy", timeout_s=-1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert store.backup(tmp_path / "copy") == 0


def test_a_backup_is_given_up_by_who_asked_for_it(store: Store, tmp_path: Path) -> None:
    """An exception of the caller's check ends the backup, which leaves nothing."""

    def enough() -> None:
        raise LookupError("enough")

    append(store)
    with pytest.raises(LookupError, match="enough"):
        store.backup(tmp_path / "copy", check=enough)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_backup_gives_way_to_closing(store: Store, tmp_path: Path) -> None:
    """A backup ends without a copy once the store is closing."""
    environment = store._environment
    append(store)
    environment.readers.closing = True
    with pytest.raises(DaemonDraining):
        store.backup(tmp_path / "copy")
    environment.readers.closing = False
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_backup_on_a_full_disk(store_dir: Path, tmp_path: Path) -> None:
    """A backup to a full disk is refused as storage_full and leaves nothing."""
    program = """
import resource, sys
from pathlib import Path
from tests.support.stores import fill, open_inline
store = open_inline(Path(sys.argv[1]))
for number in range(10):
    fill(store, number, 100_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
store.backup(Path(sys.argv[2]))
"""
    ended = python(program, store_dir, tmp_path / "copy")
    assert f"{StorageFull.__name__}: there is no room for the backup" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


# Putting back.


def test_restore_puts_back_what_was(copy: Path, tmp_path: Path) -> None:
    """After a restore the store equals the backup; the previous data is kept; the backup is unchanged."""
    target = closed(tmp_path / "other", 7)
    done = restore(copy, target)
    assert content(target) == content(copy) == ([(1, "ses_1"), (2, "ses_1"), (3, "ses_1")], 3)
    assert (done.cursor, done.bytes) == (3, sum(file.stat().st_size for file in copy.iterdir()))
    assert done.kept == target / "before-restore-1"
    assert read_marker(target) == read_marker(copy)
    store = open_inline(target)
    assert append(store) == 4
    store.close()
    assert sorted(path.name for path in target.iterdir()) == [
        "before-restore-1",
        "checked",
        "data.mdb",
        "identity",
        "lock.mdb",
    ]


def test_what_was_kept_can_be_put_back(copy: Path, tmp_path: Path) -> None:
    """The store kept by a restore is a backup itself, even without its marker."""
    target = closed(tmp_path / "other", 7)
    kept = restore(copy, target).kept
    assert kept is not None
    assert restore(kept, target).kept == target / "before-restore-2"
    assert len(content(target)[0]) == 7
    (kept / MARKER).unlink()
    assert restore(kept, target).kept == target / "before-restore-3"
    assert len(content(target)[0]) == 7


def test_restore_where_nothing_is(copy: Path, tmp_path: Path) -> None:
    """A restore on a new machine creates the directory."""
    done = restore(copy, tmp_path / "new" / "state")
    assert done.kept is None
    assert content(tmp_path / "new" / "state") == content(copy)


@pytest.mark.parametrize("damage", ["truncated", "empty", "meta", "identity"])
def test_restore_mends_an_unusable_store(copy: Path, tmp_path: Path, damage: str) -> None:
    """A restore mends every store that opening refuses with 'restore a backup'."""
    target = closed(tmp_path / "other", 40)
    data = target / DATA
    match damage:
        case "truncated":
            os.truncate(data, data.stat().st_size // 2)
        case "empty":
            os.truncate(data, 0)
        case "meta":
            data.write_bytes(bytes(PAGE) + data.read_bytes()[PAGE:])
        case "identity":
            (target / MARKER).write_text("kheish " + "0" * 32)
        case other:
            raise AssertionError(other)
    with pytest.raises(StoreUnusable):
        open_inline(target)
    broken = data.read_bytes()
    kept = restore(copy, target).kept
    assert kept is not None
    assert (kept / DATA).read_bytes() == broken
    assert content(target) == content(copy)


def spoil(directory: Path, what: str) -> None:
    """Damage a copy."""
    data = directory / DATA
    whole = data.read_bytes()
    match what:
        case "line":
            data.write_bytes(whole.replace(b"number 1", b"number 7"))
        case "page":
            data.write_bytes(whole[:-PAGE] + b"\xa5" * PAGE)
        case "truncated":
            os.truncate(data, len(whole) // 2)
        case "data":
            data.unlink()
        case "marker":
            (directory / MARKER).write_text("kheish " + "0" * 32)
        case other:
            raise AssertionError(other)


@pytest.mark.parametrize("what", ["line", "page", "truncated", "data", "marker"])
def test_a_damaged_backup_replaces_nothing(copy: Path, tmp_path: Path, what: str) -> None:
    """A backup is verified whole, on a copy, before it replaces anything."""
    target = closed(tmp_path / "other", 7)
    previous = {path.name: path.read_bytes() for path in target.iterdir()}
    spoil(copy, what)
    with pytest.raises(StoreUnusable) as caught:
        restore(copy, target)
    assert "doctor" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == previous


@pytest.mark.parametrize("table", [RUNS, CURSORS])
def test_a_row_that_cannot_be_read_is_damage(store: Store, tmp_path: Path, table: object) -> None:
    """A record that does not decode, or a cursor without an entry, is damage."""
    append(store)
    handle = store._environment.handles[table]  # type: ignore[index]
    with store._environment.lmdb.begin(write=True) as txn:
        txn.put((9).to_bytes(8, "big"), b"\xc1\xff", db=handle)
    store.backup(tmp_path / "copy")
    with pytest.raises(StoreUnusable, match="The backup is damaged"):
        verify_copy(tmp_path / "copy")


def test_a_backup_of_an_older_version_is_restored(store: Store, tmp_path: Path) -> None:
    """Its records need not be readable, because opening the store rebuilds them."""
    append(store)
    handles = store._environment.handles
    with store._environment.lmdb.begin(write=True) as txn:
        txn.put(RUNS.pack(("run_1",)), msgspec.msgpack.encode({"start": 1}), db=handles[RUNS])
        txn.put(SCHEMA_KEY, b"4", db=handles[META])
    store.backup(tmp_path / "copy")
    assert restore(tmp_path / "copy", tmp_path / "restored").cursor == 1


def test_restore_and_compact_need_the_store_closed(copy: Path, store: Store) -> None:
    """Neither restore nor compaction touches a store that another process has open."""
    for work in (lambda: restore(copy, store.directory), lambda: compact(store.directory)):
        with pytest.raises(StoreUnusable, match="in use"):
            work()


def outcome_of(directory: Path, old: object, new: object) -> str:
    """Return the name of the store in a directory."""
    state = content(directory)
    return "old" if state == old else "new" if state == new else "neither"


@needs_strace
def test_restore_can_be_killed_at_any_point(copy: Path, tmp_path: Path) -> None:
    """After each kill there is the old store or the new one, though they have different identities."""
    target = closed(tmp_path / "s", 7)
    shutil.copytree(target, tmp_path / "pristine")
    old, new = content(target), content(copy)
    outcomes = set()
    for _ in kills("restore", target, copy):
        outcome = outcome_of(target, old, new)
        outcomes.add(outcome)
        open_inline(target).close()
        assert outcome_of(target, old, new) == outcome
        restore(copy, target)
        assert content(target) == new
        shutil.rmtree(target)
        shutil.copytree(tmp_path / "pristine", target)
    assert outcomes == {"old", "new"}
    assert content(target) == new


def test_the_journal_travels_unchanged(store: Store, tmp_path: Path) -> None:
    """A restored journal is equal line for line and hash for hash."""
    for number in range(10):
        append(store, f"ses_{number % 3}", f"text {number}")
    store.backup(tmp_path / "copy")
    compact(tmp_path / "copy")
    with (
        open_for_reading(tmp_path / "copy") as environment,
        Snapshot(environment) as there,
        store.read() as here,
    ):
        assert list(there.scan(JOURNAL)) == list(here.scan(JOURNAL))
