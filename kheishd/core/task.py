"""Tasks: a record as the fold of its events, and the rules about how tasks may change. Pure.

A task is open until it is completed, failed or cancelled, and then it never changes again; one that was
deleted stays deleted. Only open tasks wait for others, so only among them can there be a circle, and there
never is one: each change is looked at together with all other tasks, as they are in its transaction.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import Final, Protocol

from msgspec import UNSET
from msgspec.structs import replace

from protocol.errors.rpc import InvalidParams
from protocol.errors.task import (
    TaskAlreadyEnded,
    TaskBlocked,
    TaskCycle,
    TaskNeeded,
    TaskNotFound,
    TaskOutputMissing,
    TaskRunning,
    TasksFull,
    TaskTitleTaken,
)
from protocol.events.task import (
    TaskCreated,
    TaskDeleted,
    TaskEnded,
    TaskEvent,
    TaskStalled,
    TaskStarted,
    TaskStopRequested,
    TaskUpdated,
)
from protocol.journal.envelope import Envelope
from protocol.limits.task import MAX_OPEN_TASKS
from protocol.objects.task import OPEN, Shell, ShellEnding, Task

# Folding.


def evolve(task: Task | None, envelope: Envelope, event: TaskEvent) -> Task:
    """The task after an event about it. What comes after its end changes nothing, but that it is deleted.

    Errors: AssertionError for a first event that is not ``TaskCreated``: the journal is damaged.
    """
    if isinstance(event, TaskCreated):
        return task or _created(envelope, event)
    assert task is not None, "a task's first event is its creation"
    if task.deleted_at_ms is not None:
        return task
    if isinstance(event, TaskDeleted):
        return _tombstone(task, envelope.at_ms)
    if task.status not in OPEN:
        return task
    changed = revised(task, event) if isinstance(event, TaskUpdated) else _kept(task, envelope, event)
    ended_at_ms = None if changed.status in OPEN else envelope.at_ms
    return replace(changed, updated_at_ms=envelope.at_ms, ended_at_ms=ended_at_ms)


def _created(envelope: Envelope, event: TaskCreated) -> Task:
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


def _tombstone(task: Task, at_ms: int) -> Task:
    """What is left of a task that was deleted: that it was there."""
    return Task(
        task_id=task.task_id,
        session_id=task.session_id,
        title=task.title,
        status=task.status,
        kind=task.kind,
        created_at_ms=task.created_at_ms,
        updated_at_ms=at_ms,
        created_cursor=task.created_cursor,
        created_by_run_id=task.created_by_run_id,
        ended_at_ms=task.ended_at_ms,
        deleted_at_ms=at_ms,
    )


def revised(task: Task, event: TaskUpdated) -> Task:
    """The task with what an update says of it."""
    names = ("title", "description", "status", "owner", "blocked_by", "output", "metadata")
    values = ((name, getattr(event, name)) for name in names)
    changed = replace(task, **{name: value for name, value in values if value is not UNSET})
    return changed if event.status is UNSET else replace(changed, note=event.note)


def _kept(
    task: Task, envelope: Envelope, event: TaskStarted | TaskStopRequested | TaskStalled | TaskEnded
) -> Task:
    """The task after an event about its shell."""
    shell = task.shell
    assert shell is not None, "only a shell is started, stopped and ended"
    match event:
        case TaskStarted(pid=pid, start_ticks=started):
            return replace(task, status="in_progress", shell=replace(shell, pid=pid, start_ticks=started))
        case TaskStopRequested(note=reason):
            if shell.stop_requested_at_ms is not None:
                return task
            wanted = replace(
                shell,
                stop_requested_at_ms=envelope.at_ms,
                stop_note=reason,
                stopped_by=f"run:{envelope.run_id}" if envelope.run_id else envelope.actor,
            )
            return replace(task, shell=wanted)
        case TaskStalled():
            return replace(task, shell=replace(shell, stalled_at_ms=envelope.at_ms))
        case TaskEnded():
            over = replace(
                shell,
                exit_code=event.exit_code,
                terminal_reason=event.terminal_reason,
                problem=event.problem,
                output_bytes=event.output_bytes,
                output_kept_bytes=event.output_kept_bytes,
            )
            return replace(task, status=event.status, note=shell.stop_note, shell=over)


# Rules.


class Others(Protocol):
    """The tasks of one session, as they are in a transaction."""

    def task(self, task_id: str) -> Task | None:
        """A task of the session; also what is left of one that was deleted."""
        ...

    def titled(self, title: str) -> Iterable[str]:
        """The open tasks with this title, however it is written."""
        ...

    def waiting_for(self, task_id: str) -> Iterable[str]:
        """The open tasks that wait for a task."""
        ...

    def open(self) -> int:
        """How many are open, shells not counted."""
        ...


def folded(title: str) -> str:
    """A title as titles are compared: how it is written and spaced makes no difference."""
    return " ".join(title.split()).casefold()


def title_digest(title: str) -> str:
    """A title as it is looked up: a key has no room for a long one."""
    return sha256(folded(title).encode(errors="surrogatepass")).hexdigest()[:32]


def titled(title: str) -> str:
    """A title as it is kept. Errors: InvalidParams for one without words."""
    trimmed = " ".join(title.split())
    if not trimmed:
        raise InvalidParams("a title needs words", field="$.params.title")
    return trimmed


def may_create(others: Others, event: TaskCreated) -> None:
    """Errors: TasksFull, TaskTitleTaken, TaskNotFound."""
    if others.open() >= MAX_OPEN_TASKS:
        raise TasksFull(f"the session has {MAX_OPEN_TASKS} open tasks; end some of them first")
    _title_is_free(others, event.task_id, event.title)
    _are_there(others, event.blocked_by)


def may_update(others: Others, task: Task, event: TaskUpdated) -> None:
    """Whether a task may change so, as the others are.

    Errors: TaskRunning, TaskEnded, TaskTitleTaken, TaskNotFound, TaskCycle, TaskBlocked, TaskOutputMissing.
    """
    if task.status not in OPEN:
        raise TaskAlreadyEnded(
            f"the task {task.task_id} was {_ended(task)} and no longer changes; create another"
        )
    if task.kind == "shell":
        raise TaskRunning(f"{task.task_id} is a shell: it can be stopped, and changes by itself only")
    after = revised(task, event)
    _title_is_free(others, task.task_id, after.title)
    _are_there(others, [each for each in after.blocked_by if each not in task.blocked_by])
    circle = _circle(others, task.task_id, after.blocked_by)
    if circle is not None:
        raise TaskCycle(
            f"then tasks would wait for each other in a circle: {' -> '.join(circle)}",
            field="$.params.blocked_by",
        )
    if after.status in ("in_progress", "completed"):
        _is_free(others, after)
    if after.status == "completed" and not after.output.strip():
        raise TaskOutputMissing(
            f"the task {task.task_id} is completed with its output: say what came of it",
            field="$.params.output",
        )


def may_delete(others: Others, task: Task) -> None:
    """Errors: TaskRunning, TaskNeeded."""
    if task.kind == "shell" and task.status in OPEN:
        raise TaskRunning(f"{task.task_id} is a shell that has not ended; stop it first")
    waiting = [] if task.status == "completed" else sorted(others.waiting_for(task.task_id))
    if waiting:
        raise TaskNeeded(
            f"{_some(waiting)} wait for {task.task_id}; take it out of what they are blocked by first"
        )


def _ended(task: Task) -> str:
    return {"completed": "completed", "failed": "marked as failed"}.get(task.status, task.status)


def _title_is_free(others: Others, task_id: str, title: str) -> None:
    taken = [each for each in others.titled(title) if each != task_id]
    if taken:
        raise TaskTitleTaken(
            f"{taken[0]} is open and has that title; change that task, or choose another title",
            field="$.params.title",
        )


def _are_there(others: Others, task_ids: list[str]) -> None:
    for task_id in task_ids:
        other = others.task(task_id)
        if other is None or other.deleted_at_ms is not None:
            raise TaskNotFound(
                f"the session has no task '{task_id}' to wait for", field="$.params.blocked_by"
            )


def _is_free(others: Others, task: Task) -> None:
    """Errors: TaskBlocked unless all that the task waits for were completed."""
    found = (others.task(task_id) for task_id in task.blocked_by)
    missing = [
        f"{other.task_id} ({other.status})"
        for other in found
        if other is not None and other.status != "completed"
    ]
    if missing:
        raise TaskBlocked(
            f"{task.task_id} waits for {_some(missing)}; complete that first, or change what it is blocked by"
        )


MAX_SHOWN: Final = 5


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more


def _circle(others: Others, task_id: str, blocked_by: list[str]) -> list[str] | None:
    """The shortest circle of waiting tasks that these blockers would close, from the task back to it."""
    came_from: dict[str, str] = dict.fromkeys(blocked_by, task_id)
    ahead = list(came_from)
    for each in ahead:
        if each == task_id:
            break
        other = others.task(each)
        if other is None or other.status not in OPEN:
            continue
        for further in other.blocked_by:
            if further not in came_from:
                came_from[further] = each
                ahead.append(further)
    if task_id not in came_from:
        return None
    path = [task_id]
    while len(path) == 1 or path[-1] != task_id:
        path.append(came_from[path[-1]])
    return path[::-1]


# What the model is told of shells.


def ended_note(
    task: Task, why: ShellEnding, exit_code: int | None = None, problem: str = "", output_bytes: int = 0
) -> str:
    """What the model reads about a shell that is over."""
    how = _HOW[why]
    if why == "stopped" and task.shell is not None and task.shell.stop_note:
        how += f" ({task.shell.stop_note})"
    code = f" with exit code {exit_code}" if exit_code is not None else ""
    because = f" ({problem})" if problem else ""
    said = f" task_output gives what it wrote: {output_bytes} bytes." if output_bytes else ""
    return f"The background shell {task.task_id}, '{brief(task.title)}', {how}{code}{because}.{said}"


_HOW: Final[dict[ShellEnding, str]] = {
    "exited": "ended",
    "stopped": "was stopped",
    "not_started": "could not be started",
    "exit_unknown": "ended, and how is not known",
    "output_capture_failed": "ended, and some of its output is lost",
    "daemon_stopped": "was ended because the daemon stopped",
    "daemon_restarted": "was ended because the daemon went down",
}


def stalled_note(task: Task) -> str:
    """What the model reads about a shell that seems to wait for an answer, which nobody can give."""
    return (
        f"The background shell {task.task_id}, '{brief(task.title)}', has written nothing for a while and "
        "seems to wait for an answer. Nothing can be typed into it: look at it with task_output, and stop it "
        "with task_stop if it needs one; options such as --yes keep programs from asking."
    )


BRIEF_CHARACTERS: Final = 80


def brief(text: str) -> str:
    """A text on one short line."""
    line = " ".join(text.split())
    return line if len(line) <= BRIEF_CHARACTERS else f"{line[:BRIEF_CHARACTERS]}…"
