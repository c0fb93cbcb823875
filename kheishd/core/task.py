"""Tasks: a record as the projection of its events, and the rules for changes of tasks. Pure.

A task is open until it is completed, failed or cancelled; then it never changes again. A deleted task stays
deleted. Only open tasks wait for others, so only open tasks could form a cycle. The rules prevent that: each
change is checked against all tasks of the session, within its transaction.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final, Protocol

from msgspec import UNSET
from msgspec.structs import replace

from protocol.errors.rpc import InvalidParams
from protocol.errors.task import (
    TaskAlreadyEnded,
    TaskBlocked,
    TaskBlocksOthers,
    TaskCycle,
    TaskLimit,
    TaskNotFound,
    TaskOutputMissing,
    TaskRunning,
    TaskTitleTaken,
)
from protocol.events.task import (
    TaskAdopted,
    TaskCreated,
    TaskDeleted,
    TaskEnded,
    TaskEvent,
    TaskMoved,
    TaskStalled,
    TaskStarted,
    TaskStopRequested,
    TaskUpdated,
)
from protocol.journal.envelope import Envelope
from protocol.limits.task import MAX_OPEN_TASKS
from protocol.objects.task import OPEN, Shell, ShellEnding, Task
from protocol.text import fold_text

# The record.


def evolve(task: Task | None, envelope: Envelope, event: TaskEvent) -> Task | None:
    """Return the task after one of its events; None once it is a task of another session.

    After its end, only a deletion changes it.
    Errors: AssertionError for a first event that is not ``TaskCreated`` or ``TaskAdopted``: the journal is
    damaged.
    """
    if isinstance(event, TaskCreated):
        return task or _create(envelope, event)
    if isinstance(event, TaskAdopted):
        assert envelope.session_id is not None
        return replace(
            event.task,
            session_id=envelope.session_id,
            moved_from=event.task.moved_from or event.task.session_id,
            updated_at_ms=envelope.at_ms,
            created_cursor=envelope.cursor,
        )
    assert task is not None, "a task's first event is its creation"
    if isinstance(event, TaskMoved):
        return None
    if task.deleted_at_ms is not None:
        return task
    if isinstance(event, TaskDeleted):
        # A tombstone without the content remains.
        return Task(
            task_id=task.task_id,
            session_id=task.session_id,
            title=task.title,
            status=task.status,
            kind=task.kind,
            created_at_ms=task.created_at_ms,
            updated_at_ms=envelope.at_ms,
            created_cursor=task.created_cursor,
            created_by_run_id=task.created_by_run_id,
            moved_from=task.moved_from,
            ended_at_ms=task.ended_at_ms,
            deleted_at_ms=envelope.at_ms,
        )
    if task.status not in OPEN:
        return task
    changed = (
        apply_update(task, event) if isinstance(event, TaskUpdated) else _evolve_shell(task, envelope, event)
    )
    ended_at_ms = None if changed.status in OPEN else envelope.at_ms
    return replace(changed, updated_at_ms=envelope.at_ms, ended_at_ms=ended_at_ms)


def _create(envelope: Envelope, event: TaskCreated) -> Task:
    assert envelope.session_id is not None
    command = event.shell
    shell = (
        None
        if command is None
        else Shell(**{name: getattr(command, name) for name in command.__struct_fields__})
    )
    return Task(
        task_id=event.task_id,
        session_id=envelope.session_id,
        title=event.title,
        status="pending",
        kind=event.kind,
        created_at_ms=envelope.at_ms,
        updated_at_ms=envelope.at_ms,
        created_cursor=envelope.cursor,
        description=event.description,
        owner=event.owner,
        blocked_by=event.blocked_by,
        metadata=event.metadata,
        created_by_run_id=envelope.run_id,
        shell=shell,
    )


def apply_update(task: Task, event: TaskUpdated) -> Task:
    """Return the task with the changes of an update."""
    names = ("title", "description", "status", "owner", "blocked_by", "output", "metadata")
    values = ((name, getattr(event, name)) for name in names)
    changed = replace(task, **{name: value for name, value in values if value is not UNSET})
    return changed if event.status is UNSET else replace(changed, note=event.note)


def _evolve_shell(
    task: Task, envelope: Envelope, event: TaskStarted | TaskStopRequested | TaskStalled | TaskEnded
) -> Task:
    shell = task.shell
    assert shell is not None, "only a shell is started, stopped and ended"
    match event:
        case TaskStarted(pid=pid, start_ticks=start_ticks):
            return replace(task, status="in_progress", shell=replace(shell, pid=pid, start_ticks=start_ticks))
        case TaskStopRequested(note=note):
            if shell.stop_requested_at_ms is not None:
                return task
            stopping = replace(
                shell,
                stop_requested_at_ms=envelope.at_ms,
                stop_note=note,
                stopped_by=f"run:{envelope.run_id}" if envelope.run_id else envelope.actor,
            )
            return replace(task, shell=stopping)
        case TaskStalled():
            return replace(task, shell=replace(shell, stalled_at_ms=envelope.at_ms))
        case TaskEnded():
            ended = replace(
                shell,
                exit_code=event.exit_code,
                terminal_reason=event.terminal_reason,
                problem=event.problem,
                output_bytes=event.output_bytes,
                output_kept_bytes=event.output_kept_bytes,
                connected=event.connected,
                refused=event.refused,
            )
            return replace(task, status=event.status, note=shell.stop_note, shell=ended)


# Rules.


class SessionTasks(Protocol):
    """The tasks of one session, within a transaction."""

    def find(self, task_id: str) -> Task | None:
        """Return a task of the session, or the tombstone of a deleted one."""
        ...

    def find_titled(self, title: str) -> Iterable[str]:
        """Return the ids of the open tasks with a title, in any spelling."""
        ...

    def find_waiting(self, task_id: str) -> Iterable[str]:
        """Return the ids of the open tasks that wait for a task."""
        ...

    def count_open(self) -> int:
        """Return the number of open tasks, without shells."""
        ...


def hash_title(title: str) -> str:
    """Return the index key of a title; case and spacing are ignored."""
    spelling = fold_text(title)
    return sha256(spelling.encode(errors="surrogatepass")).hexdigest()[:32]


def normalize_title(title: str) -> str:
    """Collapse the spaces in a title. Errors: InvalidParams for a title without words."""
    normalized = " ".join(title.split())
    if not normalized:
        raise InvalidParams("a title needs words", field="$.params.title")
    return normalized


def require_creatable(tasks: SessionTasks, event: TaskCreated) -> None:
    """Require that a task may be created. Errors: TaskLimit, TaskTitleTaken, TaskNotFound."""
    if tasks.count_open() >= MAX_OPEN_TASKS:
        raise TaskLimit(f"the session has {MAX_OPEN_TASKS} open tasks; complete or cancel some of them first")
    _require_title_free(tasks, event.task_id, event.title)
    _require_exist(tasks, event.blocked_by)


def require_updatable(tasks: SessionTasks, task: Task, event: TaskUpdated) -> None:
    """Require that an update of a task is allowed.

    Errors: TaskRunning, TaskAlreadyEnded, TaskTitleTaken, TaskNotFound, TaskCycle, TaskBlocked,
            TaskOutputMissing.
    """
    if task.status not in OPEN:
        verb = {"completed": "completed", "failed": "marked as failed"}.get(task.status, task.status)
        raise TaskAlreadyEnded(f"the task {task.task_id} was {verb} and is final; create another")
    if task.kind == "shell":
        raise TaskRunning(f"{task.task_id} is a shell: it can only be stopped")
    updated = apply_update(task, event)
    _require_title_free(tasks, task.task_id, updated.title)
    _require_exist(tasks, [task_id for task_id in updated.blocked_by if task_id not in task.blocked_by])
    cycle = _find_cycle(tasks, task.task_id, updated.blocked_by)
    if cycle is not None:
        raise TaskCycle(
            f"tasks would wait for each other in a cycle: {' -> '.join(cycle)}",
            field="$.params.blocked_by",
        )
    if updated.status in ("in_progress", "completed"):
        _require_unblocked(tasks, updated)
    if updated.status == "completed" and not updated.output.strip():
        raise TaskOutputMissing(
            f"completing the task {task.task_id} requires its output: state the result",
            field="$.params.output",
        )


def require_deletable(tasks: SessionTasks, task: Task) -> None:
    """Require that a task may be deleted. Errors: TaskRunning, TaskBlocksOthers."""
    if task.kind == "shell" and task.status in OPEN:
        raise TaskRunning(f"{task.task_id} is a shell that has not ended; stop it first")
    waiting = [] if task.status == "completed" else sorted(tasks.find_waiting(task.task_id))
    if waiting:
        raise TaskBlocksOthers(
            f"{_join_names(waiting)} wait for {task.task_id}; remove it from their blocked_by first"
        )


def _require_title_free(tasks: SessionTasks, task_id: str, title: str) -> None:
    holders = [holder for holder in tasks.find_titled(title) if holder != task_id]
    if holders:
        raise TaskTitleTaken(
            f"the open task {holders[0]} has that title; change that task, or choose another title",
            field="$.params.title",
        )


def _require_exist(tasks: SessionTasks, task_ids: list[str]) -> None:
    for task_id in task_ids:
        blocker = tasks.find(task_id)
        if blocker is None or blocker.deleted_at_ms is not None:
            raise TaskNotFound(
                f"the session has no task '{task_id}' to wait for", field="$.params.blocked_by"
            )


def _require_unblocked(tasks: SessionTasks, task: Task) -> None:
    blockers = (tasks.find(task_id) for task_id in task.blocked_by)
    incomplete = [
        f"{blocker.task_id} ({blocker.status})"
        for blocker in blockers
        if blocker is not None and blocker.status != "completed"
    ]
    if incomplete:
        raise TaskBlocked(
            f"{task.task_id} waits for {_join_names(incomplete)}; "
            "complete that first, or change its blocked_by"
        )


MAX_NAMES: Final = 5


def _join_names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _find_cycle(tasks: SessionTasks, task_id: str, blocked_by: list[str]) -> list[str] | None:
    """Return the shortest cycle that these blockers would close, from the task back to itself."""
    waiter_of: dict[str, str] = dict.fromkeys(blocked_by, task_id)
    queue = list(waiter_of)
    for blocker_id in queue:
        if blocker_id == task_id:
            break
        blocker = tasks.find(blocker_id)
        if blocker is None or blocker.status not in OPEN:
            continue
        for next_id in blocker.blocked_by:
            if next_id not in waiter_of:
                waiter_of[next_id] = blocker_id
                queue.append(next_id)
    if task_id not in waiter_of:
        return None
    path = [task_id]
    while len(path) == 1 or path[-1] != task_id:
        path.append(waiter_of[path[-1]])
    return path[::-1]


# Notes for the model about shells.

_ENDINGS: Final[dict[ShellEnding, str]] = {
    "exited": "ended",
    "stopped": "was stopped",
    "not_started": "could not be started",
    "exit_unknown": "ended, with an unknown exit code",
    "output_capture_failed": "ended, and some of its output is lost",
    "daemon_stopped": "was ended because the daemon stopped",
    "daemon_restarted": "was ended because the daemon went down",
}

MAX_TITLE_CHARACTERS: Final = 80

MAX_NOTED_HOSTS: Final = 4
"""The refused hosts in the note about the end of a shell."""


def format_ended_note(
    task: Task,
    ending: ShellEnding,
    exit_code: int | None = None,
    problem: str = "",
    output_bytes: int = 0,
    refused: Sequence[str] = (),
) -> str:
    """Format the note about a shell that has ended."""
    outcome = _ENDINGS[ending]
    if ending == "stopped" and task.shell is not None and task.shell.stop_note:
        outcome += f" ({task.shell.stop_note})"
    if exit_code is not None:
        outcome += f" with exit code {exit_code}"
    if problem:
        outcome += f" ({problem})"
    output = f" The output of the task has {output_bytes} bytes." if output_bytes else ""
    hosts = ", ".join(refused[:MAX_NOTED_HOSTS]) + (", …" if len(refused) > MAX_NOTED_HOSTS else "")
    network = f" Connections were refused to {hosts}: no rule allows these hosts." if refused else ""
    return f"The background shell {_name_shell(task)} {outcome}.{output}{network}"


def format_adopted_note(task: Task, path: str) -> str:
    """Format the note for the agent that takes a shell of a closed one, whose path is given."""
    return (
        f"The background shell {task.task_id} of the agent {path}, which was closed, still runs and is a "
        "task of this session now."
    )


def format_stalled_note(task: Task) -> str:
    """Format the note about a shell that seems to wait for input, which it cannot get."""
    return (
        f"The background shell {_name_shell(task)} has written nothing for a while "
        "and seems to wait for input. It cannot receive any: read the output of the task, and stop the task "
        "if it needs input; options such as --yes keep programs from asking."
    )


def _name_shell(task: Task) -> str:
    """Return the id and the title of a shell. The title of another agent's is its text, so it is left out."""
    return task.task_id if task.moved_from is not None else f"{task.task_id}, '{abbreviate(task.title)}',"


def abbreviate(text: str) -> str:
    """Shorten a text to one short line."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_TITLE_CHARACTERS else f"{line[:MAX_TITLE_CHARACTERS]}…"
