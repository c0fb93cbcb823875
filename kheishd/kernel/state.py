"""The trio face of the store: await an update, read a snapshot, sleep on a bell."""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import outcome
import trio

from kheishd.store.environment import Scrub, Snapshot, Transaction
from kheishd.store.writer import Group, Job, Store
from protocol.ids import make_id

T = TypeVar("T")


def wall_clock_ms() -> int:
    """The time now, in Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Bell:
    """Rings once, after the next commit that touches what it was taken for."""

    __slots__ = ("_event",)

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


class State:
    """The store, for tasks."""

    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self.store = store
        self.now_ms = clock
        self._bells: dict[str, list[Bell]] = {}

    def new_id(self, prefix: str) -> str:
        """A fresh id; ids made later sort later, by the millisecond."""
        return make_id(prefix, self.now_ms(), os.urandom(10))

    def submit(self, fn: Callable[[Transaction], T], done: Callable[[Job[T]], None]) -> Job[T]:
        """Queue an update; ``done`` gets its outcome, on the loop, once."""
        return self.store.submit(fn, self.now_ms(), done)

    async def update(self, fn: Callable[[Transaction], T]) -> T:
        """Run ``fn`` as one transaction; what it changed is on the disk when this returns.

        Can be cancelled while it is queued, not once it runs.
        Errors: whatever ``fn`` raises (nothing was changed), StorageFull, StorageFailed.
        """
        task = trio.lowlevel.current_task()
        job = self.submit(fn, lambda job: trio.lowlevel.reschedule(task, outcome.Value(job)))

        def abort(_: Any) -> trio.lowlevel.Abort:
            return trio.lowlevel.Abort.SUCCEEDED if job.cancel() else trio.lowlevel.Abort.FAILED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return job.unwrap()

    def read(self) -> Snapshot:
        """A snapshot, for ``with``; never hold one across an ``await``."""
        return self.store.read()

    def bell(self, *names: str) -> Bell:
        """A bell for these tables and streams (``stream:<name>``). Take it before reading."""
        bell = Bell()
        for name in names:
            self._bells.setdefault(name, []).append(bell)
        return bell

    def settle(self, group: Group) -> None:
        """Tell those who wait for a group, then ring its bells."""
        for job in group.jobs:
            job.tag(job)
        for name in group.rung:
            for bell in self._bells.pop(name, ()):
                bell.ring()


@asynccontextmanager
async def open_state(
    directory: Path,
    *,
    version: str,
    clock: Callable[[], int] = wall_clock_ms,
    scrub: Scrub | None = None,
    threaded: bool = True,
) -> AsyncIterator[State]:
    """The state in ``directory``; closes when left, after what is queued is done."""
    token = trio.lowlevel.current_trio_token()
    state: State

    def on_group(group: Group) -> None:
        token.run_sync_soon(state.settle, group)

    store = Store.open(directory, on_group=on_group, scrub=scrub, threaded=threaded, version=version)
    state = State(store, clock)
    try:
        yield state
    finally:
        store.close()
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
