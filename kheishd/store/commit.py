"""Group commit: update functions run in order in one LMDB transaction, and one commit for all of them.

How a group is settled:

1. All run in one transaction, one after another, and it is committed. This is nearly always all.
2. One that raises before it wrote anything takes nothing back; it just has its error.
3. One that raises after it wrote: the transaction is taken back, and all run again, each in a nested
   transaction of its own, so that the one takes back only itself. Nesting costs as much as a small update
   itself (every page touched is copied), which is why it is not the first thing tried.
4. The disk is full: nothing was changed; each runs again in a transaction and a commit of its own, and
   learns its own fate.
5. The data file has been removed or replaced under us: what is committed goes where nobody will find it, so
   nobody is told that it is kept. The daemon lives on, since a backup of what it holds is all there is left.
6. The disk failed in any other way: it is not known what is on it. Nothing is written any more, by
   anybody; the daemon is to stop, and to start again from what the disk really holds.

Nobody is told anything before the commit: what one refused may rest on what another did in the group.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import lmdb
from msgspec import Struct

from kheishd.store.environment import DATA, Environment, Scrub, Transaction
from kheishd.store.journal import Heads
from protocol.errors.refusal import Refusal
from protocol.errors.store import StorageFailed, StorageFull
from protocol.limits.store import MAX_GROUP_UPDATES, MAX_UPDATE_BYTES

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

# No room: on the disk, in the user's quota, in the largest file that may be, in the map.
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
# Not the disk's fault and not for good: too little memory, too much in one transaction, an update
# function that went on after an error. Whoever was in the transaction gets the error itself.
_PASSING = (lmdb.MemoryError, lmdb.TxnFullError, lmdb.BadTxnError)
# The most that one commit writes: everything its members may, and as much again for the pages between.
_COMMIT_BYTES = 2 * MAX_GROUP_UPDATES * MAX_UPDATE_BYTES


GONE: Final = (
    "the store's data file was removed or replaced while the daemon runs; nothing is written any more. Make "
    "a backup with 'kheishctl daemon backup' before the daemon is stopped, and restore that"
)


class Job(Struct, Generic[T], eq=False):
    """One update on its way, and afterwards its own outcome: ``value``, or ``error`` if that is set.

    ``tag`` is the submitter's own. While ``queued``, whoever holds the lock may claim the job.
    """

    fn: Callable[[Transaction], T]
    now_ms: int
    lock: threading.Lock
    tag: Any = None
    queued: bool = True
    error: BaseException | None = None
    value: T | None = None

    def cancel(self) -> bool:
        """Take the update back while it is queued; whether that came in time. Then no outcome follows."""
        with self.lock:
            queued, self.queued = self.queued, False
            return queued

    def unwrap(self) -> T:
        """The value; raises the error if there is one."""
        if self.error is not None:
            raise self.error
        return cast("T", self.value)


Outcome = Job
"""What an update came to: the job itself."""


@dataclass(frozen=True, slots=True)
class Group:
    """Jobs that were settled together, and the bells to ring: tables' names, ``stream:<name>``."""

    jobs: list[Job[Any]]
    rung: frozenset[str]


class _TakeBack(Exception):
    """One of several updates raised after it had written."""


