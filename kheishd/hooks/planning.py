"""What an agent means to do: ``todo_write``, and plan mode with ``enter_plan_mode`` and ``exit_plan_mode``.

In plan mode an agent only reads and asks; that it cannot do more is the permission rules' business. It leaves
plan mode with a plan, which a person is asked about, and is then held to what held before.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from kheishd.kernel.hook import Invocation, Outcome, RunContext, SubHook, Tool, ToolError
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

# How much of a plan stands in the instructions while it is carried out; the whole is in the transcript, too,
# as far as that has not been compacted.
MAX_PLAN_SHOWN_BYTES = 4 * KIB

IN_PLAN_MODE: Final = (
    "Plan mode is on: read and ask, but change nothing, as calls that change something are denied. When you "
    "know what to do, propose it with exit_plan_mode; you may begin once a person has agreed."
)

LEFT: Final = "Plan mode is off: carry out the plan."
KEPT: Final = "The plan is kept. Plan mode stays on: whoever set it here is to end it."

MARKS: Final[Mapping[str, str]] = {"pending": "[ ]", "in_progress": "[>]", "completed": "[x]"}

TODO_WRITE: Final = Tool(
    name="todo_write",
    description=(
        "Write down what you mean to do, in steps, and keep it up to date as you go: the list you give takes "
        "the place of the one before, so give all of it. Worth it for work of three steps or more."
    ),
    schema={
        "type": "object",
        "properties": {
            "todos": {
                "type": "array",
                "maxItems": MAX_TODOS,
                "items": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string", "minLength": 1, "maxLength": 64},
                        "content": {"type": "string", "minLength": 1, "maxLength": MAX_TODO_BYTES},
                        "status": {"enum": ["pending", "in_progress", "completed"]},
                        "completed": {"type": "boolean", "description": "The same as status completed."},
                    },
                    "required": ["content"],
                    "additionalProperties": False,
                },
            },
        },
        "required": ["todos"],
        "additionalProperties": False,
    },
    kind="coordinate",
    repeatable=True,
)

ENTER_PLAN_MODE: Final = Tool(
    name="enter_plan_mode",
    description=(
        "Enter plan mode, in which you only read and ask: for work that is to be thought through, and agreed "
        "upon, before anything is changed."
    ),
    schema={
        "type": "object",
        "properties": {"note": {"type": "string", "maxLength": 512, "description": "Why."}},
        "additionalProperties": False,
    },
    kind="coordinate",
    repeatable=True,
    in_plan=True,
)

EXIT_PLAN_MODE: Final = Tool(
    name="exit_plan_mode",
    description=(
        "Propose a plan and, once a person has agreed to it, leave plan mode to carry it out. Give the whole "
        "plan, in Markdown, as somebody reads it who has seen nothing else."
    ),
    schema={
        "type": "object",
        "properties": {
            "plan": {"type": "string", "minLength": 1},
            "summary": {"type": "string", "description": "The plan in one line."},
        },
        "required": ["plan"],
        "additionalProperties": False,
    },
    kind="coordinate",
    default="ask",
    repeatable=True,
    in_plan=True,
)


class Planning(SubHook):
    """The part that lets an agent plan. Everything that its tools do is an event of their outcome."""

    name = "planning"
    tools = (TODO_WRITE, ENTER_PLAN_MODE, EXIT_PLAN_MODE)

    def sections(self, place: RunContext) -> Sequence[str]:
        """Plan mode while it is on, the todos while some are open, the plan while it is carried out."""
        with place.state.read() as store:
            todos, plan = todos_of(store, place.session), plan_of(store, place.session)
        return [*_mode_section(place), *_todo_section(todos), *_plan_section(place, plan, todos)]

    async def preview(self, use: Invocation) -> Preview | None:
        """The plan, as the person who is asked reads it. Errors: ToolError if it cannot be proposed."""
        if use.tool.name != EXIT_PLAN_MODE.name:
            return None
        return Preview(kind="text", text=_proposed(use, None).content)

    async def dispatch(self, use: Invocation) -> Outcome:
        """Write todos, enter or leave plan mode. Errors: ToolError."""
        match use.tool.name:
            case "todo_write":
                return _write_todos(use.arguments["todos"])
            case "enter_plan_mode":
                return _enter(use)
            case _:
                return self._exit(use)

    def _exit(self, use: Invocation) -> Outcome:
        with use.context.state.read() as store:
            before = plan_of(store, use.context.session)
        left = use.context.session.plan_mode
        return Outcome(LEFT if left else KEPT, events=(_proposed(use, before),))


# Todos.


def _write_todos(given: list[dict[str, Any]]) -> Outcome:
    todos = [_todo(number, each) for number, each in enumerate(given, 1)]
    twice = [todo_id for todo_id, count in Counter(todo.todo_id for todo in todos).items() if count > 1]
    if twice:
        raise ToolError(f"two todos have the id '{twice[0]}'; give each one of its own, or none")
    size = len(msgspec.json.encode(todos))
    if size > MAX_TODOS_BYTES:
        raise ToolError(f"the todos take {size} bytes together; the limit is {MAX_TODOS_BYTES}")
    counts = Counter(todo.status for todo in todos)
    done, total = counts["completed"], len(todos)
    return Outcome(f"{done} of {total} done.", events=(TodosWritten(todos=todos),))


def _todo(number: int, given: Mapping[str, Any]) -> Todo:
    by_flag = "completed" if given.get("completed") else "pending"
    content = " ".join(given["content"].split())
    return Todo(
        todo_id=given.get("id", f"todo-{number}"), content=content, status=given.get("status", by_flag)
    )


def _todo_section(todos: list[Todo]) -> Iterator[str]:
    if any(todo.status != "completed" for todo in todos):
        lines = "\n".join(f"{MARKS[todo.status]} {todo.content} ({todo.todo_id})" for todo in todos)
        yield f"What you wrote down to do (todo_write changes it):\n{lines}"


# Plan mode.


def _mode_section(place: RunContext) -> Iterator[str]:
    if _in_plan_mode(place):
        yield IN_PLAN_MODE


def _plan_section(place: RunContext, plan: Plan | None, todos: list[Todo]) -> Iterator[str]:
    """The plan, in the run it was agreed upon in and as long as something of it is left to do."""
    if plan is None or place.session.plan_cursor is None or _in_plan_mode(place):
        return
    fresh = place.session.plan_cursor > place.run.accepted_cursor
    if fresh or any(todo.status != "completed" for todo in todos):
        yield f"The plan that was agreed upon:\n{_shortened(plan.content)}"


def _shortened(content: str) -> str:
    encoded = content.encode()
    if len(encoded) <= MAX_PLAN_SHOWN_BYTES:
        return content
    return f"{encoded[:MAX_PLAN_SHOWN_BYTES].decode(errors='ignore')}\n[... the rest is left out here]"


def _in_plan_mode(place: RunContext) -> bool:
    """Whether the agent entered plan mode, or is not let out of it by whoever set the mode."""
    return place.session.permission_mode == "plan" or place.pinned.permission_mode == "plan"


def _enter(use: Invocation) -> Outcome:
    if _in_plan_mode(use.context):
        return Outcome("Plan mode is on already.")
    return Outcome(IN_PLAN_MODE, events=(PlanEntered(note=use.arguments.get("note", "")),))


def _proposed(use: Invocation, before: Plan | None) -> PlanExited:
    """The plan that a call proposes. Errors: ToolError if it is too long, or plan mode is not on."""
    if not _in_plan_mode(use.context):
        raise ToolError("plan mode is not on, so there is nothing to leave")
    content, summary = use.arguments["plan"], use.arguments.get("summary", "")
    if len(msgspec.json.encode(content)) > MAX_PLAN_BYTES:
        raise ToolError(
            f"the plan takes more than {MAX_PLAN_BYTES} bytes; say less, or name files that say it"
        )
    if len(summary.encode()) > MAX_PLAN_SUMMARY_BYTES:
        raise ToolError(f"the summary takes more than {MAX_PLAN_SUMMARY_BYTES} bytes; one line is enough")
    state = use.context.state
    return PlanExited(
        artifact_id=before.artifact_id if before is not None else state.new_id(ids.ARTIFACT),
        content=content,
        created_at_ms=before.created_at_ms if before is not None else state.now_ms(),
        summary=summary,
    )
