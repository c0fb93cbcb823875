"""Upgrades: each runs once, in order, whole or not at all."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from kheishd.store.environment import DATA
from kheishd.store.guards import StoreUnusable, read_marker
from kheishd.store.opening import open_lmdb
from kheishd.store.records import Receipt
from kheishd.store.tables import (
    APPROVALS,
    APPROVALS_WAITING,
    BLOBS,
    CHECKPOINT_CHUNKS,
    CHECKPOINTS,
    DEADLINES,
    INDOUBTS,
    INDOUBTS_OPEN,
    JOURNAL,
    META,
    PERMISSIONS,
    QUESTIONS,
    QUESTIONS_WAITING,
    RECEIPTS,
    RECEIPTS_BY_AGE,
    RECORDS_BY_RUN,
    RECORDS_BY_SESSION,
    RUNS,
    TABLES,
)
from kheishd.store.upgrades import (
    SCHEMA,
    SCHEMA_KEY,
    UPGRADES,
    VERSION_KEY,
    UnreadableEvent,
    Upgraded,
    UpgradePlan,
    describe_upgrade,
    expect_upgrade,
    needs_rebuild,
    u001_first_tables,
    upgrade,
)
from kheishd.store.writer import Store
from protocol.limits.units import MIB
from tests.support.stores import append, open_inline, update

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import lmdb

    from kheishd.store.table import Table


@pytest.fixture
def env(store_dir: Path) -> Iterator[lmdb.Environment]:
    """Provide a bare environment."""
    store_dir.mkdir()
    env = open_lmdb(store_dir, map_bytes=8 * MIB)
    yield env
    env.close()


def about(env: lmdb.Environment) -> tuple[bytes | None, bytes | None]:
    """Return the schema and version in META."""
    with env.begin(db=env.open_db(META.name.encode())) as txn:
        return txn.get(SCHEMA_KEY), txn.get(VERSION_KEY)


def test_they_are_numbered() -> None:
    """An upgrade's name begins with its number."""
    assert [step.__name__[:5] for step in UPGRADES] == [f"u{number:03}_" for number in range(1, SCHEMA + 1)]


def test_the_first_makes_the_tables(env: lmdb.Environment) -> None:
    """The first upgrade creates all tables and stores the schema and the version."""
    upgrade(env, 0, "1.0", (u001_first_tables,))
    assert set(env.dbs()) == {table.name.encode() for table in TABLES}
    assert about(env) == (b"1", b"1.0")


def test_a_store_of_the_first_version_gets_what_came_later(env: lmdb.Environment) -> None:
    """An old store gets the newer tables and keeps its rows."""
    upgrade(env, 0, "1.0", (u001_first_tables,))
    people = (APPROVALS, APPROVALS_WAITING, QUESTIONS, QUESTIONS_WAITING, INDOUBTS, INDOUBTS_OPEN)
    for later in (PERMISSIONS, *people, RECORDS_BY_SESSION, RECORDS_BY_RUN, DEADLINES):
        with env.begin(write=True) as txn:
            txn.drop(env.open_db(later.name.encode(), txn))
    upgrade(env, 1, "1.1")
    with env.begin() as txn:
        assert all(env.open_db(table.name.encode(), txn, create=False) for table in TABLES)
    assert about(env) == (str(SCHEMA).encode(), b"1.1")


def test_only_what_is_missing_is_done(env: lmdb.Environment) -> None:
    """Each upgrade runs once in a store's life, in order."""
    done: list[str] = []

    def second(env: lmdb.Environment, txn: object) -> None:
        done.append("second")

    def third(env: lmdb.Environment, txn: object) -> None:
        done.append("third")

    upgrade(env, 0, "1.0", (u001_first_tables,))
    upgrade(env, 1, "1.1", (u001_first_tables, second))
    upgrade(env, 2, "1.2", (u001_first_tables, second, third))
    upgrade(env, 3, "1.3", (u001_first_tables, second, third))
    assert done == ["second", "third"]
    assert about(env) == (b"3", b"1.2")


def test_one_that_fails_changes_nothing(env: lmdb.Environment) -> None:
    """A failed upgrade is rolled back; the earlier ones stay, and the next start continues there."""

    def second(env: lmdb.Environment, txn: lmdb.Transaction[bytes]) -> None:
        txn.put(b"half", b"done", db=env.open_db(META.name.encode(), txn))
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        upgrade(env, 0, "2.0", (u001_first_tables, second))
    assert about(env) == (b"1", b"2.0")
    with env.begin(db=env.open_db(META.name.encode())) as txn:
        assert txn.get(b"half") is None


