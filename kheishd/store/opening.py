"""Opening a store: locked, looked at, opened, and brought up to date; or refused, saying what to do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from kheishd.store.environment import DATA, Environment, Handle
from kheishd.store.guards import (
    MARKER,
    RESTORE,
    StoreUnusable,
    check_files,
    clear_workplaces,
    data_bytes,
    lock_directory,
    make_directory,
    sync_directory,
    write_marker,
)
from kheishd.store.tables import META, TABLES, Table
from kheishd.store.upgrades import (
    IDENTITY_KEY,
    SCHEMA,
    SCHEMA_KEY,
    VERSION_KEY,
    Rebuild,
    needs_rebuild,
    rebuild_records,
    upgrade,
)

__all__ = ["MAP_BYTES", "About", "Opened", "StoreUnusable", "open_environment", "opened_for_reading"]

LOCK = "lock.mdb"
_OUTDATED = (
    "The store in {directory} was written by an older version ({version}). Start the daemon once: it "
    "upgrades the store."
)

# Address space, not disk: 1 TiB of journal is some ten million long conversations. It is never resized,
# because that would pull the map away from under open snapshots.
MAP_BYTES = 1 << 40
# Each costs some 100 bytes of memory per transaction; the objects of the next versions need about 100.
MAX_TABLES = 256
# Snapshots open at once: one on the loop, a few in worker threads; 126 is LMDB's own habit.
MAX_READERS = 126


@dataclass(frozen=True, slots=True)
class Opened:
    """An environment, and the lock that keeps it ours."""

    environment: Environment
    lock: int

    def close(self) -> None:
        """Close the environment and let go of the lock. Nobody may be reading."""
        self.environment.lmdb.close()
        os.close(self.lock)


def open_environment(
    directory: Path, *, version: str, map_bytes: int = MAP_BYTES, rebuild: Rebuild | None = None
) -> Opened:
    """Open the store in ``directory``, making it if there is none, and bring it up to date.

    ``rebuild`` folds the journal into the records after an upgrade that dropped them; without it, such a
    store is refused.
    Errors: StoreUnusable.
    """
    make_directory(directory)
    lock = lock_directory(directory)
    try:
        with explained(directory):
            clear_workplaces(directory)
            expected = check_files(directory)
            env = open_lmdb(directory, map_bytes=map_bytes)
            try:
                return Opened(_enter(directory, env, expected, version, rebuild), lock)
            except BaseException:
                env.close()
                raise
    except BaseException:
        os.close(lock)
        raise


def open_lmdb(directory: Path, *, map_bytes: int = MAP_BYTES, readonly: bool = False) -> lmdb.Environment:
    """The environment as LMDB opens it, after :func:`check_files`. Errors: lmdb.Error."""
    return lmdb.open(
        str(directory),
        map_size=map_bytes,
        max_dbs=MAX_TABLES,
        max_readers=MAX_READERS,
        max_spare_txns=8,
        # Read what is asked for and no more: a cold gigabyte opens in a millisecond instead of thirty.
        readahead=False,
        mode=0o600,
        readonly=readonly,
        lock=not readonly,
    )


@contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Say what LMDB's and the system's errors in opening mean, as StoreUnusable."""
    try:
        yield
    except lmdb.MemoryError as error:
        raise StoreUnusable(
            f"The store reserves {MAP_BYTES >> 40} TiB of address space (no memory, no disk), and this "
            "process may not have it. Raise the limit: 'ulimit -v unlimited', or LimitAS=infinity for a "
            "service."
        ) from error
    except (
        lmdb.InvalidError,
        lmdb.CorruptedError,
        lmdb.VersionMismatchError,
        lmdb.PageNotFoundError,
    ) as error:
        raise StoreUnusable(f"{directory / DATA} is damaged: {error}. {RESTORE}") from error
    except lmdb.Error as error:
        raise StoreUnusable(f"The store in {directory} cannot be opened: {error}.") from error
    except OSError as error:
        raise StoreUnusable(f"The store in {directory} cannot be opened: {error}.") from error


class About(NamedTuple):
    """What a store says about itself."""

    schema: int
    version: str
    identity: str


