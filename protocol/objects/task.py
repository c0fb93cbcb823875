"""Tasks of a session: work items with an owner, a status and blockers; and background shells.

A task is open (pending, in progress or blocked) until it is completed, failed or cancelled, which is final.
It may be blocked by other tasks of its session, never in a cycle. Agents and people change the same tasks;
the transaction of each change enforces every rule.

A task of kind ``shell`` is a command in the background of its session: its status follows its process, and
the only change that clients can make is to stop it.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, SessionNotFound
from protocol.errors.store import StorageFull
from protocol.errors.task import (
    TaskAlreadyDeleted,
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
"""The reason why a shell ended: it exited; it was stopped; it never started; its keeper was killed; its
output could not be stored; the daemon stopped; the daemon crashed.
"""


class ShellCommand(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The command of a shell, with the resolved paths of its directory and workspace.

    ``network`` open: it has the machine's network; closed: a sandboxed one reaches the ``hosts`` that were
    allowed with it, as ``HOST:PORT``, and those that rules allow. ``repository`` is the top of the repository
    if the workspace is an agent's worktree.
    """

    command: str
    workdir: str
    workspace: str
    sandboxed: bool
    repository: str | None = None
    call_id: str = ""
    network: Literal["closed", "open"] = "closed"
    hosts: list[str] = []


class Shell(ShellCommand, frozen=True, kw_only=True, omit_defaults=True):
    """The state of a shell.

    ``pid`` is also its process group; together with ``start_ticks``, in clock ticks since the machine booted,
    it identifies the process uniquely. ``output_bytes`` counts all output, of which the newest
    ``output_kept_bytes`` are kept. ``stopped_by`` is the first actor that asked to stop it. ``connected`` and
    ``refused`` are the destinations of its connections.
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
    connected: list[str] = []
    refused: list[str] = []


class Task(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task as stored. ``created_by_run_id`` is the run that created it, if any.

    ``blocked_by`` are the tasks that must be completed first. ``owner`` is the agent or person who does it. A
    deleted task keeps only its identity. ``moved_from`` is the session of the closed agent that began a
    shell; its rules still apply to the shell.
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
    moved_from: Id | None = None
    ended_at_ms: int | None = None
    deleted_at_ms: int | None = None
    shell: Shell | None = None


class TaskView(Task, frozen=True, kw_only=True, omit_defaults=True):
    """A task with ``blocks``, the open tasks that it blocks."""

    blocks: list[str] = []


class TaskList(Struct, frozen=True):
    """A page of tasks."""

    tasks: list[TaskView]
    next: str | None


class TaskOutput(Struct, frozen=True, kw_only=True):
    """The output of a task, or part of a shell's output: its end, or from an offset.

    ``ready``: the task has ended, successfully or not. ``timed_out``: the wait timed out. ``text`` ends
    before ``offset``, a position in the shell's complete output (``total_bytes``), from which the next call
    continues. ``left_out_bytes`` precede ``text``. ``path`` is the shell's output file on the daemon's
    machine; null if none is kept.
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
    """Params of ``task.create``. Titles of open tasks are unique in a session."""

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
    """Params of ``task.list``: open tasks unless ``status`` says otherwise, oldest first."""

    session_id: Id | None = None
    status: TaskStatus | Literal["open", "any"] = "open"
    kind: TaskKind | None = None


class TaskUpdate(Mutation, frozen=True, kw_only=True):
    """Params of ``task.update``: absent is unchanged, null is unset. ``note`` explains a new status."""

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
    """Params of ``task.output``: the last ``tail_bytes``, or at most that many after ``offset``."""

    task_id: Id
    wait: Annotated[
        bool,
        Meta(description="Wait until the task has ended or, with an offset, has more output."),
    ] = False
    timeout_s: Annotated[float, Meta(ge=0, le=MAX_WAIT_SECONDS, description="Maximum time to wait.")] = 30.0
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
        TaskLimit,
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
    "List tasks, oldest first; by default the open ones.",
    errors=(SessionNotFound,),
)
UPDATE = Method(
    "task.update",
    "mutation",
    TaskUpdate,
    TaskView,
    "Change a task: its title, description, owner, status, output or blockers.",
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
    "Cancel a task; for a shell, stop it and wait a few seconds for its end.",
    scope="converse",
    errors=(*_FOUND, StorageFull),
    while_draining=True,
)
DELETE = Method(
    "task.delete",
    "mutation",
    TaskDelete,
    TaskView,
    "Delete a task for good.",
    scope="converse",
    errors=(*_FOUND, SessionAlreadyEnded, TaskRunning, TaskBlocksOthers, StorageFull),
)
OUTPUT = Method(
    "task.output",
    "control",
    TaskOutputParams,
    TaskOutput,
    "Read a task's output or a shell's output so far; optionally wait for its end.",
    errors=_FOUND,
)

METHODS = (CREATE, GET, LIST, UPDATE, STOP, DELETE, OUTPUT)
