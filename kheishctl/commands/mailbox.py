"""``kheishctl mailbox``: the messages between agents."""

import json
import sys
from typing import Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.contract import MAIL_FILTERS, Json
from kheishctl.options import Duration, drop_unset, id_argument, mutating, name_option, paged
from kheishctl.render.layout import Column, Display, format_record
from protocol.text import one_line, sanitize

group = make_group("mailbox", "Mailboxes: the messages between agents, which runs of their sessions read.")

COLUMNS = (
    Column("MESSAGE", "id"),
    Column("STATE", lambda row: " ".join(filter(None, (row["state"], row.get("outcome"))))),
    Column("FROM", "from"),
    Column("TYPE", "type"),
    Column("SUBJECT", "subject"),
    Column("POSTED", "created_at_ms", "time"),
    Column("ATTEMPTS", "delivery_attempts", "count"),
    Column("RUN", "run_id"),
    Column("LAST ERROR", "last_error"),
)

_agent = id_argument("agent", "AGENT", "agent_paths")
_message = click.argument("message_id", metavar="MESSAGE", help="The message.")


@command(
    group,
    "post",
    method="mailbox.post",
    examples=(
        """kheishctl mailbox post Atlas Figures '{"type": "note", "text": "Look."}' --from ses_0EXAMPLE""",
        "kheishctl mailbox post Atlas Report - --from Nova --ttl 1h < report.json",
    ),
)
@id_argument("to_agent", "AGENT", "agent_paths")
@click.argument("subject", help="The subject.")
@click.argument("payload", metavar="JSON", help="The content, any JSON; '-' reads it from standard input.")
@name_option("--from", "from_agent", "agent_paths", "The sending agent.", metavar="AGENT", required=True)
@click.option(
    "--ttl", "ttl_ms", type=Duration(), metavar="TIME", help="Deliver it within this time, or never."
)
@click.option(
    "--id",
    "message_id",
    metavar="ID",
    help="An id of your choice: the same one is delivered once (default: a generated id).",
)
@mutating
def post(app: App, to_agent: str, from_agent: str, payload: str, ttl_ms: float | None, **params: Any) -> None:
    """Post a message of one agent to another one; a run of its session reads it."""
    try:
        content = json.loads(sys.stdin.buffer.read() if payload == "-" else payload)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"the content is not JSON: {error}; put a text in double quotes") from None
    ttl = None if ttl_ms is None else max(1, int(ttl_ms * 1000))
    # A falsy payload is a payload, too.
    params = drop_unset(ttl_ms=ttl, **params) | {"from": from_agent, "to": to_agent, "payload": content}
    app.emit(app.call("mailbox.post", params), _format_posted)


def _format_posted(result: Json, display: Display) -> str:
    return one_line(f"{result['message_id']} {'was posted before' if result['duplicate'] else 'posted'}")


@command(
    group,
    "list",
    method="mailbox.list",
    examples=("kheishctl mailbox list Atlas", "kheishctl mailbox list Atlas --state any --all"),
)
@_agent
@click.option(
    "--state",
    type=click.Choice(MAIL_FILTERS),
    metavar="STATE",
    help=f"Filter by state: {', '.join(MAIL_FILTERS)} (default: open, those that are not done).",
)
@paged
def list_(app: App, everything: bool, **filters: Any) -> None:
    """List the messages to an agent, oldest first; listing takes none out."""
    page = fetch_pages(app, "mailbox.list", drop_unset(**filters), "messages", everything=everything)
    show_table(app, page, "messages", COLUMNS, "No messages.")


@command(
    group,
    "dead-letters",
    method="mailbox.dead_letters",
    examples=("kheishctl mailbox dead-letters Atlas",),
)
@_agent
@paged
def dead_letters(app: App, everything: bool, **params: Any) -> None:
    """List the messages to an agent that could not be delivered, with the reason."""
    page = fetch_pages(app, "mailbox.dead_letters", drop_unset(**params), "messages", everything=everything)
    show_table(app, page, "messages", COLUMNS, "No dead letters.")


@command(
    group, "show", alias="get", method="mailbox.get", examples=("kheishctl mailbox show Atlas msg_0EXAMPLE",)
)
@_agent
@_message
def show(app: App, **params: Any) -> None:
    """Show a message; its content comes last."""
    result = app.call("mailbox.get", params)
    fields = {field: value for field, value in result.items() if field != "payload"}
    payload = sanitize(json.dumps(result["payload"], indent=2, ensure_ascii=False))
    app.emit(result, lambda _, display: f"{format_record(fields, display)}\n\n{payload}")


@command(group, "ack", method="mailbox.ack", examples=("kheishctl mailbox ack Atlas msg_0EXAMPLE",))
@_agent
@_message
@mutating
def ack(app: App, **params: Any) -> None:
    """Remove a pending message, so that no run reads it."""
    app.emit(app.call("mailbox.ack", drop_unset(**params)), _format_removed)


def _format_removed(result: Json, display: Display) -> str:
    state = "removed" if result["acknowledged"] else "is in a run or done, and was not removed"
    return one_line(f"{result['message_id']} {state}")