def read_about(env: lmdb.Environment, directory: Path) -> About | None:
    """What is in META; None if there is nothing yet. Errors: StoreUnusable, lmdb.Error."""
    try:
        meta = env.open_db(META.name.encode(), create=False)
    except lmdb.NotFoundError:
        if env.stat()["entries"]:
            raise StoreUnusable(f"{directory / DATA} is an LMDB file, but not a store of kheish.") from None
        return None
    with env.begin(db=meta) as txn:
        schema, version, identity = (txn.get(key) for key in (SCHEMA_KEY, VERSION_KEY, IDENTITY_KEY))
    if schema is None or version is None or not schema.isdigit():
        raise StoreUnusable(f"{directory / DATA} does not say which schema it has. {RESTORE}")
    about = About(int(schema), version.decode(), (identity or b"").decode())
    if about.schema > SCHEMA:
        raise StoreUnusable(
            f"The store in {directory} was written by kheish {about.version} (schema {about.schema}); this "
            f"version knows schemas up to {SCHEMA}. Start kheish {about.version} or newer."
        )
    return about


def check_identity(about: About, expected: str | None, directory: Path) -> None:
    """Errors: StoreUnusable if the data is not that of the store that the marker names."""
    if expected is not None and about.identity != expected:
        raise StoreUnusable(
            f"{directory / DATA} is not the data of the store that {directory / MARKER} names: one of "
            f"the two was put there from elsewhere. {RESTORE}"
        )


def _enter(
    directory: Path, env: lmdb.Environment, expected: str | None, version: str, rebuild: Rebuild | None
) -> Environment:
    about = read_about(env, directory)
    if about is None and expected is not None:
        raise StoreUnusable(f"{directory / DATA} holds nothing, though a store was here. {RESTORE}")
    if about is not None:
        check_identity(about, expected, directory)
    identity = about.identity if about and about.identity else os.urandom(16).hex()
    if about is None or about.schema < SCHEMA:
        upgrade(env, about.schema if about else 0, version)
    handles = open_tables(env)
    _introduce(env, handles, identity, version)
    environment = Environment(directory, env, handles, identity)
    if needs_rebuild(env):
        if rebuild is None:
            raise StoreUnusable(_OUTDATED.format(directory=directory, version=version))
        rebuild_records(environment, rebuild)
    env.reader_check()
    if expected is None:
        write_marker(directory, identity)
        sync_directory(directory.parent)
    for name in (DATA, LOCK):
        (directory / name).chmod(0o600)
    return environment


def open_tables(env: lmdb.Environment) -> dict[Table[Any], Handle]:
    """The handles of all tables; one that is not there yet is made. Errors: lmdb.Error."""
    # Where all are there, this transaction writes nothing: a store opens on a full disk.
    with env.begin(write=True) as txn:
        return {table: env.open_db(table.name.encode(), txn) for table in TABLES}


def _introduce(env: lmdb.Environment, handles: dict[Table[Any], Handle], identity: str, version: str) -> None:
    """Let the store say who it is and which version wrote it last, where it does not yet."""
    meta = handles[META]
    with env.begin(write=True, db=meta) as txn:
        if txn.get(IDENTITY_KEY) is None:
            txn.put(IDENTITY_KEY, identity.encode())
    # On a full disk the name of the version has to wait; the store opens and is read all the same.
    with suppress(lmdb.DiskError, lmdb.MapFullError), env.begin(write=True, db=meta) as txn:
        if txn.get(VERSION_KEY) != version.encode():
            txn.put(VERSION_KEY, version.encode())


@contextmanager
def opened_for_reading(directory: Path, *, current: bool = False) -> Iterator[Environment]:
    """Open the store in ``directory`` for reading only; the caller holds its lock.

    ``current``: its records are to be read, so refuse a store that an upgrade has to change first.
    Errors: StoreUnusable.
    """
    with explained(directory):
        expected = check_files(directory)
        if data_bytes(directory) == 0:
            raise StoreUnusable(f"{directory} holds no store of kheish: there is no {DATA} in it.")
        env = open_lmdb(directory, readonly=True)
    try:
        with explained(directory):
            about = read_about(env, directory)
            if about is None:
                raise StoreUnusable(f"{directory / DATA} holds nothing.")
            check_identity(about, expected, directory)
            if current and (about.schema < SCHEMA or needs_rebuild(env)):
                raise StoreUnusable(_OUTDATED.format(directory=directory, version=about.version))
            handles = _tables_there(env)
        yield Environment(directory, env, handles, about.identity)
    finally:
        env.close()


def _tables_there(env: lmdb.Environment) -> dict[Table[Any], Handle]:
    """The handles of the tables that an older version made too."""
    names = {table: table.name.encode() for table in TABLES}
    there = set(env.dbs())
    return {table: env.open_db(name, create=False) for table, name in names.items() if name in there}
