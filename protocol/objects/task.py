"""Tasks of a session: what there is to do, who does it, what waits for what; and shells in the background.

A task is open (pending, in progress or blocked) until it is completed, failed or cancelled, and that is for
good. It may wait for others of its session, which never wait for one another in a circle. Agents and people
change the same tasks; every rule is kept in the transaction that changes them.

A task of kind ``shell`` is a command that runs in the background of its session: its status follows its
process, and it is changed by being stopped only.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, SessionNotFound
from protocol.errors.store import StorageFull
from protocol.errors.task import (
    TaskAlreadyDeleted,
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
from protocol.ids import Cursor, Id
from protocol.limits.names import MAX_AGENT_BYTES, MAX_REASON_BYTES, MAX_TITLE_BYTES
from protocol.limits.rpc import MAX_WAIT_SECONDS
from protocol.limits.shell import DEFAULT_SHELL_TAIL_BYTES, MAX_SHELL_TAIL_BYTES
from protocol.limits.task import MAX_TASK_BLOCKERS, MAX_TASK_DESCRIPTION_BYTES, MAX_TASK_OUTPUT_BYTES
from protocol.rpc.method import Method, Mutation, Page, Params

TaskStatus = Literal["pending", "in_progress", "blocked", "completed", "failed", "cancelled"]
TaskEnding = Literal["completed", "failed", "cancelled"]
TaskKind = Literal["task", "shell"]

OPEN: frozenset[TaskStatus] = frozenset(("pending", "in_progress", "blocked"))
"""The statuses of a task that has not ended."""

ShellEnding = Literal[
    "exited",
    "stopped",
    "not_started",
    "exit_unknown",
    "output_capture_failed",
    "daemon_stopped",
    "daemon_restarted",
]
"""Why a shell is over: by itself; because somebody stopped it; it never began; what kept it was killed; its
output could not be kept; the daemon stopped and it with it; the daemon died and it with it."""


class ShellCommand(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a shell runs, and where: the directory and the workspace as they really are."""

    command: str
    workdir: str
    workspace: str
    sandboxed: bool
    call_id: str = ""


class Shell(ShellCommand, frozen=True, kw_only=True, omit_defaults=True):
    """A shell as far as it is known.

    ``pid`` is also the number of its process group; with ``start_ticks``, in clock ticks since the machine
    started, it says for certain which process it is. ``output_bytes`` is all that it wrote, of which the
    newest ``output_kept_bytes`` are kept. ``stopped_by`` is the first who wanted it stopped.
    """

    pid: int | None = None
    start_ticks: int | None = None
    exit_code: int | None = None
    terminal_reason: ShellEnding | None = None
    problem: str = ""
    stop_requested_at_ms: int | None = None
    stop_note: str = ""
    stopped_by: str | None = None
    stalled_at_ms: int | None = None
    output_bytes: int = 0
    output_kept_bytes: int = 0


