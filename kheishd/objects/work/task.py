"""Tasks of sessions: made, shown, changed, stopped and deleted; and what they gave is read.

Agents change the same tasks by their tools. Whoever changes one makes the event first, and the rules are
asked about it in the transaction that appends it (see ``core/task.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio
from msgspec import UNSET

from kheishd.core import task as rules
from kheishd.kernel.call import Call, control, mutation, query
from kheishd.kernel.projections import TASK
from kheishd.kernel.shells import Shells, Written
from kheishd.objects.fold import SessionWriter, origin_of
from kheishd.objects.pages import PageTokens, cursor_after, page_of
from kheishd.objects.storable import require_storable
from kheishd.objects.talk.address import find_session
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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot, Transaction

# What stopping a shell is waited for; then the answer says that it is wanted.
STOP_SECONDS: Final = 5.0


class Tasks:
    """The tasks of one session, for the rules."""

    def __init__(self, store: Snapshot, session_id: str) -> None:
        self._store = store
        self._session_id = session_id

    def find(self, task_id: str) -> Task | None:
        """A task of the session; also what is left of one that was deleted."""
        task = self._store.get(TASKS, task_id)
        return task if task is not None and task.session_id == self._session_id else None

    def find_titled(self, title: str) -> Iterator[str]:
        """The open tasks with this title, however it is written."""
        found = self._store.scan(TASKS_OPEN, self._session_id, rules.hash_title(title))
        return (str(key[-1]) for key, _ in found)

    def find_waiting(self, task_id: str) -> Iterator[str]:
        """The open tasks that wait for a task."""
        return (str(key[-1]) for key, _ in self._store.scan(TASKS_WAITING, task_id))

    def count_open(self) -> int:
        """How many are open, shells not counted."""
        return sum(1 for _ in self._store.scan(TASKS_OPEN, self._session_id))


def view_of(store: Snapshot, task: Task) -> TaskView:
    """A task with what waits for it."""
    fields = {name: getattr(task, name) for name in Task.__struct_fields__}
    return TaskView(**fields, blocks=list(Tasks(store, task.session_id).find_waiting(task.task_id)))


def find_task(store: Snapshot, call: Call, task_id: str) -> Task:
    """A task that the caller may read.

    Errors: TaskNotFound, also for one whose session the caller's token does not cover; TaskDeleted.
    """
    task = store.get(TASKS, task_id)
    if task is None or not _readable(store, call, task):
        raise TaskNotFound(f"there is no task '{task_id}'", field="$.params.task_id")
    return require_not_deleted(task)


def require_not_deleted(task: Task) -> Task:
    """The task, unless it was deleted. Errors: TaskDeleted."""
    if task.deleted_at_ms is not None:
        raise TaskAlreadyDeleted(
            f"the task {task.task_id} was deleted; create another", field="$.params.task_id"
        )
    return task


def _readable(store: Snapshot, call: Call, task: Task) -> bool:
    if call.caller.unlimited:
        return True
    session = store.get(SESSIONS, task.session_id)
    return session is not None and call.caller.covers(session.agent, session.sender)


# Showing.


@query(rows.GET)
def get(call: Call, params: TaskRef) -> TaskView:
    """Show one task."""
    with call.state.read() as store:
        return view_of(store, find_task(store, call, params.task_id))


@query(rows.LIST)
def list_(call: Call, params: TaskListParams) -> TaskList:
    """List tasks, oldest first: of one session, or of all."""
    with call.state.read() as store:
        if params.session_id is not None:
            find_session(store, call, params.session_id)
            found, following = page_of_session(store, params.session_id, params)
            return TaskList(found, following)
        tokens = PageTokens(call)
        mark = tokens.id_of(params.after)
        scanned = store.scan(TASKS, after=(mark,) if mark is not None else None)
        shown = (
            (key, view_of(store, task) if wanted(task, params) and _readable(store, call, task) else None)
            for key, task in scanned
        )
        found, following = page_of(shown, params.limit, lambda view: True, tokens.token_of)
        return TaskList(found, following)


def page_of_session(
    store: Snapshot, session_id: str, params: TaskListParams
) -> tuple[list[TaskView], str | None]:
    """A page of a session's tasks and where the next one starts. Errors: InvalidParams."""
    cursor = cursor_after(params.after)
    prefix = (session_id, TASK)
    indexed = store.scan(RECORDS_BY_SESSION, *prefix, after=None if cursor is None else (*prefix, cursor))
    tasks = ((key, store.get(TASKS, task_id)) for key, task_id in indexed)
    shown = (
        (key, view_of(store, task) if task is not None and wanted(task, params) else None)
        for key, task in tasks
    )
    return page_of(shown, params.limit, lambda view: True)


