"""``kheishctl skill``: the skills of the daemon, and those that are active in a session."""

from typing import Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.contract import Json
from kheishctl.options import (
    drop_unset,
    id_argument,
    mutating,
    name_option,
    note_option,
    paged,
    session_argument,
)
from kheishctl.render.layout import Column, Display, format_record
from protocol.text import one_line, sanitize

group = make_group("skill", "Skills: reusable instructions for agents.")

COLUMNS = (
    Column("SKILL", "name"),
    Column("FROM", "origin"),
    Column("CONTEXT", lambda row: row.get("context", "inline")),
    Column("DESCRIPTION", "description"),
)

_skill = id_argument("name", "SKILL", "skills")
_query_option = click.option("--query", metavar="TEXT", help="List only skills that mention this.")
_session_option = name_option(
    "--session", "session_id", "sessions", "The session.", metavar="SESSION", required=True
)


@command(group, "list", method="skill.list", examples=("kheishctl skill list --query review",))
@_query_option
@paged
def list_(app: App, everything: bool, **filters: Any) -> None:
    """List the skills of the daemon, by name."""
    page = fetch_pages(app, "skill.list", drop_unset(**filters), "skills", everything=everything)
    show_table(app, page, "skills", COLUMNS, "No skills.")


@command(group, "visible", method="session.skills", examples=("kheishctl skill visible ses_0EXAMPLE",))
@session_argument
@_query_option
@paged
def visible(app: App, everything: bool, **params: Any) -> None:
    """List the skills that a session can use, and mark those that are active in it."""
    page = fetch_pages(app, "session.skills", drop_unset(**params), "skills", everything=everything)
    active = {skill["name"] for skill in page["active"]}
    state = Column("STATE", lambda row: "active" if row["name"] in active else "")
    show_table(app, page, "skills", (COLUMNS[0], state, *COLUMNS[1:]), "No skills.")


@command(group, "show", alias="get", method="skill.get", examples=("kheishctl skill show review",))
@_skill
def show(app: App, name: str) -> None:
    """Show a skill; its instructions come last."""
    result = app.call("skill.get", {"name": name})
    fields = {field: value for field, value in result.items() if field != "instructions"}
    instructions = sanitize(result["instructions"])
    app.emit(result, lambda _, display: f"{format_record(fields, display)}\n\n{instructions}".rstrip("\n"))


@command(group, "reload", method="skill.reload", examples=("kheishctl skill reload",))
def reload(app: App) -> None:
    """Read all skills again, also files that were changed in place."""
    app.emit(app.call("skill.reload"), _format_reload)


def _format_reload(result: Json, display: Display) -> str:
    lines = [f"{result['skills']} skills, read in {result['took_ms']:.0f} ms"]
    return "\n".join([*lines, *(one_line(warning) for warning in result["warnings"])])


@command(
    group,
    "activate",
    method="skill.activate",
    examples=("kheishctl skill activate review --session ses_0EXAMPLE --args 'the last commit'",),
)
@_skill
@_session_option
@click.option("--args", metavar="TEXT", help="Data for the skill.")
@note_option
@mutating
def activate(app: App, **params: Any) -> None:
    """Make a skill's instructions part of a session."""
    app.emit(app.call("skill.activate", drop_unset(**params)), format_record)


@command(
    group,
    "deactivate",
    method="skill.deactivate",
    examples=("kheishctl skill deactivate review --session ses_0EXAMPLE",),
)
@_skill
@_session_option
@note_option
@mutating
def deactivate(app: App, **params: Any) -> None:
    """End a skill in a session."""
    app.emit(app.call("skill.deactivate", drop_unset(**params)), format_record)
