"""``kheishctl task``: what is to be done in a session, and the commands that run in the background of it."""

import sys
from collections.abc import Callable
from typing import Any

import click

from kheishctl import exits
from kheishctl.cli import (
    App,
    Duration,
    complete,
    given,
    mutating,
    noun,
    options,
    paged,
    pages,
    show_table,
    verb,
)
from kheishctl.client import Json
from kheishctl.commands.send import pairs
from kheishctl.render.layout import Column, Look, clean, facts, one_line

group = noun("task", "Tasks, and shells in the background: what is to be done in a session.")

STATUSES = ("open", "pending", "in_progress", "blocked", "completed", "failed", "cancelled", "any")
OPEN = ("pending", "in_progress", "blocked")
# What a task may be without, and what it has then.
CLEARED: dict[str, Any] = {"owner": None, "blocked_by": [], "metadata": {}, "description": ""}
COLUMNS = (
    Column("TASK", "task_id"),
    Column("STATUS", "status"),
    Column("KIND", lambda row: row.get("kind", "task")),
    Column("OWNER", "owner"),
    Column("UPDATED", "updated_at_ms", "time"),
    Column("TITLE", "title"),
    Column("WAITS FOR", lambda row: " ".join(row.get("blocked_by", ()))),
    Column("SESSION", "session_id"),
)

# How long one request waits for more; then it is asked again.
FOLLOW_SECONDS = 30.0
FOLLOW_BYTES = 64 * 1024

_task = click.argument("task_id", metavar="TASK", shell_complete=complete("tasks"), help="The task.")


def _session(required: bool) -> Callable[[Any], Any]:
    return click.option(
        "--session",
        "session_id",
        required=required,
        metavar="SESSION",
        shell_complete=complete("sessions"),
        help="The session that it is in." if required else "Only those of this session.",
    )


@verb(
    group,
    "list",
    method="task.list",
    examples=("kheishctl task list", "kheishctl task list --session ses_0EXAMPLE --status any"),
)
@_session(False)
@click.option(
    "--status", type=click.Choice(STATUSES), metavar="STATUS", help="Those with this status, open, or any."
)
@click.option("--kind", type=click.Choice(("task", "shell")), metavar="KIND", help="Only tasks, or shells.")
@paged
def list_(app: App, everything: bool, **filters: Any) -> None:
    """List tasks: those that have not ended, oldest first."""
    page = pages(app, "task.list", given(**filters), "tasks", everything=everything)
    show_table(app, page, "tasks", COLUMNS, "Nothing is to be done.")


@verb(group, "show", method="task.get", examples=("kheishctl task show tsk_0EXAMPLE",))
@_task
def show(app: App, task_id: str) -> None:
    """Show a task, and what of it is known."""
    app.emit(app.call("task.get", {"task_id": task_id}), facts)


_text = options(
    click.option("--description", metavar="TEXT", help="All that whoever does it must know."),
    click.option("--owner", metavar="NAME", help="Who does it."),
    click.option(
        "--blocked-by",
        multiple=True,
        metavar="TASK",
        shell_complete=complete("tasks"),
        help="A task that must be completed first; repeat for more.",
    ),
    click.option("--metadata", "-m", multiple=True, metavar="KEY=VALUE", help="What is kept with it."),
)


@verb(
    group,
    "create",
    method="task.create",
    examples=(
        "kheishctl task create --session ses_0EXAMPLE 'Write the report'",
        "kheishctl task create --session ses_0EXAMPLE 'Send it' --blocked-by tsk_0EXAMPLE",
    ),
)
@_session(True)
@click.argument("title", help="What is to be done, in a few words.")
@_text
@mutating
def create(app: App, blocked_by: tuple[str, ...], metadata: tuple[str, ...], **params: Any) -> None:
    """Create a task in a session."""
    asked = given(blocked_by=list(blocked_by), metadata=pairs(metadata) or None, **params)
    app.emit(app.call("task.create", asked), lambda task, look: one_line(task["task_id"]))


