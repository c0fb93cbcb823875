"""``kheishctl session``: create, use, fork and end sessions."""

import time
from typing import Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.commands.conversation import compact_options, run_compaction, show_history
from kheishctl.commands.send import send_message, send_options
from kheishctl.commands.transfer import export, import_, key, verify
from kheishctl.contract import (
    BUSY_POLICIES,
    PERMISSION_MODES,
    PROFILES,
    SESSION_EMPTY,
    SESSION_STATUSES,
    Json,
)
from kheishctl.message_text import read_text
from kheishctl.options import (
    Duration,
    JsonValue,
    SchemaFile,
    WholeNumber,
    author_options,
    budget_options,
    conversation_filters,
    drop_unset,
    make_contract,
    metadata_option,
    mutating,
    name_option,
    newest_option,
    note_option,
    oldest_option,
    options,
    paged,
    parse_pairs,
    session_argument,
    session_filter,
    status_option,
    take_budget,
    text_argument,
    workspace_option,
)
from kheishctl.render.layout import Column, format_record

group = make_group("session", "Sessions: the durable units of work, each with its own journal.")
group.add_command(export)
group.add_command(verify)
group.add_command(import_)
group.add_command(key)

COLUMNS = (
    Column("SESSION", "session_id"),
    Column("STATUS", lambda row: "busy" if row.get("open_runs") else row.get("status", "open")),
    Column("AGENT", "agent"),
    Column("SENDER", "sender"),
    Column("RUNS", "runs", "count"),
    Column("UPDATED", "updated_at_ms", "time"),
    Column("TITLE", "title"),
)

SEARCH_COLUMNS = (
    Column("SESSION", "session_id"),
    Column("AT", "at_ms", "time"),
    Column("AUTHOR", lambda row: row.get("author") or row.get("sender") or row.get("origin")),
    Column("CURSOR", "cursor", "count"),
    Column("TITLE", "title"),
    Column("EXCERPT", "snippet"),
)

_sender_option = name_option("--as", "sender", "senders", "The sender.", metavar="SENDER")

property_options = options(
    click.option(
        "--credential-scope",
        type=JsonValue(),
        metavar="JSON",
        help='Limit the session\'s credentials: {"routes": ["cheap"]}.',
    ),
    click.option("--profile", type=click.Choice(PROFILES), help="A fixed tool surface, chosen once."),
    click.option(
        "--block",
        "blocked_tools",
        multiple=True,
        metavar="TOOL",
        help="Block a tool (repeatable; an update names all of them).",
    ),
    click.option(
        "--permission-mode",
        type=click.Choice(PERMISSION_MODES),
        help="The permission mode of the session's runs.",
    ),
    workspace_option,
    name_option("--route", "route", "routes", "The route of the session's runs."),
    click.option("--model", metavar="MODEL", help="The model of the session's runs."),
    click.option(
        "--busy",
        type=click.Choice(BUSY_POLICIES),
        help="The policy for a message that arrives while a run is in flight.",
    ),
    click.option(
        "--input-contract",
        type=SchemaFile(),
        metavar="FILE",
        help="Accept only JSON that matches the JSON Schema in this file.",
    ),
    click.option(
        "--output-contract",
        type=SchemaFile(),
        metavar="FILE",
        help="Require answers in JSON that matches the JSON Schema in this file.",
    ),
    budget_options("the session and all sessions below it"),
)
"""The options for the properties of a session."""


def _make_params(
    metadata: tuple[str, ...],
    blocked_tools: tuple[str, ...],
    input_contract: Json | None,
    output_contract: Json | None,
    **params: Any,
) -> Json:
    return drop_unset(
        budget=take_budget(params),
        metadata=parse_pairs(metadata) or None,
        blocked_tools=list(blocked_tools) or None,
        input_contract=make_contract(input_contract),
        output_contract=make_contract(output_contract),
        **params,
    )


