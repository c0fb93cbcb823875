"""Open a store: lock, check, open and upgrade it, or refuse it with a remedy."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import lmdb

from kheishd.store.checkup import (
    check_data,
    count_unclean_start,
    describe_problems,
    needs_check,
    note_opening,
    write_note,
)
from kheishd.store.commit import FULL_ERRORS, is_disk_full
from kheishd.store.environment import DATA, Environment, Handle, Health, Snapshot
from kheishd.store.epoch import adopt_backup
from kheishd.store.guards import (
    MARKER,
    RESTORE,
    StoreUnusable,
    check_files,
    data_bytes,
    lock_directory,
    make_directory,
    remove_leftovers,
    set_aside_unfinished,
    sync_directory,
    write_marker,
)
from kheishd.store.pages import PageDamaged, PageFile, get_handles
from kheishd.store.table import Table
from kheishd.store.tables import META, TABLES
from kheishd.store.upgrades import (
    IDENTITY_KEY,
    SCHEMA,
    SCHEMA_KEY,
    VERSION_KEY,
    Rebuild,
    Upgraded,
    UpgradePlan,
    needs_rebuild,
    prepare_upgrade,
    rebuild_records,
    upgrade,
)
from protocol.structs import Value

__all__ = ["MAP_BYTES", "Opened", "StoreUnusable", "open_environment", "open_for_reading"]

NO_PLAN = UpgradePlan()
LOCK = "lock.mdb"
_OUTDATED = (
    "The store in {directory} was written by an older version ({version}). Start the daemon once: it "
    "upgrades the store."
)

# Address space, not disk: 1 TiB of journal is some ten million long conversations. It is never resized,
# because that would invalidate the map of open snapshots.
MAP_BYTES = 1 << 40
# Each costs some 100 bytes of memory per transaction; the objects of the next versions need about 100.
MAX_TABLES = 256
# Snapshots open at once: one on the loop, a few in worker threads; 126 is LMDB's default.
MAX_READERS = 126
# A header and 126 readers of 64 bytes.
LOCK_BYTES = 8192


class Opened(Value, frozen=True):
    """An environment, the lock on its directory, and the upgrade, if the store was of an older version."""

    environment: Environment
    lock: int
    upgraded: Upgraded | None = None

    def close(self) -> None:
        """Close the environment and release the lock. No snapshot may be open."""
        self.environment.lmdb.close()
        self.environment.health.close()
        if self.environment.health.damage is None:
            write_note(self.environment.data)
        os.close(self.lock)


def open_environment(
    directory: Path,
    *,
    version: str,
    map_bytes: int = MAP_BYTES,
    rebuild: Rebuild | None = None,
    plan: UpgradePlan = NO_PLAN,
) -> Opened:
    """Open the store in ``directory``, create it if there is none, and upgrade it.

    ``rebuild`` folds the journal into the records after an upgrade that dropped them; without it, such a
    store is refused. A store that was not closed in order is checked first; a damaged one opens for reading,
    as does one that could not be checked.
    Errors: StoreUnusable.
    """
    make_directory(directory)
    lock = lock_directory(directory)
    try:
        with explain_errors(directory):
            remove_leftovers(directory)
            set_aside_unfinished(directory)
            expected = check_files(directory)
            data = directory / DATA
            was_closed = data_bytes(directory) > 0 and not needs_check(data)
            if was_closed:
                note_opening(data)
            elif data_bytes(directory):
                # Before LMDB reads it, and before anything is written. Quick the first time, and whole if
                # the file was not closed in order twice.
                doubts = check_data(data, quick=count_unclean_start(data) == 1).doubts
                if doubts:
                    return Opened(_enter_damaged(directory, expected, doubts), lock)
            env = open_lmdb(directory, map_bytes=map_bytes)
            try:
                environment, upgraded = _enter(directory, env, expected, version, rebuild, plan)
                return Opened(environment, lock, upgraded)
            except BaseException as error:
                env.close()
                if was_closed and isinstance(error, StoreUnusable):
                    # Refused, and unchanged: it is as an orderly stop left it.
                    write_note(data)
                raise
    except BaseException:
        os.close(lock)
        raise


def _enter_damaged(directory: Path, expected: str | None, problems: list[str]) -> Environment:
    """Open a damaged store for reading, without LMDB. Errors: StoreUnusable."""
    damage = describe_problems(problems)
    try:
        pages = PageFile(directory / DATA)
    except PageDamaged as error:
        raise StoreUnusable(f"{directory / DATA} is damaged: {error}. {RESTORE}") from error
    if META.name.encode() not in pages.tables():
        pages.close()
        raise StoreUnusable(f"{directory / DATA} is an LMDB file, but not a store of kheish.")
    health = Health()
    health.damage, health.pages, health.handles = damage, pages, get_handles(pages, TABLES)
    try:
        # All that is called of LMDB's environment from here on is here as well.
        file = cast("lmdb.Environment", pages)
        environment = Environment(directory, file, health.handles, expected or "", health=health)
        with Snapshot(environment) as snapshot:
            schema, identity = (snapshot.get(META, name) for name in ("schema", "identity"))
            is_incomplete = snapshot.get(META, "rebuild") is not None
        if schema is None or schema != str(SCHEMA).encode() or is_incomplete or identity is None:
            raise StoreUnusable(
                f"{directory / DATA} is damaged ({damage}), and this version has to upgrade it. {RESTORE}"
            )
        require_identity(StoreInfo(SCHEMA, "", identity.decode(errors="replace")), expected, directory)
    except PageDamaged as error:
        pages.close()
        raise StoreUnusable(f"{directory / DATA} is damaged: {error}. {RESTORE}") from error
    except BaseException:
        pages.close()
        raise
    return environment


def open_lmdb(directory: Path, *, map_bytes: int = MAP_BYTES, readonly: bool = False) -> lmdb.Environment:
    """Open an environment, after :func:`check_files`. Errors: lmdb.Error, OSError."""
    if not readonly:
        _allocate_lock_file(directory / LOCK)
    return lmdb.open(
        str(directory),
        map_size=map_bytes,
        max_dbs=MAX_TABLES,
        max_readers=MAX_READERS,
        max_spare_txns=8,
        # Read only the pages needed: a cold gigabyte opens in a millisecond instead of thirty.
        readahead=False,
        mode=0o600,
        readonly=readonly,
        lock=not readonly,
    )


def _allocate_lock_file(path: Path) -> None:
    """Give LMDB's file of readers its blocks: a missing one would end the process on a full disk."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, LOCK_BYTES)
    finally:
        os.close(descriptor)


