"""``kheishctl definition``: the agents there are."""

import click

from kheishctl.cli import App, complete, given, noun, paged, pages, show_table, verb
from kheishctl.client import Json
from kheishctl.render.layout import Column, Look, clean, facts

group = noun("definition", "Definitions: the agents there are, from agents/<name>.md.")

COLUMNS = (
    Column("AGENT", "name"),
    Column("FROM", "source"),
    Column("ROUTE", "route"),
    Column("DESCRIPTION", "description"),
)


@verb(group, "list", method="definition.list", examples=("kheishctl definition list",))
@paged
def list_(app: App, limit: int | None, after: str | None, everything: bool) -> None:
    """List the agents there are, by name."""
    page = pages(
        app, "definition.list", given(limit=limit, after=after), "definitions", everything=everything
    )
    show_table(app, page, "definitions", COLUMNS, "No agents.")


@verb(group, "get", method="definition.get", examples=("kheishctl definition get default",))
@click.argument("name", metavar="AGENT", shell_complete=complete("agents"), help="The agent.")
def get(app: App, name: str) -> None:
    """Show one agent's definition, instructions last."""
    app.emit(app.call("definition.get", {"name": name}), _definition)


def _definition(result: Json, look: Look) -> str:
    head = facts({name: value for name, value in result.items() if name != "instructions"}, look)
    return f"{head}\n\n{clean(result['instructions'])}".rstrip("\n")
