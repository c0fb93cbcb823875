"""``kheishctl route``: the models there are."""

import click

from kheishctl.cli import App, complete, given, noun, paged, pages, show_table, verb
from kheishctl.render.layout import Column, facts

group = noun("route", "Routes: the models there are, each a driver, a model and a credential.")

COLUMNS = (
    Column("ROUTE", "route_id"),
    Column("DRIVER", "driver"),
    Column("MODEL", "model"),
    Column("DEFAULT", lambda row: "default" if row.get("default") else ""),
    Column("READY", lambda row: "ready" if row.get("ready", True) else "not ready"),
    Column("BASE URL", "base_url"),
    Column("PROBLEM", "problem"),
)


@verb(group, "list", method="route.list", examples=("kheishctl route list --json",))
@paged
def list_(app: App, limit: int | None, after: str | None, everything: bool) -> None:
    """List the routes there are, by id."""
    page = pages(app, "route.list", given(limit=limit, after=after), "routes", everything=everything)
    show_table(app, page, "routes", COLUMNS, "No routes.")


@verb(group, "get", method="route.get", examples=("kheishctl route get offline",))
@click.argument("route_id", metavar="ROUTE", shell_complete=complete("routes"), help="The route.")
def get(app: App, route_id: str) -> None:
    """Show one route; its credential by reference only."""
    app.emit(app.call("route.get", {"route_id": route_id}), facts)
