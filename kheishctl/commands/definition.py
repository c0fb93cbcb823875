"""``kheishctl definition``: the definitions of agents."""

from typing import Any

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.options import drop_unset, id_argument, paged
from kheishctl.render.layout import Column, format_record
from protocol.text import sanitize

group = make_group("definition", "Definitions of agents, from agents/<name>.md.")

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
    """Show an agent's definition; its instructions come last."""
    result = app.call("definition.get", {"name": name})
    fields = {field: value for field, value in result.items() if field != "instructions"}
    instructions = sanitize(result["instructions"])
    app.emit(result, lambda _, display: f"{format_record(fields, display)}\n\n{instructions}".rstrip("\n"))
