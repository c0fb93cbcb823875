"""The part of the Hook by which agents work with the tasks of their session.

A change is made of what the call asks for when it is dispatched, but it is decided in the transaction that
commits the call's result: people change the same tasks over RPC, and other runs' calls may come in between.
So every rule holds whoever is first, and either a change and its result are on the disk, or neither is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from kheishd.core import task as rules
from kheishd.hooks.excerpt import ending, json_bytes
from kheishd.hooks.files.arguments import decoded
from kheishd.hooks.tasks.tools import TOOLS, Create, Listing, Named, Read, Stop, Update
from kheishd.kernel.hook import Invocation, Outcome, RunContext, SubHook, ToolError
from kheishd.objects.work.task import (
    Tasks,
    new_state,
    new_task,
    output_of,
    page_of_session,
    require_not_deleted,
    stopping,
    view_of,
)
from protocol import ids
from protocol.errors.refusal import Refusal
from protocol.events.task import TaskDeleted
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.units import KIB
from protocol.objects.task import Task, TaskCreate, TaskListParams, TaskOutputParams, TaskUpdate

if TYPE_CHECKING:
    from kheishd.kernel.shells import Shells
    from kheishd.store.environment import Snapshot

# A page of what a list says of each task: some 250 bytes at most, without a long title.
MAX_LISTED = 100

# What else than output a result of ``task_output`` holds.
BESIDES_BYTES = 2 * KIB

Change = Callable[["Snapshot"], Outcome]


class TaskTools(SubHook):
    """The tools for tasks. ``shells`` is where what shells wrote is read."""

    name = "tasks"
    tools = TOOLS

    def __init__(self, shells: Shells) -> None:
        self._shells = shells

    def subject(self, use: Invocation) -> str:
        """The task's id; of one that is to be created, its title."""
        return str(use.arguments.get("task_id") or use.arguments.get("title") or "")

    async def dispatch(self, use: Invocation) -> Outcome:
        """Read tasks, or say what is to be changed. Errors: ToolError."""
        with _refused():
            match use.tool.name:
                case "task_get":
                    return self._get(use.context, decoded(Named, use.arguments))
                case "task_list":
                    return self._list(use.context, decoded(Listing, use.arguments))
                case "task_output":
                    return await self._output(use.context, decoded(Read, use.arguments))
                case "task_create":
                    change = _creation(use.context, decoded(Create, use.arguments))
                case "task_update":
                    change = _update(use.context, decoded(Update, use.arguments))
                case "task_stop":
                    change = _stop(use.context, decoded(Stop, use.arguments))
                case _:
                    change = _deletion(use.context, decoded(Named, use.arguments))
        return Outcome("", decide=_told(change))

    def _get(self, place: RunContext, asked: Named) -> Outcome:
        with place.state.read() as store:
            return Outcome(_json(view_of(store, _found(store, place, asked.task_id))))

    def _list(self, place: RunContext, asked: Listing) -> Outcome:
        after = None if asked.after is UNSET else asked.after
        params = TaskListParams(status=asked.status, limit=MAX_LISTED, after=after)
        with place.state.read() as store:
            tasks, following = page_of_session(store, place.session.session_id, params)
        listed: dict[str, Any] = {"tasks": [{**_brief(task), "blocks": task.blocks} for task in tasks]}
        return Outcome(_json(listed if following is None else {**listed, "next": following}))

    async def _output(self, place: RunContext, asked: Read) -> Outcome:
        with place.state.read() as store:
            task = _found(store, place, asked.task_id)
        params = TaskOutputParams(
            task_id=task.task_id, wait=asked.wait, timeout_s=asked.timeout_s, tail_bytes=asked.tail_bytes
        )
        given = await output_of(place.state, self._shells, task, params)
        # A model reads so much at once; the rest of what it asked for is kept whole beside the result.
        text = ending(given.text.encode(), MAX_TOOL_TEXT_BYTES - BESIDES_BYTES)
        said = {
            **_brief(given.task),
            "ready": given.ready,
            "timed_out": given.timed_out,
            "output": text,
            "left_out_bytes": given.total_bytes - len(text.encode()),
        }
        whole = given.text.encode() if json_bytes(text) < json_bytes(given.text) else None
        return Outcome(_json(said), full_output=whole)


