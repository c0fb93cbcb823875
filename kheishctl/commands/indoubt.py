"""``kheishctl indoubt``: calls that the daemon died in, of which nobody knows whether they took effect."""

from typing import Any

import click

from kheishctl.cli import App, complete, given, mutating, noun, paged, pages, show_table, verb
from kheishctl.client import Json
from kheishctl.commands.approval import place
from kheishctl.render import pending as asking
from kheishctl.render.layout import Column, Look, one_line

group = noun("indoubt", "Calls in doubt: the daemon died while they ran, and they may have taken effect.")

STATUSES = ("open", "done", "not-done", "any")
COLUMNS = (
    Column("IN DOUBT", "indoubt_id"),
    Column("STATUS", asking.status_word),
    Column("TOOL", "tool"),
    Column("KNOWN", "note"),
    Column("AGENT", "agent"),
    Column("SENDER", "sender"),
    Column("CALLED", "called_at_ms", "time"),
    Column("RUN", "run_id"),
)

_indoubt = click.argument(
    "indoubt_id", metavar="INDOUBT", shell_complete=complete("indoubts"), help="The call in doubt."
)


@verb(
    group,
    "list",
    method="indoubt.list",
    examples=("kheishctl indoubt list", "kheishctl indoubt list --status any --all"),
)
@place
@click.option(
    "--status", type=click.Choice(STATUSES), metavar="STATUS", help="Those with this status, or any."
)
@paged
def list_(app: App, everything: bool, status: str | None, **filters: Any) -> None:
    """List calls in doubt: the open ones, oldest first."""
    params = given(status=status and status.replace("-", "_"), **filters)
    page = pages(app, "indoubt.list", params, "indoubts", everything=everything)
    show_table(app, page, "indoubts", COLUMNS, "No call is in doubt.")


@verb(group, "show", method="indoubt.get", examples=("kheishctl indoubt show dbt_0EXAMPLE.1.0",))
@_indoubt
def show(app: App, indoubt_id: str) -> None:
    """Show a call in doubt, its input, and what is known about it."""
    app.emit(app.call("indoubt.get", {"indoubt_id": indoubt_id}), asking.indoubt)


@verb(
    group,
    "resolve",
    method="indoubt.resolve",
    examples=("kheishctl indoubt resolve dbt_0EXAMPLE.1.0 done --justification 'the mail has arrived'",),
)
@_indoubt
@click.argument(
    "outcome", type=click.Choice(("done", "not-done")), help="Whether it took effect; the model is told."
)
@click.option("--justification", metavar="TEXT", help="How you know; it is recorded.")
@mutating
def resolve(app: App, indoubt_id: str, outcome: str, justification: str | None, **mutation: Any) -> None:
    """Say whether a call took effect; the model is told before its next answer.

    It is not run again by it, and of a run that has ended the next run of the session is told.
    """
    params = given(
        indoubt_id=indoubt_id, outcome=outcome.replace("-", "_"), justification=justification, **mutation
    )
    app.emit(app.call("indoubt.resolve", params), _brief)


def _brief(doubt: Json, look: Look) -> str:
    return one_line(f"{doubt['indoubt_id']} {asking.status_word(doubt)}")
