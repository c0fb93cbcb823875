"""The trio face of the store: await an update, read a snapshot, sleep on a bell.

What the writer thread has settled reaches the loop in one hop for each commit: those who wait are told,
then the bells ring that the commit touched. A bell carries nothing; who hears it reads the store. So
take the bell, then read, then sleep on it: a commit in between has rung it already.
"""

import logging
import os
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from kheishd.records.rebuild import rebuild_some
from kheishd.store.blobs import blob_name, chunks, put_chunk
from kheishd.store.environment import Scrub, Snapshot, Transaction
from kheishd.store.writer import Group, Job, Store
from protocol.ids import make_id

# What is hashed on the loop: one millisecond of it, or two.
HASHED_AT_ONCE_BYTES = 1024 * 1024

T = TypeVar("T")
log = logging.getLogger(__name__)


def wall_clock_ms() -> int:
    """The time now, in Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Bell:
    """Rings once, at the next commit that touches what it was taken for."""

    __slots__ = ("__weakref__", "_event")

    def __init__(self) -> None:
        self._event = trio.Event()

    async def wait(self) -> None:
        """Sleep until it rings; return at once if it has."""
        await self._event.wait()

    def ring(self) -> None:
        """Wake whoever waits."""
        self._event.set()

    @property
    def rung(self) -> bool:
        """Whether it has rung."""
        return self._event.is_set()


class _Rope(weakref.ref[Bell]):
    """What the tower holds of a bell: enough to ring it, not enough to keep it when nobody else does."""

    __slots__ = ("names",)
    names: tuple[str, ...]


class _Tower:
    """The bells that have not rung, by the names they were taken for."""

    def __init__(self) -> None:
        self._ropes: dict[str, set[_Rope]] = {}

    def hang(self, names: tuple[str, ...]) -> Bell:
        """A new bell for these names."""
        bell = Bell()
        rope = _Rope(bell, self._take_down)
        rope.names = names
        for name in names:
            self._ropes.setdefault(name, set()).add(rope)
        return bell

    def ring(self, name: str) -> None:
        """Ring the bells that were taken for a name, and be done with them."""
        for rope in self._ropes.pop(name, ()):
            if len(rope.names) > 1:
                self._take_down(rope)
            bell = rope()
            if bell is not None:
                bell.ring()

    def _take_down(self, rope: _Rope) -> None:
        """A bell that nobody holds any more need not ring: who waits a moment and leaves, leaves nothing."""
        for name in rope.names:
            ropes = self._ropes.get(name)
            if ropes is not None:
                ropes.discard(rope)
                if not ropes:
                    del self._ropes[name]


class State:
    """The store, for tasks. ``failed`` rings once the store will write no more: the daemon is to stop."""

    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self.store = store
        self.now_ms = clock
        self.failed = Bell()
        self._tower = _Tower()
        self._chances: list[bytes] = []

    def new_id(self, prefix: str) -> str:
        """A fresh id; ids made later sort later, by the millisecond."""
        try:
            chance = self._chances.pop()
        except IndexError:
            # A hundred at a time: each call to the kernel lets go of the interpreter, and while the
            # writer is busy it takes milliseconds to get that back. Popping is safe from any thread.
            several = os.urandom(1_000)
            self._chances += [several[at : at + 10] for at in range(10, 1_000, 10)]
            chance = several[:10]
        return make_id(prefix, self.now_ms(), chance)

    def submit(self, fn: Callable[[Transaction], T], done: Callable[[Job[T]], None]) -> Job[T]:
        """Queue an update; ``done`` gets its outcome, on the loop, once; never, if it was cancelled.

        Errors: DaemonDraining once the store is closed.
        """
        return self.store.submit(fn, self.now_ms(), done)

    async def update(self, fn: Callable[[Transaction], T]) -> T:
        """Run ``fn`` as one transaction; what it changed is on the disk when this returns.

        ``fn`` takes a millisecond or less, has no effect but on its transaction, and may be run again.
        Can be cancelled while it is queued, not once it runs.
        Errors: whatever ``fn`` raises (then it changed nothing), StorageFull, StorageFailed.
        """
        job = self.store.submit(fn, self.now_ms(), current_task())

        def abort(_: Any) -> Abort:
            return Abort.SUCCEEDED if job.cancel() else Abort.FAILED

        await wait_task_rescheduled(abort)
        error, job.error = job.error, None
        if error is None:
            return job.unwrap()
        try:
            raise error
        finally:
            # The traceback of an error holds this frame: did it hold the error in turn, they would be a
            # cycle, and refusals are everyday.
            del error

    async def put_blob(self, content: bytes) -> str:
        """Keep a large value, a chunk a transaction; gives its name, to be referred to from now on.

        Errors: StorageFull, StorageFailed; then what was written of it is nothing, and may be again.
        """
        if len(content) > HASHED_AT_ONCE_BYTES:
            name = await trio.to_thread.run_sync(blob_name, content)
        else:
            name = blob_name(content)
        for number, chunk in chunks(content):
            await self.update(partial(put_chunk, name=name, number=number, chunk=chunk))
        return name

    async def backup(self, directory: Path) -> int:
        """Copy the store, as it is now, to a new directory, in a thread; gives its newest cursor.

        Can be cancelled at any time.
        Errors: PathRefused, StorageFull; then nothing is left there.
        """
        check = trio.from_thread.check_cancelled
        return await trio.to_thread.run_sync(partial(self.store.backup, directory, check=check))

    def read(self) -> Snapshot:
        """A snapshot, for ``with``; never hold one across an ``await``."""
        return self.store.read()

    def bell(self, *names: str) -> Bell:
        """A bell for these tables and streams (``stream:<name>``). Take it before reading."""
        return self._tower.hang(names)

    def settle(self, group: Group) -> None:
        """Tell those who wait for a group, then ring its bells. On the loop, in the order of commits."""
        for job in group.jobs:
            told = job.tag
            if type(told) is Task:
                reschedule(told)
            else:
                _tell(told, job)
        for name in group.rung:
            self._tower.ring(name)


def _tell(done: Callable[[Job[Any]], None], job: Job[Any]) -> None:
    """One who cannot bear an outcome leaves the others unharmed."""
    try:
        done(job)
    except Exception:
        log.exception("an update's outcome could not be delivered")


@asynccontextmanager
async def open_state(
    directory: Path,
    *,
    version: str,
    clock: Callable[[], int] = wall_clock_ms,
    scrub: Scrub | None = None,
    threaded: bool = True,
) -> AsyncIterator[State]:
    """The state in ``directory``; closes when left, after what is queued is done and told.

    Errors: StoreUnusable.
    """
    token = trio.lowlevel.current_trio_token()
    state: State

    def on_group(group: Group) -> None:
        # Where the loop is gone there is nobody left to tell.
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(state.settle, group)

    def on_failure(reason: str) -> None:
        log.critical("the store failed and writes no more: %s", reason)
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(state.failed.ring)

    store = Store.open(
        directory,
        on_group=on_group,
        on_failure=on_failure,
        scrub=scrub,
        threaded=threaded,
        version=version,
        rebuild=rebuild_some,
    )
    state = State(store, clock)
    try:
        yield state
    finally:
        store.close()
        with trio.CancelScope(shield=True):
            told = trio.Event()
            token.run_sync_soon(told.set)
            await told.wait()