@command(
    group,
    "create",
    method="session.create",
    examples=("kheishctl session create --agent reviewer --title 'Release 2'",),
)
@click.option("--id", "session_id", metavar="ID", help="An id of your choice (default: a generated id).")
@name_option("--agent", "agent", "agents", "The agent (default: the configured default agent).")
@click.option("--title", help="A title, for people.")
@name_option("--parent", "parent_session_id", "sessions", "The parent of the session.", metavar="SESSION")
@name_option("--persona", "persona_id", "personas", "The persona to bind.")
@click.option(
    "--scope",
    type=JsonValue(),
    metavar="JSON",
    help='Limit the session\'s capabilities: {"tools": ["read_file"]}.',
)
@property_options
@metadata_option
@mutating
def create(app: App, **params: Any) -> None:
    """Create a session, or return the existing one with that id and the same properties."""
    app.emit(app.call("session.create", _make_params(**params)), format_record)


@command(group, "list", method="session.list", examples=("kheishctl session list --agent default --all",))
@conversation_filters
@status_option(SESSION_STATUSES)
@name_option(
    "--parent", "parent_session_id", "sessions", "Only the children of this session.", metavar="SESSION"
)
@name_option("--persona", "persona_id", "personas", "Only those with this persona.")
@click.option("--sidechains", is_flag=True, help="Include child sessions that have ended.")
@oldest_option
@paged
def list_(app: App, oldest: bool, everything: bool, **filters: Any) -> None:
    """List sessions, newest first."""
    params = drop_unset(order="oldest" if oldest else None, **filters)
    page = fetch_pages(app, "session.list", params, "sessions", everything=everything)
    show_table(app, page, "sessions", COLUMNS, "No sessions yet: 'kheishctl send' starts one.")


@command(group, "show", alias="get", method="session.get", examples=("kheishctl session show ses_0EXAMPLE",))
@session_argument
def show(app: App, session_id: str) -> None:
    """Show a session."""
    app.emit(app.call("session.get", {"session_id": session_id}), format_record)


@command(
    group,
    "memory",
    method="session.memory_context",
    examples=("kheishctl session memory ses_0EXAMPLE",),
)
@session_argument
def memory(app: App, session_id: str) -> None:
    """Show what a session's model is given besides the conversation.

    That are its instructions, persona, AGENTS.md files, skills, plan and rights.
    """
    app.emit(app.call("session.memory_context", {"session_id": session_id}), format_record)


@command(
    group,
    "update",
    method="session.update",
    examples=(
        "kheishctl session update ses_0EXAMPLE --route cheap",
        "kheishctl session update ses_0EXAMPLE --clear route --clear model",
    ),
)
@session_argument
@click.option("--scope", type=JsonValue(), metavar="JSON", help="Narrow the session's capabilities.")
@property_options
@click.option("--metadata", "-m", multiple=True, metavar="KEY=VALUE", help="Replace all metadata.")
@click.option(
    "--clear", multiple=True, type=click.Choice(tuple(SESSION_EMPTY)), help="Unset a property (repeatable)."
)
@mutating
def update(app: App, clear: tuple[str, ...], **params: Any) -> None:
    """Change properties of a session; future runs use them.

    A limit of the budget that is not named stays; --clear budget removes all of them.
    """
    params = _make_params(**params)
    if "budget" in params and "budget" not in clear:
        # The daemon replaces the whole budget.
        session = app.call("session.get", {"session_id": params["session_id"]})
        params["budget"] = (session.get("budget") or {}) | params["budget"]
    params |= {name: SESSION_EMPTY[name] for name in clear}
    app.emit(app.call("session.update", params), format_record)


@command(group, "send", method="session.send", examples=("kheishctl session send ses_0EXAMPLE 'Go on.'",))
@session_argument
@text_argument
@_sender_option
@send_options
def send(app: App, session_id: str, text: tuple[str, ...], sender: str | None, **options: Any) -> None:
    """Send a message to a session and print the answer."""
    address = drop_unset(session_id=session_id, sender=sender)
    send_message(app, "session.send", address, read_text(app, text, session_id), **options)


@command(
    group, "steer", method="session.steer", examples=("kheishctl session steer ses_0EXAMPLE 'Be brief.'",)
)
@session_argument
@text_argument
@_sender_option
@author_options
@mutating
def steer(app: App, session_id: str, text: tuple[str, ...], **params: Any) -> None:
    """Send a message to the current run; its model reads it before its next answer."""
    params = drop_unset(session_id=session_id, content=read_text(app, text, session_id), **params)
    app.emit(app.call("session.steer", params), format_record)


