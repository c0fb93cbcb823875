"""The run worker: one executor for each active run, none for a run that waits.

Level-triggered: after each commit that touches one of two lists in the store, the ready runs and the runs to
be cancelled, the worker reads both. After a crash it finds the same lists as after a commit.

A failure inside a run fails that run. If even the failure cannot be committed, or a record cannot be read,
the run is logged and skipped until the daemon restarts; other runs are not affected.
"""

from __future__ import annotations

import logging
from contextlib import closing, suppress
from typing import TYPE_CHECKING, ClassVar

import msgspec
import trio

from kheishd.core.run.due import TakeUp, due
from kheishd.kernel.log_fields import LogScope, set_log_scope
from kheishd.records.run import read_pinned
from kheishd.store.tables import RUNS, RUNS_CANCELLED, RUNS_READY
from kheishd.workers.worker import Worker
from protocol.errors.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.services import Services
    from kheishd.store.environment import Snapshot
    from kheishd.workers.runs.executor import RunExecutor
    from protocol.objects.run import Pinned

log = logging.getLogger("kheishd.runs")


class RunWorker(Worker):
    """Executes runs: one at a time in each session, different sessions side by side.

    ``on_release`` is called with the id of every run that has ended or waits; it must not block or raise.
    """

    name: ClassVar[str] = "runs"

    def __init__(
        self, services: Services, *, on_release: Callable[[str], None] = lambda run_id: None
    ) -> None:
        self._services = services
        self._on_release = on_release
        self._executors: dict[str, RunExecutor] = {}
        # The newest executor of each session that has one.
        self._newest: dict[str, RunExecutor] = {}
        self._skipped: set[str] = set()
        self._draining = False
        # The newest event when this worker began.
        self._first_cursor = 0
        self._idle = trio.Event()
        self._nursery: trio.Nursery | None = None

    @property
    def active(self) -> int:
        """The number of runs that are being executed."""
        return len(self._executors)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Execute runs until cancelled; then release the active runs in order."""
        state, slots, runtimes = self._services.state, self._services.slots, self._services.runtimes
        with state.read() as store:
            self._first_cursor = store.last_cursor
        async with trio.open_nursery() as self._nursery:
            slots.take_up = self._take_up
            try:
                if runtimes.current().config.runs.recovery == "interrupt":
                    with state.read() as store:
                        for _, run_id in store.scan(RUNS_READY):
                            loaded = self._load(store, run_id)
                            if loaded is not None and loaded[0].status == "running":
                                self._start(*loaded, interrupt=True)
                task_status.started()
                watch = state.watch(self._look, RUNS_READY.name, RUNS_CANCELLED.name)
                # A reload may raise the number of slots.
                runtimes.on_replace = watch.notify
                with closing(watch):
                    await watch.wait()
            finally:
                runtimes.on_replace = lambda: None
                self._close_slots()
                # Runs that were started by transactions before this one are taken up, and released.
                with trio.CancelScope(shield=True), suppress(Refusal):
                    await state.update(lambda tx: None)
                slots.take_up = lambda run_id: None

    async def drain(self) -> None:
        """Start no run any more; return when every active run has ended or waits.

        A run waits for a person, or for a later attempt, which the next daemon makes as well.
        """
        self._close_slots()
        while any(not executor.is_paused for executor in self._executors.values()):
            await self._idle.wait()

    def _close_slots(self) -> None:
        self._draining = True
        self._services.slots.is_open = False

    def _look(self) -> None:
        """Stop the runs to be cancelled, and start the runs that are due."""
        with self._services.state.read() as store:
            # Nearly always there is none, and counting costs less than a scan.
            for _, run_id in store.scan(RUNS_CANCELLED) if store.count(RUNS_CANCELLED) else ():
                executor = self._executors.get(run_id)
                if executor is not None:
                    executor.stop()
                elif not self._draining and (loaded := self._load(store, run_id)) is not None:
                    # It takes no slot, because it only ends.
                    self._start(*loaded)
            if not self._draining:
                self._services.slots.is_open = self._start_ready(store)
        if self._draining and all(executor.is_paused for executor in self._executors.values()):
            self._set_idle()

    def _set_idle(self) -> None:
        self._idle.set()
        self._idle = trio.Event()

    def _start_ready(self, store: Snapshot) -> bool:
        """Start the next ready runs, in the order of their acceptance, up to the limit of active runs.

        Return False if ready runs may be left without an executor: no later run may start before them.
        A suspect run waits until no other run is active, and holds back the runs behind it.
        """
        active = sum(executor.takes_slot for executor in self._executors.values())
        slots = self._services.runtimes.current().config.runs.max_active - active
        if slots <= 0 or any(
            executor.suspect and executor.takes_slot for executor in self._executors.values()
        ):
            return False
        ready: list[tuple[RunRecord, Pinned]] = []
        all_start = False
        for _, run_id in store.scan(RUNS_READY):
            loaded = self._load(store, run_id) if run_id not in self._executors else None
            if loaded is None:
                continue
            effect = due(*loaded, self._services.state.now_ms(), owned=False)
            if not isinstance(effect, TakeUp):
                continue
            if effect.alone:
                if not ready and not active:
                    self._start(*loaded, suspect=True)
                break
            ready.append(loaded)
            if len(ready) == slots:
                break
        else:
            all_start = True
        for record, pinned in ready:
            self._start(record, pinned)
        return all_start

    def _take_up(self, run_id: str) -> None:
        """Start the executor of an accepted run that has started already: its slot was free."""
        if run_id not in self._executors:
            with self._services.state.read() as store:
                record = store.get(RUNS, run_id)
                # Many accepted runs wait in a queue, and their pinned values need not be read.
                loaded = self._load(store, run_id) if record and self._has_begun(record) else None
            if loaded is not None:
                self._start(*loaded)

    def _has_begun(self, record: RunRecord) -> bool:
        """Whether a run without an executor started in the transaction that accepted it."""
        return record.claimed and record.accepted_cursor > self._first_cursor

    def _load(self, store: Snapshot, run_id: str) -> tuple[RunRecord, Pinned] | None:
        """Return a run's record and its pinned values; None, and skip the run, if the latter cannot be read.

        Errors: StoreDamaged if the record cannot be read.
        """
        if run_id in self._skipped:
            return None
        try:
            record = store.need(RUNS, run_id)
            return record, read_pinned(store, record)
        except (AssertionError, msgspec.DecodeError):
            log.error("a run cannot be read and is skipped; check the store", extra={"run_id": run_id})
            self._skipped.add(run_id)
            return None

    def _start(
        self, record: RunRecord, pinned: Pinned, *, suspect: bool = False, interrupt: bool = False
    ) -> None:
        # The first run imports the executor, not the start of the daemon.
        from kheishd.workers.runs.executor import RunExecutor

        assert self._nursery is not None
        executor = RunExecutor(
            self._services,
            record,
            pinned,
            on_progress=self._look,
            suspect=suspect,
            interrupt=interrupt,
            begun=self._has_begun(record),
            previous=self._newest.get(record.session_id),
        )
        self._executors[record.run_id] = self._newest[record.session_id] = executor
        self._nursery.start_soon(self._execute, record.run_id, record.session_id, executor)

    async def _execute(self, run_id: str, session_id: str, executor: RunExecutor) -> None:
        set_log_scope(LogScope(self._services.state, run_id, session_id))
        log.debug("a run is executed")
        try:
            await executor.perform()
        except Exception:
            log.exception("a run cannot be continued before a restart", extra={"run_id": run_id})
            self._skipped.add(run_id)
        finally:
            executor.ended.set()
            del self._executors[run_id]
            if self._newest[session_id] is executor:
                del self._newest[session_id]
            if not self._executors:
                self._set_idle()
        if not self._services.slots.is_open or not executor.has_ended:
            # When the last commit of the run was delivered, the run still had its slot: look again.
            self._look()
        self._on_release(run_id)
