"""The store's interface, and the one thread that writes.

Update functions queue up while a commit is on its way to the disk; the next commit takes all of them, up to
256. So the busier the store, the less each update costs, and a single update waits for no other.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from kheishd.store.checkup import Checkup, check_data, check_snapshot
from kheishd.store.commit import Committer, Group, Job
from kheishd.store.environment import DATA, EventFollowers, Scrub, Snapshot, Transaction, refuse_damaged
from kheishd.store.opening import MAP_BYTES, NO_PLAN, open_environment
from kheishd.store.upgrades import SCHEMA, Rebuild, Upgraded, UpgradePlan
from protocol.errors.daemon import DaemonDraining
from protocol.limits.store import MAX_GROUP_UPDATES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Group", "Job", "Store"]

T = TypeVar("T")

# Other threads' snapshots are microseconds long; a backup ends at its next piece.
READERS_SECONDS = 10.0


class Store:
    """An ordered map of tables with serialized transactions, snapshots and bells."""

    schema = SCHEMA

    def __init__(
        self,
        directory: Path,
        *,
        on_group: Callable[[Group], None],
        on_failure: Callable[[str], None],
        on_damage: Callable[[str], None],
        is_watched: bool,
        scrub: Scrub | None,
        threaded: bool,
        version: str,
        map_bytes: int,
        rebuild: Rebuild | None,
        plan: UpgradePlan,
    ) -> None:
        self._opened = open_environment(
            directory, version=version, map_bytes=map_bytes, rebuild=rebuild, plan=plan
        )
        self._environment = self._opened.environment
        health = self._environment.health
        health.is_watched = is_watched
        health.on_damage = on_damage
        self._committer = Committer(self._environment, scrub)
        self._on_group = on_group
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._queue: SimpleQueue[list[Job[Any]] | None] = SimpleQueue()
        self.collects = False
        """Whether submitted updates wait for ``hand_over``; then one thread submits, and calls it."""
        self.collected: list[Job[Any]] = []
        """The updates that wait for it."""
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
        on_damage: Callable[[str], None] = lambda damage: None,
        is_watched: bool = True,
        scrub: Scrub | None = None,
        threaded: bool = True,
        version: str,
        map_bytes: int = MAP_BYTES,
        rebuild: Rebuild | None = None,
        plan: UpgradePlan = NO_PLAN,
    ) -> Store:
        """Open the store in ``directory``; create it if there is none.

        ``on_group`` is called once per commit and ``on_failure`` once at most, both on the writer thread;
        ``on_damage`` once at most, on any thread. A damaged store opens for reading. Unless ``is_watched``, a
        row that cannot be decoded is an error and no damage.
        Without ``threaded``, an update is flushed and reported when ``submit`` returns. ``rebuild`` folds the
        journal into the records again, after an upgrade that dropped them. ``plan`` is what happens before an
        upgrade.
        Errors: StoreUnusable.
        """
        return cls(
            directory,
            on_group=on_group,
            on_failure=on_failure,
            on_damage=on_damage,
            is_watched=is_watched,
            scrub=scrub,
            threaded=threaded,
            version=version,
            map_bytes=map_bytes,
            rebuild=rebuild,
            plan=plan,
        )

    @property
    def upgraded(self) -> Upgraded | None:
        """The upgrade that opening made, if the store was of an older version."""
        return self._opened.upgraded

    @property
    def directory(self) -> Path:
        """The store's directory."""
        return self._environment.directory

    @property
    def identity(self) -> str:
        """The store's unique name: 32 hexadecimal digits, chosen when it was created."""
        return self._environment.identity

    @property
    def file_bytes(self) -> int:
        """The size of the data file."""
        try:
            return (self.directory / DATA).stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def map_bytes(self) -> int:
        """The maximum size of the data file."""
        return int(self._environment.lmdb.info()["map_size"])

    @property
    def is_full(self) -> bool:
        """Whether the newest write was refused for lack of space."""
        return self._committer.is_full

    @property
    def is_in_place(self) -> bool:
        """Whether the data file still has its name; without it, nothing written is stored."""
        return self._committer.is_in_place

    @property
    def damage(self) -> str | None:
        """The damage because of which nothing is written any more; None while none is known."""
        return self._environment.health.damage

    def note_damage(self, damage: str) -> None:
        """Note damage that was found by a check: nothing is written any more."""
        self._environment.health.note(self._environment.data, damage)

    def check_structure(self) -> Checkup:
        """Check the pages of the file while it is in use. Runs a child process; may run on any thread."""
        if self.damage is not None:
            return check_data(self._environment.data)
        return check_snapshot(self._environment)

    @property
    def failure(self) -> str | None:
        """The failure after which the store writes no more; None while it works."""
        return self._committer.failure

    def submit(self, fn: Callable[[Transaction], T], now_ms: int, tag: Any = None) -> Job[T]:
        """Queue an update. Its result comes with its group; ``tag`` belongs to the caller.

        ``fn`` takes a millisecond or less, has no effect but on its transaction, and may run again.
        Errors: DaemonDraining once the store is closed; all others are the job's.
        """
        if self._closed:
            raise DaemonDraining("the store is closed")
        job = Job(fn, now_ms, self._lock, tag)
        if self._thread is None:
            job.queued = False
            self._flush([job])
        elif self.collects:
            self.collected.append(job)
        else:
            self._queue.put([job])
        return job

    def hand_over(self) -> None:
        """Queue the collected updates."""
        if self.collected:
            collected, self.collected = self.collected, []
            self._queue.put(collected)

    @property
    def queue_length(self) -> int:
        """The number of updates, or lists of them, that wait for the writer."""
        return len(self.collected) + self._queue.qsize()

    def read(self) -> Snapshot:
        """Return a snapshot, for ``with``."""
        return Snapshot(self._environment)

    @property
    def scrub(self) -> Scrub | None:
        """The redaction of secrets in each line, and in all other JSON that leaves the daemon."""
        return self._committer.scrub

    @property
    def followers(self) -> EventFollowers:
        """The patterns of event sources that connections follow."""
        return self._environment.followers

    def set_scrub(self, scrub: Scrub | None) -> None:
        """Redact each line with ``scrub`` before it is hashed, from the next append on."""
        self._committer.scrub = scrub

    def backup(
        self,
        directory: Path,
        *,
        timeout_s: float | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> int:
        """Copy the current store to a new directory; return its newest cursor. May run on any thread.

        ``check`` is called now and then; an exception that it raises ends the backup.
        Errors: PathRefused (also after the timeout), StorageFull, StoreDamaged, DaemonDraining; then nothing
        remains.
        """
        if self.damage is not None:
            raise refuse_damaged(self.damage)
        from kheishd.store.backup import MAX_BACKUP_SECONDS, write_backup

        timeout_s = MAX_BACKUP_SECONDS if timeout_s is None else timeout_s
        return write_backup(self._environment, directory, timeout_s, check)

    def close(self) -> None:
        """Flush the queue and close. Close this thread's snapshots; wait for those of other threads."""
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self.hand_over()
            self._queue.put(None)
            self._thread.join()
        # If a reader does not end, leave the environment open: closing it could crash the interpreter.
        if self._environment.readers.drain(READERS_SECONDS):
            self._opened.close()

    def _write(self) -> None:
        queue = self._queue
        while (waiting := queue.get()) is not None:
            for _ in range(queue.qsize()):
                if len(waiting) >= MAX_GROUP_UPDATES:
                    break
                further = queue.get()
                if further is None:
                    # Nothing is submitted after the end, so it comes right after this group.
                    queue.put(None)
                    break
                waiting = waiting + further
            for start in range(0, len(waiting), MAX_GROUP_UPDATES):
                # Jobs that were not cancelled until here cannot be cancelled any more.
                with self._lock:
                    jobs = [job for job in waiting[start : start + MAX_GROUP_UPDATES] if job.queued]
                    for job in jobs:
                        job.queued = False
                if jobs:
                    self._flush(jobs)

    def _flush(self, jobs: list[Job[Any]]) -> None:
        previous_failure = self._committer.failure
        self._on_group(self._committer.flush_group(jobs))
        if previous_failure is None and self._committer.failure is not None:
            self._on_failure(self._committer.failure)
