"""The store for trio tasks: await an update, read a snapshot, wait for a bell.

Each commit of the writer thread reaches the loop in one hop: first the waiting tasks get their outcomes, then
the bells of the touched tables and streams ring, and their watches are called. A bell carries no data; its
owner reads the store. Take the bell, then read, then wait for the bell: a commit in between has rung it
already. A watch spares the task that waits for a bell again and again.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from contextlib import asynccontextmanager, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from kheishd.kernel.meter import SLOW_ROUND_SECONDS, Meter
from kheishd.records.rebuild import find_unreadable, rebuild_some
from kheishd.store.blobs import blob_name, chunks, put_chunk
from kheishd.store.environment import Scrub, Snapshot, Transaction, refuse_damaged
from kheishd.store.epoch import read_epoch
from kheishd.store.upgrades import UpgradePlan, describe_upgrade
from kheishd.store.writer import Group, Job, Store
from protocol.ids import make_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

MAX_INLINE_HASH_BYTES = 1024 * 1024
"""The largest value that is hashed on the loop, which takes a millisecond or two."""

T = TypeVar("T")
log = logging.getLogger(__name__)


def wall_clock_ms() -> int:
    """Return the time, in Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Bell:
    """A one-shot signal: it rings at the next commit that touches one of its names."""

    __slots__ = ("__weakref__", "_event")

    def __init__(self) -> None:
        self._event = trio.Event()

    async def wait(self) -> None:
        """Wait until the bell rings; return at once if it has rung."""
        await self._event.wait()

    def ring(self) -> None:
        """Wake the waiting tasks."""
        self._event.set()

    @property
    def rung(self) -> bool:
        """Whether the bell has rung."""
        return self._event.is_set()


class _BellReference(weakref.ref[Bell]):
    """A weak reference to a bell, with its names: the registry keeps no bell alive."""

    __slots__ = ("names",)
    names: tuple[str, ...]


class _BellRegistry:
    """The bells that have not rung, by name."""

    def __init__(self) -> None:
        self._references: dict[str, set[_BellReference]] = {}

    def create(self, names: tuple[str, ...]) -> Bell:
        """Create a bell with these names."""
        bell = Bell()
        reference = _BellReference(bell, self._remove)
        reference.names = names
        for name in names:
            self._references.setdefault(name, set()).add(reference)
        return bell

    def ring(self, name: str) -> None:
        """Ring and forget the bells with this name."""
        for reference in self._references.pop(name, ()):
            if len(reference.names) > 1:
                self._remove(reference)
            bell = reference()
            if bell is not None:
                bell.ring()

    def ring_all(self) -> None:
        """Ring and forget all bells."""
        for name in list(self._references):
            self.ring(name)

    def _remove(self, reference: _BellReference) -> None:
        """Forget a bell that has rung or was garbage-collected, so that abandoned bells cost nothing."""
        for name in reference.names:
            references = self._references.get(name)
            if references is not None:
                references.discard(reference)
                if not references:
                    del self._references[name]


class StoreWatch:
    """A function that is called on the loop after each commit that touches one of some tables and streams."""

    __slots__ = ("_error", "_failed", "_look", "_registry", "names")

    def __init__(
        self, look: Callable[[], None], names: tuple[str, ...], registry: dict[str, dict[StoreWatch, None]]
    ) -> None:
        self.names = names
        self._look = look
        self._registry = registry
        self._error: Exception | None = None
        self._failed = trio.Event()
        for name in names:
            registry.setdefault(name, {})[self] = None

    def notify(self) -> None:
        """Call the function. If it fails, the watch is closed."""
        try:
            self._look()
        except Exception as error:
            self._error = error
            self._failed.set()
            self.close()

    async def wait(self) -> NoReturn:
        """Wait until the function fails. Errors: its error."""
        await self._failed.wait()
        assert self._error is not None
        raise self._error

    def close(self) -> None:
        """End the watch: the function is called no more."""
        for name in self.names:
            watches = self._registry.get(name, {})
            watches.pop(self, None)
            if not watches:
                self._registry.pop(name, None)
        self.names = ()


