"""``kheishctl conversation``: the pair (agent, sender) and the session it means."""

from typing import Any

import click

from kheishctl import exits
from kheishctl.cli import (
    App,
    Duration,
    complete,
    given,
    mutating,
    note_more,
    noun,
    options,
    paged,
    pages,
    sender_option,
    show_table,
    verb,
)
from kheishctl.commands.send import send, spoken
from kheishctl.render.events import history as history_text
from kheishctl.render.events import outcome
from kheishctl.render.layout import Column, Look, clean, facts

group = noun("conversation", "Conversations: an agent and a sender, and the session they mean now.")
group.add_command(send)

COLUMNS = (
    Column("AGENT", "agent"),
    Column("SENDER", "sender"),
    Column("SESSION", "session_id"),
    Column("RUNS", lambda row: (row.get("session") or {}).get("runs"), "count"),
    Column(
        "UPDATED", lambda row: (row.get("session") or {}).get("updated_at_ms", row["bound_at_ms"]), "time"
    ),
)


address = options(
    click.argument(
        "agent", required=False, shell_complete=complete("agents"), help="The agent; else the default."
    ),
    sender_option,
)
"""The parameters that name a conversation."""


@verb(group, "list", method="conversation.list", examples=("kheishctl conversation list --agent default",))
@click.option(
    "--agent", metavar="AGENT", shell_complete=complete("agents"), help="Only those with this agent."
)
@click.option(
    "--as",
    "--sender",
    "sender",
    metavar="SENDER",
    shell_complete=complete("senders"),
    help="Only those of this sender.",
)
@paged
def list_(
    app: App, agent: str | None, sender: str | None, limit: int | None, after: str | None, everything: bool
) -> None:
    """List conversations, by agent and sender."""
    params = given(agent=agent, sender=sender, limit=limit, after=after)
    page = pages(app, "conversation.list", params, "conversations", everything=everything)
    show_table(app, page, "conversations", COLUMNS, "No conversations yet: 'kheishctl send' starts one.")


@verb(group, "get", method="conversation.get", examples=("kheishctl conversation get default --as ci",))
@address
def get(app: App, agent: str | None, sender: str | None) -> None:
    """Show what session an agent and a sender mean."""
    app.emit(app.call("conversation.get", given(agent=agent, sender=sender)), _conversation)


def _conversation(result: dict[str, Any], look: Look) -> str:
    return facts(
        {**{k: v for k, v in result.items() if k != "session"}, **(result.get("session") or {})}, look
    )


@verb(
    group,
    "history",
    method="conversation.history",
    examples=(
        "kheishctl conversation history --newest --limit 4",
        "kheishctl conversation history --all --json",
    ),
)
@address
@click.option("--newest", is_flag=True, help="Start with the newest messages.")
@paged
def history(
    app: App,
    agent: str | None,
    sender: str | None,
    newest: bool,
    limit: int | None,
    after: str | None,
    everything: bool,
) -> None:
    """Read a conversation's messages."""
    params = given(agent=agent, sender=sender, limit=limit, after=after, order="newest" if newest else None)
    show_history(app, "conversation.history", params, newest=newest, everything=everything)


def show_history(app: App, method: str, params: dict[str, Any], *, newest: bool, everything: bool) -> None:
    """Print messages in the order they were said, whichever end the page was taken from."""
    page = pages(app, method, params, "messages", everything=everything)
    ordered = page["messages"][::-1] if newest else page["messages"]
    app.emit(page, lambda _, look: history_text(ordered, look))
    if page.get("next") is not None and app.look().width is not None:
        note_more(app, page["next"])


@verb(group, "cancel", method="conversation.cancel", examples=("kheishctl conversation cancel default",))
@address
@click.option("--note", help="Why; it is kept in the journal.")
@mutating
def cancel(app: App, agent: str | None, sender: str | None, note: str | None, **mutation: Any) -> None:
    """Stop the run in flight and keep the conversation.

    Returns when the run has stopped.
    """
    params = given(agent=agent, sender=sender, note=note, **mutation)
    app.emit(app.call("conversation.cancel", params), _cancelled)


def _cancelled(result: dict[str, Any], look: Look) -> str:
    return f"cancelled {result['run_id']}" if result["cancelled"] else "nothing was running"


@verb(
    group,
    "steer",
    method="conversation.steer",
    examples=("kheishctl conversation steer default 'Only the tests, please.'",),
)
@address
@click.argument("text", nargs=-1, help="What to say; without it, or with '-', standard input.")
@mutating
def steer(app: App, agent: str | None, text: tuple[str, ...], sender: str | None, **mutation: Any) -> None:
    """Say something to the run in flight; its model reads it before its next answer."""
    params = given(agent=agent, sender=sender, content=spoken(app, text, agent), **mutation)
    app.emit(app.call("conversation.steer", params), facts)


compact_options = options(
    click.option("--no-wait", is_flag=True, help="Return once it is accepted; print the ids."),
    click.option("--timeout", type=Duration(), metavar="TIME", help="Wait at most so long (90s, 15m)."),
    mutating,
)
"""The options that every ``compact`` has."""


@verb(group, "compact", method="conversation.compact", examples=("kheishctl conversation compact default",))
@address
@compact_options
def compact(app: App, agent: str | None, sender: str | None, **options: Any) -> None:
    """Have the conversation so far summed up; the model reads the summary from now on.

    The messages stay in the journal. A conversation that becomes too long is summed up by itself.
    """
    sum_up(app, "conversation.compact", given(agent=agent, sender=sender), **options)


def sum_up(
    app: App, method: str, params: dict[str, Any], *, no_wait: bool, timeout: float | None, **mutation: Any
) -> None:
    """Have a session summed up and tell what came of it; ends with the exit code of the outcome."""
    if no_wait or mutation["check"]:
        app.emit(app.call(method, params | given(**mutation)), facts)
        return
    result = app.call(method, params | given(wait="settled", timeout_s=timeout, **mutation))
    app.emit(result, _summed_up)
    if sentence := outcome(result):
        app.note(sentence)
    click.get_current_context().exit(exits.of_status(str(result["status"])))


def _summed_up(result: dict[str, Any], look: Look) -> str:
    if "summary" not in result:
        return str(result.get("note", ""))
    before, after = result.get("pre_tokens", 0), result.get("post_tokens", 0)
    head = f"about {before} tokens are now {after}"
    return f"{head}\n{clean(result['summary'])}" if look.width is not None else clean(result["summary"])


@verb(group, "reset", method="conversation.reset", examples=("kheishctl conversation reset default --as ci",))
@address
@mutating
def reset(app: App, agent: str | None, sender: str | None, **mutation: Any) -> None:
    """Start over: the next send starts a new session; the old one stays readable."""
    result = app.call("conversation.reset", given(agent=agent, sender=sender, **mutation))
    app.emit(result, lambda r, _: f"the next send starts a new session; the old one is {r['session_id']}")
