"""``kheishctl session``: the durable units of work."""

import json
from typing import Any

import click

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
    workspace_option,
)
from kheishctl.client import Json
from kheishctl.commands.conversation import compact_options, show_history, sum_up
from kheishctl.commands.send import deliver, delivery_options, pairs, spoken
from kheishctl.commands.transfer import export, import_
from kheishctl.options import SchemaFile, contract
from kheishctl.render.layout import Column, facts

group = noun("session", "Sessions: the durable units of work, each with its own journal.")
group.add_command(export)
group.add_command(import_)

MODES = ("default", "acceptEdits", "plan", "dontAsk", "bypassPermissions")
CLEARABLE = (
    "permission_mode",
    "workspace",
    "route",
    "model",
    "metadata",
    "input_contract",
    "output_contract",
)
COLUMNS = (
    Column("SESSION", "session_id"),
    Column("STATUS", lambda row: "busy" if row.get("open_runs") else row.get("status", "open")),
    Column("AGENT", "agent"),
    Column("SENDER", "sender"),
    Column("RUNS", "runs", "count"),
    Column("UPDATED", "updated_at_ms", "time"),
    Column("TITLE", "title"),
)

contract_options = options(
    click.option(
        "--input-contract",
        type=SchemaFile(),
        metavar="FILE",
        help="Take only JSON that fits the JSON Schema in this file.",
    ),
    click.option(
        "--output-contract",
        type=SchemaFile(),
        metavar="FILE",
        help="Its runs must answer with JSON that fits the JSON Schema in this file.",
    ),
)


def _contracts(input_contract: Json | None, output_contract: Json | None) -> Json:
    return given(input_contract=contract(input_contract), output_contract=contract(output_contract))


_session = click.argument(
    "session_id", metavar="SESSION", shell_complete=complete("sessions"), help="The session."
)


@verb(
    group,
    "create",
    method="session.create",
    examples=("kheishctl session create --agent reviewer --title 'Release 2'",),
)
@click.option("--id", "session_id", metavar="ID", help="An id of your own; else one is made.")
@click.option(
    "--agent", metavar="AGENT", shell_complete=complete("agents"), help="The agent; else the default."
)
@click.option("--title", help="A title, for people.")
@click.option("--parent", "parent_session_id", metavar="SESSION", help="The session that this is a child of.")
@click.option("--scope", metavar="JSON", help='What it may use at most: {"tools": ["read_file"]}.')
@click.option("--permission-mode", type=click.Choice(MODES), help="How tools ask for permission.")
@workspace_option
@click.option("--route", metavar="ROUTE", shell_complete=complete("routes"), help="The route of its runs.")
@click.option("--model", metavar="MODEL", help="The model of its runs.")
@click.option("--metadata", "-m", multiple=True, metavar="KEY=VALUE", help="Keep this with it.")
@contract_options
@mutating
def create(
    app: App,
    scope: str | None,
    metadata: tuple[str, ...],
    input_contract: Json | None,
    output_contract: Json | None,
    **properties: Any,
) -> None:
    """Make a session, or give the one of that id if its properties are the same."""
    params = given(scope=_scope(scope), metadata=pairs(metadata) or None, **properties)
    params |= _contracts(input_contract, output_contract)
    app.emit(app.call("session.create", params), facts)


@verb(group, "list", method="session.list", examples=("kheishctl session list --agent default --all",))
@click.option("--agent", metavar="AGENT", shell_complete=complete("agents"), help="Only those of this agent.")
@click.option(
    "--as",
    "--sender",
    "sender",
    metavar="SENDER",
    shell_complete=complete("senders"),
    help="Only those of this sender.",
)
@click.option("--status", type=click.Choice(("open", "ended")), help="Only those with this status.")
@click.option("--parent", "parent_session_id", metavar="SESSION", help="Only the children of this one.")
@click.option("--sidechains", is_flag=True, help="Also children that have ended.")
@click.option("--oldest", is_flag=True, help="Oldest first, not newest.")
@paged
def list_(app: App, oldest: bool, everything: bool, **filters: Any) -> None:
    """List sessions, newest first."""
    params = given(order="oldest" if oldest else None, **filters)
    page = pages(app, "session.list", params, "sessions", everything=everything)
    show_table(app, page, "sessions", COLUMNS, "No sessions yet: 'kheishctl send' starts one.")


@verb(group, "get", method="session.get", examples=("kheishctl session get ses_0EXAMPLE",))
@_session
def get(app: App, session_id: str) -> None:
    """Show one session."""
    app.emit(app.call("session.get", {"session_id": session_id}), facts)


@verb(
    group,
    "update",
    method="session.update",
    examples=(
        "kheishctl session update ses_0EXAMPLE --route cheap",
        "kheishctl session update ses_0EXAMPLE --clear route --clear model",
    ),
)
@_session
@click.option("--scope", metavar="JSON", help="What it may use at most; only ever less than before.")
@click.option("--permission-mode", type=click.Choice(MODES), help="How tools ask for permission.")
@workspace_option
@click.option("--route", metavar="ROUTE", shell_complete=complete("routes"), help="The route of future runs.")
@click.option("--model", metavar="MODEL", help="The model of future runs.")
@click.option("--metadata", "-m", multiple=True, metavar="KEY=VALUE", help="What is kept with it, all of it.")
@click.option(
    "--clear", multiple=True, type=click.Choice(CLEARABLE), help="Take a property away; repeat for more."
)
@contract_options
@mutating
def update(
    app: App,
    session_id: str,
    scope: str | None,
    metadata: tuple[str, ...],
    clear: tuple[str, ...],
    input_contract: Json | None,
    output_contract: Json | None,
    **properties: Any,
) -> None:
    """Change properties of a session; future runs use them."""
    params = given(session_id=session_id, scope=_scope(scope), metadata=pairs(metadata) or None, **properties)
    params |= _contracts(input_contract, output_contract)
    params |= {name: {} if name == "metadata" else None for name in clear}
    app.emit(app.call("session.update", params), facts)


