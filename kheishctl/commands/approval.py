"""``kheishctl approval``: calls that wait for a person's yes or no."""

import json
from typing import Any

import click

from kheishctl import exits
from kheishctl.cli import (
    App,
    complete,
    given,
    mutating,
    noun,
    options,
    paged,
    pages,
    show_table,
    verb,
)
from kheishctl.client import Json, RequestRefused
from kheishctl.commands.watching import ApprovalWatch
from kheishctl.render import pending as asking
from kheishctl.render.layout import Column, Look, one_line, table

group = noun("approval", "Approvals: calls of tools that wait for a person's yes or no.")

STATUSES = ("pending", "allowed", "denied", "expired", "withdrawn", "any")

COLUMNS = (
    Column("APPROVAL", "approval_id"),
    Column("STATUS", asking.status_word),
    Column("TOOL", "tool"),
    Column("SUBJECT", "subject"),
    Column("AGENT", "agent"),
    Column("SENDER", "sender"),
    Column("ASKED", "requested_at_ms", "time"),
    Column("EXPIRES", "expires_at_ms", "time"),
    Column("RUN", "run_id"),
)

RESOLVED = (
    Column("RUN", "run_id"),
    Column("ANSWERED", lambda row: len(row["approvals"]), "count"),
    Column("WAITING", "pending", "count"),
    Column("NOTE", lambda row: row.get("error", {}).get("message")),
)

place = options(
    click.option(
        "--session",
        "session_id",
        metavar="SESSION",
        shell_complete=complete("sessions"),
        help="Only those of this session.",
    ),
    click.option(
        "--run", "run_id", metavar="RUN", shell_complete=complete("open_runs"), help="Only those of this run."
    ),
)
"""The options that say which are meant."""

_approvals = click.argument(
    "approval_ids",
    metavar="APPROVAL...",
    nargs=-1,
    required=True,
    shell_complete=complete("approvals"),
    help="The approval; several must be of one run.",
)
_justification = click.option("--justification", metavar="TEXT", help="Why; it is recorded, nothing more.")
_note = click.option("--note", metavar="TEXT", help="Why not; the model reads it.")


@verb(
    group,
    "list",
    method="approval.list",
    examples=("kheishctl approval list", "kheishctl approval list --run run_0EXAMPLE --status any --json"),
)
@place
@click.option(
    "--status", type=click.Choice(STATUSES), metavar="STATUS", help="Those with this status, or any."
)
@paged
def list_(app: App, everything: bool, **filters: Any) -> None:
    """List approvals: those that wait, oldest first."""
    page = pages(app, "approval.list", given(**filters), "approvals", everything=everything)
    show_table(app, page, "approvals", COLUMNS, "Nothing waits for an approval.")


@verb(group, "show", method="approval.get", examples=("kheishctl approval show apr_0EXAMPLE",))
@click.argument("approval_id", metavar="APPROVAL", shell_complete=complete("approvals"), help="The approval.")
def show(app: App, approval_id: str) -> None:
    """Show an approval with what it would allow: a diff, a command, or the call's input."""
    app.emit(app.call("approval.get", {"approval_id": approval_id}), asking.approval)


@verb(
    group,
    "allow",
    method="approval.resolve",
    examples=(
        "kheishctl approval allow apr_0EXAMPLE",
        "kheishctl approval allow apr_0EXAMPLE --remember session --uses 5",
        """kheishctl approval allow apr_0EXAMPLE --input '{"path": "b.txt", "content": "x"}'""",
    ),
)
@_approvals
@click.option("--input", "updated_input", metavar="JSON", help="Run it with this input instead.")
@click.option(
    "--remember",
    type=click.Choice(("once", "run", "session")),
    help="Let it hold for further calls of the tool on the same subject.",
)
@click.option("--uses", type=click.IntRange(1), metavar="N", help="For so many of them at most.")
@_justification
@mutating
def allow(
    app: App,
    approval_ids: tuple[str, ...],
    updated_input: str | None,
    idempotency_key: str | None,
    check: bool,
    **said: Any,
) -> None:
    """Allow calls of one run; it goes on once none of its calls waits any more.

    If somebody else was first, nothing is changed and the message says who.
    """
    if updated_input is not None and len(approval_ids) > 1:
        raise click.UsageError("--input is for one approval")
    answer = given(decision="allow", updated_input=_input(updated_input), **said)
    _resolve(app, approval_ids, answer, given(idempotency_key=idempotency_key, check=check))


