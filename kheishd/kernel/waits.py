"""Callers that wait for runs: one reader of each run, however many callers wait for it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio

from kheishd.store.tables import RUNS
from protocol.errors.rpc import Overloaded
from protocol.limits.rpc import MAX_RUN_WAITS
from protocol.objects.run import SETTLED

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.state import State


class _Reader:
    """The reader of one run. ``done`` is set once the run has settled, or cannot be read any more.

    ``waits`` are the numbers of waits by principal.
    """

    def __init__(self, state: State, session_id: str, run_id: str) -> None:
        self.waits: Counter[str] = Counter()
        self.done = trio.Event()
        self._state = state
        self._run_id = run_id
        self._run: RunRecord | None = None
        self._watch = state.watch(self._look, f"stream:{session_id}")

    def _look(self) -> None:
        try:
            run = self.read()
        except Exception:
            # Each caller reads again, and gets the error.
            self.done.set()
            return
        if run.status in SETTLED:
            self._run = run
            self.done.set()

    def read(self) -> RunRecord:
        """Return the settled run, else the current one. Errors: StoreDamaged if the run will not settle."""
        if self._run is None:
            with self._state.read() as store:
                run = store.need(RUNS, self._run_id)
            if run.status not in SETTLED:
                self._state.require_sound()
            return run
        return self._run

    def close(self) -> None:
        """End the reader."""
        self._watch.close()


class RunWaits:
    """The runs that callers wait for."""

    def __init__(self) -> None:
        self._readers: dict[str, _Reader] = {}

    def require_room(self, run_id: str, principal: str) -> None:
        """Reject one more wait of a caller for a run beyond the limit. Errors: Overloaded."""
        reader = self._readers.get(run_id)
        if reader is not None and reader.waits[principal] >= MAX_RUN_WAITS:
            raise Overloaded(f"{MAX_RUN_WAITS} requests of this caller are waiting for the run already")

    async def wait(self, state: State, session_id: str, run_id: str, principal: str) -> RunRecord:
        """Wait until a run has ended or waits for a person; return its record then.

        Errors: StoreDamaged if it will do neither.
        """
        reader = self._readers.get(run_id)
        if reader is None or reader.done.is_set():
            # A run that had settled may continue, once a person has answered.
            reader = self._readers[run_id] = _Reader(state, session_id, run_id)
        reader.waits[principal] += 1
        try:
            await reader.done.wait()
            return reader.read()
        finally:
            reader.waits[principal] -= 1
            if not reader.waits[principal]:
                del reader.waits[principal]
            if not reader.waits:
                reader.close()
                if self._readers.get(run_id) is reader:
                    del self._readers[run_id]
