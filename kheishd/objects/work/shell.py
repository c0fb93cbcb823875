"""Shells in the background, inside a transaction: how many there may be, and what becomes of their tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kheishd.core import task as rules
from kheishd.objects.fold import SessionWriter
from kheishd.store.tables import SESSIONS, SHELLS_LIVE, TASKS
from protocol.errors.task import TasksFull
from protocol.events.task import TaskEnded, TaskStalled, TaskStarted, TaskStopRequested
from protocol.limits.shell import MAX_SESSION_SHELLS, MAX_SHELLS
from protocol.objects.task import OPEN, Shell, ShellEnding, Task, TaskEnding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.store.environment import Snapshot, Transaction


@dataclass(frozen=True, slots=True)
class ShellOutcome:
    """How a shell ended, and what is kept of what it wrote."""

    why: ShellEnding
    exit_code: int | None = None
    problem: str = ""
    output_bytes: int = 0
    output_kept_bytes: int = 0


def live_shells(store: Snapshot, session_id: str | None = None) -> Iterator[Task]:
    """The shells that have not ended, oldest first; of one session, or all."""
    for _, task_id in store.scan(SHELLS_LIVE):
        task = store.need(TASKS, task_id)
        if session_id in (None, task.session_id):
            yield task


def require_room(store: Snapshot, session_id: str) -> None:
    """Errors: TasksFull where as many shells run as may."""
    sessions = [task.session_id for task in live_shells(store)]
    if sessions.count(session_id) >= MAX_SESSION_SHELLS:
        raise TasksFull(f"{MAX_SESSION_SHELLS} shells of this session run in the background; stop some first")
    if len(sessions) >= MAX_SHELLS:
        raise TasksFull(f"{MAX_SHELLS} shells run in the background, which is all that may; try again later")


def request_stop_all(fold: SessionWriter, reason: str) -> None:
    """Have every shell of a session stopped that nobody has stopped yet."""
    for task in live_shells(fold.tx, fold.session_id):
        if task.shell is not None and task.shell.stop_requested_at_ms is None:
            fold.append(TaskStopRequested(task_id=task.task_id, note=reason))


def record_started(tx: Transaction, task_id: str, pid: int, since: int) -> None:
    """Write down which process a shell is."""
    task, fold = _open(tx, task_id)
    if task is not None:
        fold.append(TaskStarted(task_id=task_id, pid=pid, start_ticks=since))
        fold.write()


def record_stalled(tx: Transaction, task_id: str) -> None:
    """Write down, once, that a shell seems to wait for somebody to type."""
    task, fold = _open(tx, task_id)
    if task is not None and task.shell is not None and task.shell.stalled_at_ms is None:
        fold.append(TaskStalled(task_id=task_id, note=rules.format_stalled_note(task)))
        fold.write()


def record_ended(tx: Transaction, task_id: str, over: ShellOutcome) -> None:
    """Write down that a shell is over."""
    task, fold = _open(tx, task_id)
    if task is None or task.shell is None:
        return
    event = TaskEnded(
        task_id=task_id,
        status=_status(task.shell, over),
        terminal_reason=over.why,
        exit_code=over.exit_code,
        problem=over.problem,
        output_bytes=over.output_bytes,
        output_kept_bytes=over.output_kept_bytes,
        note=rules.format_ended_note(task, over.why, over.exit_code, over.problem, over.output_bytes),
    )
    fold.append(event)
    fold.write()


def _status(shell: Shell, over: ShellOutcome) -> TaskEnding:
    """What a shell comes to: what ended by itself by its exit code, else it was stopped, or failed."""
    if over.why == "exited":
        return "completed" if over.exit_code == 0 else "failed"
    return "cancelled" if shell.stop_requested_at_ms is not None else "failed"


def _open(tx: Transaction, task_id: str) -> tuple[Task | None, SessionWriter]:
    """A shell's task, unless it has ended, and the fold of its session."""
    task = tx.need(TASKS, task_id)
    fold = SessionWriter(tx, task.session_id, session=tx.get(SESSIONS, task.session_id))
    return (task if task.status in OPEN else None), fold
