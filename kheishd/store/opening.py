"""Opening a store: looking at its files before LMDB does, then locking, opening and upgrading.

LMDB trusts its file. A truncated one kills the process with SIGBUS at the first page that is not there; an
empty one opens as an empty database, as if nothing had ever been; one from elsewhere opens as if it were
ours. So before it is opened, its length is compared with what its meta pages say, and an identity marker
beside it must name the store that is in it. Whatever is wrong is said, with the way to mend it, and
nothing that cannot be read is overwritten.
"""

import fcntl
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from kheishd.store.environment import DATA, Environment, Handle
from kheishd.store.tables import META, TABLES, Table
from kheishd.store.upgrades import IDENTITY_KEY, SCHEMA, SCHEMA_KEY, VERSION_KEY, upgrade

MARKER = "identity"
LOCK = "lock.mdb"

# Address space, not disk: 1 TiB of journal is some ten million long conversations. It is never resized,
# because that would pull the map away from under open snapshots.
MAP_BYTES = 1 << 40
TABLES_MAX = 64
# Snapshots open at once: one on the loop, a few in worker threads; 126 is LMDB's own habit.
READERS_MAX = 126

_RESTORE = "Restore a backup with 'kheishd restore BACKUP'; what is there now is kept beside it."


class StoreUnusable(Exception):
    """The store cannot be opened as it is. The message says why and what to do; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An environment, and the lock that keeps it ours."""

    environment: Environment
    lock: int

    def close(self) -> None:
        """Close the environment and let go of the lock. Nobody may be reading."""
        self.environment.lmdb.close()
        os.close(self.lock)


def open_environment(directory: Path, *, version: str, map_bytes: int = MAP_BYTES) -> Opened:
    """Open the store in ``directory``, making it if there is none, and bring it up to date.

    Errors: StoreUnusable.
    """
    make_directory(directory)
    lock = lock_directory(directory)
    try:
        with explained(directory):
            expected = check_files(directory)
            env = open_lmdb(directory, map_bytes=map_bytes)
            try:
                return Opened(_enter(directory, env, expected, version), lock)
            except BaseException:
                env.close()
                raise
    except BaseException:
        os.close(lock)
        raise


def make_directory(directory: Path) -> None:
    """Make the directory of a store if it is not there; ours alone. Errors: StoreUnusable."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise StoreUnusable(f"{directory} cannot be used for the store: {error.strerror}.") from error


def lock_directory(directory: Path) -> int:
    """Hold the lock of a store's directory: a descriptor to be closed. Errors: StoreUnusable."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreUnusable(f"{directory} cannot be opened: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreUnusable(f"{directory} is in use by another process; stop that first.") from error
    return descriptor


