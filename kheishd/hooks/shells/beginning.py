"""A command that is to run in the background: it becomes a task, whose shell is started by the daemon.

The call itself starts nothing. Its result and the task are committed together, and whoever looks after shells
sees the task then: so a command never runs that no record tells of, and where the daemon dies in the call,
there is neither a task nor a process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kheishd.core.task import abbreviate
from kheishd.kernel.hook import Invocation, Outcome, ToolError
from kheishd.objects.work.shell import require_room
from protocol import ids
from protocol.errors.task import TasksFull
from protocol.events.task import TaskCreated
from protocol.objects.task import ShellCommand

if TYPE_CHECKING:
    from kheishd.hooks.workdir import Workdir
    from kheishd.store.environment import Snapshot

NOTE = (
    "It runs in the background from now on. task_output gives what it wrote, task_stop ends it. You are told "
    "when it has ended, before your next answer after that."
)


def begun(use: Invocation, command: str, title: str, workdir: Workdir, *, boxed: bool) -> Outcome:
    """The outcome of a call whose command is to run in the background. Errors: ToolError."""
    event = TaskCreated(
        task_id=use.context.state.new_id(ids.TASK),
        title=abbreviate(title) or abbreviate(command),
        kind="shell",
        owner=use.context.run.guest or use.context.run.agent,
        shell=ShellCommand(
            command=command,
            workdir=_said(workdir.path),
            workspace=_said(use.context.workspace),
            sandboxed=boxed,
            call_id=use.call_id,
        ),
    )

    def change(store: Snapshot) -> Outcome:
        try:
            require_room(store, use.context.session.session_id)
        except TasksFull as refusal:
            raise ToolError(refusal.message) from None
        said = {"task_id": event.task_id, "title": event.title, "status": "pending", "note": NOTE}
        return Outcome(msgspec.json.encode(said).decode(), events=(event,))

    return Outcome("", decide=change)


def _said(path: str) -> str:
    """A path as a record can hold it. Errors: ToolError for one that is no text."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ToolError("a directory whose name is no text cannot be used in the background") from None
    return path
