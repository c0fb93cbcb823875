"""``kheishctl definition``: the definitions of agents."""

from typing import IO, Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.contract import Json
from kheishctl.options import JsonValue, drop_unset, id_argument, mutating, paged
from kheishctl.render.layout import Column, Display, format_record
from protocol.text import sanitize

group = make_group("definition", "Definitions of agents, from agents/<name>.md and from the store.")

COLUMNS = (
    Column("AGENT", "name"),
    Column("FROM", "source"),
    Column("ROUTE", "route"),
    Column("DESCRIPTION", "description"),
)


@command(group, "list", method="definition.list", examples=("kheishctl definition list",))
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List agents by name."""
    page = fetch_pages(app, "definition.list", drop_unset(**params), "definitions", everything=everything)
    show_table(app, page, "definitions", COLUMNS, "No agents.")


@command(group, "show", alias="get", method="definition.get", examples=("kheishctl definition show default",))
@id_argument("name", "AGENT", "agents")
def show(app: App, name: str) -> None:
    """Show an agent's definition, with warnings about names that do not exist."""
    app.emit(app.call("definition.get", {"name": name}), _format_definition)


def _format_definition(definition: Json, display: Display) -> str:
    """Format a definition; its instructions, of which it has the digest, come last."""
    fields = {
        "digest of instructions" if field == "digest" else field: value
        for field, value in definition.items()
        if field != "instructions"
    }
    return f"{format_record(fields, display)}\n\n{sanitize(definition['instructions'])}".rstrip("\n")


@command(
    group,
    "put",
    method="definition.put",
    examples=(
        "kheishctl definition put critic critic.md",
        "kheishctl definition put critic --instructions 'Find faults.' --settings '{\"tools\": []}'",
    ),
)
@id_argument("name", "AGENT", "agents")
@click.argument(
    "text", metavar="[FILE]", type=click.File("rb"), required=False, help="The agent's file; '-': stdin."
)
@click.option("--instructions", metavar="TEXT", help="The agent's instructions, instead of a file.")
@click.option(
    "--settings", type=JsonValue(), metavar="JSON", help="The settings of a file's front matter, as JSON."
)
@mutating
def put(app: App, text: IO[bytes] | None, **params: Any) -> None:
    """Store an agent's definition; new runs use it at once.

    An agent that a file in the agents directory defines cannot be replaced: edit that file and reload.
    """
    if text is not None:
        try:
            params["text"] = text.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise click.UsageError(f"{text.name} is not UTF-8 text") from None
    app.emit(app.call("definition.put", drop_unset(**params)), _format_definition)


@command(group, "delete", method="definition.delete", examples=("kheishctl definition delete critic",))
@id_argument("name", "AGENT", "agents")
@mutating
def delete(app: App, **params: Any) -> None:
    """Delete a stored definition. Its sessions stay, and accepted runs continue."""
    app.emit(app.call("definition.delete", drop_unset(**params)), format_record)
