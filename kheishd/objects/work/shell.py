"""Background shells: their limit, and the events that record what happens to their processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.core import task as rules
from kheishd.core.trust import join_origins
from kheishd.core.workspace import is_within
from kheishd.objects.talk.bounds import ancestors, find_closed
from kheishd.objects.talk.input import origins_read
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import AGENTS, SESSIONS, SHELLS_LIVE, TASKS
from protocol.errors.task import TaskLimit
from protocol.events.task import (
    TaskAdopted,
    TaskEnded,
    TaskMoved,
    TaskStalled,
    TaskStarted,
    TaskStopRequested,
)
from protocol.limits.shell import MAX_SESSION_SHELLS, MAX_SHELLS
from protocol.objects.task import OPEN, ShellEnding, Task, TaskEnding
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.agent import ManagedAgent
    from protocol.objects.session import Session


class ShellOutcome(Value, frozen=True):
    """The end of a shell, the size of its output, and the destinations of its connections."""

    why: ShellEnding
    exit_code: int | None = None
    problem: str = ""
    output_bytes: int = 0
    output_kept_bytes: int = 0
    connected: list[str] = []
    refused: list[str] = []


def live_shells(store: Snapshot, session_id: str | None = None) -> Iterator[Task]:
    """Yield the shells that have not ended, oldest first: of one session, or of all."""
    for _, task_id in store.scan(SHELLS_LIVE):
        task = store.need(TASKS, task_id)
        if session_id in (None, task.session_id):
            yield task


def require_room(store: Snapshot, session_id: str) -> None:
    """Reject a shell beyond the limits. Errors: TaskLimit."""
    sessions = [task.session_id for task in live_shells(store)]
    if sessions.count(session_id) >= MAX_SESSION_SHELLS:
        raise TaskLimit(f"{MAX_SESSION_SHELLS} shells of this session run in the background; stop some first")
    if len(sessions) >= MAX_SHELLS:
        raise TaskLimit(f"{MAX_SHELLS} shells run in the background, which is the limit; try again later")


def request_stop_all(writer: SessionWriter, note: str) -> None:
    """Request the stop of every shell of a session that is not stopping yet."""
    for task in live_shells(writer.tx, writer.session_id):
        if task.shell is not None and task.shell.stop_requested_at_ms is None:
            writer.append(TaskStopRequested(task_id=task.task_id, note=note))


def leave_shell(tx: Transaction, agent: ManagedAgent, *, task_id: str) -> None:
    """Move a shell of an agent to be closed to the one above it; stop it if none takes it or has room.

    The shells of sessions that clients created below the agent are stopped.
    """
    task = tx.need(TASKS, task_id)
    if task.status not in OPEN or task.shell is None or task.shell.stop_requested_at_ms is not None:
        return
    writer = SessionWriter(tx, task.session_id, session=tx.need(SESSIONS, task.session_id))
    heir = None
    if task.session_id == agent.agent_id:
        heir = _find_heir(tx, writer.session, agent, task.shell.workspace)
    if heir is None:
        writer.append(TaskStopRequested(task_id=task_id, note="the agent was closed"))
        writer.write()
        return
    # A task is a record of one stream at a time: it leaves this one first.
    writer.append(TaskMoved(task_id=task_id, to_session_id=heir.session_id))
    writer.write()
    adopting = SessionWriter(tx, heir.session_id, session=heir)
    adopting.append(
        TaskAdopted(
            task_id=task_id,
            task=task,
            note=rules.format_adopted_note(task, agent.path),
            # The agent wrote the command, and its output may repeat everything that the agent has read.
            origins=join_origins(origins_read(tx, writer.session), ["agent"]),
        )
    )
    adopting.write()


def _find_heir(
    store: Snapshot, session: Session, agent: ManagedAgent | None, workspace: str
) -> Session | None:
    """Return the session that takes a shell of an agent: the nearest open one above it that has room.

    None if the agent or one in between, which is closed, too, declares that its shells end, or if the shell
    works in the worktree of one of them, which is removed.
    """
    for parent in ancestors(store, session):
        worktree = agent.worktree if agent is not None else None
        is_removed = worktree is not None and is_within(workspace, worktree.path)
        if agent is None or agent.shells == "stop" or is_removed:
            return None
        if find_closed(store, parent) is None:
            has_room = sum(1 for _ in live_shells(store, parent.session_id)) < MAX_SESSION_SHELLS
            return parent if has_room else None
        agent = store.get(AGENTS, parent.session_id)
    return None


def record_started(tx: Transaction, task_id: str, pid: int, since: int) -> None:
    """Record the process of a shell."""
    task = tx.need(TASKS, task_id)
    if task.status in OPEN:
        _append(tx, task, TaskStarted(task_id=task_id, pid=pid, start_ticks=since))


def record_stalled(tx: Transaction, task_id: str) -> None:
    """Record, once, that a shell seems to wait for input."""
    task = tx.need(TASKS, task_id)
    if task.status in OPEN and task.shell is not None and task.shell.stalled_at_ms is None:
        _append(tx, task, TaskStalled(task_id=task_id, note=rules.format_stalled_note(task)))


def record_ended(tx: Transaction, task_id: str, outcome: ShellOutcome) -> None:
    """Record the end of a shell. A process that exited by itself decides the status by its exit code."""
    task = tx.need(TASKS, task_id)
    if task.status not in OPEN or task.shell is None:
        return
    status: TaskEnding = "cancelled" if task.shell.stop_requested_at_ms is not None else "failed"
    if outcome.why == "exited":
        status = "completed" if outcome.exit_code == 0 else "failed"
    note = rules.format_ended_note(
        task, outcome.why, outcome.exit_code, outcome.problem, outcome.output_bytes, outcome.refused
    )
    ended = TaskEnded(
        task_id=task_id,
        status=status,
        terminal_reason=outcome.why,
        exit_code=outcome.exit_code,
        problem=outcome.problem,
        output_bytes=outcome.output_bytes,
        output_kept_bytes=outcome.output_kept_bytes,
        note=note,
        connected=outcome.connected,
        refused=outcome.refused,
    )
    _append(tx, task, ended)


def _append(tx: Transaction, task: Task, event: TaskStarted | TaskStalled | TaskEnded) -> None:
    writer = SessionWriter(tx, task.session_id, session=tx.need(SESSIONS, task.session_id))
    writer.append(event)
    writer.write()
