"""Tasks of sessions: create, show, change, stop and delete them, and read their output.

Agents change the same tasks with their tools. Both make the event first, and the transaction that appends it
checks it against the rules (see ``core/task.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio
from msgspec import UNSET

from kheishd.core import task as rules
from kheishd.kernel.call import Call, control, mutation, origin_of, query
from kheishd.kernel.shells import Shells, Written
from kheishd.objects.pages import PageTokens, cursor_after, page_of
from kheishd.objects.storable import require_storable
from kheishd.objects.talk.address import find_session
from kheishd.records.task import TASK
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import RECORDS_BY_SESSION, SESSIONS, TASKS, TASKS_OPEN, TASKS_WAITING
from protocol import ids
from protocol.errors.session import SessionAlreadyEnded
from protocol.errors.task import TaskAlreadyDeleted, TaskNotFound
from protocol.events.task import TaskCreated, TaskDeleted, TaskStopRequested, TaskUpdated
from protocol.limits.task import MAX_TASK_DESCRIPTION_BYTES, MAX_TASK_METADATA_BYTES, MAX_TASK_OUTPUT_BYTES
from protocol.objects import task as rows
from protocol.objects.task import (
    OPEN,
    Task,
    TaskCreate,
    TaskDelete,
    TaskList,
    TaskListParams,
    TaskOutput,
    TaskOutputParams,
    TaskRef,
    TaskStop,
    TaskUpdate,
    TaskView,
)
from protocol.structs import fields_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot, Transaction

# How long ``task.stop`` waits for a shell to end before it answers that the stop was requested.
STOP_SECONDS: Final = 5.0


class StoredTasks:
    """The tasks of one session, as the rules look them up."""

    def __init__(self, store: Snapshot, session_id: str) -> None:
        self._store = store
        self._session_id = session_id

    def find(self, task_id: str) -> Task | None:
        """Return a task of the session, deleted ones included."""
        task = self._store.get(TASKS, task_id)
        return task if task is not None and task.session_id == self._session_id else None

    def find_titled(self, title: str) -> Iterator[str]:
        """Yield the open tasks with this title, in any spelling."""
        for key, _ in self._store.scan(TASKS_OPEN, self._session_id, rules.hash_title(title)):
            yield str(key[-1])

    def find_waiting(self, task_id: str) -> Iterator[str]:
        """Yield the open tasks that a task blocks."""
        for key, _ in self._store.scan(TASKS_WAITING, task_id):
            yield str(key[-1])

    def count_open(self) -> int:
        """Return the number of open tasks, not counting shells."""
        return sum(1 for _ in self._store.scan(TASKS_OPEN, self._session_id))


def view_of(store: Snapshot, task: Task) -> TaskView:
    """Return a task as shown, with the tasks that it blocks."""
    blocks = list(StoredTasks(store, task.session_id).find_waiting(task.task_id))
    return TaskView(**fields_of(Task, task), blocks=blocks)


def find_task(store: Snapshot, call: Call, task_id: str) -> Task:
    """Return a task that the caller may read. Errors: TaskNotFound, TaskAlreadyDeleted."""
    task = store.get(TASKS, task_id)
    if task is None or not _may_read(store, call, task):
        raise TaskNotFound(f"there is no task '{task_id}'", field="$.params.task_id")
    return require_not_deleted(task)


def require_not_deleted(task: Task) -> Task:
    """Return the task. Errors: TaskAlreadyDeleted."""
    if task.deleted_at_ms is not None:
        raise TaskAlreadyDeleted(
            f"the task {task.task_id} was deleted; create another", field="$.params.task_id"
        )
    return task


def _may_read(store: Snapshot, call: Call, task: Task) -> bool:
    if call.caller.is_unrestricted:
        return True
    session = store.get(SESSIONS, task.session_id)
    return session is not None and call.caller.may_read(session.agent, session.sender)


# Show.


@query(rows.GET)
def get(call: Call, params: TaskRef) -> TaskView:
    """Show a task."""
    with call.state.read() as store:
        return view_of(store, find_task(store, call, params.task_id))


@query(rows.LIST)
def list_(call: Call, params: TaskListParams) -> TaskList:
    """List the tasks of a session, or of all sessions, oldest first."""
    with call.state.read() as store:
        if params.session_id is not None:
            find_session(store, call, params.session_id)
            return TaskList(*list_session_tasks(store, params.session_id, params))
        tokens = PageTokens(call)
        last_id = tokens.id_of(params.after)
        views = (
            (key, view_of(store, task) if matches(task, params) and _may_read(store, call, task) else None)
            for key, task in store.scan(TASKS, after=(last_id,) if last_id is not None else None)
        )
        return TaskList(*page_of(views, params.limit, lambda view: True, tokens.token_of))


def list_session_tasks(
    store: Snapshot, session_id: str, params: TaskListParams
) -> tuple[list[TaskView], str | None]:
    """Return a page of a session's tasks and the token of the next page. Errors: InvalidParams."""
    cursor = cursor_after(params.after)
    prefix = (session_id, TASK)
    indexed = store.scan(RECORDS_BY_SESSION, *prefix, after=None if cursor is None else (*prefix, cursor))
    tasks = ((key, store.need(TASKS, task_id)) for key, task_id in indexed)
    views = ((key, view_of(store, task) if matches(task, params) else None) for key, task in tasks)
    return page_of(views, params.limit, lambda view: True)


