"""Copies of the store: backed up while it runs; restored while it does not.

A backup is a directory like the store's own: the data and the marker. Backup, restore and compaction follow
one pattern: write beside the target, sync, verify the copy, and only then give it the target's name. Each may
be killed at any point, because a file of that name is always complete.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import lmdb
import msgspec

from kheishd.store.checkup import write_note
from kheishd.store.commit import FULL_ERRORS
from kheishd.store.environment import DATA, Environment, Snapshot
from kheishd.store.epoch import (
    BackupMark,
    OpenWork,
    RestoreMark,
    mark_backup,
    mark_restored,
    read_backup_mark,
    read_line,
)
from kheishd.store.guards import (
    MARKER,
    REPAIR,
    RESTORE,
    RESTORING,
    StoreUnusable,
    check_files,
    data_bytes,
    lock_directory,
    make_directory,
    read_marker,
    sync_directory,
    write_marker,
)
from kheishd.store.journal import verify_chain
from kheishd.store.opening import explain_errors, open_for_marking, open_for_reading
from kheishd.store.tables import META, RUNS, SHELLS_LIVE, TABLES
from kheishd.store.upgrades import NOT_RECORDS, SCHEMA
from kheishd.store.withdrawn import Replaced, read_withdrawn
from protocol.errors.daemon import DaemonDraining, PathRefused
from protocol.errors.store import StorageFull
from protocol.objects.run import ENDED, SETTLED
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# During a copy no freed page can be reused, so the file grows, for good. At 100 MB a second ten minutes are
# 60 GB; compact a larger store before its backup, or copy it by the file system.
MAX_BACKUP_SECONDS: Final = 600.0

KEPT: Final = "before-restore-"
"""The beginning of the names of the directories that keep replaced stores; a number follows."""

log = logging.getLogger("kheishd.store")

_PIECE_BYTES = 1 << 20
_LOOK_SECONDS = 0.1
_PATH = "$.params.path"


# While the store runs.


def write_backup(
    environment: Environment, directory: Path, timeout_s: float, check: Callable[[], object]
) -> int:
    """Copy the current store to a new directory; return the newest cursor in the copy.

    ``check`` is called now and then; an exception that it raises ends the backup.
    Errors: PathRefused (also after the timeout), StorageFull, DaemonDraining; nothing of the copy remains.
    """
    partial = directory.with_name(f".{directory.name}.{os.urandom(4).hex()}.partial")
    try:
        with explain_errors(partial):
            if os.path.lexists(directory):
                raise FileExistsError(
                    errno.EEXIST, "it exists already, and a backup never overwrites", str(directory)
                )
            partial.mkdir(mode=0o700)
            with new_file(partial / DATA) as descriptor:
                _copy(environment, descriptor, _Deadline(environment, timeout_s, check))
            write_marker(partial, environment.identity)
            with open_for_reading(partial) as copy, Snapshot(copy) as snapshot:
                cursor = snapshot.last_cursor
            with open_for_marking(partial) as env:
                mark_backup(env, BackupMark(time.time_ns() // 1_000_000, cursor))
            partial.rename(directory)
            sync_directory(directory.parent)
            return cursor
    except StoreUnusable as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in FULL_ERRORS:
            raise StorageFull(
                f"there is no room for the backup: {cause.strerror}; nothing is left of it"
            ) from error
        raise PathRefused(f"the backup could not be written: {error}", field=_PATH) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Deadline:
    """The conditions under which a backup is abandoned."""

    def __init__(self, environment: Environment, seconds: float, check: Callable[[], object]) -> None:
        self._readers = environment.readers
        self._deadline = time.monotonic() + seconds
        self._check = check

    def __call__(self) -> None:
        """Check the conditions. Errors: PathRefused, DaemonDraining, or the caller's own."""
        self._check()
        if self._readers.closing:
            raise DaemonDraining("the backup was given up: the daemon is stopping")
        if time.monotonic() > self._deadline:
            raise PathRefused("writing the backup there takes too long; nothing is left of it", field=_PATH)