def test_the_table_of_chunks_is_added(env: lmdb.Environment) -> None:
    """A store without chunks of checkpoints gets the table, and keeps its records and checkpoints."""
    upgrade(env, 0, "1.0", UPGRADES[:5])
    key = CHECKPOINTS.pack(("ses_1", 5))
    with env.begin(write=True) as txn:
        txn.drop(env.open_db(CHECKPOINT_CHUNKS.name.encode(), txn))
        txn.put(key, b"old", db=env.open_db(CHECKPOINTS.name.encode(), txn))
    upgrade(env, 5, "1.1")
    with env.begin() as txn:
        env.open_db(CHECKPOINT_CHUNKS.name.encode(), txn, create=False)
        assert txn.get(key, db=env.open_db(CHECKPOINTS.name.encode(), txn)) == b"old"
    assert not needs_rebuild(env)


KEY = RECEIPTS.pack(("uid:0", "session.send", "k"))


@pytest.mark.parametrize("journal", [True, False])
def test_renamed_fields_drop_the_records(env: lmdb.Environment, journal: bool) -> None:
    """The journal, receipts and blobs stay. The records are to be rebuilt, unless the journal is empty."""
    upgrade(env, 0, "1.0", UPGRADES[:4])
    written: list[Table[Any]] = [RUNS, CHECKPOINTS, RECEIPTS, BLOBS, *([JOURNAL] if journal else [])]
    with env.begin(write=True) as txn:
        for table in written:
            txn.put(KEY, b"old", db=env.open_db(table.name.encode(), txn))
    upgrade(env, 4, "1.1", UPGRADES[:5])
    with env.begin() as txn:
        kept = [table for table in written if txn.get(KEY, db=env.open_db(table.name.encode(), txn))]
    assert kept == [RECEIPTS, BLOBS, *([JOURNAL] if journal else [])]
    assert needs_rebuild(env) == journal


def test_renamed_fields_drop_receipts_that_cannot_be_continued(env: lmdb.Environment) -> None:
    """Receipts whose answers hold only ids stay, in both tables."""
    upgrade(env, 0, "1.0", UPGRADES[:4])
    methods = ["approval.resolve", "conversation.send", "run.cancel", "session.send", "task.stop"]
    tables: tuple[Table[Any], ...] = (RECEIPTS, RECEIPTS_BY_AGE)
    with env.begin(write=True) as txn:
        receipts, ages = (env.open_db(table.name.encode(), txn) for table in tables)
        for number, method in enumerate(methods):
            txn.put(RECEIPTS.pack(("uid:0", method, "k")), b"r", db=receipts)
            txn.put(RECEIPTS_BY_AGE.pack((number, "uid:0", method, "k")), b"", db=ages)
    upgrade(env, 4, "1.1", UPGRADES[:5])
    with env.begin() as txn:
        kept = [
            table.unpack(key)
            for table in tables
            for key, _ in txn.cursor(env.open_db(table.name.encode(), txn))
        ]
    assert kept == [
        ("uid:0", "conversation.send", "k"),
        ("uid:0", "session.send", "k"),
        (1, "uid:0", "conversation.send", "k"),
        (3, "uid:0", "session.send", "k"),
    ]


# Before an upgrade.


KEEPING = UpgradePlan(keep=True)


@pytest.fixture
def old(store_dir: Path) -> Path:
    """Provide a closed store of schema 4 with some events and a receipt."""
    store = open_inline(store_dir, version="0.1.0")
    for _ in range(3):
        append(store)
    receipt = Receipt(params_digest=b"d", result=b"{}", at_ms=1)
    update(store, lambda tx: tx.put(RECEIPTS, "uid:0", "run.cancel", "k", value=receipt))
    update(store, lambda tx: tx.put(META, "schema", value=b"4"))
    store.close()
    return store_dir


def open_old(directory: Path, plan: UpgradePlan) -> Upgraded | None:
    """Open a store and close it; return its upgrade."""
    store = Store.open(
        directory,
        on_group=lambda group: None,
        threaded=False,
        version="0.2.0",
        rebuild=lambda tx, after: None,
        plan=plan,
    )
    store.close()
    return store.upgraded


