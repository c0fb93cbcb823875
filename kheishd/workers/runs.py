"""The run worker: one task for every run that is active, none for one that waits.

Level-triggered: it looks at two lists in the store, the runs that are ready and the runs that somebody
wants stopped, whenever a commit touches them, and never at messages. What it finds after a crash is what
it finds after a commit.
"""

import logging
from typing import TYPE_CHECKING

import trio

from kheishd.core.run import ALONE_AT, Interrupt, decide
from kheishd.objects.fold import Fold
from kheishd.store.tables import RUNS, RUNS_CANCELLED, RUNS_READY, SESSIONS
from kheishd.workers.turn import Turn
from protocol.objects.run import Run, RunError

if TYPE_CHECKING:
    from kheishd.kernel.live import Live
    from kheishd.kernel.runtime import Runtimes
    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot, Transaction

log = logging.getLogger("kheishd.runs")


class RunWorker:
    """Executes runs: those of one session one at a time, those of different sessions side by side."""

    def __init__(self, state: "State", live: "Live", runtimes: "Runtimes") -> None:
        self._state = state
        self._live = live
        self._runtimes = runtimes
        self._active: dict[str, Turn] = {}
        self._alone = False
        self._draining = False
        self._idle = trio.Event()
        self._nursery: trio.Nursery | None = None

    @property
    def active(self) -> int:
        """How many runs are being executed now."""
        return len(self._active)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Execute runs until cancelled; those in flight then are put down in order."""
        if self._runtimes.current().limits.recovery == "interrupt":
            await self._state.update(_interrupt_all)
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            while True:
                bell = self._state.bell(RUNS_READY.name, RUNS_CANCELLED.name)
                self._look()
                await bell.wait()

    async def drain(self) -> None:
        """Start nothing new; return when what is in flight has ended or waits for a person."""
        self._draining = True
        if self._active:
            await self._idle.wait()

    def _look(self) -> None:
        with self._state.read() as store:
            for run in self._cancelled(store):
                self._start(run)
            if self._draining or self._alone:
                return
            for run in self._startable(store):
                self._alone = run.starts_without_progress >= ALONE_AT
                self._start(run)

    def _cancelled(self, store: "Snapshot") -> list[Run]:
        """Runs to be stopped that nobody is at: they take no slot, for nothing of them will be executed."""
        orphans = []
        for _, run_id in store.scan(RUNS_CANCELLED):
            turn = self._active.get(run_id)
            if turn is not None:
                turn.stop()
                continue
            run = store.get(RUNS, run_id)
            if run is not None and not self._draining:
                orphans.append(run)
        return orphans

    def _startable(self, store: "Snapshot") -> list[Run]:
        """The next runs to start, in the order of their acceptance, as far as there are slots.

        One that is to be alone waits for the others to end and holds back those behind it meanwhile.
        """
        slots = self._runtimes.current().limits.active_max - len(self._active)
        chosen: list[Run] = []
        if slots <= 0:
            return chosen
        for _, run_id in store.scan(RUNS_READY):
            if run_id in self._active:
                continue
            run = store.get(RUNS, run_id)
            assert run is not None, "a ready run has its record"
            if run.starts_without_progress >= ALONE_AT:
                return chosen if chosen or self._active else [run]
            chosen.append(run)
            if len(chosen) == slots:
                break
        return chosen

    def _start(self, run: Run) -> None:
        assert self._nursery is not None
        turn = Turn(self._state, self._live, self._runtimes, run)
        self._active[run.run_id] = turn
        self._nursery.start_soon(self._execute, run.run_id, turn)

    async def _execute(self, run_id: str, turn: Turn) -> None:
        try:
            await turn.perform()
        finally:
            del self._active[run_id]
            if not self._active:
                self._alone = False
                self._idle.set()
                self._idle = trio.Event()
        # The commit that ended the run has rung already, while its slot was still taken: look again.
        self._look()


def _interrupt_all(tx: "Transaction") -> None:
    """Mark runs that a daemon left running as interrupted; what is queued stays."""
    error = RunError("daemon_restarted", "the daemon was restarted while this run was working")
    for _, run_id in list(tx.scan(RUNS_READY)):
        run = tx.get(RUNS, run_id)
        if run is None or run.status != "running":
            continue
        fold = Fold(tx, run.session_id, session=tx.get(SESSIONS, run.session_id), run=run)
        fold.append_all(decide(run, Interrupt(error)))
        fold.write()
