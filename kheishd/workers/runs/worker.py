"""The run worker: one task for every run that is active, none for one that waits.

Level-triggered: it looks at two lists in the store, the runs that are ready and the runs that somebody
wants stopped, whenever a commit touches them, and never at messages. What it finds after a crash is what
it finds after a commit.

What goes wrong inside one run ends that run. Where not even that can be committed, or a record cannot be
read, the run is given up until the daemon starts again: it is logged, and its neighbours go on.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar

import msgspec
import trio

from kheishd.core.run.due import TakeUp, due
from kheishd.store.tables import PINNED, RUNS, RUNS_CANCELLED, RUNS_READY
from kheishd.workers.runs.executor import RunExecutor
from kheishd.workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.services import Services
    from kheishd.store.environment import Snapshot
    from protocol.objects.run import Pinned

log = logging.getLogger("kheishd.runs")


class RunWorker(Worker):
    """Executes runs: those of one session one at a time, those of different sessions side by side.

    ``on_release`` is called with the id of every run that the worker has released; it must not wait or fail.
    """

    name: ClassVar[str] = "runs"

    def __init__(
        self, services: Services, *, on_release: Callable[[str], None] = lambda run_id: None
    ) -> None:
        self._services = services
        self._on_release = on_release
        self._state = services.state
        self._runtimes = services.runtimes
        self._active: dict[str, RunExecutor] = {}
        self._given_up: set[str] = set()
        self._draining = False
        self._idle = trio.Event()
        self._nursery: trio.Nursery | None = None

    @property
    def active(self) -> int:
        """How many runs are being executed now."""
        return len(self._active)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Execute runs until cancelled; those in flight then are put down in order."""
        async with trio.open_nursery() as self._nursery:
            try:
                if self._runtimes.current().config.runs.recovery == "interrupt":
                    self._interrupt_all()
                task_status.started()
                while True:
                    bell = self._state.bell(RUNS_READY.name, RUNS_CANCELLED.name)
                    self._look()
                    await bell.wait()
            finally:
                self._draining = True

    async def drain(self) -> None:
        """Start nothing new; return when what is in flight has ended or waits for a person."""
        self._draining = True
        if self._active:
            await self._idle.wait()

    def _look(self) -> None:
        with self._state.read() as store:
            orphans = self._cancelled(store)
            if self._draining:
                return
            for run, pinned in orphans:
                self._start(run, pinned)
            for run, pinned, alone in self._startable(store):
                self._start(run, pinned, suspect=alone)

    def _interrupt_all(self) -> None:
        """Begin to mark the runs that a daemon left running; what is queued stays."""
        with self._state.read() as store:
            for _, run_id in store.scan(RUNS_READY):
                found = self._record(store, run_id)
                if found is not None and found[0].status == "running":
                    self._start(*found, interrupt=True)

    def _cancelled(self, store: Snapshot) -> list[tuple[RunRecord, Pinned]]:
        """Stop what is to be stopped; gives those that nobody is at.

        They take no slot, for nothing of them will be executed.
        """
        orphans = []
        for _, run_id in store.scan(RUNS_CANCELLED):
            turn = self._active.get(run_id)
            if turn is not None:
                turn.stop()
                continue
            found = self._record(store, run_id)
            if found is not None:
                orphans.append(found)
        return orphans

    def _startable(self, store: Snapshot) -> list[tuple[RunRecord, Pinned, bool]]:
        """The next runs to start, in the order of their acceptance, as far as there are slots.

        One that is to be alone waits for the others to end and holds back those behind it meanwhile.
        Shape:  each run, what it pinned, and whether it is to be alone.
        """
        chosen: list[tuple[RunRecord, Pinned, bool]] = []
        slots = self._runtimes.current().config.runs.max_active - len(self._active)
        if slots <= 0 or any(turn.suspect for turn in self._active.values()):
            return chosen
        for _, run_id in store.scan(RUNS_READY):
            found = self._record(store, run_id) if run_id not in self._active else None
            if found is None:
                continue
            effect = due(*found, self._state.now_ms(), held=False)
            if not isinstance(effect, TakeUp):
                continue
            if effect.alone:
                return chosen if chosen or self._active else [(*found, True)]
            chosen.append((*found, False))
            if len(chosen) == slots:
                break
        return chosen

    def _record(self, store: Snapshot, run_id: str) -> tuple[RunRecord, Pinned] | None:
        """Return a run's record and its pinned values; None, and give the run up, if they cannot be read."""
        if run_id in self._given_up:
            return None
        try:
            run, pinned = store.get(RUNS, run_id), store.get(PINNED, run_id)
        except msgspec.DecodeError:
            run = pinned = None
        if run is None or pinned is None:
            log.error("a run cannot be read; see 'kheishctl daemon doctor'", extra={"run_id": run_id})
            self._given_up.add(run_id)
            return None
        return run, pinned

    def _start(
        self, run: RunRecord, pinned: Pinned, *, suspect: bool = False, interrupt: bool = False
    ) -> None:
        assert self._nursery is not None
        turn = RunExecutor(
            self._services,
            run,
            pinned,
            relieved=self._look,
            suspect=suspect,
            interrupt=interrupt,
        )
        self._active[run.run_id] = turn
        self._nursery.start_soon(self._execute, run.run_id, turn)

    async def _execute(self, run_id: str, turn: RunExecutor) -> None:
        try:
            await turn.perform()
        except Exception:
            log.exception("a run could not even be failed", extra={"run_id": run_id})
            self._given_up.add(run_id)
        finally:
            del self._active[run_id]
            if not self._active:
                self._idle.set()
                self._idle = trio.Event()
        # The commit that ended the run has rung already, while its slot was still taken: look again.
        self._look()
        self._on_release(run_id)
