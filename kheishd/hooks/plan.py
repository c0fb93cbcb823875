"""The tools for planning: ``todo_write``, and plan mode with ``enter_plan_mode`` and ``exit_plan_mode``.

In plan mode an agent only reads and asks; the permission rules enforce that. It leaves plan mode with a plan
that a person must approve, and then the previous mode applies again.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from kheishd.kernel.hook import Arguments, Invocation, Outcome, RunContext, SubHook, ToolError, tool
from kheishd.objects.talk.plan import plan_of, todos_of
from protocol import ids
from protocol.events.plan import PlanEntered, PlanExited, TodosWritten
from protocol.limits.plan import (
    MAX_PLAN_BYTES,
    MAX_PLAN_SUMMARY_BYTES,
    MAX_TODO_BYTES,
    MAX_TODOS,
    MAX_TODOS_BYTES,
)
from protocol.limits.units import KIB
from protocol.objects.approval import Preview
from protocol.objects.session import Plan, Todo
from protocol.text import truncate

# The part of a plan that the model sees while it carries it out. The whole plan is in the transcript, too,
# until that is compacted.
MAX_SHOWN_PLAN_BYTES = 4 * KIB

IN_PLAN_MODE: Final = (
    "Plan mode is on: read and ask, but change nothing, as calls that change something are denied. When you "
    "know what to do, propose it with exit_plan_mode; you may begin once a person has agreed."
)

PLAN_MODE_LEFT: Final = "Plan mode is off: carry out the plan."
PLAN_MODE_STAYS: Final = "The plan is stored. Plan mode stays on: it was set from outside and is ended there."

MARKS: Final[Mapping[str, str]] = {"pending": "[ ]", "in_progress": "[>]", "completed": "[x]"}


class TodoItem(Arguments, frozen=True):
    """A todo, as the model writes it."""

    content: Annotated[str, Meta(min_length=1, max_length=MAX_TODO_BYTES)]
    id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    status: Literal["pending", "in_progress", "completed"] | None = None
    completed: Annotated[bool, Meta(description="The same as status completed.")] = False


class WriteTodos(Arguments, frozen=True):
    """Arguments of ``todo_write``."""

    todos: Annotated[list[TodoItem], Meta(max_length=MAX_TODOS)]


class EnterPlanMode(Arguments, frozen=True):
    """Arguments of ``enter_plan_mode``."""

    note: Annotated[str, Meta(max_length=512, description="The reason.")] = ""


class ExitPlanMode(Arguments, frozen=True):
    """Arguments of ``exit_plan_mode``."""

    plan: Annotated[str, Meta(min_length=1)]
    summary: Annotated[str, Meta(description="The plan in one line.")] = ""


class Planning(SubHook):
    """The tools with which an agent plans. All of their effects are events of their outcomes."""

    name = "planning"

    def situation(self, context: RunContext) -> Sequence[str]:
        """Describe plan mode while it is on, the todos while some are open, and a plan in progress."""
        with context.state.read() as store:
            todos, plan = todos_of(store, context.session), plan_of(store, context.session)
        open_todos = any(todo.status != "completed" for todo in todos)
        texts = [IN_PLAN_MODE] if _in_plan_mode(context) else []
        if open_todos:
            lines = "\n".join(f"{MARKS[todo.status]} {todo.content} ({todo.todo_id})" for todo in todos)
            texts.append(f"Your todos (todo_write changes them):\n{lines}")
        approved_at = context.session.plan_cursor
        if plan is None or approved_at is None or _in_plan_mode(context):
            return texts
        # It is carried out in the run that approved it, and while todos are open.
        if open_todos or approved_at > context.run.accepted_cursor:
            marker = "\n[... the rest is left out here]"
            content = truncate(plan.content, MAX_SHOWN_PLAN_BYTES + len(marker), marker)
            texts.append(f"The approved plan:\n{content}")
        return texts

    @tool(
        "todo_write",
        description="Write your todos, the steps of your work, and keep them up to date as you go: the list "
        "replaces the previous one, so give all of it. Useful for work of three steps or more.",
        kind="coordinate",
        repeatable=True,
    )
    async def todo_write(self, call: Invocation, arguments: WriteTodos) -> Outcome:
        """Replace the todos. Errors: ToolError."""
        todos = [
            Todo(
                todo_id=item.id or f"todo-{number}",
                content=" ".join(item.content.split()),
                status=item.status or ("completed" if item.completed else "pending"),
            )
            for number, item in enumerate(arguments.todos, 1)
        ]
        repeated = [
            todo_id for todo_id, count in Counter(todo.todo_id for todo in todos).items() if count > 1
        ]
        if repeated:
            raise ToolError(f"two todos have the id '{repeated[0]}'; give each a different one, or none")
        size = len(msgspec.json.encode(todos))
        if size > MAX_TODOS_BYTES:
            raise ToolError(f"the todos take {size} bytes together; the limit is {MAX_TODOS_BYTES}")
        completed = sum(todo.status == "completed" for todo in todos)
        return Outcome(f"{completed} of {len(todos)} done.", events=(TodosWritten(todos=todos),))

    @tool(
        "enter_plan_mode",
        description="Enter plan mode, in which you only read and ask: for work that needs thought and "
        "agreement before anything is changed.",
        kind="coordinate",
        repeatable=True,
        in_plan=True,
    )
    async def enter_plan_mode(self, call: Invocation, arguments: EnterPlanMode) -> Outcome:
        """Enter plan mode."""
        if _in_plan_mode(call.context):
            return Outcome("Plan mode is on already.")
        return Outcome(IN_PLAN_MODE, events=(PlanEntered(note=arguments.note),))

    async def preview_plan(self, call: Invocation, arguments: ExitPlanMode) -> Preview:
        """Show the plan. Errors: ToolError if it cannot be proposed."""
        return Preview(kind="text", text=_propose(call.context, arguments, None).content)

    @tool(
        "exit_plan_mode",
        description="Propose a plan and, once a person has approved it, leave plan mode to carry it out. "
        "Give the whole plan, in Markdown, for a reader who has seen nothing else.",
        kind="coordinate",
        default="ask",
        repeatable=True,
        in_plan=True,
        preview=preview_plan,
    )
    async def exit_plan_mode(self, call: Invocation, arguments: ExitPlanMode) -> Outcome:
        """Store the approved plan and leave plan mode. Errors: ToolError."""
        context = call.context
        with context.state.read() as store:
            previous = plan_of(store, context.session)
        text = PLAN_MODE_LEFT if context.session.plan_mode else PLAN_MODE_STAYS
        return Outcome(text, events=(_propose(context, arguments, previous),))


def _in_plan_mode(context: RunContext) -> bool:
    """Whether the agent entered plan mode, or the session or the run imposes it."""
    return context.session.permission_mode == "plan" or context.pinned.permission_mode == "plan"


def _propose(context: RunContext, arguments: ExitPlanMode, previous: Plan | None) -> PlanExited:
    """Return the plan of a call. Errors: ToolError if it is too long, or plan mode is not on."""
    if not _in_plan_mode(context):
        raise ToolError("plan mode is not on, so there is nothing to leave")
    if len(msgspec.json.encode(arguments.plan)) > MAX_PLAN_BYTES:
        raise ToolError(
            f"the plan takes more than {MAX_PLAN_BYTES} bytes; shorten it, or move details to files"
        )
    if len(arguments.summary.encode()) > MAX_PLAN_SUMMARY_BYTES:
        raise ToolError(f"the summary takes more than {MAX_PLAN_SUMMARY_BYTES} bytes; one line is enough")
    state = context.state
    return PlanExited(
        artifact_id=previous.artifact_id if previous is not None else state.new_id(ids.ARTIFACT),
        content=arguments.plan,
        created_at_ms=previous.created_at_ms if previous is not None else state.now_ms(),
        summary=arguments.summary,
    )