class Task(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task as it is kept. ``created_cursor`` is where it was created, ``created_by_run_id`` the run that
    did it.

    ``blocked_by`` are the tasks that must be completed before this one can be worked on. ``owner`` is the
    agent or the person who does it. Of one that was deleted only its place is left.
    """

    task_id: Id
    session_id: Id
    title: str
    status: TaskStatus
    created_at_ms: int
    updated_at_ms: int
    created_cursor: Cursor
    kind: TaskKind = "task"
    description: str = ""
    owner: str | None = None
    blocked_by: list[str] = []
    output: str = ""
    metadata: dict[str, Any] = {}
    note: str = ""
    created_by_run_id: str | None = None
    ended_at_ms: int | None = None
    deleted_at_ms: int | None = None
    shell: Shell | None = None


class TaskView(Task, frozen=True, kw_only=True, omit_defaults=True):
    """A task as it is shown. ``blocks`` are the open tasks that wait for it."""

    blocks: list[str] = []


class TaskList(Struct, frozen=True):
    """A page of tasks."""

    tasks: list[TaskView]
    next: str | None


class TaskOutput(Struct, frozen=True, kw_only=True):
    """What a task gave, or a shell wrote so far: the end of it, or from an offset on.

    ``ready``: the task has ended, which is not to say that it succeeded. ``timed_out``: it was waited for in
    vain. ``text`` ends before ``offset``, a place in all that the shell wrote (``total_bytes``): what comes
    next is had from there. ``left_out_bytes`` were written before ``text``. ``path`` is the file of a shell
    on the daemon's machine; null where nothing was kept.
    """

    task: TaskView
    ready: bool
    timed_out: bool
    text: str
    offset: int
    left_out_bytes: int
    total_bytes: int
    kept_bytes: int
    path: str | None = None


Title = Annotated[str, Meta(min_length=1, max_length=MAX_TITLE_BYTES)]
Description = Annotated[str, Meta(max_length=MAX_TASK_DESCRIPTION_BYTES)]
Owner = Annotated[str, Meta(min_length=1, max_length=MAX_AGENT_BYTES)]
Blockers = Annotated[list[Id], Meta(max_length=MAX_TASK_BLOCKERS)]
Output = Annotated[str, Meta(max_length=MAX_TASK_OUTPUT_BYTES)]
Reason = Annotated[str, Meta(max_length=MAX_REASON_BYTES)]


class TaskCreate(Mutation, frozen=True, kw_only=True):
    """Params of ``task.create``. No two open tasks of a session have the same title."""

    session_id: Id
    title: Title
    description: Description = ""
    owner: Owner | None = None
    blocked_by: Blockers = []
    metadata: dict[str, Any] = {}


class TaskRef(Params, frozen=True, kw_only=True):
    """Params that name a task."""

    task_id: Id


class TaskListParams(Page, frozen=True, kw_only=True):
    """Params of ``task.list``: those that have not ended, oldest first, unless ``status`` says otherwise."""

    session_id: Id | None = None
    status: TaskStatus | Literal["open", "any"] = "open"
    kind: TaskKind | None = None


class TaskUpdate(Mutation, frozen=True, kw_only=True):
    """Params of ``task.update``: absent is unchanged, null is cleared. ``note`` goes with a new status."""

    task_id: Id
    title: Title | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    status: TaskStatus | UnsetType = UNSET
    owner: Owner | None | UnsetType = UNSET
    blocked_by: Blockers | UnsetType = UNSET
    output: Output | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    note: Reason = ""


class TaskStop(Mutation, frozen=True, kw_only=True):
    """Params of ``task.stop``."""

    task_id: Id
    note: Reason = ""


class TaskDelete(Mutation, frozen=True, kw_only=True):
    """Params of ``task.delete``."""

    task_id: Id


class TaskOutputParams(Params, frozen=True, kw_only=True):
    """Params of ``task.output``: the last ``tail_bytes``, or what follows ``offset``, as many at most."""

    task_id: Id
    wait: Annotated[
        bool, Meta(description="Wait until it has ended or, with an offset, until there is more than that.")
    ] = False
    timeout_s: Annotated[float, Meta(ge=0, le=MAX_WAIT_SECONDS, description="How long to wait.")] = 30.0
    tail_bytes: Annotated[int, Meta(ge=1, le=MAX_SHELL_TAIL_BYTES)] = DEFAULT_SHELL_TAIL_BYTES
    offset: Annotated[int, Meta(ge=0)] | None = None


_FOUND = (TaskNotFound, TaskAlreadyDeleted)

CREATE = Method(
    "task.create",
    "mutation",
    TaskCreate,
    TaskView,
    "Create a task in a session.",
    scope="converse",
    errors=(
        SessionNotFound,
        SessionAlreadyEnded,
        InputTooLarge,
        TasksFull,
        TaskTitleTaken,
        TaskNotFound,
        StorageFull,
    ),
)
GET = Method("task.get", "query", TaskRef, TaskView, "Show a task.", errors=_FOUND)
LIST = Method(
    "task.list",
    "query",
    TaskListParams,
    TaskList,
    "List tasks: those that have not ended, oldest first.",
    errors=(SessionNotFound,),
)
UPDATE = Method(
    "task.update",
    "mutation",
    TaskUpdate,
    TaskView,
    "Change a task: its text, owner, status, output, or what it waits for.",
    scope="converse",
    errors=(
        *_FOUND,
        SessionAlreadyEnded,
        InputTooLarge,
        TaskRunning,
        TaskAlreadyEnded,
        TaskTitleTaken,
        TaskCycle,
        TaskBlocked,
        TaskOutputMissing,
        StorageFull,
    ),
)
STOP = Method(
    "task.stop",
    "mutation",
    TaskStop,
    TaskView,
    "Cancel a task; a shell is stopped, which is waited for a few seconds.",
    scope="converse",
    errors=(*_FOUND, StorageFull),
    while_draining=True,
)
DELETE = Method(
    "task.delete",
    "mutation",
    TaskDelete,
    TaskView,
    "Delete a task; its id never comes back.",
    scope="converse",
    errors=(*_FOUND, SessionAlreadyEnded, TaskRunning, TaskNeeded, StorageFull),
)
OUTPUT = Method(
    "task.output",
    "control",
    TaskOutputParams,
    TaskOutput,
    "Read what a task gave, or a shell wrote so far; wait for its end if asked to.",
    errors=_FOUND,
)

METHODS = (CREATE, GET, LIST, UPDATE, STOP, DELETE, OUTPUT)