@command(group, "compact", method="session.compact", examples=("kheishctl session compact ses_0EXAMPLE",))
@session_argument
@compact_options
def compact(app: App, session_id: str, **options: Any) -> None:
    """Summarize a session; from now on the model sees the summary instead. It must be idle."""
    run_compaction(app, "session.compact", {"session_id": session_id}, **options)


@command(
    group,
    "fork",
    method="session.fork",
    examples=("kheishctl session fork ses_0EXAMPLE", "kheishctl session fork ses_0EXAMPLE --at 4711"),
)
@session_argument
@click.option("--at", type=int, metavar="CURSOR", help="Fork from this cursor instead of the current state.")
@click.option("--title", help="A title, for people (default: the same title).")
@name_option("--agent", "agent", "agents", "Another agent (default: the same agent).")
@mutating
def fork(app: App, **params: Any) -> None:
    """Fork a session, from its current state or from an earlier cursor.

    The fork is not bound to an agent and sender; use 'kheishctl session send'.
    """
    app.emit(app.call("session.fork", drop_unset(**params)), format_record)


@command(
    group,
    "history",
    method="session.history",
    examples=("kheishctl session history ses_0EXAMPLE --newest --limit 5",),
)
@session_argument
@newest_option
@paged
def history(app: App, newest: bool, everything: bool, **params: Any) -> None:
    """Read the messages of a session."""
    show_history(app, "session.history", params, newest=newest, everything=everything)


def _ago(ctx: click.Context, parameter: click.Parameter, seconds: float | None) -> int | None:
    """Return the time so many seconds ago, in milliseconds."""
    return None if seconds is None else int((time.time() - seconds) * 1000)


@command(
    group,
    "search",
    method="session.search",
    examples=("kheishctl session search release date --agent default --since 30d",),
)
@click.argument("query", nargs=-1, required=True, metavar="WORD...", help="The words to search for.")
@conversation_filters
@session_filter
@click.option("--since", "since_ms", type=Duration(), callback=_ago, metavar="TIME", help="Not older (30d).")
@click.option("--until", "until_ms", type=Duration(), callback=_ago, metavar="TIME", help="Not newer (1h).")
@click.option("--limit", type=WholeNumber(1, 20), metavar="N", help="Maximum messages (default: 10).")
@click.option(
    "--timeout",
    "timeout_s",
    type=Duration(),
    metavar="TIME",
    help="Time for indexing new messages before the search (default: 10s, at most 10m).",
)
def search(app: App, query: tuple[str, ...], **params: Any) -> None:
    """Search the messages of people and agents by words, the best first.

    The first search of a long journal indexes it, which takes a while; the next ones index what is new.
    """
    result = app.call("session.search", drop_unset(query=" ".join(query), **params))
    show_table(app, result, "messages", SEARCH_COLUMNS, "No message fits.")
    if result["unindexed_events"]:
        count = result["unindexed_events"]
        app.note(f"{count} events are not indexed yet; search again to index more")


@command(
    group,
    "rename",
    method="session.rename",
    examples=("kheishctl session rename ses_0EXAMPLE 'Release 2'",),
)
@session_argument
@click.argument("title", required=False, help="The new title; without it, the title is removed.")
@mutating
def rename(app: App, session_id: str, title: str | None, **mutation: Any) -> None:
    """Set or remove the title of a session."""
    params = {"session_id": session_id, "title": title or None, **drop_unset(**mutation)}
    app.emit(app.call("session.rename", params), format_record)


@command(
    group,
    "interrupt",
    method="session.interrupt",
    examples=("kheishctl session interrupt ses_0EXAMPLE",),
)
@session_argument
@note_option
@mutating
def interrupt(app: App, **params: Any) -> None:
    """Interrupt the current run; queued runs continue.

    Returns when the run has stopped.
    """
    result = app.call("session.interrupt", drop_unset(**params))
    app.emit(result, lambda r, _: f"interrupted {r['run_id']}" if r["interrupted"] else "no run was active")


@command(
    group,
    "end",
    method="session.end",
    examples=("kheishctl session end ses_0EXAMPLE --note 'it is done'",),
)
@session_argument
@note_option
@mutating
def end(app: App, **params: Any) -> None:
    """End a session permanently; it must be idle. Its journal stays readable."""
    app.emit(app.call("session.end", drop_unset(**params)), format_record)
