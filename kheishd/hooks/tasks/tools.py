"""The tools for tasks: what a model is told of each and what it is asked; and what the daemon must know."""

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from kheishd.hooks.files.arguments import Arguments, schema_of
from kheishd.kernel.hook import Tool
from protocol.limits.shell import DEFAULT_SHELL_TAIL_BYTES, MAX_SHELL_TAIL_BYTES
from protocol.limits.task import MAX_TASK_BLOCKERS
from protocol.objects.task import Description, Output, Owner, Reason, TaskStatus, Title

MAX_WAIT_SECONDS: Final = 120.0

TaskId = Annotated[str, Meta(min_length=1, description="The task's id.")]
Blockers = Annotated[
    list[str],
    Meta(max_length=MAX_TASK_BLOCKERS, description="Ids of the tasks that must be completed before it."),
]


class Create(Arguments, frozen=True):
    """What ``task_create`` is asked."""

    title: Annotated[Title, Meta(description="What is to be done, in a few words.")]
    description: Annotated[Description, Meta(description="All that whoever does it must know.")] = ""
    owner: Annotated[Owner, Meta(description="Who does it, if that is settled.")] | UnsetType = UNSET
    blocked_by: Blockers = []


class Update(Arguments, frozen=True):
    """What ``task_update`` is asked."""

    task_id: TaskId
    title: Title | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    status: TaskStatus | UnsetType = UNSET
    owner: Owner | UnsetType = UNSET
    blocked_by: Blockers | UnsetType = UNSET
    output: Annotated[Output, Meta(description="What came of it.")] | UnsetType = UNSET
    note: Annotated[Reason, Meta(description="Why its status changes.")] = ""


class Listing(Arguments, frozen=True):
    """What ``task_list`` is asked."""

    status: Annotated[
        TaskStatus | Literal["open", "any"],
        Meta(description="Only those; open ones have not ended."),
    ] = "open"
    after: Annotated[str, Meta(description="The next of the page before.")] | UnsetType = UNSET


class Named(Arguments, frozen=True):
    """What ``task_get`` and ``task_delete`` are asked."""

    task_id: TaskId


class Stop(Arguments, frozen=True):
    """What ``task_stop`` is asked."""

    task_id: TaskId
    note: Reason = ""


class Read(Arguments, frozen=True):
    """What ``task_output`` is asked."""

    task_id: TaskId
    wait: Annotated[bool, Meta(description="Wait until it has ended.")] = True
    timeout_s: Annotated[
        float, Meta(ge=0, le=MAX_WAIT_SECONDS, description="How long to wait; then it goes on all the same.")
    ] = 30.0
    tail_bytes: Annotated[
        int, Meta(ge=1, le=MAX_SHELL_TAIL_BYTES, description="How much of the end of its output to give.")
    ] = DEFAULT_SHELL_TAIL_BYTES


# What any of them changes is committed together with its result: where that was lost, nothing was changed.
_CHANGES: Final[dict[str, Any]] = {"kind": "coordinate", "repeatable": True, "timeout_s": 10.0}
_READS: Final[dict[str, Any]] = {**_CHANGES, "parallel": True, "in_plan": True}

TOOLS: Final = (
    Tool(
        "task_create",
        "Create a task: something to be done in this session, kept until it is done, also over restarts. Use "
        "tasks for work of several steps, or that somebody else is to do or to see. Gives the task's id.",
        schema_of(Create),
        **_CHANGES,
    ),
    Tool("task_get", "Show a task, with all that is known of it.", schema_of(Named), **_READS),
    Tool(
        "task_list",
        "List the tasks of this session, oldest first: titles, status, owners, what waits for what. Commands "
        "that run in the background are tasks of kind shell.",
        schema_of(Listing),
        **_READS,
    ),
    Tool(
        "task_update",
        "Change a task. Set it in_progress when you begin: it is yours then, unless it has an owner. "
        "Complete it with its output, which says what came of it. What has ended no longer changes.",
        schema_of(Update),
        **_CHANGES,
    ),
    Tool(
        "task_stop",
        "Cancel a task that is not to be done. A command that runs in the background is ended.",
        schema_of(Stop),
        **_CHANGES,
    ),
    Tool("task_delete", "Delete a task that never should have been.", schema_of(Named), **_CHANGES),
    Tool(
        "task_output",
        "Give what came of a task, or what a command in the background wrote last. Waits until it has ended, "
        "unless told not to; ready says whether it has.",
        schema_of(Read),
        droppable=True,
        **{**_READS, "timeout_s": MAX_WAIT_SECONDS + 10.0},
    ),
)
