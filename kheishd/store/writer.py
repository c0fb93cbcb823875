"""The store's face, and the one thread that writes.

Update functions queue up while a commit is on its way to the disk; the next commit takes all of them, up
to 256. So the busier the store, the less each update costs, and a lonely one waits for nobody.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from kheishd.store.backup import MAX_BACKUP_SECONDS, write_backup
from kheishd.store.commit import Committer, Group, Job, Outcome
from kheishd.store.environment import DATA, Scrub, Snapshot, Transaction
from kheishd.store.opening import MAP_BYTES, open_environment
from kheishd.store.upgrades import SCHEMA, Rebuild
from protocol.errors.daemon import DaemonDraining
from protocol.limits.store import MAX_GROUP_UPDATES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Group", "Job", "Outcome", "Store"]

T = TypeVar("T")

# Other threads' snapshots are microseconds long; a backup ends at its next piece.
READERS_SECONDS = 10.0


class Store:
    """An ordered map of tables with serialised transactions, snapshots and bells."""

    schema = SCHEMA

    def __init__(
        self,
        directory: Path,
        *,
        on_group: Callable[[Group], None],
        on_failure: Callable[[str], None],
        scrub: Scrub | None,
        threaded: bool,
        version: str,
        map_bytes: int,
        rebuild: Rebuild | None,
    ) -> None:
        self._opened = open_environment(directory, version=version, map_bytes=map_bytes, rebuild=rebuild)
        self._environment = self._opened.environment
        self._committer = Committer(self._environment, scrub)
        self._on_group = on_group
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._closed = False
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._write, name="store-writer", daemon=True)
            self._thread.start()

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        on_group: Callable[[Group], None],
        on_failure: Callable[[str], None] = lambda reason: None,
        scrub: Scrub | None = None,
        threaded: bool = True,
        version: str,
        map_bytes: int = MAP_BYTES,
        rebuild: Rebuild | None = None,
    ) -> Store:
        """Open the store in ``directory``, making it if there is none.

        ``on_group`` is called once per commit and ``on_failure`` once at most, both on the writer thread.
        Without ``threaded`` an update is done, and told, when ``submit`` returns. ``rebuild`` folds the
        journal into the records again, after an upgrade that dropped them.
        Errors: StoreUnusable.
        """
        return cls(
            directory,
            on_group=on_group,
            on_failure=on_failure,
            scrub=scrub,
            threaded=threaded,
            version=version,
            map_bytes=map_bytes,
            rebuild=rebuild,
        )

    @property
    def directory(self) -> Path:
        """Where it is."""
        return self._environment.directory

    @property
    def identity(self) -> str:
        """What tells this store from every other: 32 hexadecimal digits, given when it was made."""
        return self._environment.identity

    @property
    def file_bytes(self) -> int:
        """What the data file takes."""
        try:
            return (self.directory / DATA).stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def map_bytes(self) -> int:
        """What it may take at most."""
        return int(self._environment.lmdb.info()["map_size"])

    @property
    def full(self) -> bool:
        """Whether the newest write was refused for want of room."""
        return self._committer.full

    @property
    def in_place(self) -> bool:
        """Whether the data file is still where it was; without it nothing is kept."""
        return self._committer.in_place

    @property
    def failure(self) -> str | None:
        """Why nothing is written any more, for good; None while all is well."""
        return self._committer.failure

    def submit(self, fn: Callable[[Transaction], T], now_ms: int, tag: Any = None) -> Job[T]:
        """Queue an update. Its outcome comes with its group; ``tag`` is the caller's own.

        ``fn`` takes a millisecond or less, has no effect but on its transaction, and may be run again.
        Errors: DaemonDraining once closed; all others are the job's.
        """
        if self._closed:
            raise DaemonDraining("the store is closed")
        job = Job(fn, now_ms, self._lock, tag)
        if self._thread is None:
            job.queued = False
            self._settle([job])
        else:
            self._queue.put(job)
        return job

    def read(self) -> Snapshot:
        """A snapshot, to be entered with ``with``."""
        return Snapshot(self._environment)

    @property
    def scrub(self) -> Scrub | None:
        """What takes the secrets out of each line, and out of anything else that leaves as JSON."""
        return self._committer.scrub

    def set_scrub(self, scrub: Scrub | None) -> None:
        """From the next append on, pass each line through ``scrub`` before it is hashed."""
        self._committer.scrub = scrub

    def backup(
        self,
        directory: Path,
        *,
        timeout_s: float = MAX_BACKUP_SECONDS,
        check: Callable[[], object] = lambda: None,
    ) -> int:
        """Copy the store, as it is now, to a new directory; gives its newest cursor. From any thread.

        ``check`` is called now and then: what it raises ends the work.
        Errors: PathRefused, also when it is late, StorageFull, DaemonDraining; then nothing is left there.
        """
        return write_backup(self._environment, directory, timeout_s, check)

    def close(self) -> None:
        """Finish what is queued and close. Open snapshots of this thread end, other threads' are awaited."""
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        # Where a reader does not end, the environment stays open: better than to pull it away.
        if self._environment.readers.drain(READERS_SECONDS):
            self._opened.close()

    def _write(self) -> None:
        queue = self._queue
        while (first := queue.get()) is not None:
            taken = [first]
            for _ in range(min(queue.qsize(), MAX_GROUP_UPDATES - 1)):
                job = queue.get()
                if job is None:
                    # Nothing is submitted after the end, so it comes right after this group.
                    queue.put(None)
                    break
                taken.append(job)
            jobs = self._claim(taken)
            if jobs:
                self._settle(jobs)

    def _claim(self, taken: list[Job[Any]]) -> list[Job[Any]]:
        """Those that were not cancelled; from here on they cannot be."""
        with self._lock:
            jobs = [job for job in taken if job.queued]
            for job in jobs:
                job.queued = False
        return jobs

    def _settle(self, jobs: list[Job[Any]]) -> None:
        failed = self._committer.failure
        rung = self._committer.settle(jobs)
        self._on_group(Group(jobs, rung))
        if failed is None and self._committer.failure is not None:
            self._on_failure(self._committer.failure)