def matches(task: Task, params: TaskListParams) -> bool:
    """Whether a task passes the filters of a list. Deleted ones never do."""
    if task.deleted_at_ms is not None or params.kind not in (None, task.kind):
        return False
    if params.status == "open":
        return task.status in OPEN
    return params.status in ("any", task.status)


# Change.


def make_created(task_id: str, params: TaskCreate) -> TaskCreated:
    """Return the event that creates a task; its values are valid by themselves.

    Errors: InvalidParams, InputTooLarge.
    """
    require_storable(params.description, MAX_TASK_DESCRIPTION_BYTES, "description", "$.params.description")
    require_storable(params.metadata, MAX_TASK_METADATA_BYTES, "metadata", "$.params.metadata")
    return TaskCreated(
        task_id=task_id,
        title=rules.normalize_title(params.title),
        description=params.description,
        owner=params.owner,
        blocked_by=list(dict.fromkeys(params.blocked_by)),
        metadata=params.metadata,
    )


def make_updated(params: TaskUpdate) -> TaskUpdated:
    """Return the event that changes a task; its values are valid by themselves.

    Errors: InvalidParams, InputTooLarge.
    """
    limits = (
        ("description", MAX_TASK_DESCRIPTION_BYTES),
        ("output", MAX_TASK_OUTPUT_BYTES),
        ("metadata", MAX_TASK_METADATA_BYTES),
    )
    for name, max_bytes in limits:
        if getattr(params, name) is not UNSET:
            require_storable(getattr(params, name), max_bytes, name, f"$.params.{name}")
    title, blocked_by = params.title, params.blocked_by
    return TaskUpdated(
        task_id=params.task_id,
        title=title if title is UNSET else rules.normalize_title(title),
        description=params.description,
        status=params.status,
        owner=params.owner,
        blocked_by=blocked_by if blocked_by is UNSET else list(dict.fromkeys(blocked_by)),
        output=params.output,
        metadata=params.metadata,
        note=params.note,
    )


def make_stop(task: Task, note: str) -> TaskUpdated | TaskStopRequested | None:
    """Return the event that stops a task; None for one that has ended or is stopping."""
    if task.status not in OPEN:
        return None
    if task.shell is None:
        return TaskUpdated(task_id=task.task_id, status="cancelled", note=note)
    if task.shell.stop_requested_at_ms is not None:
        return None
    return TaskStopRequested(task_id=task.task_id, note=note)


def prepare_create(call: Call, params: TaskCreate) -> tuple[str, TaskCreated]:
    """Return the session and the event of a new task. Errors: InvalidParams, InputTooLarge."""
    return params.session_id, make_created(call.state.new_id(ids.TASK), params)


@mutation(rows.CREATE, prepare=prepare_create)
def create(tx: Transaction, call: Call, plan: tuple[str, TaskCreated]) -> TaskView:
    """Create a task in a session."""
    session_id, event = plan
    find_session(tx, call, session_id)
    _require_open_session(tx, session_id)
    rules.require_creatable(StoredTasks(tx, session_id), event)
    return _append(tx, call, session_id, event)


@mutation(rows.UPDATE, prepare=lambda call, params: make_updated(params))
def update(tx: Transaction, call: Call, event: TaskUpdated) -> TaskView:
    """Change a task."""
    task = find_task(tx, call, event.task_id)
    _require_open_session(tx, task.session_id)
    rules.require_updatable(StoredTasks(tx, task.session_id), task, event)
    if rules.apply_update(task, event) == task:
        return view_of(tx, task)
    return _append(tx, call, task.session_id, event)


