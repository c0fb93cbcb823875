"""Opening a store: created, found again, upgraded, or refused with a remedy."""

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from kheishd.store.checkup import needs_check, write_note
from kheishd.store.environment import DATA, Snapshot
from kheishd.store.guards import StoreUnusable, read_marker
from kheishd.store.opening import (
    explain_errors,
    open_environment,
    open_for_reading,
    open_lmdb,
    read_info,
)
from kheishd.store.pages import PageFile
from kheishd.store.tables import CHECKPOINTS, JOURNAL, META, TABLES
from kheishd.store.upgrades import SCHEMA, SCHEMA_KEY, VERSION_KEY
from protocol.limits.units import MIB
from tests.support.stores import append, damage_page, needs_strace, open_inline, python, strace_with


@contextmanager
def inside(directory: Path) -> Iterator[lmdb.Environment]:
    """Provide the bare environment of a closed store, to change its description."""
    env = lmdb.open(str(directory), max_dbs=64, map_size=64 * MIB)
    try:
        yield env
    finally:
        env.close()


def say(directory: Path, key: bytes, value: bytes | None) -> None:
    """Change one row of META behind the store's back."""
    with inside(directory) as env:
        meta = env.open_db(META.name.encode())
        with env.begin(write=True, db=meta) as txn:
            if value is None:
                txn.delete(key)
            else:
                txn.put(key, value)


def refused(directory: Path) -> str:
    """Return the refusal of opening."""
    with pytest.raises(StoreUnusable) as caught:
        open_inline(directory)
    return str(caught.value)