@verb(
    group,
    "deny",
    method="approval.resolve",
    examples=("kheishctl approval deny apr_0EXAMPLE --note 'not in this directory'",),
)
@_approvals
@_note
@_justification
@mutating
def deny(
    app: App, approval_ids: tuple[str, ...], idempotency_key: str | None, check: bool, **said: Any
) -> None:
    """Deny calls of one run; the model reads the note and goes on without them."""
    answer = given(decision="deny", **said)
    _resolve(app, approval_ids, answer, given(idempotency_key=idempotency_key, check=check))


def _input(text: str | None) -> Json | None:
    if text is None:
        return None
    try:
        value: Json = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--input is not JSON: {error}") from None
    return value


def _resolve(app: App, approval_ids: tuple[str, ...], answer: Json, mutation: Json) -> None:
    resolutions = [answer | {"approval_id": approval_id} for approval_id in approval_ids]
    app.emit(app.call("approval.resolve", {"resolutions": resolutions} | mutation), _resolved)


def _resolved(result: Json, look: Look) -> str:
    lines = [f"{each['approval_id']} {asking.status_word(each)}" for each in result["approvals"]]
    if look.width is not None and result["pending"]:
        lines.append(f"{result['pending']} of {result['run_id']} still wait")
    return "\n".join(map(one_line, lines))


# All of them.


@verb(
    group,
    "allow-all",
    examples=("kheishctl approval allow-all --run run_0EXAMPLE",),
)
@place
@_justification
def allow_all(app: App, justification: str | None, **where: Any) -> None:
    """Allow everything that waits now, or waits in a session or run: run by run, each at once.

    What is asked for afterwards is not allowed by it.
    """
    _resolve_all(app, where, given(decision="allow", justification=justification))


@verb(
    group,
    "deny-all",
    examples=("kheishctl approval deny-all --session ses_0EXAMPLE --note 'stop here'",),
)
@place
@_note
@_justification
def deny_all(app: App, note: str | None, justification: str | None, **where: Any) -> None:
    """Deny everything that waits now, or waits in a session or run: run by run, each at once."""
    _resolve_all(app, where, given(decision="deny", note=note, justification=justification))


def _resolve_all(app: App, where: Json, answer: Json) -> None:
    """Answer run by run; one that somebody else answered meanwhile keeps nobody from the others."""
    page = pages(app, "approval.list", given(limit=500, **where), "approvals", everything=True)
    runs: list[Json] = []
    for run_id, approval_ids in _by_run(page["approvals"]).items():
        resolutions = [answer | {"approval_id": approval_id} for approval_id in approval_ids]
        try:
            result = app.call("approval.resolve", {"resolutions": resolutions})
            runs.append({"run_id": run_id, "approvals": approval_ids, "pending": result["pending"]})
        except RequestRefused as refused:
            runs.append({"run_id": run_id, "approvals": [], "error": refused.describe()})
    resolved = sum(len(run["approvals"]) for run in runs)
    app.emit(
        {"resolved": resolved, "runs": runs},
        lambda result, look: table(result["runs"], RESOLVED, look, "Nothing waits for an approval."),
    )
    if any("error" in run for run in runs):
        click.get_current_context().exit(exits.FAILED)


def _by_run(approvals: list[Json]) -> dict[str, list[str]]:
    """The approvals of each run: no more than one request takes, for no more wait."""
    by_run: dict[str, list[str]] = {}
    for approval in approvals:
        by_run.setdefault(approval["run_id"], []).append(approval["approval_id"])
    return by_run


# Watching.


@verb(
    group,
    "watch",
    examples=("kheishctl approval watch", "kheishctl approval watch --session ses_0EXAMPLE --json"),
)
@place
def watch(app: App, **where: Any) -> None:
    """Show approvals as they are asked for, and in a terminal answer them: a allows, d denies.

    Goes on until q or Ctrl-C, over restarts of the daemon. With --json, a line for every approval, and
    another when it is answered.
    """
    ApprovalWatch(app, given(**where)).run()
