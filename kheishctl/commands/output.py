"""``kheishctl output``: the outputs of runs."""

from typing import Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.options import drop_unset, name_option, paged
from kheishctl.render.layout import Column

group = make_group("output", "Outputs: the results of runs.")

COLUMNS = (
    Column("OUTPUT", "output_id"),
    Column("KIND", "source_kind"),
    Column("FINAL", lambda row: "final" if row.get("final") else ""),
    Column("RUN", "run_id"),
    Column("WHEN", "at_ms", "time"),
    Column("TEXT", "text"),
)


@command(
    group,
    "list",
    method="output.list",
    examples=(
        "kheishctl output list --run run_0EXAMPLE",
        "kheishctl output list --session ses_0EXAMPLE --json",
    ),
)
@name_option("--run", "run_id", "runs", "The outputs of this run.")
@name_option("--session", "session_id", "sessions", "The outputs of all runs of this session.")
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List the outputs of a run, or of all runs of a session, oldest first."""
    if (params["run_id"] is None) == (params["session_id"] is None):
        raise click.UsageError("use either --run or --session")
    page = fetch_pages(app, "output.list", drop_unset(**params), "outputs", everything=everything)
    show_table(app, page, "outputs", COLUMNS, "No outputs.")