def open_lmdb(directory: Path, *, map_bytes: int = MAP_BYTES, readonly: bool = False) -> lmdb.Environment:
    """The environment as LMDB opens it, after :func:`check_files`. Errors: lmdb.Error."""
    return lmdb.open(
        str(directory),
        map_size=map_bytes,
        max_dbs=TABLES_MAX,
        max_readers=READERS_MAX,
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
        raise StoreUnusable(f"{directory / DATA} is damaged: {error}. {_RESTORE}") from error
    except lmdb.Error as error:
        raise StoreUnusable(f"The store in {directory} cannot be opened: {error}.") from error
    except OSError as error:
        raise StoreUnusable(f"The store in {directory} cannot be opened: {error}.") from error


# Before LMDB looks: the files.


class Meta(NamedTuple):
    """What a meta page says of the file."""

    page_bytes: int
    pages: int
    transaction: int


_PAGE_HEADER = struct.Struct("=QHHHH")
_META = struct.Struct("=IIQQ")
_TREE_BYTES = 48
_TAIL = struct.Struct("=QQ")
_MAGIC = 0xBEEFC0DE
_FORMAT = 1
_META_FLAG = 0x08
_META_BYTES = _PAGE_HEADER.size + _META.size + 2 * _TREE_BYTES + _TAIL.size


def check_files(directory: Path) -> str | None:
    """Look at a store's files before LMDB does; gives the identity that its marker names.

    Shape:  None where no store was ever finished.
    Errors: StoreUnusable, OSError.
    """
    identity = read_marker(directory)
    data = directory / DATA
    size = data.stat().st_size if data.exists() else 0
    if size == 0:
        if identity is not None:
            raise StoreUnusable(
                f"{data} is empty or gone, though {directory / MARKER} says that a store was here. "
                f"{_RESTORE} To begin anew with nothing, move {directory} away."
            )
        return None
    _check_length(data, newest_meta(data), size)
    return identity


def newest_meta(data: Path) -> Meta:
    """The newer of the two meta pages. Errors: StoreUnusable if either is damaged, as LMDB needs both."""
    with data.open("rb") as file:
        first = _meta(file.read(_META_BYTES))
        if first is not None:
            file.seek(first.page_bytes)
            second = _meta(file.read(_META_BYTES))
            if second is not None:
                return max(first, second, key=lambda meta: meta.transaction)
    raise StoreUnusable(f"{data} is damaged: one of its two meta pages is not one. {_RESTORE}")


def _meta(page: bytes) -> Meta | None:
    if len(page) < _META_BYTES:
        return None
    flags = _PAGE_HEADER.unpack_from(page)[2]
    magic, version, _, _ = _META.unpack_from(page, _PAGE_HEADER.size)
    trees = _PAGE_HEADER.size + _META.size
    page_bytes = int.from_bytes(page[trees : trees + 4], sys.byteorder)
    last_page, transaction = _TAIL.unpack_from(page, trees + 2 * _TREE_BYTES)
    sound = flags & _META_FLAG and magic == _MAGIC and version == _FORMAT and 256 <= page_bytes <= 1 << 16
    return Meta(page_bytes, last_page + 1, transaction) if sound else None


def _check_length(data: Path, meta: Meta, size: int) -> None:
    """Errors: StoreUnusable if pages that are in use are missing at the end."""
    whole = meta.pages * meta.page_bytes
    if size >= whole:
        return
    # Rarely a file is short and sound: the last pages were taken and given back in one transaction, so
    # they were never written. Only reading the whole tree can tell, and LMDB cannot be let near it.
    from lmdb.verify import VerifyError, verify

    try:
        problems: list[str] = verify(str(data))  # type: ignore[no-untyped-call]
    except VerifyError as error:
        problems = [str(error)]
    if problems:
        raise StoreUnusable(
            f"{data} is cut short: it has {size:,} bytes of {whole:,} ({problems[0]}). {_RESTORE}"
        )
    os.truncate(data, whole)


# The marker.


def read_marker(directory: Path) -> str | None:
    """The identity beside the data; None if there is none. Errors: StoreUnusable if it is unreadable."""
    path = directory / MARKER
    try:
        words = path.read_text("ascii").split()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        words = []
    if len(words) != 2 or words[0] != "kheish" or len(words[1]) != 32:
        raise StoreUnusable(
            f"{path} is damaged. If {directory / DATA} is the store you expect, remove {path} and start "
            "again."
        )
    return words[1]


def write_marker(directory: Path, identity: str) -> None:
    """Put an identity beside the data, whole or not at all, and see it to the disk."""
    fresh = directory / f"{MARKER}.new"
    with fresh.open("w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(f"kheish {identity}\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(directory / MARKER)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """See to it that the names in a directory are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Inside.


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
        raise StoreUnusable(f"{directory / DATA} does not say which schema it has. {_RESTORE}")
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
            f"the two was put there from elsewhere. {_RESTORE}"
        )


def _enter(directory: Path, env: lmdb.Environment, expected: str | None, version: str) -> Environment:
    about = read_about(env, directory)
    if about is None and expected is not None:
        raise StoreUnusable(f"{directory / DATA} holds nothing, though a store was here. {_RESTORE}")
    if about is not None:
        check_identity(about, expected, directory)
    identity = about.identity if about and about.identity else os.urandom(16).hex()
    if about is None or about.schema < SCHEMA:
        upgrade(env, about.schema if about else 0, version)
    handles = open_tables(env)
    _introduce(env, handles, identity, version)
    env.reader_check()
    if expected is None:
        write_marker(directory, identity)
        sync_directory(directory.parent)
    for name in (DATA, LOCK):
        (directory / name).chmod(0o600)
    return Environment(directory, env, handles, identity)


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
def opened_for_reading(directory: Path) -> Iterator[Environment]:
    """The store in ``directory`` for reading only, as it stands; whoever asks holds its lock.

    Errors: StoreUnusable.
    """
    with explained(directory):
        expected = check_files(directory)
        if expected is None:
            raise StoreUnusable(
                f"{directory} holds no store of kheish: there is no {DATA} with its {MARKER}."
            )
        env = open_lmdb(directory, readonly=True)
    try:
        with explained(directory):
            about = read_about(env, directory)
            if about is None:
                raise StoreUnusable(f"{directory / DATA} holds nothing.")
            check_identity(about, expected, directory)
            handles = _tables_there(env)
        yield Environment(directory, env, handles, about.identity)
    finally:
        env.close()


def _tables_there(env: lmdb.Environment) -> dict[Table[Any], Handle]:
    """The handles of the tables that an older version made too."""
    names = {table: table.name.encode() for table in TABLES}
    there = set(env.dbs())
    return {table: env.open_db(name, create=False) for table, name in names.items() if name in there}
