"""``kheishctl hook``: the operator's lifecycle hooks, and their failures."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from kheishctl import exit_codes
from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.contract import Json
from kheishctl.options import drop_unset, id_argument, mutating, note_option, paged
from kheishctl.render.layout import Column, Display, format_record
from protocol.text import one_line, sanitize

group = make_group(
    "hook", "Lifecycle hooks: programs and servers of the operator. They watch events and may veto them."
)

COLUMNS = (
    Column("HOOK", "name"),
    Column("EVENT", "event"),
    Column("MATCHER", "matcher"),
    Column("ON FAILURE", lambda row: "block" if row.get("policy") == "closed" else "ignore"),
    Column("RUNS", "target"),
    Column("FILE", "path"),
)

LETTER_COLUMNS = (
    Column("FAILURE", "dead_letter_id"),
    Column("STATE", lambda row: row.get("state", "open")),
    Column("HOOK", "hook"),
    Column("EVENT", "event"),
    Column("SUBJECT", "subject"),
    Column("FAILED", "failed_at_ms", "time"),
    Column("PROBLEM", "problem"),
)

_hook = id_argument("name", "HOOK", "hooks")
_workspace = click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    metavar="DIR",
    callback=lambda context, option, path: None if path is None else str(path.expanduser().absolute()),
    help="Include the hooks of the trusted roots around this directory.",
)


@command(
    group,
    "list",
    method="hook.list",
    examples=("kheishctl hook list --event pre_tool_use", "kheishctl hook list --workspace ~/shop"),
)
@click.option("--event", metavar="EVENT", help="Only the hooks of this event.")
@_workspace
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List the operator's hooks by name, and on request those of a trusted workspace."""
    page = fetch_pages(app, "hook.list", drop_unset(**params), "hooks", everything=everything)
    show_table(app, page, "hooks", COLUMNS, "No hooks.")


@command(group, "show", alias="get", method="hook.get", examples=("kheishctl hook show guard",))
@_hook
@_workspace
def show(app: App, **params: Any) -> None:
    """Show a hook."""
    app.emit(app.call("hook.get", drop_unset(**params)), format_record)


@command(
    group,
    "test",
    method="hook.test",
    examples=(
        "kheishctl hook test guard --subject bash",
        "kheishctl hook test guard --preview",
        """kheishctl hook test guard '{"tool": "bash", "arguments": {"command": "rm -r /"}}'""",
    ),
)
@_hook
@click.argument(
    "payload", metavar="[JSON]", default="{}", help="The event's data; '-' reads it from standard input."
)
@click.option(
    "--subject",
    metavar="TEXT",
    help="The event's subject, such as the name of a tool (default: a typical one).",
)
@click.option("--preview", is_flag=True, help="Show what would be run and its input, and run nothing.")
@_workspace
def test(app: App, payload: str, preview: bool, **params: Any) -> None:
    """Run a hook with a sample event, and show its input and its outcome; nothing follows from it.

    The hook's program really runs. The exit code is 1 if it failed.
    """
    try:
        content = json.loads(sys.stdin.buffer.read() if payload == "-" else payload)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"the event's data is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise click.UsageError("the event's data is a JSON object")
    params = drop_unset(**params, payload=content)
    if preview:
        reference: Json = {field: params[field] for field in params.keys() & {"name", "workspace"}}
        hook = app.call("hook.get", reference)
        directory = hook.get("workspace") or os.path.dirname(hook["path"])
        place = "" if hook["executor"] == "http" else f" in {directory}"
        result = app.call("hook.test", {**params, "preview": True})
        app.emit(result, lambda trial, display: _format_preview(trial, f"{hook['target']}{place}"))
        return
    result = app.call("hook.test", params)
    app.emit(result, _format_trial)
    has_failed = result.get("outcome") is None
    click.get_current_context().exit(exit_codes.FAILED if has_failed else exit_codes.OK)


def _format_preview(trial: Json, target: str) -> str:
    effect = "runs" if trial["matches"] else "does not run, because its matcher does not match,"
    lines = [one_line(f"For this event the hook '{trial['hook']}' {effect}: {target}"), "", "Its input:"]
    return "\n".join([*lines, sanitize(json.dumps(trial["payload"], indent=2, ensure_ascii=False))])


def _format_trial(result: Json, display: Display) -> str:
    shown = {key: value for key, value in result.items() if key not in ("payload", "outcome")}
    lines = [format_record(shown, display), "", "Its input:"]
    lines.append(sanitize(json.dumps(result["payload"], indent=2, ensure_ascii=False)))
    outcome = result.get("outcome")
    if outcome is None:
        lines += ["", one_line(f"It failed: {result.get('problem', '')}")]
    else:
        lines += ["", "Its outcome:", sanitize(json.dumps(outcome, indent=2, ensure_ascii=False))]
    return "\n".join(lines)


@command(
    group,
    "dead-letters",
    method="hook.dead_letters",
    examples=("kheishctl hook dead-letters", "kheishctl hook dead-letters --state any --json"),
)
@click.option(
    "--state",
    type=click.Choice(("open", "resolved", "any")),
    metavar="STATE",
    help="Filter by state: open, resolved or any (default: open).",
)
@paged
def dead_letters(app: App, everything: bool, **params: Any) -> None:
    """List the failures of hooks, oldest first."""
    page = fetch_pages(app, "hook.dead_letters", drop_unset(**params), "dead_letters", everything=everything)
    show_table(app, page, "dead_letters", LETTER_COLUMNS, "No failures.")


@command(
    group,
    "resolve",
    method="hook.resolve",
    examples=("kheishctl hook resolve hkf_0EXAMPLE --note 'the server is back'",),
)
@click.argument("dead_letter_id", metavar="FAILURE", help="The failure.")
@note_option
@mutating
def resolve(app: App, **params: Any) -> None:
    """Note that the failure of a hook is dealt with; nothing is run again."""
    app.emit(app.call("hook.resolve", drop_unset(**params)), format_record)
