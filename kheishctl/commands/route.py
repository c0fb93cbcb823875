"""``kheishctl route``: the routes to models."""

from collections.abc import Sequence
from typing import Any

import click

from kheishctl import exit_codes
from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.contract import Json
from kheishctl.options import drop_unset, id_argument, paged
from kheishctl.render.layout import Column, Display, format_record, format_table, paint
from protocol.text import one_line

group = make_group("route", "Routes to models: a driver, a model and a credential each.")

COLUMNS = (
    Column("ROUTE", "route_id"),
    Column("DRIVER", "driver"),
    Column("MODEL", "model"),
    Column("DEFAULT", lambda row: "default" if row.get("default") else ""),
    Column("READY", lambda row: "ready" if row.get("ready", True) else "not ready"),
    Column("BASE URL", "base_url"),
    Column("PROBLEM", "problem"),
)


@command(group, "list", method="route.list", examples=("kheishctl route list --json",))
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List routes by id."""
    page = fetch_pages(app, "route.list", drop_unset(**params), "routes", everything=everything)
    if app.as_json or app.display().width is None:
        show_table(app, page, "routes", COLUMNS, "No routes.")
        return
    # A table truncates long cells, and a problem says what to do.
    show_table(app, page, "routes", COLUMNS[:-1], "No routes.")
    for row in page["routes"]:
        if row.get("problem"):
            app.print(one_line(f"{row['route_id']}: {row['problem']}"))


@command(group, "show", alias="get", method="route.get", examples=("kheishctl route show offline",))
@id_argument("route_id", "ROUTE", "routes")
def show(app: App, route_id: str) -> None:
    """Show a route; its credential is shown by reference only."""
    app.emit(app.call("route.get", {"route_id": route_id}), format_record)


CHECK_COLUMNS = (
    Column("STEP", lambda check: str(check["name"]).replace("_", " ")),
    Column("RESULT", "status"),
    Column("NOTE", "note"),
)
RESULT_STYLES = {"ok": "green", "failed": "red", "skipped": "dim"}


def format_checks(checks: Sequence[Json], display: Display) -> str:
    """Format the steps of a test: a table for a pipe, and whole notes for a terminal."""
    if display.width is None:
        return format_table(checks, CHECK_COLUMNS, display)
    lines = []
    for check in checks:
        step, status = str(check["name"]).replace("_", " "), str(check["status"])
        result = paint(status.ljust(7), RESULT_STYLES.get(status, ""), display.color)
        lines.append(f"{step.ljust(12)}  {result}  {one_line(str(check.get('note', '')))}".rstrip())
    return "\n".join(lines)


@command(group, "test", method="route.test", examples=("kheishctl route test claude",))
@id_argument("route_id", "ROUTE", "routes")
def test(app: App, route_id: str) -> None:
    """Make one small call with one tool, and report step by step what worked.

    The call may cost a fraction of a cent. The exit code is 1 if a step failed.
    """
    result = app.call("route.test", {"route_id": route_id})
    app.emit(result, lambda result, display: format_checks(result["checks"], display))
    click.get_current_context().exit(exit_codes.OK if result["ok"] else exit_codes.FAILED)
