"""The writer: one thread that runs update functions in order, a group of them to a commit."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import lmdb

from kheishd.store.environment import Scrub, Snapshot, Transaction
from kheishd.store.tables import TABLES, Table
from protocol.limits import UPDATE_GROUP_MAX

T = TypeVar("T")
MAP_BYTES = 1 << 40


class Job(Generic[T]):
    """One update on its way, and afterwards its own outcome: ``value``, or ``error`` if that is set."""

    __slots__ = ("_queued", "_store", "error", "fn", "now_ms", "tag", "value")

    def __init__(self, fn: Callable[[Transaction], T], now_ms: int, store: "Store", tag: Any = None) -> None:
        self.fn = fn
        self.now_ms = now_ms
        self.tag = tag
        self.error: Exception | None = None
        self.value: T
        self._store = store
        self._queued = True

    def cancel(self) -> bool:
        """Take the update back while it is queued; whether that came in time."""
        with self._store.lock:
            queued, self._queued = self._queued, False
        return queued

    def take(self) -> bool:
        """Claim the job for running; the store's lock is held."""
        queued, self._queued = self._queued, False
        return queued

    def unwrap(self) -> T:
        """The value; raises the error if there is one."""
        if self.error is not None:
            raise self.error
        return self.value


Outcome = Job
"""What an update came to: the job itself."""


@dataclass(frozen=True, slots=True)
class Group:
    """Jobs that were settled together, and the bells to ring."""

    jobs: list[Job[Any]]
    rung: frozenset[str]


class Store:
    """An ordered map of tables with serialised transactions, snapshots and bells."""

    def __init__(
        self, env: lmdb.Environment, on_group: Callable[[Group], None], scrub: Scrub | None, threaded: bool
    ) -> None:
        self.lock = threading.Lock()
        self._env = env
        self._dbs: dict[Table[Any], Any] = {}
        self._on_group = on_group
        self._scrub = scrub
        self._queue: SimpleQueue[Job[Any] | None] = SimpleQueue()
        with env.begin(write=True) as txn:
            for table in TABLES:
                self._dbs[table] = env.open_db(table.name.encode(), txn)
        self._thread = threading.Thread(target=self._write, name="store-writer") if threaded else None
        if self._thread is not None:
            self._thread.start()

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        on_group: Callable[[Group], None],
        scrub: Scrub | None = None,
        threaded: bool = True,
        version: str,
    ) -> "Store":
        """Open the store in ``directory``, making it if there is none."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        env = lmdb.open(
            str(directory),
            map_size=MAP_BYTES,
            max_dbs=64,
            max_readers=512,
            max_spare_txns=8,
            readahead=False,
            mode=0o600,
        )
        return cls(env, on_group, scrub, threaded)

    def submit(self, fn: Callable[[Transaction], T], now_ms: int, tag: Any = None) -> Job[T]:
        """Queue an update. Its outcome comes with its group; ``tag`` is the caller's own."""
        job = Job(fn, now_ms, self, tag)
        if self._thread is None:
            job.take()
            self._commit([job])
        else:
            self._queue.put(job)
        return job

    def read(self) -> Snapshot:
        """A snapshot, to be entered with ``with``."""
        return Snapshot(self._env, self._dbs)

    def set_scrub(self, scrub: Scrub | None) -> None:
        """From the next append on, pass each line through ``scrub`` before it is hashed."""
        self._scrub = scrub

    def close(self) -> None:
        """Finish what is queued and close."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        self._env.close()

    def _write(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            jobs = [first]
            while len(jobs) < UPDATE_GROUP_MAX and not self._queue.empty():
                job = self._queue.get()
                if job is None:
                    self._queue.put(None)
                    break
                jobs.append(job)
            with self.lock:
                jobs = [job for job in jobs if job.take()]
            if jobs:
                self._commit(jobs)

    def _commit(self, jobs: list[Job[Any]]) -> None:
        rung: set[str] = set()
        with self._env.begin(write=True) as txn:
            for job in jobs:
                self._run(job, txn, rung)
        self._on_group(Group(jobs, frozenset(rung)))

    def _run(self, job: Job[Any], parent: "lmdb.Transaction[bytes]", rung: set[str]) -> None:
        child = self._env.begin(write=True, parent=parent)
        transaction = Transaction(self._env, self._dbs, child, job.now_ms, self._scrub)
        try:
            job.value = job.fn(transaction)
        except Exception as error:
            child.abort()
            job.error = error
        else:
            child.commit()
            rung |= transaction.rung