def wanted(task: Task, params: TaskListParams) -> bool:
    """Whether a list is to hold a task."""
    if task.deleted_at_ms is not None or params.kind not in (None, task.kind):
        return False
    if params.status == "open":
        return task.status in OPEN
    return params.status in ("any", task.status)


# Changing.


def new_task(task_id: str, params: TaskCreate) -> TaskCreated:
    """The event that creates a task, as far as it can be looked at alone.

    Errors: InvalidParams, InputTooLarge.
    """
    require_storable(params.description, MAX_TASK_DESCRIPTION_BYTES, "description", "$.params.description")
    require_storable(params.metadata, MAX_TASK_METADATA_BYTES, "metadata", "$.params.metadata")
    return TaskCreated(
        task_id=task_id,
        title=rules.normalise_title(params.title),
        description=params.description,
        owner=params.owner,
        blocked_by=list(dict.fromkeys(params.blocked_by)),
        metadata=params.metadata,
    )


def new_state(params: TaskUpdate) -> TaskUpdated:
    """The event that changes a task, as far as it can be looked at alone.

    Errors: InvalidParams, InputTooLarge.
    """
    limits = (
        ("description", MAX_TASK_DESCRIPTION_BYTES),
        ("output", MAX_TASK_OUTPUT_BYTES),
        ("metadata", MAX_TASK_METADATA_BYTES),
    )
    for name, limit in limits:
        if getattr(params, name) is not UNSET:
            require_storable(getattr(params, name), limit, name, f"$.params.{name}")
    return TaskUpdated(
        task_id=params.task_id,
        title=params.title if params.title is UNSET else rules.normalise_title(params.title),
        description=params.description,
        status=params.status,
        owner=params.owner,
        blocked_by=params.blocked_by
        if params.blocked_by is UNSET
        else list(dict.fromkeys(params.blocked_by)),
        output=params.output,
        metadata=params.metadata,
        note=params.note,
    )


def stopping(task: Task, reason: str) -> TaskUpdated | TaskStopRequested | None:
    """The event that stops a task; None for one that has ended, or that somebody has stopped already."""
    if task.status not in OPEN:
        return None
    if task.shell is None:
        return TaskUpdated(task_id=task.task_id, status="cancelled", note=reason)
    if task.shell.stop_requested_at_ms is not None:
        return None
    return TaskStopRequested(task_id=task.task_id, note=reason)


def _prepare_create(call: Call, params: TaskCreate) -> tuple[str, TaskCreated]:
    return params.session_id, new_task(call.state.new_id(ids.TASK), params)


@mutation(rows.CREATE, prepare=_prepare_create)
def create(tx: Transaction, call: Call, plan: tuple[str, TaskCreated]) -> TaskView:
    """Create a task in a session."""
    session_id, event = plan
    session = find_session(tx, call, session_id)
    if session.status == "ended":
        raise SessionAlreadyEnded(f"the session {session_id} was ended; its tasks no longer change")
    rules.require_creatable(Tasks(tx, session_id), event)
    return _appended(tx, call, session_id, event)


@mutation(rows.UPDATE, prepare=lambda call, params: new_state(params))
def update(tx: Transaction, call: Call, event: TaskUpdated) -> TaskView:
    """Change a task."""
    task = _changeable(tx, call, event.task_id)
    rules.require_updatable(Tasks(tx, task.session_id), task, event)
    if rules.apply_update(task, event) == task:
        return view_of(tx, task)
    return _appended(tx, call, task.session_id, event)


async def _until_stopped(call: Call, params: TaskStop, result: TaskView) -> TaskView:
    """A shell once it has ended, or as it is after some seconds."""
    if result.shell is None or result.status not in OPEN:
        return result
    await until_ended(call.state, result, STOP_SECONDS)
    with call.state.read() as store:
        return view_of(store, _present(store, result.task_id))


