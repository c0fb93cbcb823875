"""Records of tasks and background shells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.core import task
from kheishd.records.projection import IndexRow, Projection, key_in, source_in_session
from kheishd.store.tables import (
    RECORDS_BY_SESSION,
    SHELLS_LIVE,
    SHELLS_STOPPING,
    TASKS,
    TASKS_OPEN,
    TASKS_WAITING,
)
from protocol.events.task import TaskAdopted, TaskCreated, TaskEvent
from protocol.objects.task import OPEN

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot
    from protocol.objects.task import Task

TASK: Final = "task"


def is_final(record: Task) -> bool:
    """Whether no event changes the task any more."""
    return record.deleted_at_ms is not None


def is_superseded(store: Snapshot, stream: str, stored: Task | None, replayed: Task | None) -> bool:
    """Whether a shell that one stream has moved is a task of another session."""
    return replayed is None and stored is not None and stored.session_id != stream


def index_rows(record: Task) -> frozenset[IndexRow]:
    """Return the index rows of a task."""
    rows = [IndexRow(RECORDS_BY_SESSION, (record.session_id, TASK, record.created_cursor), record.task_id)]
    if record.status not in OPEN or is_final(record):
        return frozenset(rows)
    rows += [IndexRow(TASKS_WAITING, (blocker, record.task_id)) for blocker in record.blocked_by]
    if record.shell is None:
        digest = task.hash_title(record.title)
        rows.append(IndexRow(TASKS_OPEN, (record.session_id, digest, record.task_id)))
    else:
        rows.append(IndexRow(SHELLS_LIVE, (record.created_cursor,), record.task_id))
        if record.shell.stop_requested_at_ms is not None:
            rows.append(IndexRow(SHELLS_STOPPING, (record.created_cursor,), record.task_id))
    return frozenset(rows)


TASK_RECORDS: Final = Projection(
    kind=TASK,
    table=TASKS,
    begins=(TaskCreated, TaskAdopted),
    events=TaskEvent.__args__,
    key=key_in("task_id"),
    evolve=task.evolve,
    source=source_in_session,
    final=is_final,
    rows=index_rows,
    indexes=(RECORDS_BY_SESSION, TASKS_OPEN, TASKS_WAITING, SHELLS_LIVE, SHELLS_STOPPING),
    superseded=is_superseded,
)
