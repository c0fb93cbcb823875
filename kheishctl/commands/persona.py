"""``kheishctl persona``: personas, and the sessions that they are bound to."""

import os
import sys
from typing import Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.contract import Json
from kheishctl.options import (
    JsonValue,
    drop_unset,
    id_argument,
    metadata_option,
    mutating,
    options,
    paged,
    parse_pairs,
    session_argument,
)
from kheishctl.render.layout import Column, format_record
from protocol.text import sanitize

group = make_group("persona", "Personas: instructions that are bound to sessions.")

COLUMNS = (
    Column("PERSONA", "persona_id"),
    Column("VERSION", "version", "count"),
    Column("NAME", "display_name"),
    Column("UPDATED", "updated_at_ms", "time"),
)

_persona = id_argument("persona_id", "PERSONA", "personas")
_id = click.option("--id", "persona_id", metavar="ID", help="An id of your choice (default: a generated id).")
_soul = click.option("--soul", metavar="FILE", help="A file with the instructions; '-': standard input.")
_properties = options(
    click.option("--scope", type=JsonValue(), metavar="JSON", help="Limit the sessions that it is bound to."),
    click.option(
        "--skill", "default_skills", multiple=True, metavar="SKILL", help="A default skill (repeatable)."
    ),
    metadata_option,
    mutating,
)


def _read(path: str | None) -> str | None:
    """Return the text of a file, or of standard input. Errors: a usage error."""
    if path is None:
        return None
    try:
        if path == "-":
            return sys.stdin.buffer.read().decode()
        # Not pathlib: importing it takes longer than the command.
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path} cannot be read as UTF-8: {error}") from None


def _make_params(default_skills: tuple[str, ...], metadata: tuple[str, ...], **params: Any) -> Json:
    return drop_unset(
        default_skills=list(default_skills) or None, metadata=parse_pairs(metadata) or None, **params
    )


@command(
    group,
    "create",
    method="persona.create",
    examples=("kheishctl persona create Reviewer --soul reviewer.txt --id reviewer",),
)
@click.argument("display_name", metavar="NAME", help="A name, for people.")
@_id
@_soul
@_properties
def create(app: App, soul: str | None, **params: Any) -> None:
    """Create a persona."""
    app.emit(app.call("persona.create", _make_params(soul=_read(soul) or "", **params)), format_record)


@command(
    group,
    "import",
    method="persona.import",
    examples=("kheishctl persona import reviewer.md --id reviewer",),
)
@click.argument("content", metavar="FILE", help="A Markdown file: all of it becomes the instructions.")
@click.option("--name", "display_name", metavar="NAME", help="A name (default: the first heading).")
@_id
@_properties
def import_(app: App, content: str, **params: Any) -> None:
    """Create a persona from a Markdown file."""
    params = _make_params(content=_read(content), filename=os.path.basename(content), **params)
    app.emit(app.call("persona.import", params), format_record)


@command(group, "list", method="persona.list", examples=("kheishctl persona list --query review",))
@click.option("--query", metavar="TEXT", help="Only those with this text in their id or name.")
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List personas by id."""
    page = fetch_pages(app, "persona.list", drop_unset(**params), "personas", everything=everything)
    show_table(app, page, "personas", COLUMNS, "No personas.")


@command(group, "show", alias="get", method="persona.get", examples=("kheishctl persona show reviewer",))
@_persona
def show(app: App, persona_id: str) -> None:
    """Show a persona; its instructions come last."""
    result = app.call("persona.get", {"persona_id": persona_id})
    fields = {field: value for field, value in result.items() if field != "soul"}
    soul = sanitize(result.get("soul", ""))
    app.emit(result, lambda _, display: f"{format_record(fields, display)}\n\n{soul}".rstrip("\n"))


@command(
    group,
    "update",
    method="persona.update",
    examples=("kheishctl persona update reviewer --soul reviewer.txt",),
)
@_persona
@click.option("--name", "display_name", metavar="NAME", help="Another name.")
@_soul
@_properties
def update(app: App, soul: str | None, **params: Any) -> None:
    """Change a persona; sessions keep the version that is bound to them."""
    app.emit(app.call("persona.update", _make_params(soul=_read(soul), **params)), format_record)


@command(group, "delete", method="persona.delete", examples=("kheishctl persona delete reviewer",))
@_persona
@mutating
def delete(app: App, **params: Any) -> None:
    """Delete a persona; sessions keep the version that is bound to them."""
    app.emit(app.call("persona.delete", drop_unset(**params)), format_record)


@command(
    group,
    "bind",
    method="persona.bind",
    examples=("kheishctl persona bind ses_0EXAMPLE reviewer",),
)
@session_argument
@_persona
@mutating
def bind(app: App, **params: Any) -> None:
    """Bind the newest version of a persona to an idle session."""
    app.emit(app.call("persona.bind", drop_unset(**params)), format_record)


@command(group, "unbind", method="persona.unbind", examples=("kheishctl persona unbind ses_0EXAMPLE",))
@session_argument
@mutating
def unbind(app: App, **params: Any) -> None:
    """Remove the persona of an idle session."""
    app.emit(app.call("persona.unbind", drop_unset(**params)), format_record)
