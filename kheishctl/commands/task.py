"""``kheishctl task``: the tasks of sessions, and their background shells."""

import sys
from typing import Any

import click

from kheishctl import exit_codes
from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.contract import TASK_EMPTY, TASK_FILTERS, TASK_KINDS, TASK_OPEN, TASK_STATUSES, Json
from kheishctl.options import (
    Duration,
    ObjectId,
    WholeNumber,
    complete,
    drop_unset,
    id_argument,
    metadata_option,
    mutating,
    name_option,
    options,
    paged,
    parse_pairs,
    session_filter,
    status_option,
)
from kheishctl.render.layout import Column, Display, format_record
from protocol.text import one_line, sanitize

group = make_group("task", "Tasks and background shells of sessions.")

COLUMNS = (
    Column("TASK", "task_id"),
    Column("STATUS", "status"),
    Column("KIND", lambda row: row.get("kind", "task")),
    Column("OWNER", "owner"),
    Column("UPDATED", "updated_at_ms", "time"),
    Column("TITLE", "title"),
    Column("BLOCKED BY", lambda row: " ".join(row.get("blocked_by", ()))),
    Column("SESSION", "session_id"),
)

# The wait of one request of --follow; afterwards it is repeated.
FOLLOW_SECONDS = 30.0
FOLLOW_BYTES = 64 * 1024

_task = id_argument("task_id", "TASK", "tasks")


@command(
    group,
    "list",
    method="task.list",
    examples=("kheishctl task list", "kheishctl task list --session ses_0EXAMPLE --status any"),
)
@session_filter
@status_option(TASK_FILTERS, "open")
@click.option(
    "--kind", type=click.Choice(TASK_KINDS), metavar="KIND", help="List only tasks, or only shells."
)
@paged
def list_(app: App, everything: bool, **filters: Any) -> None:
    """List open tasks, oldest first."""
    page = fetch_pages(app, "task.list", drop_unset(**filters), "tasks", everything=everything)
    show_table(app, page, "tasks", COLUMNS, "No open tasks.")


@command(group, "show", method="task.get", examples=("kheishctl task show tsk_0EXAMPLE",))
@_task
def show(app: App, task_id: str) -> None:
    """Show a task in detail."""
    app.emit(app.call("task.get", {"task_id": task_id}), format_record)


_details = options(
    click.option("--description", metavar="TEXT", help="Complete instructions for the task."),
    click.option("--owner", metavar="NAME", help="The person or agent who does the task."),
    click.option(
        "--blocked-by",
        multiple=True,
        metavar="TASK",
        type=ObjectId("tasks"),
        shell_complete=complete("tasks"),
        help="A task that must be completed first (repeatable).",
    ),
    metadata_option,
)


@command(
    group,
    "create",
    method="task.create",
    examples=(
        "kheishctl task create --session ses_0EXAMPLE 'Write the report'",
        "kheishctl task create --session ses_0EXAMPLE 'Send it' --blocked-by tsk_0EXAMPLE",
    ),
)
@name_option("--session", "session_id", "sessions", "The session of the task.", required=True)
@click.argument("title", help="The task in a few words.")
@_details
@mutating
def create(app: App, **params: Any) -> None:
    """Create a task in a session."""
    app.emit(app.call("task.create", _make_params(**params)), lambda task, display: one_line(task["task_id"]))


def _make_params(blocked_by: tuple[str, ...], metadata: tuple[str, ...], **params: Any) -> Json:
    return drop_unset(blocked_by=list(blocked_by), metadata=parse_pairs(metadata) or None, **params)