@contextmanager
def new_file(path: Path) -> Iterator[int]:
    """Create a file and provide its descriptor; sync the file at the end."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Copier:
    """A thread in which LMDB copies itself, compacted, into a pipe.

    LMDB's copy cannot be interrupted, but it stops when the other end of the pipe is closed.
    """

    def __init__(self, environment: Environment) -> None:
        self.error: lmdb.Error | None = None
        self.output, self._input = os.pipe2(os.O_CLOEXEC)
        self._environment = environment
        self._thread = threading.Thread(target=self._copy, name="store-copy", daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        try:
            self._environment.lmdb.copyfd(self._input, compact=True)
        except lmdb.Error as error:
            self.error = error
        finally:
            os.close(self._input)

    def close(self) -> None:
        """Stop the copy if it has not ended."""
        os.close(self.output)
        self._thread.join()


def _copy(environment: Environment, target: int, deadline: _Deadline) -> None:
    """Copy the store to a descriptor. Errors: those of the deadline, OSError, lmdb.Error."""
    # The snapshot stays open as long as LMDB copies, so that the environment is not closed meanwhile.
    with Snapshot(environment):
        copier = _Copier(environment)
        try:
            while True:
                deadline()
                while not select.select([copier.output], [], [], _LOOK_SECONDS)[0]:
                    deadline()
                view = memoryview(os.read(copier.output, _PIECE_BYTES))
                if not view:
                    break
                while view:
                    view = view[os.write(target, view) :]
        finally:
            copier.close()
        if copier.error is not None:
            raise copier.error


# While no daemon runs.


class Restored(Value, frozen=True):
    """The result of a restore. ``bytes`` is the size of the backup.

    ``kept`` is the directory of the previous store, if there was any. ``mark`` is the mark in the restored
    store.
    """

    cursor: int
    bytes: int
    kept: Path | None
    mark: RestoreMark


def restore(backup: Path, directory: Path, upgrade: Callable[[Path], object] | None = None) -> Restored:
    """Replace the store in ``directory`` by a backup; keep the previous store beside it.

    The whole copy is verified before it replaces anything: its pages, every row, the journal's chain. It
    begins a new line of history, and the first start marks the work that was open in it.

    Args:   ``upgrade`` upgrades the store in a directory. A copy of a backup of an older version is upgraded
            to compare its rights; the restored one is not, so that the older version can open it.
    Errors: StoreUnusable; the store is unchanged then.
    """
    with explain_errors(backup):
        try:
            check_files(backup)
        except StoreUnusable as error:
            # Its remedy is that for the store of a home.
            cause = str(error).partition(REPAIR)[0].partition(RESTORE)[0]
            raise StoreUnusable(f"{cause}Nothing was changed; use another backup.") from error
        if data_bytes(backup) == 0:
            raise StoreUnusable(f"{backup} is not a backup of kheish: there is no {DATA} in it.")
    make_directory(directory)
    with hold_lock(directory), work_directory(directory, RESTORING) as work:
        with (backup / DATA).open("rb") as source, new_file(work / DATA) as target:
            while os.sendfile(target, source.fileno(), None, 1 << 30):
                pass
        with suppress(FileNotFoundError):
            shutil.copyfile(backup / MARKER, work / MARKER)
        identity, cursor = verify_copy(work)
        kept_before = sorted(directory.glob(f"{KEPT}*"), key=_number_of, reverse=True)
        replaced = None
        if data_bytes(directory) or kept_before:
            with work_directory(work, "comparable") as comparable:
                is_upgraded = upgrade is not None and _upgrade_copy(work, comparable, upgrade)
                replaced = read_withdrawn(directory, comparable if is_upgraded else work, kept_before)
        mark = _mark_restored(work, (backup / DATA).stat().st_mtime_ns // 1_000_000, replaced)
        kept = _keep_previous(directory)
        try:
            is_same_store = read_marker(directory) in (None, identity)
        except StoreUnusable:
            is_same_store = False
        if not is_same_store:
            # Between the two renames there is no marker, which is valid: opening the store writes it again.
            # With the marker of the other store, a kill in between would leave a store that is refused.
            (directory / MARKER).unlink()
            sync_directory(directory)
        (work / DATA).replace(directory / DATA)
        sync_directory(directory)
        write_marker(directory, identity)
        # It was verified, so the first start need not check it once more.
        write_note(directory / DATA)
        size = sum(file.stat().st_size for file in backup.iterdir())
        return Restored(cursor, size, kept, mark)


def _upgrade_copy(work: Path, copy: Path, upgrade: Callable[[Path], object]) -> bool:
    """Copy a store of an older version and upgrade the copy; false if it is current or the upgrade fails."""
    with open_for_reading(work) as environment, Snapshot(environment) as snapshot:
        if snapshot.get(META, "schema") == str(SCHEMA).encode():
            return False
    try:
        shutil.copyfile(work / DATA, copy / DATA)
        with suppress(FileNotFoundError):
            shutil.copyfile(work / MARKER, copy / MARKER)
        upgrade(copy)
    except (OSError, StoreUnusable) as error:
        log.warning("the rights in the backup cannot be compared: %s", error)
        return False
    return True


def _mark_restored(work: Path, modified_at_ms: int, replaced: Replaced | None) -> RestoreMark:
    """Begin a new line of history in a copy of a backup; return its mark.

    Args:   ``modified_at_ms`` stands for the time of the backup in one that has no mark: a store that was
            kept by another restore, or a backup of an earlier version.
    """
    with open_for_reading(work) as environment, Snapshot(environment) as snapshot:
        backup = read_backup_mark(snapshot) or BackupMark(modified_at_ms, snapshot.last_cursor)
        line = read_line(snapshot)
        is_current = snapshot.get(META, "schema") == str(SCHEMA).encode()
        mark = RestoreMark(
            backup_at_ms=backup.at_ms,
            cursor=line.last_cursor,
            restored_at_ms=time.time_ns() // 1_000_000,
            withdrawn=None if replaced is None else replaced.withdrawn,
            open_work=count_open_work(snapshot) if is_current else None,
        )
    with open_for_marking(work) as env:
        mark_restored(env, line, mark, None if replaced is None else replaced.line)
    return mark


def count_open_work(snapshot: Snapshot) -> OpenWork:
    """Count the work that is open in a store."""
    runs = [run for _, run in snapshot.scan(RUNS) if run.status not in ENDED]
    calls = [call for run in runs for call in run.calls]
    return OpenWork(
        running=sum(run.status == "running" for run in runs),
        queued=sum(run.status == "queued" for run in runs),
        waiting=sum(run.status in SETTLED for run in runs),
        indoubts=sum(
            call.state == "doubted" or (call.state == "called" and not call.repeatable) for call in calls
        ),
        shells=snapshot.count(SHELLS_LIVE),
    )


def _number_of(kept: Path) -> int:
    number = kept.name.removeprefix(KEPT)
    return int(number) if number.isdecimal() else 0


def _keep_previous(directory: Path) -> Path | None:
    """Link the store into a directory of its own, which is a backup itself; None if there is no data."""
    data = directory / DATA
    if not data.exists():
        return None
    for number in range(1, 10_000):
        kept = directory / f"{KEPT}{number}"
        # A restore that was killed has left a link to the data that is still in use.
        if not kept.exists() or ((kept / DATA).exists() and (kept / DATA).samefile(data)):
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(mode=0o700)
            os.link(data, kept / DATA)
            with suppress(FileNotFoundError):
                shutil.copyfile(directory / MARKER, kept / MARKER)
            sync_directory(kept)
            sync_directory(directory)
            return kept
    raise StoreUnusable(f"{directory} holds 9,999 stores from before restores; remove some.")


def verify_copy(directory: Path) -> tuple[str, int]:
    """Read a whole store; return its identity and newest cursor.

    Errors: StoreUnusable, naming the first damage.
    """
    # LMDB itself may crash on broken pages, so they are checked without it first.
    from lmdb.verify import VerifyError, verify

    try:
        problems: list[str] = verify(str(directory))  # type: ignore[no-untyped-call]
    except VerifyError as error:
        problems = [str(error)]
    if problems:
        raise StoreUnusable(f"The backup is damaged: {problems[0]}. Nothing was changed; use another backup.")
    with open_for_reading(directory) as environment, Snapshot(environment) as snapshot:
        for damage in verify_chain(snapshot):
            entry = f"entry {damage.cursor} of {damage.stream or 'the journal'}"
            raise StoreUnusable(
                f"The backup is damaged: {entry}: {damage.message}. Nothing was changed; use another backup."
            )
        # The records of an older version have other fields. They are rebuilt when the store is opened.
        is_current = snapshot.get(META, "schema") == str(SCHEMA).encode()
        for table in TABLES if is_current else NOT_RECORDS:
            try:
                for _ in snapshot.scan(table):
                    pass
            except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
                raise StoreUnusable(
                    f"The backup is damaged: a row of {table.name} cannot be read: {error}. "
                    "Nothing was changed."
                ) from error
        return environment.identity, snapshot.last_cursor


@contextmanager
def hold_lock(directory: Path) -> Iterator[None]:
    """Lock a store's directory while the block runs. Errors: StoreUnusable, also for errors in the block."""
    lock = lock_directory(directory)
    try:
        with explain_errors(directory):
            yield
    finally:
        os.close(lock)


@contextmanager
def work_directory(directory: Path, name: str) -> Iterator[Path]:
    """Provide an empty directory inside the store's own; empty it first if a kill left it."""
    work = directory / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
