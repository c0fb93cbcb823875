"""``kheishctl run``: the runs of sessions."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from kheishctl import exit_codes
from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.client import Failure
from kheishctl.contract import MAX_DEBUG_TEXT_BYTES, RUN_STATUSES, RUN_WAITING, Json
from kheishctl.options import (
    drop_unset,
    id_argument,
    mutating,
    note_option,
    oldest_option,
    paged,
    run_argument,
    session_filter,
    status_option,
    timeout_option,
)
from kheishctl.render.layout import Column, format_table
from kheishctl.render.messages import STOP_NOTES
from kheishctl.render.run import describe_outcome, explain_run, format_run, paint_status
from kheishctl.render.units import format_money
from protocol.text import sanitize

group = make_group("run", "Runs: each run answers one input, with settings fixed at acceptance.")

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
    Column("COST", lambda row: format_money(row.get("cost"))),
    Column("SESSION", "session_id"),
)

_open_run = id_argument("run_id", "RUN", "open_runs")


@command(
    group,
    "list",
    method="run.list",
    examples=("kheishctl run list --active", "kheishctl run list --status failed --json"),
)
@session_filter
@status_option(RUN_STATUSES)
@click.option("--active", is_flag=True, help="Only unfinished runs.")
@oldest_option
@paged
def list_(app: App, oldest: bool, everything: bool, **filters: Any) -> None:
    """List runs, newest first."""
    params = drop_unset(order="oldest" if oldest else None, **filters)
    page = fetch_pages(app, "run.list", params, "runs", everything=everything)
    show_table(app, page, "runs", COLUMNS, "No runs.")


def add_run_details(call: Callable[[str, Json], Any], run: Json) -> Json:
    """Add the pending requests and an unusual stop reason to a run or to the result of a send.

    Shape:  ``waiting``, by kind, for a run that waits for a person; ``stop_reason`` for an answer that was
            cut off. If the daemon refuses or does not answer, the run is returned without these details.
    """
    try:
        if run.get("status") in RUN_WAITING:
            params = {"run_id": run["run_id"]}
            kinds = (("approval.list", "approvals"), ("question.list", "questions"))
            waiting = {plural: call(method, params)[plural] for method, plural in kinds}
            if run["status"] == "waiting_for_event":
                newest = {"types": ["event_awaited"], "order": "newest", "limit": 1}
                waiting["events"] = call("journal.read", params | newest)["events"]
            return run | {"waiting": {plural: rows for plural, rows in waiting.items() if rows}}
        if run.get("status") == "completed":
            newest = {"types": ["message_appended"], "order": "newest", "limit": 1}
            events = call("journal.read", {"run_id": run["run_id"], **newest})["events"]
            reason = events[0].get("stop_reason") if events else None
            return run | ({"stop_reason": reason} if reason in STOP_NOTES else {})
    except Failure:
        pass
    return run


@command(group, "show", alias="get", method="run.get", examples=("kheishctl run show run_0EXAMPLE",))
@run_argument
def show(app: App, run_id: str) -> None:
    """Show the state of a run: its calls, its pending requests, its working time and token usage.

    With --json, the pending requests are in 'waiting', and the routes and keys that the run passed over in
    'passed_over'.
    """
    run = add_run_details(app.call, app.call("run.get", {"run_id": run_id}))
    if run["pinned"].get("fallbacks") or run["pinned"].get("auth_refs"):
        run |= drop_unset(passed_over=_find_passed_over(app, run_id))
    app.emit(run, format_run)
    for line in explain_run(run, app.command_line):
        app.note(line)


def _find_passed_over(app: App, run_id: str) -> list[str]:
    """Return the routes and keys that the newest calls of a run passed over, each with its last reason."""
    types = ["message_appended", "model_failed"]
    page = app.call("journal.read", {"run_id": run_id, "types": types, "order": "newest"})
    notes = [note for event in reversed(page["events"]) for note in event.get("passed_over", ())]
    return list({note.partition(": ")[0]: note for note in notes}.values())


@command(group, "wait", method="run.wait", examples=("kheishctl run wait --timeout 5m run_0EXAMPLE",))
@_open_run
@timeout_option
def wait(app: App, run_id: str, timeout: float | None) -> None:
    """Wait until a run has ended or waits for a person; print its answer.

    The exit code reports the outcome, see 'kheishctl --help'.
    """
    run = add_run_details(app.call, app.call("run.wait", drop_unset(run_id=run_id, timeout_s=timeout)))
    code = exit_codes.code_for_run(run)
    output = str(run.get("output") or "") if code != exit_codes.CONTRACT_VIOLATED else ""
    app.emit(run, lambda _, display: output if display.width is None else sanitize(output))
    for line in filter(None, [describe_outcome(run, app.command_line), *explain_run(run, app.command_line)]):
        app.note(line)
    click.get_current_context().exit(code)


ARTIFACT_COLUMNS = (
    Column("ARTIFACT", "artifact_id"),
    Column("SIZE", "bytes", "size"),
    Column("WRITTEN", "at_ms", "time"),
    Column("", lambda row: "truncated" if row["truncated"] else ""),
)


@command(
    group,
    "debug",
    method="run.debug",
    examples=(
        "kheishctl send --debug full default 'What is a bell?'",
        "kheishctl run debug run_0EXAMPLE",
        "kheishctl run debug run_0EXAMPLE turn-0001-attempt-0001-request.json | jq .body",
    ),
)
@run_argument
@click.argument("artifact", required=False, help="The artifact to print; without it, they are listed.")
def debug(app: App, run_id: str, artifact: str | None) -> None:
    """List the debug captures of a run's model calls, or print one.

    [debug] in config.toml, or --debug of a send, enables captures: 'redacted' keeps the structure of requests
    and answers with lengths and digests instead of texts, 'full' keeps the texts. Neither keeps credentials.
    Each call has its request, the provider's events, and the result. Captures are files in <home>/debug; they
    are removed after a week and are not part of a backup.
    """
    if artifact is None:
        result = app.call("run.debug", {"run_id": run_id})
        app.emit(result, lambda page, display: format_table(page["artifacts"], ARTIFACT_COLUMNS, display))
        return
    parts = _read_artifact(app, {"run_id": run_id, "artifact": artifact})
    if app.as_json:
        pages = list(parts)
        app.print_json({**pages[-1], "text": "".join(page["text"] for page in pages)})
        return
    text = ""
    for part in parts:
        text = sanitize(part["text"]) if sys.stdout.isatty() else part["text"]
        sys.stdout.write(text)
    sys.stdout.write("" if text.endswith("\n") else "\n")


def _read_artifact(app: App, params: Json) -> Iterator[Json]:
    offset: int | None = 0
    while offset is not None:
        page: Json = app.call("run.debug", {**params, "limit": MAX_DEBUG_TEXT_BYTES, "offset": offset})
        yield page
        offset = page.get("next")


@command(
    group,
    "cancel",
    method="run.cancel",
    examples=("kheishctl run cancel run_0EXAMPLE --note 'not needed any more'",),
)
@_open_run
@note_option
@mutating
def cancel(app: App, **params: Any) -> None:
    """Cancel a queued or running run.

    Returns when the run has stopped.
    """
    result = app.call("run.cancel", drop_unset(**params))
    app.emit(result, lambda run, display: f"{run['run_id']} {paint_status(run['status'], display)}")
