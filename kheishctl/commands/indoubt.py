"""``kheishctl indoubt``: calls during which the daemon crashed, so that their outcome is unknown."""

from typing import Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.contract import INDOUBT_FILTERS, INDOUBT_OUTCOMES, Json
from kheishctl.options import drop_unset, id_argument, mutating, paged, request_filters, status_option
from kheishctl.render.layout import Column, Display
from kheishctl.render.pending import format_indoubt, format_status
from protocol.text import one_line

group = make_group(
    "indoubt", "Calls in doubt: the daemon crashed while they ran, so they may have taken effect."
)

COLUMNS = (
    Column("IN DOUBT", "indoubt_id"),
    Column("STATUS", format_status),
    Column("TOOL", "tool"),
    Column("NOTE", "note"),
    Column("AGENT", "agent"),
    Column("SENDER", "sender"),
    Column("CALLED", "called_at_ms", "time"),
    Column("RUN", "run_id"),
)

_indoubt = id_argument("indoubt_id", "INDOUBT", "indoubts", help_text="The call in doubt.")


def _typed(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names as people type them."""
    return tuple(name.replace("_", "-") for name in names)


@command(
    group,
    "list",
    method="indoubt.list",
    examples=("kheishctl indoubt list", "kheishctl indoubt list --status any --all"),
)
@request_filters
@status_option(_typed(INDOUBT_FILTERS), "open")
@paged
def list_(app: App, everything: bool, status: str | None, **filters: Any) -> None:
    """List open calls in doubt, oldest first."""
    params = drop_unset(status=status and status.replace("-", "_"), **filters)
    page = fetch_pages(app, "indoubt.list", params, "indoubts", everything=everything)
    show_table(app, page, "indoubts", COLUMNS, "No call is in doubt.")


@command(group, "show", method="indoubt.get", examples=("kheishctl indoubt show dbt_0EXAMPLE.1.0",))
@_indoubt
def show(app: App, indoubt_id: str) -> None:
    """Show a call in doubt, its input and its evidence."""
    app.emit(app.call("indoubt.get", {"indoubt_id": indoubt_id}), format_indoubt)


@command(
    group,
    "resolve",
    method="indoubt.resolve",
    examples=("kheishctl indoubt resolve dbt_0EXAMPLE.1.0 done --justification 'the mail has arrived'",),
)
@_indoubt
@click.argument(
    "outcome", type=click.Choice(_typed(INDOUBT_OUTCOMES)), help="Whether it took effect; the model is told."
)
@click.option("--justification", metavar="TEXT", help="How you know; it is recorded.")
@mutating
def resolve(app: App, outcome: str, **params: Any) -> None:
    """Record whether a call took effect; the model is told before its next answer.

    The call is not run again. If its run has ended, the session's next run is told.
    """
    result = app.call("indoubt.resolve", drop_unset(outcome=outcome.replace("-", "_"), **params))
    app.emit(result, _format_resolved)


def _format_resolved(indoubt: Json, display: Display) -> str:
    return one_line(f"{indoubt['indoubt_id']} {format_status(indoubt)}")