class State:
    """The store, for trio tasks.

    ``failed`` rings when the store writes no more and the daemon must stop; ``damaged`` when it is read-only.
    """

    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self.store = store
        self.now_ms = clock
        self.failed = Bell()
        self.damaged = Bell()
        self.meter = Meter()
        self._bells = _BellRegistry()
        self._watches: dict[str, dict[StoreWatch, None]] = {}
        self._random: list[bytes] = []

    @cached_property
    def epoch(self) -> str:
        """The epoch of the store: the id of its line of history, which a restore ends."""
        with self.read() as store:
            return read_epoch(store)

    def new_id(self, prefix: str) -> str:
        """Return a new id; a later id sorts after an earlier one, by the millisecond."""
        try:
            random = self._random.pop()
        except IndexError:
            # A hundred at a time: each system call releases the interpreter lock, and while the writer is
            # busy it takes milliseconds to get it back. Popping is safe from any thread.
            block = os.urandom(1_000)
            self._random += [block[start : start + 10] for start in range(10, 1_000, 10)]
            random = block[:10]
        return make_id(prefix, self.now_ms(), random)

    def submit(self, fn: Callable[[Transaction], T], done: Callable[[Job[T]], None]) -> Job[T]:
        """Queue an update. ``done`` is called once with its outcome, on the loop; never if it was cancelled.

        Errors: DaemonDraining once the store is closed.
        """
        return self.store.submit(fn, self.now_ms(), done)

    async def update(self, fn: Callable[[Transaction], T], *, is_firm: bool = False) -> T:
        """Run ``fn`` as one transaction; its changes are on the disk when this returns.

        ``fn`` takes at most a millisecond, has no effect outside its transaction, and may run again.
        An update can be cancelled while it is queued, unless it ``is_firm``, and not once it runs.
        Errors: those of ``fn`` (it has changed nothing then), StorageFull, StorageFailed.
        """
        job = self.store.submit(fn, self.now_ms(), current_task())

        def abort(_: Any) -> Abort:
            return Abort.SUCCEEDED if not is_firm and job.cancel() else Abort.FAILED

        await wait_task_rescheduled(abort)
        error, job.error = job.error, None
        if error is None:
            return job.unwrap()
        try:
            raise error
        finally:
            # The traceback of the error holds this frame. If the frame held the error, they would form a
            # cycle for the garbage collector, and refusals are frequent.
            del error

    async def put_blob(self, content: bytes) -> str:
        """Store a large value, one chunk in each transaction; return its name.

        Errors: StorageFull, StorageFailed; the chunks that were written are harmless, and are reused.
        """
        if len(content) > MAX_INLINE_HASH_BYTES:
            name = await trio.to_thread.run_sync(blob_name, content)
        else:
            name = blob_name(content)
        for index, chunk in chunks(content):
            await self.update(partial(put_chunk, name=name, number=index, chunk=chunk))
        return name

    async def backup(self, directory: Path) -> int:
        """Copy the current store to a new directory, in a thread; return the newest cursor of the copy.

        A backup can be cancelled at any time.
        Errors: PathRefused, StorageFull; no files are left then.
        """
        check = trio.from_thread.check_cancelled
        return await trio.to_thread.run_sync(partial(self.store.backup, directory, check=check))

    def report_damage(self) -> None:
        """Tell all tasks that the store is read-only from now on: whatever they wait for does not come."""
        self.damaged.ring()
        self._bells.ring_all()
        self._notify(list(self._watches))

    def require_sound(self) -> None:
        """Require that the store is written, before waiting for a change. Errors: StoreDamaged."""
        if self.store.damage is not None:
            raise refuse_damaged(self.store.damage)

    def read(self) -> Snapshot:
        """Return a snapshot, for a ``with`` block. Never hold it across an ``await``."""
        return self.store.read()

    def bell(self, *names: str) -> Bell:
        """Return a bell for these tables and streams (``stream:<name>``). Take it before reading."""
        return self._bells.create(names)

    def watch(self, look: Callable[[], None], *names: str) -> StoreWatch:
        """Call ``look`` now, and after each commit that touches one of these tables and streams.

        It must not block. Errors: those of the first call; later ones end the wait of the watch.
        """
        look()
        return StoreWatch(look, names, self._watches)

    def deliver(self, group: Group) -> None:
        """Deliver the outcomes of a group, then ring its bells. Runs on the loop, in the order of commits."""
        for job in group.jobs:
            if type(job.tag) is Task:
                reschedule(job.tag)
                continue
            try:
                job.tag(job)
            except Exception:
                # An error of one callback must not affect the others.
                log.exception("an update's outcome could not be delivered")
        for name in group.rung:
            self._bells.ring(name)
        self._notify(group.rung)

    def _notify(self, names: Iterable[str]) -> None:
        """Call the watches of some names, each of them once."""
        watches: dict[StoreWatch, None] = {}
        for name in names:
            watches |= self._watches.get(name, {})
        for watch in watches:
            # Another one may have closed it.
            if watch.names:
                watch.notify()


class _RoundEnd(trio.abc.Instrument):
    """Hands the updates of each round of the loop to the writer together, so that one commit has all of them.

    The writer would take the first one by itself, and commit it, while the round submits the others.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def before_io_wait(self, timeout: float) -> None:
        """Hand over, at the end of a round."""
        if self._store.collected:
            self._store.hand_over()


@asynccontextmanager
async def open_state(
    directory: Path,
    *,
    version: str,
    clock: Callable[[], int] = wall_clock_ms,
    scrub: Scrub | None = None,
    threaded: bool = True,
) -> AsyncIterator[State]:
    """Open the state in ``directory``. On leaving, deliver the outcomes of all queued updates and close it.

    Errors: StoreUnusable.
    """
    token = trio.lowlevel.current_trio_token()
    state: State

    def deliver(group: Group, committed_s: float) -> None:
        # Since the commit, all tasks have waited for the current round of the loop to end.
        lag_s = time.perf_counter() - committed_s
        if lag_s > SLOW_ROUND_SECONDS:
            state.meter.count_slow_round(lag_s)
        state.deliver(group)

    def on_group(group: Group) -> None:
        state.meter.count_group(group)
        # Once the loop has ended no task waits for the outcome.
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(deliver, group, time.perf_counter())

    def on_failure(note: str) -> None:
        log.critical("the store failed and writes no more: %s", note)
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(state.failed.ring)

    def on_damage(damage: str) -> None:
        log.critical("the store is damaged and read-only from now on: %s", damage)
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(state.report_damage)

    store = Store.open(
        directory,
        on_group=on_group,
        on_failure=on_failure,
        on_damage=on_damage,
        scrub=scrub,
        threaded=threaded,
        version=version,
        rebuild=rebuild_some,
        plan=UpgradePlan(check=find_unreadable, keep=True),
    )
    if store.upgraded is not None:
        log.warning("%s", describe_upgrade(store.upgraded))
    state = State(store, clock)
    if store.damage is not None:
        on_damage(store.damage)
    round_end = _RoundEnd(store)
    trio.lowlevel.add_instrument(round_end)
    store.collects = True
    try:
        yield state
    finally:
        store.close()
        trio.lowlevel.remove_instrument(round_end)
        with trio.CancelScope(shield=True):
            delivered = trio.Event()
            token.run_sync_soon(delivered.set)
            await delivered.wait()