def _scope(text: str | None) -> Json | None:
    if text is None:
        return None
    try:
        value: Json = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--scope is not JSON: {error}") from None
    return value


@verb(group, "send", method="session.send", examples=("kheishctl session send ses_0EXAMPLE 'Go on.'",))
@_session
@click.argument("text", nargs=-1, help="What to say; without it, or with '-', standard input.")
@click.option("--as", "sender", metavar="SENDER", shell_complete=complete("senders"), help="Who is speaking.")
@delivery_options
def send(app: App, session_id: str, text: tuple[str, ...], sender: str | None, **options: Any) -> None:
    """Send input to a session and print the answer."""
    address = given(session_id=session_id, sender=sender)
    deliver(app, "session.send", address, spoken(app, text, session_id), **options)


@verb(group, "steer", method="session.steer", examples=("kheishctl session steer ses_0EXAMPLE 'Be brief.'",))
@_session
@click.argument("text", nargs=-1, help="What to say; without it, or with '-', standard input.")
@click.option("--as", "sender", metavar="SENDER", shell_complete=complete("senders"), help="Who is speaking.")
@mutating
def steer(app: App, session_id: str, text: tuple[str, ...], sender: str | None, **mutation: Any) -> None:
    """Say something to the run in flight; its model reads it before its next answer."""
    params = given(session_id=session_id, sender=sender, content=spoken(app, text, session_id), **mutation)
    app.emit(app.call("session.steer", params), facts)


@verb(group, "compact", method="session.compact", examples=("kheishctl session compact ses_0EXAMPLE",))
@_session
@compact_options
def compact(app: App, session_id: str, **options: Any) -> None:
    """Have a session summed up; its model reads the summary from now on. It must be idle."""
    sum_up(app, "session.compact", {"session_id": session_id}, **options)


@verb(
    group,
    "fork",
    method="session.fork",
    examples=("kheishctl session fork ses_0EXAMPLE", "kheishctl session fork ses_0EXAMPLE --at 4711"),
)
@_session
@click.option("--at", type=int, metavar="CURSOR", help="As it was there, in place of as it is now.")
@click.option("--title", help="A title, for people; else the same.")
@click.option(
    "--agent", metavar="AGENT", shell_complete=complete("agents"), help="Another agent; else the same."
)
@mutating
def fork(app: App, **params: Any) -> None:
    """Make a session that goes on from where another one is, or was at a cursor.

    No agent and sender mean it: speak in it with 'kheishctl session send'.
    """
    app.emit(app.call("session.fork", given(**params)), facts)


@verb(
    group,
    "history",
    method="session.history",
    examples=("kheishctl session history ses_0EXAMPLE --newest --limit 5",),
)
@_session
@click.option("--newest", is_flag=True, help="Start with the newest messages.")
@paged
def history(
    app: App, session_id: str, newest: bool, limit: int | None, after: str | None, everything: bool
) -> None:
    """Read a session's messages."""
    params = given(session_id=session_id, limit=limit, after=after, order="newest" if newest else None)
    show_history(app, "session.history", params, newest=newest, everything=everything)


@verb(
    group, "rename", method="session.rename", examples=("kheishctl session rename ses_0EXAMPLE 'Release 2'",)
)
@_session
@click.argument("title", required=False, help="The title; without it, the session has none.")
@mutating
def rename(app: App, session_id: str, title: str | None, **mutation: Any) -> None:
    """Give a session a title, or take it away."""
    params = {"session_id": session_id, "title": title or None, **given(**mutation)}
    app.emit(app.call("session.rename", params), facts)


@verb(group, "interrupt", method="session.interrupt", examples=("kheishctl session interrupt ses_0EXAMPLE",))
@_session
@click.option("--note", help="Why; it is kept in the journal.")
@mutating
def interrupt(app: App, session_id: str, note: str | None, **mutation: Any) -> None:
    """Interrupt the run in flight; queued ones go on.

    Returns when the run has stopped.
    """
    result = app.call("session.interrupt", given(session_id=session_id, note=note, **mutation))
    app.emit(result, lambda r, _: f"interrupted {r['run_id']}" if r["interrupted"] else "nothing was running")


@verb(
    group, "end", method="session.end", examples=("kheishctl session end ses_0EXAMPLE --note 'it is done'",)
)
@_session
@click.option("--note", help="Why; it is kept in the journal.")
@mutating
def end(app: App, session_id: str, note: str | None, **mutation: Any) -> None:
    """End a session for good; it must be idle. Its journal stays readable."""
    app.emit(app.call("session.end", given(session_id=session_id, note=note, **mutation)), facts)