@command(
    group,
    "update",
    method="task.update",
    examples=(
        "kheishctl task update tsk_0EXAMPLE --status in_progress",
        "kheishctl task update tsk_0EXAMPLE --status completed --output 'It is on the desk.'",
    ),
)
@_task
@click.option("--title", metavar="TEXT", help="The task in a few words.")
@_details
@click.option(
    "--status",
    type=click.Choice(TASK_STATUSES),
    metavar="STATUS",
    help="The new status; a finished task stays finished.",
)
@click.option("--output", metavar="TEXT", help="The result; required to complete a task.")
@click.option("--note", metavar="TEXT", help="A note on the new status.")
@click.option(
    "--clear", multiple=True, type=click.Choice(tuple(TASK_EMPTY)), help="Unset a property (repeatable)."
)
@mutating
def update(app: App, clear: tuple[str, ...], **params: Any) -> None:
    """Change a task; omitted properties stay unchanged."""
    params = _make_params(**params) | {name: TASK_EMPTY[name] for name in clear}
    app.emit(app.call("task.update", params), _format_status)


def _format_status(task: Json, display: Display) -> str:
    note = f": {task['note']}" if task.get("note") else ""
    return one_line(f"{task['task_id']} {task['status']}{note}")


@command(
    group,
    "stop",
    method="task.stop",
    examples=("kheishctl task stop tsk_0EXAMPLE --note 'not needed any more'",),
)
@_task
@click.option("--note", metavar="TEXT", help="A note for the agent.")
@mutating
def stop(app: App, task_id: str, note: str | None, **mutation: Any) -> None:
    """Cancel a task. A shell is ended together with all its processes."""
    task = app.call("task.stop", drop_unset(task_id=task_id, note=note, **mutation))
    app.emit(task, _format_status)
    if task["status"] in TASK_OPEN and not mutation.get("check"):
        app.note(f"still stopping: {app.command_line('task', 'show', task_id)}")


@command(group, "delete", method="task.delete", examples=("kheishctl task delete tsk_0EXAMPLE",))
@_task
@mutating
def delete(app: App, **params: Any) -> None:
    """Delete a task; its id is not used again."""
    task = app.call("task.delete", drop_unset(**params))
    app.emit(task, lambda task, display: one_line(f"deleted {task['task_id']}"))


@command(
    group,
    "output",
    method="task.output",
    examples=(
        "kheishctl task output tsk_0EXAMPLE --tail 65536",
        "kheishctl task output tsk_0EXAMPLE --follow",
    ),
)
@_task
@click.option(
    "--tail", "tail_bytes", type=WholeNumber(1), metavar="BYTES", help="Print the last BYTES bytes."
)
@click.option("--follow", "-f", is_flag=True, help="Keep printing until the task has ended.")
@click.option("--wait", is_flag=True, help="Wait until the task has ended.")
@click.option(
    "--timeout",
    "timeout_s",
    type=Duration(),
    metavar="TIME",
    help="Stop waiting after this time (90s, 15m).",
)
def output(app: App, follow: bool, wait: bool, timeout_s: float | None, **params: Any) -> None:
    """Print a task's result, or the last part of a shell's output.

    With --wait or --follow the exit code reports the outcome, see 'kheishctl --help'.
    """
    if follow and (wait or timeout_s is not None):
        raise click.UsageError("--follow cannot be combined with --wait and --timeout")
    page = app.call("task.output", drop_unset(wait=wait, timeout_s=timeout_s, **params))
    if follow:
        page = _follow(app, params["task_id"], page)
    else:
        _print(app, page, 0)
    if follow or wait:
        click.get_current_context().exit(exit_codes.code_for_status(str(page["task"]["status"])))


def _follow(app: App, task_id: str, page: Json) -> Json:
    """Print output until the task has ended; return the last page."""
    offset = page["left_out_bytes"]
    while True:
        _print(app, page, offset)
        offset = page["offset"]
        if page["ready"] and offset >= page["total_bytes"]:
            return page
        params = {"task_id": task_id, "offset": offset, "wait": True, "timeout_s": FOLLOW_SECONDS}
        page = app.call("task.output", {**params, "tail_bytes": FOLLOW_BYTES})


def _print(app: App, page: Json, offset: int) -> None:
    """Print a page and note the bytes missing since ``offset``; a terminal receives the text sanitized."""
    if app.as_json:
        app.print_json_line(page)
        return
    missing = page["left_out_bytes"] - offset
    if missing > 0:
        app.note(f"the {missing} bytes before this are not shown")
    click.echo(sanitize(page["text"]) if sys.stdout.isatty() else page["text"], nl=False)