@mutation(rows.STOP, follow=_until_stopped, follows=lambda params: True)
def stop(tx: Transaction, call: Call, params: TaskStop) -> TaskView:
    """Cancel a task, or have a shell stopped. The first who does is who did."""
    task = find_task(tx, call, params.task_id)
    event = stopping(task, params.note)
    return view_of(tx, task) if event is None else _appended(tx, call, task.session_id, event)


@mutation(rows.DELETE)
def delete(tx: Transaction, call: Call, params: TaskDelete) -> TaskView:
    """Delete a task for good."""
    task = _changeable(tx, call, params.task_id)
    rules.require_deletable(Tasks(tx, task.session_id), task)
    return _appended(tx, call, task.session_id, TaskDeleted(task_id=task.task_id))


def _changeable(tx: Transaction, call: Call, task_id: str) -> Task:
    """Errors: TaskNotFound, TaskDeleted, SessionAlreadyEnded."""
    task = find_task(tx, call, task_id)
    session = tx.get(SESSIONS, task.session_id)
    if session is not None and session.status == "ended":
        raise SessionAlreadyEnded(f"the session {task.session_id} was ended; its tasks no longer change")
    return task


def _appended(
    tx: Transaction,
    call: Call,
    session_id: str,
    event: TaskCreated | TaskUpdated | TaskStopRequested | TaskDeleted,
) -> TaskView:
    fold = SessionWriter(tx, session_id, session=tx.get(SESSIONS, session_id), origin=origin_of(call))
    fold.append(event)
    fold.write()
    return view_of(tx, _present(tx, event.task_id))


def _present(store: Snapshot, task_id: str) -> Task:
    task = store.need(TASKS, task_id)
    return task


# Output.


async def until_ended(state: State, task: Task, timeout_s: float) -> None:
    """Wait until a task has ended, but no longer than that."""
    with trio.move_on_after(timeout_s):
        while True:
            bell = state.bell(f"stream:{task.session_id}")
            with state.read() as store:
                if _present(store, task.task_id).status not in OPEN:
                    return
            await bell.wait()


async def output_of(state: State, shells: Shells, task: Task, params: TaskOutputParams) -> TaskOutput:
    """What a task gave so far, waited for as the params say."""
    in_vain = False
    if params.wait and params.offset is None:
        await until_ended(state, task, params.timeout_s)
    elif params.wait:
        await _until_more(state, shells, task, params.offset or 0, params.timeout_s)
    with state.read() as store:
        shown = view_of(store, _present(store, task.task_id))
    written = await _written(shells, shown, params)
    ready = shown.status not in OPEN
    if params.wait and not ready:
        in_vain = params.offset is None or not written.text
    return TaskOutput(
        task=shown,
        ready=ready,
        timed_out=in_vain,
        text=written.text,
        offset=written.offset,
        left_out_bytes=written.left_out_bytes,
        total_bytes=written.total_bytes,
        kept_bytes=written.kept_bytes,
        path=written.path,
    )


async def _until_more(state: State, shells: Shells, task: Task, offset: int, timeout_s: float) -> None:
    """Wait until a shell wrote more than that, or has ended."""

    async def ended() -> None:
        await until_ended(state, task, timeout_s)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ended)
        while True:
            bell = shells.grown(task.task_id)
            if (await shells.read(task.task_id, 1, offset)).total_bytes > offset:
                break
            await bell.wait()
        nursery.cancel_scope.cancel()


async def _written(shells: Shells, task: Task, params: TaskOutputParams) -> Written:
    if task.shell is not None:
        return await shells.read(task.task_id, params.tail_bytes, params.offset)
    whole = task.output.encode(errors="replace")
    start = max(len(whole) - params.tail_bytes, 0) if params.offset is None else params.offset
    part = whole[start : start + params.tail_bytes]
    return Written(
        text=part.decode(errors="ignore"),
        offset=min(start, len(whole)) + len(part),
        left_out_bytes=min(start, len(whole)),
        total_bytes=len(whole),
        kept_bytes=len(whole),
    )


@control(rows.OUTPUT)
async def output(call: Call, params: TaskOutputParams) -> Any:
    """Read what a task gave."""
    with call.state.read() as store:
        task = find_task(store, call, params.task_id)
    return await output_of(call.state, call.services.shells, task, params)


HANDLERS = (get, list_, create, update, stop, delete, output)
