"""The fields that every log line of a task has: the run, its call, and the request that led to it.

A task sets its scope once, and the tasks that it starts inherit it. The chain of requests and runs is read
from the store only when a line is written, so that a turn without log lines costs nothing.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from kheishd.store.tables import AGENTS, RUNS
from protocol.journal.line import decode_envelope
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot

# Agents spawn agents to a depth far below this; a longer chain would be damage.
MAX_CHAIN_RUNS = 64


def iterate_chain(store: Snapshot, run_id: str) -> Iterator[tuple[str, str | int | None]]:
    """Yield a run and the runs that led to it by spawns, each with the id of the request that it answers."""
    name: str | None = run_id
    for _ in range(MAX_CHAIN_RUNS):
        run = store.get(RUNS, name) if name is not None else None
        if run is None:
            return
        entry = store.entry(run.session_id, run.accepted_cursor)
        yield run.run_id, decode_envelope(entry[1]).request_id if entry is not None else None
        agent = store.get(AGENTS, run.session_id)
        name = agent.spawned_by_run_id if agent is not None else None


def find_first_request(store: Snapshot, run_id: str) -> str | int | None:
    """Return the id of the request at the begin of a run's chain."""
    requests = [request_id for _, request_id in iterate_chain(store, run_id) if request_id is not None]
    return requests[-1] if requests else None


class LogScope(Value, frozen=True):
    """The work of a task: a run, and perhaps one of its calls."""

    state: State
    run_id: str
    session_id: str
    call_id: str | None = None

    def read_fields(self) -> dict[str, Any]:
        """Return the fields: the ids, the run that spawned the agent, and the id of the first request."""
        fields: dict[str, Any] = {"run_id": self.run_id, "session_id": self.session_id}
        if self.call_id is not None:
            fields["call_id"] = self.call_id
        with self.state.read() as store:
            for depth, (run_id, request_id) in enumerate(iterate_chain(store, self.run_id)):
                if depth == 1:
                    fields["parent_run_id"] = run_id
                if request_id is not None:
                    fields["request_id"] = request_id
        return fields


_SCOPE: Final[ContextVar[LogScope | None]] = ContextVar("log scope", default=None)


def set_log_scope(scope: LogScope) -> None:
    """Give the log lines of this task, and of the tasks that it starts from now on, the fields of a scope."""
    _SCOPE.set(scope)


def current_log_fields() -> Mapping[str, Any]:
    """Return the fields of the current task's log lines. Never raises."""
    scope = _SCOPE.get()
    if scope is None:
        return {}
    # Reading the store may log its damage: that line has no fields.
    token = _SCOPE.set(None)
    try:
        return scope.read_fields()
    except Exception:
        return {"run_id": scope.run_id, "session_id": scope.session_id}
    finally:
        _SCOPE.reset(token)
