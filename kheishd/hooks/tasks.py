"""The tools with which agents work on the tasks of their session.

A change is prepared when the call is dispatched, but decided in the transaction that commits the call's
result: people change the same tasks over RPC, and other runs' calls may come in between. So every rule holds
in any order of events, and a change and its result are either both on the disk, or neither is.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kheishd.core import task as rules
from kheishd.kernel.hook import Arguments, Invocation, Outcome, RunContext, SubHook, ToolError, tool
from kheishd.objects.work.task import (
    StoredTasks,
    list_session_tasks,
    make_created,
    make_stop,
    make_updated,
    read_output,
    require_not_deleted,
    view_of,
)
from protocol import ids
from protocol.errors.refusal import Refusal
from protocol.events.task import TaskDeleted
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.shell import DEFAULT_SHELL_TAIL_BYTES, MAX_SHELL_TAIL_BYTES
from protocol.limits.task import MAX_TASK_BLOCKERS
from protocol.limits.units import KIB
from protocol.objects.task import (
    Description,
    Output,
    Owner,
    Reason,
    Task,
    TaskCreate,
    TaskListParams,
    TaskOutputParams,
    TaskStatus,
    TaskUpdate,
    Title,
)
from protocol.text import truncate_json_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kheishd.kernel.shells import Shells
    from kheishd.store.environment import Snapshot

# A page of a list: some 250 bytes for each task at most, without a long title.
MAX_LISTED = 100

MAX_WAIT_SECONDS: Final = 120.0

# The JSON around the output in a result of ``task_output``.
FRAME_BYTES = 2 * KIB

TaskId = Annotated[str, Meta(min_length=1, description="The task's id.")]
Blockers = Annotated[
    list[str],
    Meta(max_length=MAX_TASK_BLOCKERS, description="Ids of the tasks that must be completed before it."),
]


class CreateTask(Arguments, frozen=True):
    """Arguments of ``task_create``."""

    title: Annotated[Title, Meta(description="The work, in a few words.")]
    description: Annotated[Description, Meta(description="Full instructions for the owner.")] = ""
    owner: Annotated[Owner, Meta(description="The agent that does it, if already known.")] | UnsetType = UNSET
    blocked_by: Blockers = []


class UpdateTask(Arguments, frozen=True):
    """Arguments of ``task_update``."""

    task_id: TaskId
    title: Title | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    status: TaskStatus | UnsetType = UNSET
    owner: Owner | UnsetType = UNSET
    blocked_by: Blockers | UnsetType = UNSET
    output: Annotated[Output, Meta(description="The result of the work.")] | UnsetType = UNSET
    note: Annotated[Reason, Meta(description="Why the status changes.")] = ""


class ListTasks(Arguments, frozen=True):
    """Arguments of ``task_list``."""

    status: Annotated[
        TaskStatus | Literal["open", "any"],
        Meta(description="Only tasks with this status; open ones have not ended."),
    ] = "open"
    after: Annotated[str, Meta(description="The value of next from the previous page.")] | UnsetType = UNSET


class NameTask(Arguments, frozen=True):
    """Arguments of ``task_get`` and ``task_delete``."""

    task_id: TaskId


class StopTask(Arguments, frozen=True):
    """Arguments of ``task_stop``."""

    task_id: TaskId
    note: Reason = ""


class ReadTaskOutput(Arguments, frozen=True):
    """Arguments of ``task_output``."""

    task_id: TaskId
    wait: Annotated[bool, Meta(description="Wait until it has ended.")] = True
    timeout_s: Annotated[float, Meta(ge=0, le=MAX_WAIT_SECONDS, description="Maximum time to wait.")] = 30.0
    tail_bytes: Annotated[
        int, Meta(ge=1, le=MAX_SHELL_TAIL_BYTES, description="Return this much of the end of its output.")
    ] = DEFAULT_SHELL_TAIL_BYTES


class TaskTools(SubHook):
    """The tools for tasks. ``shells`` reads the output of background shells."""

    name = "tasks"

    def __init__(self, shells: Shells) -> None:
        self._shells = shells

    def task_subject(
        self, call: Invocation, arguments: UpdateTask | ListTasks | NameTask | StopTask | ReadTaskOutput
    ) -> str:
        """Return the task's id."""
        return "" if isinstance(arguments, ListTasks) else arguments.task_id

    def title_subject(self, call: Invocation, arguments: CreateTask) -> str:
        """Return the title: a new task has no id yet."""
        return arguments.title

    # A change is committed together with its result: if that was lost, nothing was changed.
    _CHANGE: ClassVar[dict[str, Any]] = {
        "kind": "coordinate",
        "repeatable": True,
        "timeout_s": 10.0,
        "subject": task_subject,
    }
    _READ: ClassVar[dict[str, Any]] = {**_CHANGE, "parallel": True, "in_plan": True}

    @tool(
        "task_create",
        description="Create a task: work in this session, stored until it is done, also over restarts. Use "
        "tasks for work of several steps, or for work that others do or follow. Returns the task's id.",
        **{**_CHANGE, "subject": title_subject},
    )
    async def task_create(self, call: Invocation, arguments: CreateTask) -> Outcome:
        """Create a task. Errors: ToolError."""
        context = call.context
        session_id = context.session.session_id
        params = TaskCreate(
            session_id=session_id,
            title=arguments.title,
            description=arguments.description,
            owner=None if arguments.owner is UNSET else arguments.owner,
            blocked_by=arguments.blocked_by,
        )
        with _refusals_as_tool_errors():
            event = make_created(context.state.new_id(ids.TASK), params)

        def decide(store: Snapshot) -> Outcome:
            rules.require_creatable(StoredTasks(store, session_id), event)
            row = {"task_id": event.task_id, "title": event.title, "status": "pending"}
            return Outcome(_encode(row), events=(event,))

        return _decide_at_commit(decide)

    @tool("task_get", description="Show a task in detail.", **_READ)
    async def task_get(self, call: Invocation, arguments: NameTask) -> Outcome:
        """Show a task. Errors: ToolError."""
        with _refusals_as_tool_errors(), call.context.state.read() as store:
            return Outcome(_encode(view_of(store, _find_task(store, call.context, arguments.task_id))))

    @tool(
        "task_list",
        description="List the tasks of this session, oldest first: titles, status, owners, and which task "
        "blocks which. Commands that run in the background are tasks of kind shell.",
        **_READ,
    )
    async def task_list(self, call: Invocation, arguments: ListTasks) -> Outcome:
        """List tasks. Errors: ToolError."""
        after = None if arguments.after is UNSET else arguments.after
        params = TaskListParams(status=arguments.status, limit=MAX_LISTED, after=after)
        with _refusals_as_tool_errors(), call.context.state.read() as store:
            tasks, following = list_session_tasks(store, call.context.session.session_id, params)
        page: dict[str, Any] = {"tasks": [{**_summarize(task), "blocks": task.blocks} for task in tasks]}
        return Outcome(_encode(page if following is None else {**page, "next": following}))

    @tool(
        "task_update",
        description="Change a task. Set it in_progress when you begin: it is yours then, unless it has an "
        "owner. Complete it with its output, the result of the work. A task that has ended is final.",
        **_CHANGE,
    )
    async def task_update(self, call: Invocation, arguments: UpdateTask) -> Outcome:
        """Change a task. Errors: ToolError."""
        context = call.context
        fields = {name: getattr(arguments, name) for name in UpdateTask.__struct_fields__}
        with _refusals_as_tool_errors():
            requested = make_updated(TaskUpdate(**fields))

        def decide(store: Snapshot) -> Outcome:
            task = _find_task(store, context, arguments.task_id)
            event = requested
            if event.status == "in_progress" and event.owner is UNSET and task.owner is None:
                # The agent that begins a task without an owner becomes its owner.
                event = msgspec.structs.replace(event, owner=context.run.guest or context.run.agent)
            rules.require_updatable(StoredTasks(store, task.session_id), task, event)
            updated = rules.apply_update(task, event)
            return Outcome(_encode(_summarize(updated)), events=() if updated == task else (event,))

        return _decide_at_commit(decide)

    @tool(
        "task_stop",
        description="Cancel a task that need not be done. A command that runs in the background is ended.",
        **_CHANGE,
    )
    async def task_stop(self, call: Invocation, arguments: StopTask) -> Outcome:
        """Cancel a task. Errors: ToolError."""

        def decide(store: Snapshot) -> Outcome:
            task = _find_task(store, call.context, arguments.task_id)
            event = make_stop(task, arguments.note)
            if event is None:
                ended = task.ended_at_ms is not None
                note = "it had ended already" if ended else "it is being stopped already"
                return Outcome(_encode({**_summarize(task), "note": note}))
            if task.shell is None:
                return Outcome(_encode({"task_id": task.task_id, "status": "cancelled"}), events=(event,))
            note = "it is being stopped; task_output waits until it has ended"
            return Outcome(_encode({**_summarize(task), "note": note}), events=(event,))

        return _decide_at_commit(decide)

    @tool("task_delete", description="Delete a task that was created by mistake.", **_CHANGE)
    async def task_delete(self, call: Invocation, arguments: NameTask) -> Outcome:
        """Delete a task. Errors: ToolError."""

        def decide(store: Snapshot) -> Outcome:
            task = _find_task(store, call.context, arguments.task_id)
            rules.require_deletable(StoredTasks(store, task.session_id), task)
            event = TaskDeleted(task_id=task.task_id)
            return Outcome(_encode({"task_id": task.task_id, "deleted": True}), events=(event,))

        return _decide_at_commit(decide)

    @tool(
        "task_output",
        description="Return the result of a task, or the end of the output of a command in the background. "
        "Waits until it has ended, unless wait is false; ready tells whether it has.",
        droppable=True,
        **{**_READ, "timeout_s": MAX_WAIT_SECONDS + 10.0},
    )
    async def task_output(self, call: Invocation, arguments: ReadTaskOutput) -> Outcome:
        """Return a task's output. Errors: ToolError."""
        state = call.context.state
        with _refusals_as_tool_errors():
            with state.read() as store:
                task = _find_task(store, call.context, arguments.task_id)
            params = TaskOutputParams(
                task_id=task.task_id,
                wait=arguments.wait,
                timeout_s=arguments.timeout_s,
                tail_bytes=arguments.tail_bytes,
            )
            output = await read_output(state, self._shells, task, params)
        # A result is bounded; the rest of the requested output is stored with it.
        text = truncate_json_start(output.text, MAX_TOOL_TEXT_BYTES - FRAME_BYTES)
        row = {
            **_summarize(output.task),
            "ready": output.ready,
            "timed_out": output.timed_out,
            "output": text,
            "left_out_bytes": output.total_bytes - len(text.encode()),
        }
        full_output = None if text == output.text else output.text.encode()
        return Outcome(_encode(row), full_output=full_output)


