"""``kheishctl workspace``: the roots whose instructions, skills, hooks and settings take effect."""

import os
from typing import Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.options import complete, drop_unset, mutating, note_option, paged
from kheishctl.render.layout import Column, format_record

group = make_group(
    "workspace", "Trusted roots: instructions, skills, hooks and settings in them take effect."
)

COLUMNS = (
    Column("ROOT", "root"),
    Column("SOURCE", "source"),
    Column("TRUSTED BY", "trusted_by"),
    Column("TRUSTED", "trusted_at_ms", "time"),
    Column("NOTE", "note"),
)

root_argument = click.argument("root", metavar="DIRECTORY", type=click.Path(), help="The directory.")
"""The argument that names a root."""


@command(group, "trust", method="workspace.trust", examples=("kheishctl workspace trust ~/src/shop",))
@root_argument
@note_option
@mutating
def trust(app: App, root: str, note: str | None, **mutation: Any) -> None:
    """Trust a directory and everything below it.

    From the next run on, the AGENTS.md files, skills, hooks and settings in it take effect.
    """
    params = drop_unset(root=os.path.abspath(root), note=note, **mutation)
    app.emit(app.call("workspace.trust", params), format_record)


@command(group, "untrust", method="workspace.untrust", examples=("kheishctl workspace untrust ~/src/shop",))
@root_argument
@note_option
@mutating
def untrust(app: App, root: str, note: str | None, **mutation: Any) -> None:
    """Trust a directory no longer; the configuration's own stay."""
    params = drop_unset(root=os.path.abspath(root), note=note, **mutation)
    app.emit(app.call("workspace.untrust", params), format_record)


@command(group, "show", method="workspace.get", examples=("kheishctl workspace show .",))
@root_argument
@click.option(
    "--agent", metavar="AGENT", shell_complete=complete("agents"), help="The agent that works there."
)
def show(app: App, root: str, agent: str | None) -> None:
    """Show whether agents may work in a directory, and whether it is trusted."""
    params = drop_unset(path=os.path.abspath(root), agent=agent)
    app.emit(app.call("workspace.get", params), format_record)


@command(group, "list", method="workspace.list", examples=("kheishctl workspace list --json",))
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List the trusted roots: the configuration's own, then the others, oldest first."""
    page = fetch_pages(app, "workspace.list", drop_unset(**params), "workspaces", everything=everything)
    show_table(app, page, "workspaces", COLUMNS, "No trusted roots.")
