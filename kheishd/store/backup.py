"""Copies of the store: made while it runs, put back and compacted while it does not.

A backup is a directory like the store's own: the data and the marker. All three follow one pattern: write
beside, see it to the disk, verify what was written, and only then give it the name. So each can be killed
at any point: what has the name is always whole.
"""

import errno
import os
import select
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import lmdb
import msgspec

from kheishd.store.environment import DATA, Environment, Snapshot
from kheishd.store.guards import (
    COMPACTING,
    MARKER,
    RESTORING,
    StoreUnusable,
    check_files,
    data_bytes,
    lock_directory,
    make_directory,
    sync_directory,
    write_marker,
)
from kheishd.store.journal import verify_chain
from kheishd.store.opening import explained, opened_for_reading
from kheishd.store.tables import TABLES
from protocol.errors.daemon import DaemonDraining, PathRefused
from protocol.errors.store import StorageFull

# A copy holds back every page that is freed meanwhile, so that the file grows, for good. At 100 MB a
# second ten minutes are 60 GB; what is larger is copied by compacting it first, or by the file system.
MAX_BACKUP_SECONDS: Final = 600.0

_PIECE_BYTES = 1 << 20
_LOOK_SECONDS = 0.1
_PATH = "$.params.path"
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


# While the store runs.


def write_backup(
    environment: Environment, directory: Path, timeout_s: float, check: Callable[[], object]
) -> int:
    """Copy the store, as it is now, to a new directory; gives the newest cursor in the copy.

    ``check`` is called now and then: what it raises ends the work.
    Errors: PathRefused, also when it is late, StorageFull, DaemonDraining; then nothing is left there.
    """
    partial = directory.with_name(f".{directory.name}.{os.urandom(4).hex()}.partial")
    try:
        with explained(partial):
            return _write_backup(environment, directory, partial, _Patience(environment, timeout_s, check))
    except StoreUnusable as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _FULL:
            raise StorageFull(
                f"there is no room for the backup: {cause.strerror}; nothing is left of it"
            ) from error
        raise PathRefused(f"the backup could not be written: {error}", field=_PATH) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Patience:
    """When a copy is to be given up."""

    def __init__(self, environment: Environment, seconds: float, check: Callable[[], object]) -> None:
        self._readers = environment.readers
        self._deadline = time.monotonic() + seconds
        self._check = check

    def __call__(self) -> None:
        """Errors: PathRefused, DaemonDraining, or the caller's own."""
        self._check()
        if self._readers.closing:
            raise DaemonDraining("the backup was given up: the daemon is stopping")
        if time.monotonic() > self._deadline:
            raise PathRefused("writing the backup there takes too long; nothing is left of it", field=_PATH)


def _write_backup(environment: Environment, directory: Path, partial: Path, patience: _Patience) -> int:
    if os.path.lexists(directory):
        raise FileExistsError(errno.EEXIST, "it exists already; a backup never overwrites", str(directory))
    partial.mkdir(mode=0o700)
    with _new_file(partial / DATA) as descriptor:
        _copy(environment, descriptor, patience)
    write_marker(partial, environment.identity)
    with opened_for_reading(partial) as copy, Snapshot(copy) as snapshot:
        cursor = snapshot.last_cursor
    partial.rename(directory)
    sync_directory(directory.parent)
    return cursor


@contextmanager
def _new_file(path: Path) -> Iterator[int]:
    """A file of our own to write to, on the disk when left."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Copier:
    """LMDB copying itself, compacted, into a pipe, from which it is taken piece by piece.

    LMDB cannot be interrupted in copying, but it stops when nobody takes what it writes.
    """

    def __init__(self, environment: Environment) -> None:
        self.error: lmdb.Error | None = None
        self.taking, self._giving = os.pipe2(os.O_CLOEXEC)
        self._environment = environment
        self._thread = threading.Thread(target=self._give, name="store-copy", daemon=True)
        self._thread.start()

    def _give(self) -> None:
        try:
            self._environment.lmdb.copyfd(self._giving, compact=True)
        except lmdb.Error as error:
            self.error = error
        finally:
            os.close(self._giving)

    def close(self) -> None:
        """Stop it if it has not ended."""
        os.close(self.taking)
        self._thread.join()


def _copy(environment: Environment, target: int, patience: _Patience) -> None:
    """Errors: those of patience, OSError, lmdb.Error."""
    # Open as long as LMDB copies, so that nobody closes the environment meanwhile.
    with Snapshot(environment):
        copier = _Copier(environment)
        try:
            while piece := _piece(copier.taking, patience):
                view = memoryview(piece)
                while view:
                    view = view[os.write(target, view) :]
        finally:
            copier.close()
        if copier.error is not None:
            raise copier.error


def _piece(descriptor: int, patience: _Patience) -> bytes:
    """The next piece of a copy; empty at its end."""
    patience()
    while not select.select([descriptor], [], [], _LOOK_SECONDS)[0]:
        patience()
    return os.read(descriptor, _PIECE_BYTES)


# While no daemon runs.


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back, and where what was there before is kept, if anything was."""

    cursor: int
    bytes: int
    kept: Path | None