@contextmanager
def explain_errors(directory: Path) -> Iterator[None]:
    """Raise LMDB's and the system's errors in opening as StoreUnusable, with their meaning."""
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
        lmdb.BadTxnError,
    ) as error:
        raise StoreUnusable(f"{directory / DATA} is damaged: {error}. {RESTORE}") from error
    except lmdb.Error as error:
        if is_disk_full(error, directory):
            raise StoreUnusable(
                f"The disk of {directory} is full, and the store has to be changed to be opened. Free some "
                "space and start again; nothing is lost."
            ) from error
        raise StoreUnusable(f"The store in {directory} cannot be opened: {error}.") from error
    except OSError as error:
        if error.errno in FULL_ERRORS:
            raise StoreUnusable(
                f"The disk of {directory} is full, and the store needs {LOCK_BYTES} bytes more to be opened. "
                "Free some space and start again; nothing is lost."
            ) from error
        raise StoreUnusable(f"The store in {directory} cannot be opened: {error}.") from error


class StoreInfo(NamedTuple):
    """The description of a store in its META table."""

    schema: int
    version: str
    identity: str


def read_info(env: lmdb.Environment, directory: Path) -> StoreInfo | None:
    """Read a store's description; return None for an empty environment. Errors: StoreUnusable, lmdb.Error."""
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
    info = StoreInfo(int(schema), version.decode(), (identity or b"").decode())
    if info.schema > SCHEMA:
        raise StoreUnusable(
            f"The store in {directory} was written by kheish {info.version} (schema {info.schema}); this "
            f"version knows schemas up to {SCHEMA}. Start kheish {info.version} or newer."
        )
    return info