def test_a_copy_is_kept(old: Path) -> None:
    """The copy is byte for byte the store from before, with its marker; a current store needs none."""
    before = (old / DATA).read_bytes()
    upgraded = open_old(old, KEEPING)
    kept = old.with_name("before-upgrade-from-0.1.0")
    assert upgraded == Upgraded("0.1.0", 4, kept)
    assert (kept / DATA).read_bytes() == before
    assert read_marker(kept) == read_marker(old)
    assert (kept.stat().st_mode & 0o777, (kept / DATA).stat().st_mode & 0o777) == (0o700, 0o600)
    assert f"kheishd restore {kept}" in describe_upgrade(upgraded)
    assert open_old(old, KEEPING) is None
    assert sorted(path.name for path in old.parent.iterdir()) == [kept.name, old.name]


def test_the_time_of_an_upgrade_is_expected(old: Path, tmp_path: Path) -> None:
    """An old store says how long its upgrade may take; a current, empty or damaged one says nothing."""
    seconds = expect_upgrade(old / DATA)
    assert seconds is not None
    assert 60 < seconds < 70
    open_old(old, UpgradePlan())
    assert expect_upgrade(old / DATA) is None
    (tmp_path / "damaged").write_bytes(b"\xa5" * 20_000)
    for name in ("damaged", "none"):
        assert expect_upgrade(tmp_path / name) is None


def test_without_a_copy(old: Path) -> None:
    """An upgrade without a copy says so."""
    upgraded = open_old(old, UpgradePlan())
    assert upgraded == Upgraded("0.1.0", 4, None)
    assert "no copy was kept" in describe_upgrade(upgraded)


def test_an_interrupted_upgrade_uses_its_copy_again(old: Path) -> None:
    """A copy of the same state is not made twice; one of another state is left alone."""
    kept = old.with_name("before-upgrade-from-0.1.0")
    shutil.copytree(old, kept)
    inode = (kept / DATA).stat().st_ino
    upgraded = open_old(old, KEEPING)
    assert upgraded is not None
    assert (upgraded.kept, (kept / DATA).stat().st_ino) == (kept, inode)
    # The older version was restored and went on.
    shutil.rmtree(old)
    shutil.copytree(kept, old)
    env = open_lmdb(old)
    with env.begin(write=True) as txn:
        txn.put(b"later", b"1", db=env.open_db(META.name.encode(), txn))
    env.close()
    again = open_old(old, KEEPING)
    assert again is not None
    assert again.kept == old.with_name("before-upgrade-from-0.1.0-2")


def test_an_upgrade_needs_room(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for the copy nothing is changed, and the message says how much is needed."""
    before = (old / DATA).read_bytes()
    real = os.statvfs(old)
    full = os.statvfs_result([*real[:3], 1, 1, *real[5:10]])
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(StoreUnusable, match=r"need 1 MiB; .* upgrade --no-backup"):
        open_old(old, KEEPING)
    assert (old / DATA).read_bytes() == before
    assert [path.name for path in old.parent.iterdir()] == [old.name]


def test_what_cannot_be_read_is_found_before_the_first_write(old: Path) -> None:
    """An event that the check refuses, or a row that does not decode, is named; nothing is changed."""
    before = (old / DATA).read_bytes()
    unreadable = UnreadableEvent("ses_1", 2, "its line cannot be read")
    with pytest.raises(StoreUnusable, match="the event 2 of ses_1: its line cannot be read") as refused:
        open_old(old, UpgradePlan(check=lambda snapshot: unreadable, keep=True))
    assert "kheish 0.1.0 still opens the store" in str(refused.value)
    assert (old / DATA).read_bytes() == before
    env = open_lmdb(old)
    with env.begin(write=True) as txn:
        key = RECEIPTS.pack(("uid:0", "z", "k"))
        txn.put(key, b"\xc1", db=env.open_db(RECEIPTS.name.encode(), txn))
    env.close()
    before = (old / DATA).read_bytes()
    with pytest.raises(StoreUnusable, match=r"in the table receipts, the row after uid:0 run\.cancel k"):
        open_old(old, UpgradePlan(check=lambda snapshot: None, keep=True))
    assert (old / DATA).read_bytes() == before
    assert [path.name for path in old.parent.iterdir()] == [old.name]