@dataclass(frozen=True, slots=True)
class Compacted:
    """What the data file took before and takes now."""

    before_bytes: int
    after_bytes: int


def restore(backup: Path, directory: Path) -> Restored:
    """Put a backup in the place of the store in ``directory``; the data that was there is kept beside.

    The copy is verified whole before it replaces anything: its pages, every row, the chain of the journal.
    Errors: StoreUnusable; then the store is what it was.
    """
    with explained(backup):
        check_files(backup)
        if data_bytes(backup) == 0:
            raise StoreUnusable(f"{backup} is not a backup of kheish: there is no {DATA} in it.")
    make_directory(directory)
    with _locked(directory), _workplace(directory, RESTORING) as place:
        with (backup / DATA).open("rb") as source, _new_file(place / DATA) as target:
            _send(source.fileno(), target)
        with suppress(FileNotFoundError):
            shutil.copyfile(backup / MARKER, place / MARKER)
        identity, cursor = verify_copy(place)
        kept = _keep(directory / DATA)
        size = (place / DATA).stat().st_size
        (place / DATA).replace(directory / DATA)
        # Killed here, and restored from another store's backup, the store refuses to open, as marker and
        # data differ; restoring again mends it.
        write_marker(directory, identity)
        return Restored(cursor, size, kept)


def _send(source: int, target: int) -> None:
    while os.sendfile(target, source, None, 1 << 30):
        pass


def _keep(data: Path) -> Path | None:
    """Give the data a second name that nothing will take away; None if there is none."""
    if not data.exists():
        return None
    for number in range(1, 10_000):
        kept = data.with_name(f"{DATA}.before-restore-{number}")
        with suppress(FileExistsError):
            os.link(data, kept)
            return kept
    raise StoreUnusable(f"{data.parent} holds 9,999 stores from before restores; remove some.")


def verify_copy(directory: Path) -> tuple[str, int]:
    """Read a store whole; gives its identity and newest cursor.

    Errors: StoreUnusable, naming the first thing that is damaged.
    """
    # On broken pages LMDB itself may crash, so they are looked at without it.
    from lmdb.verify import VerifyError, verify

    try:
        problems: list[str] = verify(str(directory))  # type: ignore[no-untyped-call]
    except VerifyError as error:
        problems = [str(error)]
    if problems:
        raise StoreUnusable(f"The backup is damaged: {problems[0]}. Nothing was changed; use another backup.")
    with opened_for_reading(directory) as environment, Snapshot(environment) as snapshot:
        for broken in verify_chain(snapshot):
            where = f"entry {broken.cursor} of {broken.stream or 'the journal'}"
            raise StoreUnusable(
                f"The backup is damaged: {where}: {broken.message}. Nothing was changed; use another backup."
            )
        _read_rows(environment, snapshot)
        return environment.identity, snapshot.last_cursor


def _read_rows(environment: Environment, snapshot: Snapshot) -> None:
    for table in TABLES:
        if table not in environment.handles:
            continue
        try:
            for _ in snapshot.scan(table):
                pass
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            raise StoreUnusable(
                f"The backup is damaged: a row of {table.name} cannot be read: {error}. Nothing was changed."
            ) from error


def compact(directory: Path) -> Compacted:
    """Copy the store in ``directory`` without its free pages, and put the copy in its place.

    Errors: StoreUnusable; then the store is what it was.
    """
    data = directory / DATA
    with _locked(directory), _workplace(directory, COMPACTING) as place:
        before = data_bytes(directory)
        with opened_for_reading(directory) as environment:
            with _new_file(place / DATA) as target:
                environment.lmdb.copyfd(target, compact=True)
            write_marker(place, environment.identity)
            with opened_for_reading(place) as copy, Snapshot(copy) as fresh, Snapshot(environment) as old:
                if _summary(environment, old) != _summary(copy, fresh):
                    raise StoreUnusable(f"The compacted copy of {data} differs from it; it was thrown away.")
        after = (place / DATA).stat().st_size
        (place / DATA).replace(data)
        sync_directory(directory)
    return Compacted(before, after)


def _summary(environment: Environment, snapshot: Snapshot) -> dict[str, int]:
    counts = {table.name: snapshot.count(table) for table in environment.handles}
    return counts | {"": snapshot.last_cursor}


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = lock_directory(directory)
    try:
        with explained(directory):
            yield
    finally:
        os.close(lock)


@contextmanager
def _workplace(directory: Path, name: str) -> Iterator[Path]:
    """An empty directory inside the store's own, for the time being; one left by a kill is emptied."""
    place = directory / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