def require_identity(info: StoreInfo, expected: str | None, directory: Path) -> None:
    """Require the data of the store that the marker names. Errors: StoreUnusable."""
    if expected is not None and info.identity != expected:
        raise StoreUnusable(
            f"{directory / DATA} is not the data of the store that {directory / MARKER} names: one of "
            f"the two was put there from elsewhere. {RESTORE}"
        )


def _enter(
    directory: Path,
    env: lmdb.Environment,
    expected: str | None,
    version: str,
    rebuild: Rebuild | None,
    plan: UpgradePlan,
) -> tuple[Environment, Upgraded | None]:
    """Check, upgrade and describe an open environment; open its tables."""
    info = read_info(env, directory)
    if info is None and expected is not None:
        raise StoreUnusable(f"{directory / DATA} holds nothing, though a store was here. {RESTORE}")
    if info is not None:
        require_identity(info, expected, directory)
    identity = info.identity if info and info.identity else os.urandom(16).hex()
    upgraded: Upgraded | None = None
    if info is not None and info.schema < SCHEMA:
        old = Environment(directory, env, open_tables(env), info.identity)
        upgraded = prepare_upgrade(old, info.schema, info.version, plan)
    if info is None or info.schema < SCHEMA:
        upgrade(env, info.schema if info else 0, version)
    # With all tables there, this transaction writes nothing: a store opens on a full disk.
    with env.begin(write=True) as txn:
        handles = {table: env.open_db(table.name.encode(), txn) for table in TABLES}
    with env.begin(write=True, db=handles[META]) as txn:
        if txn.get(IDENTITY_KEY) is None:
            txn.put(IDENTITY_KEY, identity.encode())
    # On a full disk the version's name has to wait; the store opens and can be read all the same.
    with suppress(lmdb.DiskError, lmdb.MapFullError), env.begin(write=True, db=handles[META]) as txn:
        if txn.get(VERSION_KEY) != version.encode():
            txn.put(VERSION_KEY, version.encode())
    adopt_backup(env)
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
    return environment, upgraded


def open_tables(env: lmdb.Environment) -> dict[Table[Any], Handle]:
    """Open the tables that exist; an older version made fewer. Errors: lmdb.Error."""
    names = set(env.dbs())
    return {
        table: env.open_db(table.name.encode(), create=False)
        for table in TABLES
        if table.name.encode() in names
    }


@contextmanager
def open_for_reading(directory: Path, *, current: bool = False) -> Iterator[Environment]:
    """Open the store in ``directory`` for reading only; the caller holds its lock.

    ``current``: its records are to be read, so refuse a store that an upgrade has to change first.
    Errors: StoreUnusable.
    """
    with explain_errors(directory):
        expected = check_files(directory)
        if data_bytes(directory) == 0:
            raise StoreUnusable(f"{directory} holds no store of kheish: there is no {DATA} in it.")
        env = open_lmdb(directory, readonly=True)
    try:
        with explain_errors(directory):
            info = read_info(env, directory)
            if info is None:
                raise StoreUnusable(f"{directory / DATA} holds nothing.")
            require_identity(info, expected, directory)
            if current and (info.schema < SCHEMA or needs_rebuild(env)):
                raise StoreUnusable(_OUTDATED.format(directory=directory, version=info.version))
            handles = open_tables(env)
        yield Environment(directory, env, handles, info.identity)
    finally:
        env.close()


@contextmanager
def open_for_marking(directory: Path) -> Iterator[lmdb.Environment]:
    """Open a copy of a store that no process uses, to add a mark to it. Errors: lmdb.Error."""
    # Without LMDB's own lock, whose file does not belong into a backup.
    env = lmdb.open(str(directory), map_size=MAP_BYTES, max_dbs=MAX_TABLES, readahead=False, lock=False)
    try:
        yield env
    finally:
        env.close()


@contextmanager
def open_beside(directory: Path) -> Iterator[lmdb.Environment]:
    """Open a store for reading that another process may have open and write. Errors: StoreUnusable."""
    with explain_errors(directory):
        # With LMDB's lock, so that the writer overwrites no page of this reader.
        env = lmdb.open(str(directory), readonly=True, lock=True, mode=0o600, max_dbs=MAX_TABLES)
    try:
        with explain_errors(directory):
            yield env
    finally:
        env.close()
