"""Events of tasks and of background shells.

Each names its task. The session's model reads ``note`` before its next answer, unless it is empty.
"""

from typing import Any

from msgspec import UNSET, UnsetType

from protocol.journal.envelope import Event
from protocol.objects.task import ShellCommand, ShellEnding, Task, TaskEnding, TaskKind, TaskStatus
from protocol.transcript import InputOrigin


class TaskCreated(Event, frozen=True, tag="task_created"):
    """A task was created. ``shell`` is the command that will run in the background."""

    task_id: str
    title: str
    kind: TaskKind = "task"
    description: str = ""
    owner: str | None = None
    blocked_by: list[str] = []
    metadata: dict[str, Any] = {}
    shell: ShellCommand | None = None


class TaskUpdated(Event, frozen=True, tag="task_updated"):
    """A task changed: absent is unchanged, null is unset. ``note`` explains its new status."""

    task_id: str
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    status: TaskStatus | UnsetType = UNSET
    owner: str | None | UnsetType = UNSET
    blocked_by: list[str] | UnsetType = UNSET
    output: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    note: str = ""


class TaskDeleted(Event, frozen=True, tag="task_deleted"):
    """A task was deleted for good."""

    task_id: str


class TaskStarted(Event, frozen=True, tag="task_started"):
    """The process of a shell runs. ``start_ticks`` is its start, in clock ticks since the machine booted."""

    task_id: str
    pid: int
    start_ticks: int


class TaskStopRequested(Event, frozen=True, tag="task_stop_requested"):
    """A client or the agent asked to stop a shell."""

    task_id: str
    note: str = ""


class TaskStalled(Event, frozen=True, tag="task_stalled"):
    """A shell has been silent for a while, and its last output looks like a question."""

    task_id: str
    note: str = ""


class TaskEnded(Event, frozen=True, tag="task_ended"):
    """A shell ended and none of its processes runs any more. ``problem`` describes a failure."""

    task_id: str
    status: TaskEnding
    terminal_reason: ShellEnding
    exit_code: int | None = None
    problem: str = ""
    output_bytes: int = 0
    output_kept_bytes: int = 0
    note: str = ""
    connected: list[str] = []
    refused: list[str] = []


class TaskMoved(Event, frozen=True, tag="task_moved"):
    """A shell is a task of another session from now on: its agent was closed, and another one takes it."""

    task_id: str
    to_session_id: str


class TaskAdopted(Event, frozen=True, tag="task_adopted"):
    """A shell of a closed agent is a task of this session now. ``task`` is its state before.

    ``origins`` are those of everything that the agent had read: its command and its output are data of them.
    """

    task_id: str
    task: Task
    note: str = ""
    origins: list[InputOrigin] = []


TaskEvent = (
    TaskCreated
    | TaskUpdated
    | TaskDeleted
    | TaskStarted
    | TaskStopRequested
    | TaskStalled
    | TaskEnded
    | TaskMoved
    | TaskAdopted
)
