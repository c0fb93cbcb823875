"""``kheishctl conversation``: conversations, each the session of one agent and one sender."""

from typing import Any

import click

from kheishctl import exit_codes
from kheishctl.cli import App, command, fetch_pages, make_group, note_next_page, show_table
from kheishctl.commands.send import send
from kheishctl.contract import Json
from kheishctl.message_text import read_text
from kheishctl.options import (
    agent_argument,
    author_options,
    conversation_filters,
    drop_unset,
    mutating,
    newest_option,
    note_option,
    options,
    paged,
    sender_option,
    session_argument,
    text_argument,
    timeout_option,
)
from kheishctl.render.layout import Column, Display, format_record
from kheishctl.render.messages import format_history
from kheishctl.render.run import describe_outcome
from protocol.text import sanitize

group = make_group("conversation", "Conversations: an agent and a sender, and their current session.")
group.add_command(send)

COLUMNS = (
    Column("AGENT", "agent"),
    Column("SENDER", "sender"),
    Column("SESSION", "session_id"),
    Column("RUNS", lambda row: (row.get("session") or {}).get("runs"), "count"),
    Column(
        "UPDATED", lambda row: (row.get("session") or {}).get("updated_at_ms", row["bound_at_ms"]), "time"
    ),
    Column("TITLE", lambda row: (row.get("session") or {}).get("title")),
)

address = options(agent_argument, sender_option)
"""The parameters that name a conversation."""


@command(group, "list", method="conversation.list", examples=("kheishctl conversation list --agent default",))
@conversation_filters
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List conversations, by agent and sender."""
    page = fetch_pages(app, "conversation.list", drop_unset(**params), "conversations", everything=everything)
    show_table(app, page, "conversations", COLUMNS, "No conversations yet: 'kheishctl send' starts one.")


@command(
    group,
    "show",
    alias="get",
    method="conversation.get",
    examples=("kheishctl conversation show default --as ci",),
)
@address
def show(app: App, **params: Any) -> None:
    """Show the current session of an agent and a sender."""
    result = app.call("conversation.get", drop_unset(**params))
    fields = {name: value for name, value in result.items() if name != "session"}
    fields |= result.get("session") or {}
    app.emit(result, lambda _, display: format_record(fields, display))


@command(
    group,
    "history",
    method="conversation.history",
    examples=(
        "kheishctl conversation history --newest --limit 4",
        "kheishctl conversation history --all --json",
    ),
)
@address
@newest_option
@paged
def history(app: App, newest: bool, everything: bool, **params: Any) -> None:
    """Read the messages of a conversation."""
    show_history(app, "conversation.history", params, newest=newest, everything=everything)


def show_history(app: App, method: str, params: Json, *, newest: bool, everything: bool) -> None:
    """Print messages, oldest first, whichever end the page was taken from."""
    params = drop_unset(order="newest" if newest else None, **params)
    page = fetch_pages(app, method, params, "messages", everything=everything)
    ordered = page["messages"][::-1] if newest else page["messages"]
    app.emit(page, lambda _, display: format_history(ordered, display))
    if page.get("next") is not None and app.display().width is not None:
        note_next_page(app, page["next"])


@command(group, "cancel", method="conversation.cancel", examples=("kheishctl conversation cancel default",))
@address
@note_option
@mutating
def cancel(app: App, **params: Any) -> None:
    """Stop the current run and keep the conversation.

    Returns when the run has stopped.
    """
    result = app.call("conversation.cancel", drop_unset(**params))
    app.emit(result, lambda r, _: f"cancelled {r['run_id']}" if r["cancelled"] else "no run was active")


@command(
    group,
    "steer",
    method="conversation.steer",
    examples=("kheishctl conversation steer default 'Only the tests, please.'",),
)
@address
@text_argument
@author_options
@mutating
def steer(app: App, agent: str | None, text: tuple[str, ...], **params: Any) -> None:
    """Send a message to the current run; its model reads it before its next answer."""
    params = drop_unset(agent=agent, content=read_text(app, text, agent), **params)
    app.emit(app.call("conversation.steer", params), format_record)


compact_options = options(
    click.option("--no-wait", is_flag=True, help="Return when the request is accepted; print the ids."),
    timeout_option,
    mutating,
)
"""The options of every ``compact`` command."""


@command(
    group, "compact", method="conversation.compact", examples=("kheishctl conversation compact default",)
)
@address
@compact_options
def compact(app: App, agent: str | None, sender: str | None, **options: Any) -> None:
    """Summarize the conversation so far; from now on the model sees the summary instead.

    The conversation must be idle. Its messages stay in the journal. A conversation that becomes too long is
    summarized automatically.
    """
    run_compaction(app, "conversation.compact", drop_unset(agent=agent, sender=sender), **options)


def run_compaction(
    app: App, method: str, params: Json, *, no_wait: bool, timeout: float | None, **mutation: Any
) -> None:
    """Request a compaction, print its result and exit with the code of its outcome."""
    params = params | drop_unset(**mutation)
    if no_wait or mutation["check"]:
        app.emit(app.call(method, params), format_record)
        return
    result = app.call(method, params | drop_unset(wait="settled", timeout_s=timeout))
    app.emit(result, _format_compacted)
    if sentence := describe_outcome(result, app.command_line):
        app.note(sentence)
    click.get_current_context().exit(exit_codes.code_for_run(result))


def _format_compacted(result: Json, display: Display) -> str:
    if "summary" not in result:
        return str(result.get("note", ""))
    summary = sanitize(result["summary"])
    if display.width is None:
        return summary
    return f"about {result.get('pre_tokens', 0)} tokens became {result.get('post_tokens', 0)}\n{summary}"


@command(
    group, "reset", method="conversation.reset", examples=("kheishctl conversation reset default --as ci",)
)
@address
@mutating
def reset(app: App, **params: Any) -> None:
    """Start over: the next message starts a new session; the old one stays readable."""
    result = app.call("conversation.reset", drop_unset(**params))
    app.emit(result, lambda r, _: f"the next message starts a new session; the old one is {r['session_id']}")


@command(
    group,
    "resume",
    method="conversation.resume",
    examples=("kheishctl conversation resume ses_0EXAMPLE default --as ci",),
)
@session_argument
@address
@mutating
def resume(app: App, **params: Any) -> None:
    """Continue an earlier session, or a fork; the one that the address meant until now stays readable."""
    app.emit(app.call("conversation.resume", drop_unset(**params)), format_record)