class Committer:
    """Settles groups, on one thread. ``full`` and ``failure`` say how writing goes."""

    def __init__(self, environment: Environment, scrub: Scrub | None) -> None:
        self.scrub = scrub
        self.full = False
        self.failure: str | None = None
        self._environment = environment
        self._heads = Heads()
        self._file = _file_of(environment.directory)

    def settle(self, jobs: list[Job[Any]]) -> frozenset[str]:
        """Run the jobs and commit what they did: each then has its value or its error.

        Shape: the bells to ring.
        """
        if self.failure is not None:
            return _refuse(jobs)
        try:
            rung = self._commit(jobs)
        except BaseException as error:
            return self._trouble(jobs, error)
        if not self.in_place:
            return _refuse(jobs, GONE)
        if rung:
            self.full = False
        return frozenset(rung)

    @property
    def in_place(self) -> bool:
        """Whether the data file is still the one that its name leads to."""
        return _file_of(self._environment.directory) == self._file

    def _trouble(self, jobs: list[Job[Any]], error: BaseException) -> frozenset[str]:
        full = _is_full(error, self._environment.directory)
        if not full and not isinstance(error, _PASSING):
            self.failure = f"a commit failed: {error!r}"
            return _refuse(jobs)
        if len(jobs) > 1:
            for job in jobs:
                job.error = None
            return frozenset().union(*(self.settle([job]) for job in jobs))
        self.full = self.full or full
        jobs[0].error = StorageFull() if full else error
        return frozenset()

    def _commit(self, jobs: list[Job[Any]]) -> set[str]:
        self._heads.bound()
        try:
            return self._together(jobs)
        except _TakeBack:
            if len(jobs) == 1:
                return set()
            return self._nested(jobs)

    def _together(self, jobs: list[Job[Any]]) -> set[str]:
        txn = self._environment.lmdb.begin(write=True)
        try:
            transaction = Transaction(self._environment, txn, self._heads, self.scrub)
            for job in jobs:
                transaction.turn(job.now_ms)
                try:
                    job.value = job.fn(transaction)
                except BaseException as error:
                    self._blame(job, error)
                    if transaction.wrote:
                        raise _TakeBack from None
            txn.commit()
        except BaseException:
            self._take_back(txn)
            raise
        return transaction.rung

    def _nested(self, jobs: list[Job[Any]]) -> set[str]:
        parent = self._environment.lmdb.begin(write=True)
        rung: set[str] = set()
        try:
            for job in jobs:
                rung |= self._alone_in(parent, job)
            parent.commit()
        except BaseException:
            self._take_back(parent)
            raise
        return rung

    def _alone_in(self, parent: lmdb.Transaction[bytes], job: Job[Any]) -> set[str]:
        job.error = None
        child = self._environment.lmdb.begin(write=True, parent=parent)
        transaction = Transaction(self._environment, child, self._heads, self.scrub)
        transaction.turn(job.now_ms)
        try:
            job.value = job.fn(transaction)
        except BaseException as error:
            self._take_back(child)
            self._blame(job, error)
            return set()
        child.commit()
        return transaction.rung

    def _take_back(self, txn: lmdb.Transaction[bytes]) -> None:
        txn.abort()
        self._heads.forget()

    def _blame(self, job: Job[Any], error: BaseException) -> None:
        """Let an error be the job's own, whatever it is: the writer goes on.

        Errors: lmdb.Error where it is not this job's doing.
        """
        if isinstance(error, lmdb.Error) and (
            isinstance(error, (lmdb.PanicError, *_PASSING)) or _is_full(error, self._environment.directory)
        ):
            raise error
        if isinstance(error, Refusal):
            # Where a rule says no is no secret and no fault. Its traceback holds the frames of this thread,
            # which hold the jobs, which hold the error: work for the garbage collector, at every refusal.
            error.__traceback__ = None
        job.error = error


def _file_of(directory: Path) -> tuple[int, int] | None:
    """Which file the data file is; None if there is none."""
    try:
        found = (directory / DATA).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refuse(jobs: list[Job[Any]], why: str | None = None) -> frozenset[str]:
    for job in jobs:
        job.error = StorageFailed(why)
    return frozenset()


def _is_full(error: BaseException, directory: Path) -> bool:
    """Whether an error says that there is no room.

    LMDB calls a write that was cut short an I/O error, and the last write that a full disk takes is cut
    short. So where LMDB says that, the disk is asked.
    """
    if not isinstance(error, lmdb.Error):
        return False
    # Only errors that LMDB itself raised have a code.
    code = getattr(error, "code", 0)
    if isinstance(error, lmdb.MapFullError) or code in _FULL:
        return True
    return code == errno.EIO and not _has_room(directory)


def _has_room(directory: Path) -> bool:
    """Whether the data file could grow by what one commit writes."""
    probe = directory / f".room-{os.getpid()}"
    try:
        size = (directory / DATA).stat().st_size
        descriptor = os.open(probe, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            # Nameless from the start: were we killed here, what it takes of a full disk would stay taken.
            probe.unlink()
            os.posix_fallocate(descriptor, size, _COMMIT_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        return error.errno not in _FULL
    return True
