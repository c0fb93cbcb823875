"""``kheishctl approval``: tool calls that need a person's approval."""

from typing import Any

import click

from kheishctl import exit_codes
from kheishctl.cli import App, command, fetch_pages, make_group, note_empty, show_table
from kheishctl.client import RequestRefused
from kheishctl.commands.approval_watch import ApprovalWatch
from kheishctl.contract import APPROVAL_FILTERS, MAX_PAGE_ROWS, REMEMBER, Json
from kheishctl.options import (
    JsonValue,
    ObjectId,
    PickedArgument,
    WholeNumber,
    answer_as_option,
    complete,
    drop_unset,
    id_argument,
    mutating,
    paged,
    request_filters,
    status_option,
)
from kheishctl.render.layout import Column, Display, format_table
from kheishctl.render.pending import format_approval, format_status
from protocol.text import one_line

group = make_group("approval", "Approvals: tool calls that need a person's approval.")

COLUMNS = (
    Column("APPROVAL", "approval_id"),
    Column("STATUS", format_status),
    Column("TOOL", "tool"),
    Column("SUBJECT", "subject"),
    Column("AGENT", "agent"),
    Column("SENDER", "sender"),
    Column("REQUESTED", "requested_at_ms", "time"),
    Column("EXPIRES", "expires_at_ms", "time"),
    Column("RUN", "run_id"),
)

RESOLVED_COLUMNS = (
    Column("RUN", "run_id"),
    Column("RESOLVED", lambda row: len(row["approvals"]), "count"),
    Column("PENDING", "pending", "count"),
    Column("NOTE", lambda row: row.get("error", {}).get("message")),
)

NONE_PENDING = "No approvals are pending."

_approvals = click.argument(
    "approval_ids",
    metavar="APPROVAL...",
    nargs=-1,
    required=True,
    cls=PickedArgument,
    kind="approvals",
    offers=lambda row: True,
    type=ObjectId("approvals"),
    shell_complete=complete("approvals"),
    help="The approvals; all must belong to one run.",
)
_justification = click.option(
    "--justification", metavar="TEXT", help="A justification, which is only recorded."
)
_note = click.option("--note", metavar="TEXT", help="A note for the model.")


@command(
    group,
    "list",
    method="approval.list",
    examples=("kheishctl approval list", "kheishctl approval list --session ses_0EXAMPLE --status any"),
)
@request_filters
@status_option(APPROVAL_FILTERS, "pending")
@paged
def list_(app: App, everything: bool, **filters: Any) -> None:
    """List pending approvals, oldest first."""
    page = fetch_pages(app, "approval.list", drop_unset(**filters), "approvals", everything=everything)
    show_table(app, page, "approvals", COLUMNS, NONE_PENDING)
    note_empty(app, page["approvals"], NONE_PENDING)


@command(group, "show", method="approval.get", examples=("kheishctl approval show apr_0EXAMPLE",))
@id_argument("approval_id", "APPROVAL", "approvals")
def show(app: App, approval_id: str) -> None:
    """Show an approval and the call that it allows: a diff, a command, or the call's input."""
    app.emit(app.call("approval.get", {"approval_id": approval_id}), format_approval)


