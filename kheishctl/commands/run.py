"""``kheishctl run``: what answers an input."""

import sys
from collections.abc import Iterator
from typing import Any

import click

from kheishctl import exits
from kheishctl.cli import (
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
from kheishctl.render.events import outcome, status_word
from kheishctl.render.layout import Column, Look, clean, facts, money, table
from kheishctl.render.run import looked_into, run_text, sentences
from protocol.limits.debug import MAX_DEBUG_TEXT_BYTES

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
    Column("COST", lambda row: money(row.get("cost"))),
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


@verb(group, "get", method="run.get", examples=("kheishctl run get run_0EXAMPLE --json",))
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


ARTIFACTS = (
    Column("ARTIFACT", "artifact_id"),
    Column("SIZE", "bytes", "size"),
    Column("WRITTEN", "at_ms", "time"),
    Column("", lambda row: "truncated" if row["truncated"] else ""),
)


@verb(
    group,
    "debug",
    method="run.debug",
    examples=(
        "kheishctl send --debug full default 'What is a bell?'",
        "kheishctl run debug run_0EXAMPLE",
        "kheishctl run debug run_0EXAMPLE turn-0001-attempt-0001-request.json | jq .body",
    ),
)
@click.argument("run_id", metavar="RUN", shell_complete=complete("runs"), help="The run.")
@click.argument("artifact", required=False, help="What to print; without it, what there is.")
def debug(app: App, run_id: str, artifact: str | None) -> None:
    """List what was captured of a run's model calls, or print a part of it.

    What is captured is said by [debug] in config.toml, or by --debug of a send: 'redacted' keeps the
    structure of requests and answers with lengths and digests in the place of texts, 'full' keeps them
    whole. Neither keeps credentials. Each call has a request, the provider's events as they came, and what
    came of them. Captures are files in <home>/debug; they are removed after a week, and are no part of a
    backup.
    """
    if artifact is None:
        found = app.call("run.debug", {"run_id": run_id})
        app.emit(found, lambda result, look: table(result["artifacts"], ARTIFACTS, look))
        return
    parts = _parts(app, {"run_id": run_id, "artifact": artifact})
    if app.as_json:
        read = list(parts)
        app.document({**read[-1], "text": "".join(part["text"] for part in read)})
        return
    text = ""
    for part in parts:
        text = clean(part["text"]) if sys.stdout.isatty() else part["text"]
        sys.stdout.write(text)
    sys.stdout.write("" if text.endswith("\n") else "\n")


def _parts(app: App, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """An artifact, part by part."""
    part = {**params, "limit": MAX_DEBUG_TEXT_BYTES}
    offset: int | None = 0
    while offset is not None:
        page: dict[str, Any] = app.call("run.debug", {**part, "offset": offset})
        yield page
        offset = page.get("next")


@verb(
    group,
    "cancel",
    method="run.cancel",
    examples=("kheishctl run cancel run_0EXAMPLE --note 'not needed any more'",),
)
@click.argument("run_id", metavar="RUN", shell_complete=complete("open_runs"), help="The run.")
@click.option("--note", help="Why; it is kept in the journal.")
@mutating
def cancel(app: App, run_id: str, note: str | None, **mutation: Any) -> None:
    """Cancel a run, queued or in flight.

    Returns when the run has stopped.
    """
    result = app.call("run.cancel", given(run_id=run_id, note=note, **mutation))
    app.emit(result, lambda run, look: f"{run['run_id']} {status_word(run['status'], look)}")
