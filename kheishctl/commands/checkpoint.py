"""``kheishctl checkpoint``: former contents of workspace files, to show and to restore."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.options import WholeNumber, drop_unset, paged, session_argument
from kheishctl.render.checkpoint import format_diff, format_restored
from kheishctl.render.layout import Column

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kheishctl.contract import Json

group = make_group("checkpoint", "Checkpoints: former contents of workspace files.")

COLUMNS = (
    Column("CHECKPOINT", "checkpoint_id"),
    Column("KIND", "kind"),
    Column("STATUS", "status"),
    Column("TOOL", "tool"),
    Column("FILES", lambda row: _name_files(row)),
    Column("SAVED", "created_at_ms", "time"),
    Column("NOTE", "note"),
)

MAX_NAMED_FILES = 3

_checkpoint = click.argument(
    "checkpoint_id",
    metavar="CHECKPOINT",
    required=False,
    help="The checkpoint (default: the newest change that is not reverted).",
)
_since = click.option(
    "--since", type=WholeNumber(0), metavar="CURSOR", help="Every change of a call after this cursor."
)


def _name_files(row: Mapping[str, Any]) -> str:
    """Return the names of a checkpoint's first files, and the number of the others."""
    paths = [str(file["path"]) for file in row.get("files", ())]
    rest = len(paths) - MAX_NAMED_FILES + row.get("more", 0)
    return ", ".join(paths[:MAX_NAMED_FILES]) + (f" and {rest} more" if rest > 0 else "")


@command(group, "list", method="checkpoint.list", examples=("kheishctl checkpoint list ses_0EXAMPLE",))
@session_argument
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List a session's checkpoints, newest first."""
    page = fetch_pages(app, "checkpoint.list", drop_unset(**params), "checkpoints", everything=everything)
    show_table(app, page, "checkpoints", COLUMNS, "No checkpoints: no tool has changed files.")


@command(
    group,
    "diff",
    method="checkpoint.diff",
    examples=("kheishctl checkpoint diff ses_0EXAMPLE", "kheishctl checkpoint diff ses_0EXAMPLE --since 0"),
)
@session_argument
@_checkpoint
@_since
def diff(app: App, session_id: str, checkpoint_id: str | None, since: int | None) -> None:
    """Show how files have changed since a checkpoint."""
    app.emit(app.call("checkpoint.diff", _select(session_id, checkpoint_id, since)), format_diff)


@command(
    group,
    "restore",
    method="checkpoint.restore",
    examples=(
        "kheishctl checkpoint restore ses_0EXAMPLE",
        "kheishctl checkpoint restore ses_0EXAMPLE --redo",
    ),
)
@session_argument
@_checkpoint
@_since
@click.option("--redo", is_flag=True, help="Revert the newest undo.")
@click.option("--force", is_flag=True, help="Overwrite files that changed since, too.")
@click.option("--check", is_flag=True, help="Dry run: report what would happen, change nothing.")
def restore(
    app: App,
    session_id: str,
    checkpoint_id: str | None,
    since: int | None,
    redo: bool,
    force: bool,
    check: bool,
) -> None:
    """Undo the newest change of files, or the one of a checkpoint.

    If a file changed since, nothing is restored, unless --force overwrites it. A restore is saved itself, so
    that --redo reverts it.
    """
    params = _select(session_id, checkpoint_id, since) | drop_unset(redo=redo, force=force, check=check)
    app.emit(app.call("checkpoint.restore", params), format_restored)


def _select(session_id: str, checkpoint_id: str | None, since: int | None) -> Json:
    """Return the params that select changes; a cursor of 0 is one."""
    return {"session_id": session_id} | {
        name: value
        for name, value in (("checkpoint_id", checkpoint_id), ("since", since))
        if value is not None
    }