async def follow_stop(call: Call, params: TaskStop, result: TaskView) -> TaskView:
    """Wait some seconds for a shell to end."""
    if result.shell is None or result.status not in OPEN:
        return result
    await wait_until_ended(call.state, result, STOP_SECONDS)
    with call.state.read() as store:
        return view_of(store, store.need(TASKS, result.task_id))


@mutation(rows.STOP, follow=follow_stop)
def stop(tx: Transaction, call: Call, params: TaskStop) -> TaskView:
    """Cancel a task, or request the stop of a shell. A repeated stop changes nothing."""
    task = find_task(tx, call, params.task_id)
    event = make_stop(task, params.note)
    return view_of(tx, task) if event is None else _append(tx, call, task.session_id, event)


@mutation(rows.DELETE)
def delete(tx: Transaction, call: Call, params: TaskDelete) -> TaskView:
    """Delete a task for good."""
    task = find_task(tx, call, params.task_id)
    _require_open_session(tx, task.session_id)
    rules.require_deletable(StoredTasks(tx, task.session_id), task)
    return _append(tx, call, task.session_id, TaskDeleted(task_id=task.task_id))


def _require_open_session(tx: Transaction, session_id: str) -> None:
    """Reject a change to a task of an ended session. Errors: SessionAlreadyEnded."""
    if tx.need(SESSIONS, session_id).status == "ended":
        raise SessionAlreadyEnded(f"the session {session_id} was ended; its tasks no longer change")


def _append(
    tx: Transaction,
    call: Call,
    session_id: str,
    event: TaskCreated | TaskUpdated | TaskStopRequested | TaskDeleted,
) -> TaskView:
    """Append an event of a task and return the task after it."""
    writer = SessionWriter(tx, session_id, session=tx.need(SESSIONS, session_id), origin=origin_of(call))
    writer.append(event)
    writer.write()
    return view_of(tx, tx.need(TASKS, event.task_id))


# Output.


async def wait_until_ended(state: State, task: Task, timeout_s: float) -> None:
    """Wait until a task has ended, or the time is over."""
    with trio.move_on_after(timeout_s):
        while True:
            # A shell may move to another session's stream.
            bell = state.bell(TASKS.name)
            with state.read() as store:
                if store.need(TASKS, task.task_id).status not in OPEN:
                    return
            state.require_sound()
            await bell.wait()


async def _wait_for_more(state: State, shells: Shells, task: Task, offset: int, timeout_s: float) -> None:
    """Wait until a shell's output is longer than an offset, the shell has ended, or the time is over."""

    async def cancel_at_end() -> None:
        await wait_until_ended(state, task, timeout_s)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_at_end)
        while True:
            bell = shells.growth(task.task_id)
            if (await shells.read(task.task_id, 1, offset)).total_bytes > offset:
                break
            state.require_sound()
            await bell.wait()
        nursery.cancel_scope.cancel()


async def read_output(state: State, shells: Shells, task: Task, params: TaskOutputParams) -> TaskOutput:
    """Return a part of a task's output, after the wait that the params request."""
    if params.wait and params.offset is None:
        await wait_until_ended(state, task, params.timeout_s)
    elif params.wait:
        await _wait_for_more(state, shells, task, params.offset or 0, params.timeout_s)
    with state.read() as store:
        view = view_of(store, store.need(TASKS, task.task_id))
    if view.shell is not None:
        part = await shells.read(view.task_id, params.tail_bytes, params.offset)
    else:
        part = _slice(view.output.encode(errors="replace"), params)
    ready = view.status not in OPEN
    return TaskOutput(
        task=view,
        ready=ready,
        timed_out=params.wait and not ready and (params.offset is None or not part.text),
        text=part.text,
        offset=part.offset,
        left_out_bytes=part.left_out_bytes,
        total_bytes=part.total_bytes,
        kept_bytes=part.kept_bytes,
        path=part.path,
    )


def _slice(output: bytes, params: TaskOutputParams) -> Written:
    """Return the requested part of a task's output: its end, or the bytes after an offset."""
    start = max(len(output) - params.tail_bytes, 0) if params.offset is None else params.offset
    part = output[start : start + params.tail_bytes]
    left_out = min(start, len(output))
    return Written(
        text=part.decode(errors="ignore"),
        offset=left_out + len(part),
        left_out_bytes=left_out,
        total_bytes=len(output),
        kept_bytes=len(output),
    )


@control(rows.OUTPUT)
async def output(call: Call, params: TaskOutputParams) -> Any:
    """Read the output of a task."""
    with call.state.read() as store:
        task = find_task(store, call, params.task_id)
    return await read_output(call.state, call.services.shells, task, params)


HANDLERS = (get, list_, create, update, stop, delete, output)