@contextmanager
def _refusals_as_tool_errors() -> Iterator[None]:
    """Translate a refusal of the rules for the model. Errors: ToolError."""
    try:
        yield
    except Refusal as refusal:
        raise ToolError(refusal.message) from None


def _decide_at_commit(decide: Callable[[Snapshot], Outcome]) -> Outcome:
    def decide_or_refuse(store: Snapshot) -> Outcome:
        with _refusals_as_tool_errors():
            return decide(store)

    return Outcome("", decide=decide_or_refuse)


def _find_task(store: Snapshot, context: RunContext, task_id: str) -> Task:
    """Return a task of the session. Errors: ToolError, TaskDeleted."""
    task = StoredTasks(store, context.session.session_id).find(task_id)
    if task is None:
        raise ToolError(f"this session has no task '{task_id}'; task_list lists the existing ones")
    return require_not_deleted(task)


def _summarize(task: Task) -> dict[str, Any]:
    """Return the main facts of a task."""
    row: dict[str, Any] = {
        "task_id": task.task_id,
        "title": rules.abbreviate(task.title),
        "status": task.status,
    }
    if task.kind != "task":
        row["kind"] = task.kind
    for name in ("owner", "blocked_by", "note"):
        if getattr(task, name):
            row[name] = getattr(task, name)
    if task.shell is not None and task.shell.terminal_reason is not None:
        row |= {"exit_code": task.shell.exit_code, "terminal_reason": task.shell.terminal_reason}
        if task.shell.refused:
            row["refused_hosts"] = task.shell.refused
    return row


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()
