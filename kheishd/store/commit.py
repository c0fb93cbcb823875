"""Group commit: run update functions in order in one LMDB transaction and commit them together.

A group is flushed as follows:

1. All updates run in one transaction, one after another, and it is committed. Nearly every group ends here.
2. An update that raises before it wrote anything needs no rollback; it only gets its error.
3. If an update raises after it wrote, the transaction is rolled back, and all updates run again, each in a
   nested transaction, so that only the failed one is rolled back. Nesting costs as much as a small update
   (LMDB copies every page touched), so it is not the first attempt.
4. If the disk is full, nothing was changed: each update runs again in a transaction and a commit of its own
   and gets its own result.
5. If the data file was removed or replaced, a commit goes to a file that no name leads to, so no update is
   reported as stored. The daemon keeps running, because a backup of its state is the only remaining copy.
6. If anything cannot be read, the store is damaged: the group is rolled back, and nothing more is written.
7. After any other disk failure the contents of the disk are unknown. The writer refuses all further updates;
   the daemon must stop and start again from the contents of the disk.

No result is reported before the commit: a refusal may depend on another update of the group.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import lmdb
from msgspec import Struct

from kheishd.store.checkup import check_data
from kheishd.store.environment import CORRUPT, DATA, Environment, Scrub, Transaction, refuse_damaged
from kheishd.store.journal import Heads
from protocol.errors.refusal import Refusal
from protocol.errors.store import StorageFailed, StorageFull
from protocol.limits.store import MAX_GROUP_UPDATES, MAX_UPDATE_BYTES
from protocol.structs import Value

if TYPE_CHECKING:
    from pathlib import Path

    from protocol.journal.line import JournalEvent

T = TypeVar("T")

# No space: on the disk, in the user's quota, in the largest possible file, in the map.
FULL_ERRORS: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
# Transient errors that are not the disk's: too little memory, too much in one transaction, an update function
# that continued after an error. The updates of the transaction get the error itself.
_TRANSIENT = (lmdb.MemoryError, lmdb.TxnFullError, lmdb.BadTxnError)
# Errors that say nothing about the contents of the file.
_NO_DAMAGE = (lmdb.DiskError, lmdb.MapFullError, lmdb.MemoryError, lmdb.TxnFullError)
# The maximum that one commit writes: all its updates, and as much again for the pages between.
_COMMIT_BYTES = 2 * MAX_GROUP_UPDATES * MAX_UPDATE_BYTES


GONE: Final = (
    "the store's data file was removed or replaced while the daemon runs, and nothing is written any more. "
    "Back up the store before you stop the daemon, and restore that backup"
)


class Job(Struct, Generic[T], eq=False):
    """A submitted update and, once flushed, its result: ``error`` if that is set, else ``value``.

    ``tag`` belongs to the submitter. While ``queued``, the holder of the lock may claim the job.
    """

    fn: Callable[[Transaction], T]
    now_ms: int
    lock: threading.Lock
    tag: Any = None
    queued: bool = True
    error: BaseException | None = None
    value: T | None = None

    def cancel(self) -> bool:
        """Withdraw the update if it is still queued; return whether it was. It gets no result then."""
        with self.lock:
            queued, self.queued = self.queued, False
            return queued

    def unwrap(self) -> T:
        """Return the value; raise the error if there is one."""
        if self.error is not None:
            raise self.error
        return cast("T", self.value)


class Group(Value, frozen=True):
    """Jobs that were flushed together, and the bells to ring: table names and ``stream:<name>``.

    ``events`` are the committed ones, each with the route of its run, ``journal_bytes`` the size of their
    lines, ``took_s`` the time of the flush.
    """

    jobs: list[Job[Any]]
    rung: frozenset[str]
    events: list[tuple[JournalEvent, str]] = []
    journal_bytes: int = 0
    took_s: float = 0.0


class _DamageNoticed(Exception):
    """An update read something that is damaged."""


class _RollBack(Exception):
    """One of several updates raised after it had written."""


class Committer:
    """Flushes groups, on one thread. ``is_full`` and ``failure`` state whether writing works."""

    def __init__(self, environment: Environment, scrub: Scrub | None) -> None:
        self.scrub = scrub
        self.is_full = False
        self.failure: str | None = None
        self._environment = environment
        self._heads = Heads()
        self._events: list[tuple[JournalEvent, str]] = []
        self._journal_bytes = 0
        self._path = str(environment.directory / DATA)
        self._file = _file_identity(self._path)

    def flush(self, jobs: list[Job[Any]]) -> frozenset[str]:
        """Run the jobs and commit their changes, so that each has its value or its error.

        Shape: the bells to ring.
        """
        if self.failure is not None:
            return _fail_all(jobs)
        with self._environment.health.lock:
            if self._environment.health.damage is not None:
                return self._refuse_all(jobs)
            try:
                rung = self._commit(jobs)
            except BaseException as error:
                return self._handle(jobs, error)
        if not self.is_in_place:
            return _fail_all(jobs, GONE)
        if rung:
            self.is_full = False
        return frozenset(rung)

    def flush_group(self, jobs: list[Job[Any]]) -> Group:
        """Flush jobs, and return them with everything that was committed."""
        self._events, self._journal_bytes = [], 0
        started = time.perf_counter()
        rung = self.flush(jobs)
        return Group(jobs, rung, self._events, self._journal_bytes, time.perf_counter() - started)

    @property
    def is_in_place(self) -> bool:
        """Whether the data file is still the file of that name."""
        return _file_identity(self._path) == self._file

    def _handle(self, jobs: list[Job[Any]], error: BaseException) -> frozenset[str]:
        """Handle a failed commit: try each job alone if the failure allows it, else stop writing for good."""
        is_corrupt = isinstance(error, CORRUPT)
        if not is_corrupt and isinstance(error, lmdb.Error) and not isinstance(error, _NO_DAMAGE):
            # LMDB reports some damage with errors that usually mean something else.
            is_corrupt = bool(check_data(self._environment.data).problems)
        if is_corrupt:
            self._environment.health.note(self._environment.data, f"a commit met it ({error})")
        if self._environment.health.damage is not None:
            return self._refuse_all(jobs)
        full = is_disk_full(error, self._environment.directory)
        if not full and not isinstance(error, _TRANSIENT):
            self.failure = f"a commit failed: {error!r}"
            return _fail_all(jobs)
        if len(jobs) > 1:
            for job in jobs:
                job.error = None
            return frozenset().union(*(self.flush([job]) for job in jobs))
        self.is_full = self.is_full or full
        jobs[0].error = self._make_refusal() if full else error
        return frozenset()

    def _make_refusal(self) -> StorageFull:
        """Return the refusal of a change for lack of space, which names the disk."""
        return StorageFull(
            f"the disk of {self._environment.directory} is full; nothing was changed. Reads work; writes "
            "resume when there is space"
        )

    def _refuse_all(self, jobs: list[Job[Any]]) -> frozenset[str]:
        damage = self._environment.health.damage
        assert damage is not None
        for job in jobs:
            job.error = refuse_damaged(damage)
        return frozenset()

    def _commit(self, jobs: list[Job[Any]]) -> set[str]:
        """Commit all jobs in one transaction; in nested ones if a job must be rolled back alone."""
        self._heads.limit_memory()
        txn = self._environment.lmdb.begin(write=True)
        try:
            transaction = Transaction(self._environment, txn, self._heads, self.scrub)
            for job in jobs:
                transaction.begin_update(job.now_ms)
                try:
                    job.value = job.fn(transaction)
                except BaseException as error:
                    self._assign(job, error)
                    if transaction.has_written:
                        raise _RollBack from None
            self._require_sound()
            txn.commit()
            self._note(transaction)
        except _RollBack:
            self._roll_back(txn)
            return self._commit_nested(jobs) if len(jobs) > 1 else set()
        except BaseException:
            self._roll_back(txn)
            raise
        return transaction.rung

    def _commit_nested(self, jobs: list[Job[Any]]) -> set[str]:
        parent = self._environment.lmdb.begin(write=True)
        rung: set[str] = set()
        committed: list[Transaction] = []
        try:
            for job in jobs:
                job.error = None
                child = self._environment.lmdb.begin(write=True, parent=parent)
                transaction = Transaction(self._environment, child, self._heads, self.scrub)
                transaction.begin_update(job.now_ms)
                try:
                    job.value = job.fn(transaction)
                except BaseException as error:
                    self._roll_back(child)
                    self._assign(job, error)
                else:
                    child.commit()
                    rung |= transaction.rung
                    committed.append(transaction)
            self._require_sound()
            parent.commit()
            for transaction in committed:
                self._note(transaction)
        except BaseException:
            self._roll_back(parent)
            raise
        return rung

    def _note(self, transaction: Transaction) -> None:
        """Note the events of a transaction that is committed."""
        self._events += transaction.events
        self._journal_bytes += transaction.journal_bytes

    def _require_sound(self) -> None:
        """Commit nothing that was computed from damaged rows."""
        if self._environment.health.damage is not None:
            raise _DamageNoticed

    def _roll_back(self, txn: lmdb.Transaction[bytes]) -> None:
        txn.abort()
        self._heads.reset()

    def _assign(self, job: Job[Any], error: BaseException) -> None:
        """Make an error the result of its job, whatever it is, so that the writer continues.

        Errors: lmdb.Error if the job did not cause it.
        """
        if isinstance(error, lmdb.Error) and (
            isinstance(error, (lmdb.PanicError, *CORRUPT, *_TRANSIENT))
            or is_disk_full(error, self._environment.directory)
        ):
            raise error
        if isinstance(error, Refusal):
            # A refusal is everyday and no fault. Its traceback holds the frames of this thread, which hold
            # the jobs, which hold the error: garbage collection at every refusal.
            error.__traceback__ = None
        job.error = error


def _file_identity(path: str) -> tuple[int, int] | None:
    """Return the device and inode of a file; None if there is none."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _fail_all(jobs: list[Job[Any]], message: str | None = None) -> frozenset[str]:
    for job in jobs:
        job.error = StorageFailed(message)
    return frozenset()


def is_disk_full(error: BaseException, directory: Path) -> bool:
    """Whether an error means that there is no space.

    LMDB reports a short write as an I/O error, and the last write to a full disk is short. So on an I/O
    error, ask the disk.
    """
    if not isinstance(error, lmdb.Error):
        return False
    # Only errors that LMDB itself raised have a code.
    code = getattr(error, "code", 0)
    if isinstance(error, lmdb.MapFullError) or code in FULL_ERRORS:
        return True
    return code == errno.EIO and not has_space(directory)


def has_space(directory: Path) -> bool:
    """Whether the data file could grow by the size of one commit."""
    probe = directory / f".room-{os.getpid()}"
    try:
        size = (directory / DATA).stat().st_size
        descriptor = os.open(probe, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            # Nameless from the start: after a kill here, its blocks on a full disk would never be freed.
            probe.unlink()
            os.posix_fallocate(descriptor, size, _COMMIT_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        return error.errno not in FULL_ERRORS
    return True