@contextmanager
def _refused() -> Iterator[None]:
    """What a rule turns down is told to the model. Errors: ToolError."""
    try:
        yield
    except Refusal as refusal:
        raise ToolError(refusal.message) from None


def _told(change: Change) -> Change:
    def told(store: Snapshot) -> Outcome:
        with _refused():
            return change(store)

    return told


def _found(store: Snapshot, place: RunContext, task_id: str) -> Task:
    """A task of the session. Errors: ToolError, TaskDeleted."""
    task = Tasks(store, place.session.session_id).find(task_id)
    if task is None:
        raise ToolError(f"this session has no task '{task_id}'; task_list shows those there are")
    return require_not_deleted(task)


# Changing.


def _creation(place: RunContext, asked: Create) -> Change:
    session_id = place.session.session_id
    params = TaskCreate(
        session_id=session_id,
        title=asked.title,
        description=asked.description,
        owner=None if asked.owner is UNSET else asked.owner,
        blocked_by=asked.blocked_by,
    )
    event = new_task(place.state.new_id(ids.TASK), params)

    def change(store: Snapshot) -> Outcome:
        rules.require_creatable(Tasks(store, session_id), event)
        return Outcome(
            _json({"task_id": event.task_id, "title": event.title, "status": "pending"}), events=(event,)
        )

    return change


def _update(place: RunContext, asked: Update) -> Change:
    named = {name: getattr(asked, name) for name in Update.__struct_fields__}
    wanted = new_state(TaskUpdate(**named))

    def change(store: Snapshot) -> Outcome:
        task = _found(store, place, asked.task_id)
        event = wanted
        if event.status == "in_progress" and event.owner is UNSET and task.owner is None:
            # Who begins a task that nobody has is who does it.
            event = msgspec.structs.replace(event, owner=place.run.guest or place.run.agent)
        rules.require_updatable(Tasks(store, task.session_id), task, event)
        after = rules.apply_update(task, event)
        return Outcome(_json(_brief(after)), events=() if after == task else (event,))

    return change


def _stop(place: RunContext, asked: Stop) -> Change:
    def change(store: Snapshot) -> Outcome:
        task = _found(store, place, asked.task_id)
        event = stopping(task, asked.note)
        if event is None:
            note = "it had ended already" if task.ended_at_ms is not None else "it is being stopped already"
            return Outcome(_json({**_brief(task), "note": note}))
        if task.shell is None:
            return Outcome(_json({"task_id": task.task_id, "status": "cancelled"}), events=(event,))
        note = "it is being stopped; task_output waits until it has ended"
        return Outcome(_json({**_brief(task), "note": note}), events=(event,))

    return change


def _deletion(place: RunContext, asked: Named) -> Change:
    def change(store: Snapshot) -> Outcome:
        task = _found(store, place, asked.task_id)
        rules.require_deletable(Tasks(store, task.session_id), task)
        event = TaskDeleted(task_id=task.task_id)
        return Outcome(_json({"task_id": task.task_id, "deleted": True}), events=(event,))

    return change


# Telling.


def _brief(task: Task) -> dict[str, Any]:
    """A task on one line."""
    said: dict[str, Any] = {
        "task_id": task.task_id,
        "title": rules.abbreviate(task.title),
        "status": task.status,
    }
    if task.kind != "task":
        said["kind"] = task.kind
    for name in ("owner", "blocked_by", "note"):
        if getattr(task, name):
            said[name] = getattr(task, name)
    if task.shell is not None and task.shell.terminal_reason is not None:
        said |= {"exit_code": task.shell.exit_code, "terminal_reason": task.shell.terminal_reason}
    return said


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