def mode(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_store(tmp_path: Path) -> None:
    """A new store and its directories belong to its owner alone, whatever the umask; it has an identity."""
    directory = tmp_path / "home" / "state"
    previous = os.umask(0)
    try:
        store = open_inline(directory, "1.2.3")
    finally:
        os.umask(previous)
    assert mode(directory) == 0o700
    assert {path.name: mode(path) for path in directory.iterdir()} == {
        "data.mdb": 0o600,
        "lock.mdb": 0o600,
        "identity": 0o600,
    }
    assert read_marker(directory) == store.identity
    assert store.schema == SCHEMA
    with store.read() as snapshot:
        assert snapshot.get(META, "version") == b"1.2.3"
        assert snapshot.get(META, "schema") == str(SCHEMA).encode()
    store.close()


def test_what_was_committed_is_found_again(store_dir: Path) -> None:
    """A closed and opened store has the same identity and journal."""
    store = open_inline(store_dir)
    append(store, text="kept")
    identity = store.identity
    store.close()
    store = open_inline(store_dir)
    assert store.identity == identity
    assert append(store) == 2
    store.close()


def test_a_directory_open_to_others_is_closed_to_them(store_dir: Path) -> None:
    """Every start sets the modes right."""
    open_inline(store_dir).close()
    store_dir.chmod(0o755)
    (store_dir / DATA).chmod(0o644)
    open_inline(store_dir).close()
    assert (mode(store_dir), mode(store_dir / DATA)) == (0o700, 0o600)


def test_what_a_killed_restore_or_compaction_left_is_removed(store_dir: Path) -> None:
    """Opening removes leftover copies, which are as large as the store itself."""
    open_environment(store_dir, version="test").close()
    for name in (".restoring", ".compacting"):
        (store_dir / name).mkdir()
        (store_dir / name / "data.mdb").write_bytes(b"x" * 4096)
    open_environment(store_dir, version="test").close()
    assert sorted(path.name for path in store_dir.iterdir()) == [
        "checked",
        "data.mdb",
        "identity",
        "lock.mdb",
    ]


def test_opening_again_writes_nothing(store_dir: Path) -> None:
    """A start with nothing to change commits nothing."""
    open_inline(store_dir).close()
    previous = (store_dir / DATA).read_bytes()
    open_inline(store_dir).close()
    assert (store_dir / DATA).read_bytes() == previous


def test_an_opening_that_ends_the_process_is_checked_at_the_next(store_dir: Path) -> None:
    """Damage that looks like an orderly stop can end LMDB by a signal, once: then the file is checked."""
    open_inline(store_dir).close()
    assert not needs_check(store_dir / DATA)
    pages = PageFile(store_dir / DATA)
    pages.close()
    content, start = bytearray((store_dir / DATA).read_bytes()), pages.meta.main.root * pages.meta.page_bytes
    content[start + 16 : start + 60] = b"\xff" * 44
    damage_page(store_dir / DATA, pages.meta.main.root, bytes(content[start : start + pages.meta.page_bytes]))
    write_note(store_dir / DATA)
    program = "import sys; from pathlib import Path; from tests.support.stores import open_inline"
    ended = python(f"{program}; open_inline(Path(sys.argv[1]))", store_dir)
    assert ended.returncode == -signal.SIGBUS
    assert "is damaged" in refused(store_dir)


@needs_strace
def test_it_opens_on_a_full_disk(store_dir: Path) -> None:
    """On a full disk even a new version opens the store, and reads only."""
    store = open_inline(store_dir, "1.0")
    append(store)
    store.close()
    program = """
import sys
from pathlib import Path
from kheishd.store.tables import META
from tests.support.stores import open_inline
with open_inline(Path(sys.argv[1]), "2.0").read() as snapshot:
    print(snapshot.last_cursor, snapshot.get(META, "version"))
"""
    ended = python(program, store_dir, under=strace_with("pwrite64,writev,pwritev:error=ENOSPC"))
    assert ended.stdout == "1 b'1.0'\n", ended.stderr


@needs_strace
def test_an_upgrade_on_a_full_disk_asks_for_space(store_dir: Path) -> None:
    """Without space for an upgrade, opening names the remedy, and the store opens once there is some."""
    store = open_inline(store_dir)
    append(store)
    store.close()
    say(store_dir, SCHEMA_KEY, str(SCHEMA - 2).encode())
    program = "import sys; from pathlib import Path; from tests.support.stores import open_inline\n"
    program += "open_inline(Path(sys.argv[1]))"
    ended = python(program, store_dir, under=strace_with("pwrite64,writev,pwritev:error=ENOSPC"))
    assert "is full" in ended.stderr
    assert "Free some space" in ended.stderr
    say(store_dir, SCHEMA_KEY, str(SCHEMA).encode())
    with open_inline(store_dir).read() as snapshot:
        assert snapshot.last_cursor == 1


def test_the_version_that_wrote_last_is_kept(store_dir: Path) -> None:
    """A start stores the version's name."""
    open_inline(store_dir, "1.0").close()
    store = open_inline(store_dir, "1.1")
    with store.read() as snapshot:
        assert snapshot.get(META, "version") == b"1.1"
    store.close()


def test_a_newer_schema_is_refused(store_dir: Path) -> None:
    """The refusal names the version that wrote the store and asks to start it."""
    open_inline(store_dir).close()
    say(store_dir, SCHEMA_KEY, str(SCHEMA + 1).encode())
    say(store_dir, VERSION_KEY, b"9.9.9")
    message = refused(store_dir)
    assert "written by kheish 9.9.9" in message
    assert "Start kheish 9.9.9 or newer" in message
    with pytest.raises(StoreUnusable, match=r"9\.9\.9"), open_for_reading(store_dir):
        pass


@pytest.mark.parametrize(("key", "value"), [(SCHEMA_KEY, None), (SCHEMA_KEY, b"x"), (VERSION_KEY, None)])
def test_a_store_that_does_not_say_its_schema_is_refused(
    store_dir: Path, key: bytes, value: bytes | None
) -> None:
    """A store without a schema is not taken for a new one."""
    open_inline(store_dir).close()
    say(store_dir, key, value)
    assert "does not say which schema" in refused(store_dir)


def test_an_environment_of_something_else_is_refused(store_dir: Path) -> None:
    """An LMDB file of another program is left alone."""
    store_dir.mkdir()
    with inside(store_dir) as env, env.begin(write=True) as txn:
        txn.put(b"theirs", b"1")
    assert "not a store of kheish" in refused(store_dir)


def test_an_emptied_store_is_refused(store_dir: Path) -> None:
    """An empty environment is refused where the marker says that a store was."""
    open_inline(store_dir).close()
    (store_dir / DATA).unlink()
    with inside(store_dir) as env, env.begin(write=True) as txn:
        txn.put(b"x", b"1")
    with inside(store_dir) as env, env.begin(write=True) as txn:
        txn.delete(b"x")
    assert "holds nothing" in refused(store_dir)


def test_limited_address_space_is_named(store_dir: Path) -> None:
    """If a terabyte cannot be reserved, the message names the limit to raise."""
    program = """
import resource, sys
from pathlib import Path
from tests.support.stores import open_inline
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
open_inline(Path(sys.argv[1]))
"""
    ended = python(program, store_dir)
    assert ended.returncode == 1
    assert "address space" in ended.stderr
    assert "ulimit -v unlimited" in ended.stderr
    assert "LimitAS=infinity" in ended.stderr
    open_inline(store_dir).close()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (lmdb.CorruptedError("mdb_get"), "damaged.*kheishd restore"),
        (lmdb.InvalidError("mdb_env_open"), "damaged.*kheishd restore"),
        (lmdb.DiskError("mdb_env_open"), "cannot be opened"),
        (PermissionError(13, "Permission denied"), "cannot be opened.*Permission denied"),
        (lmdb.MemoryError("mdb_env_open"), "address space"),
        (lmdb.MapFullError("mdb_put"), "full.*Free some space"),
    ],
)
def test_every_error_is_explained(store_dir: Path, error: Exception, words: str) -> None:
    """Every error of LMDB and the system becomes one kind of refusal."""
    with pytest.raises(StoreUnusable, match=f"(?s){words}"), explain_errors(store_dir):
        raise error


