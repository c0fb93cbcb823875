"""``kheishctl output``: what runs gave."""

import click

from kheishctl.cli import App, complete, given, noun, paged, pages, show_table, verb
from kheishctl.render.layout import Column

group = noun("output", "Outputs: what runs gave to whoever asked.")

COLUMNS = (
    Column("OUTPUT", "output_id"),
    Column("KIND", "source_kind"),
    Column("FINAL", lambda row: "final" if row.get("final") else ""),
    Column("RUN", "run_id"),
    Column("WHEN", "at_ms", "time"),
    Column("TEXT", "text"),
)


@verb(
    group,
    "list",
    method="output.list",
    examples=(
        "kheishctl output list --run run_0EXAMPLE",
        "kheishctl output list --session ses_0EXAMPLE --json",
    ),
)
@click.option("--run", "run_id", metavar="RUN", shell_complete=complete("runs"), help="What this run gave.")
@click.option(
    "--session",
    "session_id",
    metavar="SESSION",
    shell_complete=complete("sessions"),
    help="What every run of this session gave.",
)
@paged
def list_(
    app: App,
    run_id: str | None,
    session_id: str | None,
    limit: int | None,
    after: str | None,
    everything: bool,
) -> None:
    """List what a run, or every run of a session, gave; oldest first."""
    if (run_id is None) == (session_id is None):
        raise click.UsageError("give either --run or --session")
    params = given(run_id=run_id, session_id=session_id, limit=limit, after=after)
    page = pages(app, "output.list", params, "outputs", everything=everything)
    show_table(app, page, "outputs", COLUMNS, "No outputs.")