@verb(
    group,
    "update",
    method="task.update",
    examples=(
        "kheishctl task update tsk_0EXAMPLE --status in_progress",
        "kheishctl task update tsk_0EXAMPLE --status completed --output 'It is on the desk.'",
    ),
)
@_task
@click.option("--title", metavar="TEXT", help="What is to be done, in a few words.")
@_text
@click.option(
    "--status", type=click.Choice(STATUSES[1:-1]), metavar="STATUS", help="How it stands; an end is final."
)
@click.option("--output", metavar="TEXT", help="What came of it; nothing is completed without.")
@click.option("--note", metavar="TEXT", help="Why it has its new status.")
@click.option(
    "--clear", multiple=True, type=click.Choice(tuple(CLEARED)), help="Take that away; repeat for more."
)
@mutating
def update(
    app: App,
    task_id: str,
    blocked_by: tuple[str, ...],
    metadata: tuple[str, ...],
    clear: tuple[str, ...],
    **params: Any,
) -> None:
    """Change a task; what is not named stays as it is."""
    asked = given(task_id=task_id, blocked_by=list(blocked_by), metadata=pairs(metadata) or None, **params)
    asked |= {name: CLEARED[name] for name in clear}
    app.emit(app.call("task.update", asked), _brief)


def _brief(task: Json, look: Look) -> str:
    note = f": {task['note']}" if task.get("note") else ""
    return one_line(f"{task['task_id']} {task['status']}{note}")


@verb(
    group,
    "stop",
    method="task.stop",
    examples=("kheishctl task stop tsk_0EXAMPLE --note 'not needed any more'",),
)
@_task
@click.option("--note", metavar="TEXT", help="Why; the agent reads it.")
@mutating
def stop(app: App, task_id: str, note: str | None, **mutation: Any) -> None:
    """Cancel a task. A shell is ended, with all that it started."""
    task = app.call("task.stop", given(task_id=task_id, note=note, **mutation))
    app.emit(task, _brief)
    if task["status"] in OPEN and not mutation.get("check"):
        app.note(f"it takes its time: {app.typed('task', 'show', task_id)}")


@verb(group, "delete", method="task.delete", examples=("kheishctl task delete tsk_0EXAMPLE",))
@_task
@mutating
def delete(app: App, task_id: str, **mutation: Any) -> None:
    """Delete a task; its id never comes back."""
    task = app.call("task.delete", given(task_id=task_id, **mutation))
    app.emit(task, lambda task, look: one_line(f"{task['task_id']} is deleted"))


@verb(
    group,
    "output",
    method="task.output",
    examples=(
        "kheishctl task output tsk_0EXAMPLE --tail 65536",
        "kheishctl task output tsk_0EXAMPLE --follow",
    ),
)
@_task
@click.option("--tail", "tail_bytes", type=click.IntRange(1), metavar="BYTES", help="How much of its end.")
@click.option("--follow", "-f", is_flag=True, help="Go on printing until it has ended.")
@click.option("--wait", is_flag=True, help="Wait until it has ended.")
@click.option(
    "--timeout", "timeout_s", type=Duration(), metavar="TIME", help="Wait at most so long (90s, 15m)."
)
def output(
    app: App, task_id: str, tail_bytes: int | None, follow: bool, wait: bool, timeout_s: float | None
) -> None:
    """Print what came of a task, or what a shell wrote: the end of it.

    With --wait or --follow the exit code tells the outcome, see 'kheishctl --help'.
    """
    if follow and (wait or timeout_s is not None):
        raise click.UsageError("--follow goes without --wait and --timeout")
    params = given(task_id=task_id, tail_bytes=tail_bytes, wait=wait, timeout_s=timeout_s)
    found = app.call("task.output", params)
    if follow:
        found = _follow(app, task_id, found)
    else:
        _print(app, found, 0)
    if follow or wait:
        click.get_current_context().exit(exits.of_status(str(found["task"]["status"])))


def _follow(app: App, task_id: str, found: Json) -> Json:
    """Print what comes until the task has ended; what there was then."""
    offset = found["left_out_bytes"]
    while True:
        _print(app, found, offset)
        offset = found["offset"]
        if found["ready"] and offset >= found["total_bytes"]:
            return found
        params = {"task_id": task_id, "offset": offset, "wait": True, "timeout_s": FOLLOW_SECONDS}
        found = app.call("task.output", {**params, "tail_bytes": FOLLOW_BYTES})


def _print(app: App, found: Json, offset: int) -> None:
    """What comes after an offset: as it is for a pipe, with nothing that acts on a terminal for one."""
    if app.as_json:
        app.line(found)
        return
    missing = found["left_out_bytes"] - offset
    if missing > 0:
        app.note(f"{missing} bytes before this are not shown")
    click.echo(clean(found["text"]) if sys.stdout.isatty() else found["text"], nl=False)