def test_a_refusal_lets_go_of_the_store(store_dir: Path) -> None:
    """A refusal releases the lock and closes the environment, so a mended store opens."""
    open_inline(store_dir, "1.0").close()
    say(store_dir, SCHEMA_KEY, b"99")
    refused(store_dir)
    say(store_dir, SCHEMA_KEY, str(SCHEMA).encode())
    open_inline(store_dir).close()


def test_for_reading_only(store_dir: Path) -> None:
    """A store opened for reading cannot be written, and its file stays unchanged."""
    store = open_inline(store_dir)
    append(store)
    store.close()
    previous = (store_dir / DATA).read_bytes()
    with open_for_reading(store_dir) as environment, Snapshot(environment) as snapshot:
        assert snapshot.last_cursor == 1
        assert set(environment.handles) == set(TABLES)
        with pytest.raises(lmdb.Error):
            environment.lmdb.begin(write=True)
    assert (store_dir / DATA).read_bytes() == previous


def test_there_is_nothing_to_read(store_dir: Path) -> None:
    """Opening for reading creates no store."""
    store_dir.mkdir()
    with pytest.raises(StoreUnusable, match="no store of kheish"), open_for_reading(store_dir):
        pass
    assert list(store_dir.iterdir()) == []


def test_reading_an_older_store(store_dir: Path) -> None:
    """A store that lacks a newer table is read without it."""
    open_inline(store_dir).close()
    with inside(store_dir) as env:
        table = env.open_db(CHECKPOINTS.name.encode())
        with env.begin(write=True) as txn:
            txn.drop(table)
    with open_for_reading(store_dir) as environment:
        assert set(TABLES) - set(environment.handles) == {CHECKPOINTS}
        assert JOURNAL in environment.handles


def test_about_a_store_without_tables(store_dir: Path) -> None:
    """An environment without tables has no description."""
    store_dir.mkdir()
    env = open_lmdb(store_dir, map_bytes=1 * MIB)
    assert read_info(env, store_dir) is None
    env.close()


def test_the_environment_knows_its_directory(store_dir: Path) -> None:
    """An opened environment can be closed and opened again."""
    opened_twice = [open_environment(store_dir, version="1", map_bytes=1 * MIB) for _ in range(1)]
    assert opened_twice[0].environment.directory == store_dir
    opened_twice[0].close()
    open_environment(store_dir, version="1", map_bytes=1 * MIB).close()
