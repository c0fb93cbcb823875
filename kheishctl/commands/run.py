"""``kheishctl run``: what answers an input."""

import sys
from typing import Any

import click

from kheishctl import exits
from kheishctl.outcome import looked_into, run_text, sentences
from kheishctl.render import outcome, status_word
from kheishctl.text import Column, Look, clean, facts
from kheishctl.verb import (
    App,
    Duration,
    complete,
    given,
    mutating,
    noun,
    paged,
    pages,
    show_table,
    verb,
)

group = noun("run", "Runs: what answers an input, with everything it uses pinned at acceptance.")

STATUSES = (
    "queued",
    "running",
    "waiting_for_approval",
    "waiting_for_user_question",
    "completed",
    "failed",
    "cancelled",
    "interrupted",
)
COLUMNS = (
    Column("RUN", "run_id"),
    Column("STATUS", "status"),
    Column("AGENT", "agent"),
    Column("SENDER", "sender"),
    Column("ACCEPTED", "accepted_at_ms", "time"),
    Column("ROUTE", lambda row: row["pinned"]["route"]),
    Column(
        "TOKENS",
        lambda row: sum(map((row.get("usage") or {}).get, ("input_tokens", "output_tokens"), (0, 0))),
        "count",
    ),
    Column("SESSION", "session_id"),
)


@verb(
    group,
    "list",
    method="run.list",
    examples=("kheishctl run list --active", "kheishctl run list --status failed --json"),
)
@click.option(
    "--session",
    "session_id",
    metavar="SESSION",
    shell_complete=complete("sessions"),
    help="Only those of this session.",
)
@click.option("--status", type=click.Choice(STATUSES), metavar="STATUS", help="Only those with this status.")
@click.option("--active", is_flag=True, help="Only those that have not ended.")
@click.option("--oldest", is_flag=True, help="Oldest first, not newest.")
@paged
def list_(app: App, oldest: bool, everything: bool, **filters: Any) -> None:
    """List runs, newest first."""
    params = given(order="oldest" if oldest else None, **filters)
    page = pages(app, "run.list", params, "runs", everything=everything)
    show_table(app, page, "runs", COLUMNS, "No runs.")


@verb(group, "get", method="run.get")
@click.argument("run_id", metavar="RUN", shell_complete=complete("runs"), help="The run.")
def get(app: App, run_id: str) -> None:
    """Show one run."""
    app.emit(app.call("run.get", {"run_id": run_id}), facts)


@verb(group, "show", examples=("kheishctl run show run_0EXAMPLE",))
@click.argument("run_id", metavar="RUN", shell_complete=complete("runs"), help="The run.")
def show(app: App, run_id: str) -> None:
    """Show how a run stands: its calls in flight, what it waits for, what it took.

    With --json it is what 'kheishctl run get' gives, and what is 'waiting'.
    """
    run = looked_into(app.call, app.call("run.get", {"run_id": run_id}))
    app.emit(run, run_text)
    for sentence in sentences(run, app.typed):
        app.note(sentence)


@verb(group, "wait", method="run.wait", examples=("kheishctl run wait --timeout 5m run_0EXAMPLE",))
@click.argument("run_id", metavar="RUN", shell_complete=complete("open_runs"), help="The run.")
@click.option("--timeout", type=Duration(), metavar="TIME", help="Wait at most so long (90s, 15m).")
def wait(app: App, run_id: str, timeout: float | None) -> None:
    """Wait until a run has ended or waits for a person; print its answer.

    The exit code tells the outcome, see 'kheishctl --help'.
    """
    run = looked_into(app.call, app.call("run.wait", given(run_id=run_id, timeout_s=timeout)))
    app.emit(run, _answer)
    for sentence in filter(None, [outcome(run), *sentences(run, app.typed)]):
        app.note(sentence)
    click.get_current_context().exit(exits.of_status(str(run["status"])))


def _answer(run: dict[str, Any], look: Look) -> str:
    output = str(run.get("output") or "")
    return clean(output) if sys.stdout.isatty() else output


@verb(group, "cancel", method="run.cancel")
@click.argument("run_id", metavar="RUN", shell_complete=complete("open_runs"), help="The run.")
@click.option("--reason", help="Why; it is kept in the journal.")
@mutating
def cancel(app: App, run_id: str, reason: str | None, **mutation: Any) -> None:
    """Cancel a run, queued or in flight.

    Returns when the run has stopped.
    """
    result = app.call("run.cancel", given(run_id=run_id, reason=reason, **mutation))
    app.emit(result, lambda run, look: f"{run['run_id']} {status_word(run['status'], look)}")