@command(
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
@click.option(
    "--input", "updated_input", type=JsonValue(), metavar="JSON", help="Run the call with this input instead."
)
@click.option(
    "--remember",
    type=click.Choice(REMEMBER),
    help="Remember this approval for later calls with the same subject.",
)
@click.option("--uses", type=WholeNumber(1), metavar="N", help="Use the remembered approval at most N times.")
@_justification
@answer_as_option
@mutating
def allow(app: App, approval_ids: tuple[str, ...], updated_input: Any, **params: Any) -> None:
    """Allow calls of one run; it resumes when none of its calls is pending.

    If another person answered first, nothing is changed and the message names that person.
    """
    if updated_input is not None and len(approval_ids) > 1:
        raise click.UsageError("--input is for one approval")
    names = ("remember", "uses", "justification")
    answer = {"updated_input": updated_input} | {name: params.pop(name) for name in names}
    _resolve(app, approval_ids, drop_unset(decision="allow", **answer), drop_unset(**params))


@command(
    group,
    "deny",
    method="approval.resolve",
    examples=("kheishctl approval deny apr_0EXAMPLE --note 'not in this directory'",),
)
@_approvals
@_note
@_justification
@answer_as_option
@mutating
def deny(
    app: App, approval_ids: tuple[str, ...], note: str | None, justification: str | None, **params: Any
) -> None:
    """Deny calls of one run; the model reads the note and continues without them."""
    answer = drop_unset(decision="deny", note=note, justification=justification)
    _resolve(app, approval_ids, answer, drop_unset(**params))


def _resolve(app: App, approval_ids: tuple[str, ...], answer: Json, params: Json) -> None:
    resolutions = [answer | {"approval_id": approval_id} for approval_id in approval_ids]
    app.emit(app.call("approval.resolve", {"resolutions": resolutions} | params), _format_resolved)


def _format_resolved(result: Json, display: Display) -> str:
    lines = [f"{approval['approval_id']} {format_status(approval)}" for approval in result["approvals"]]
    if display.width is not None and result["pending"]:
        lines.append(f"{result['run_id']} has {result['pending']} more pending")
    return "\n".join(map(one_line, lines))


# Many approvals together.


@command(group, "allow-all", examples=("kheishctl approval allow-all --run run_0EXAMPLE",))
@request_filters
@_justification
@answer_as_option
def allow_all(app: App, justification: str | None, sender: str | None, **filters: Any) -> None:
    """Allow all pending approvals, optionally of one session or run; each run's approvals together.

    Later approvals are not included.
    """
    _resolve_all(app, filters, drop_unset(decision="allow", justification=justification), sender)


@command(
    group, "deny-all", examples=("kheishctl approval deny-all --session ses_0EXAMPLE --note 'stop here'",)
)
@request_filters
@_note
@_justification
@answer_as_option
def deny_all(
    app: App, note: str | None, justification: str | None, sender: str | None, **filters: Any
) -> None:
    """Deny all pending approvals, optionally of one session or run; each run's approvals together."""
    answer = drop_unset(decision="deny", note=note, justification=justification)
    _resolve_all(app, filters, answer, sender)


def _resolve_all(app: App, filters: Json, answer: Json, sender: str | None) -> None:
    """Answer run by run. A run that another person answered meanwhile does not stop the others."""
    params = drop_unset(limit=MAX_PAGE_ROWS, **filters)
    page = fetch_pages(app, "approval.list", params, "approvals", everything=True)
    # The approvals of one run fit one request, because the daemon limits how many can be pending.
    by_run: dict[str, list[str]] = {}
    for approval in page["approvals"]:
        by_run.setdefault(approval["run_id"], []).append(approval["approval_id"])
    runs: list[Json] = []
    for run_id, approval_ids in by_run.items():
        resolutions = [answer | {"approval_id": approval_id} for approval_id in approval_ids]
        try:
            result = app.call("approval.resolve", drop_unset(resolutions=resolutions, sender=sender))
            runs.append({"run_id": run_id, "approvals": approval_ids, "pending": result["pending"]})
        except RequestRefused as refused:
            runs.append({"run_id": run_id, "approvals": [], "error": refused.describe()})
    app.emit(
        {"resolved": sum(len(run["approvals"]) for run in runs), "runs": runs},
        lambda result, display: format_table(result["runs"], RESOLVED_COLUMNS, display, NONE_PENDING),
    )
    note_empty(app, runs, NONE_PENDING)
    if any("error" in run for run in runs):
        click.get_current_context().exit(exit_codes.FAILED)


@command(
    group,
    "watch",
    examples=("kheishctl approval watch", "kheishctl approval watch --session ses_0EXAMPLE --json"),
)
@request_filters
def watch(app: App, **filters: Any) -> None:
    """Show approvals as they are requested; in a terminal, answer them: a allows, d denies.

    Stops at q or Ctrl-C, and continues when the daemon restarts. With --json, prints a line for every
    approval, and another line when it is answered.
    """
    ApprovalWatch(app, drop_unset(**filters)).run()
