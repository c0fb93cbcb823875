"""``kheishctl trigger``: events that wake agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kheishctl.cli import App, command, fetch_pages, make_group, show_table
from kheishctl.options import (
    Duration,
    JsonValue,
    WholeNumber,
    drop_unset,
    id_argument,
    mutating,
    name_option,
    paged,
    sender_option,
    session_filter,
)
from kheishctl.render.events import format_event
from kheishctl.render.layout import Column, format_record
from protocol.text import one_line

if TYPE_CHECKING:
    from kheishctl.contract import Json

group = make_group("trigger", "Triggers: events that wake agents.")

COLUMNS = (
    Column("TRIGGER", "trigger_id"),
    Column("STATUS", "status"),
    Column("SOURCE", "source"),
    Column("TARGET", "target"),
    Column("DELIVERED", "delivered", "count"),
    Column("PROBLEM", "problem"),
)

PREVIEWED_EVENTS = 3

_trigger = id_argument("trigger_id", "TRIGGER", "triggers")


@command(
    group,
    "create",
    method="trigger.create",
    examples=(
        "kheishctl trigger create 'ci.*' --prompt 'Say what broke.' --filter '{\"status\": \"red\"}'",
        "kheishctl trigger create agent:builder:done --agent reviewer --prompt 'Review the change.' --once",
    ),
)
@click.argument("source", metavar="PATTERN", help="The source of the events, or its beginning and '*'.")
@name_option("--agent", "agent", "agents", "The agent to wake (default: the default agent).")
@sender_option
@name_option("--session", "session_id", "sessions", "The session to wake, instead of a conversation.")
@click.option("--prompt", metavar="TEXT", help="The task: the agent gets it with each event.")
@name_option("--skill", "skill", "skills", "A skill that is the task.")
@click.option("--arguments", metavar="TEXT", help="The arguments of the skill.")
@click.option("--filter", type=JsonValue(), metavar="JSON", help="Values that the payload must have.")
@click.option("--once", is_flag=True, help="Delete the trigger after its first delivery.")
@click.option(
    "--coalesce",
    "coalesce_s",
    type=Duration(),
    metavar="TIME",
    help="Deliver the events of this long together (30s, 5m; at most 1h).",
)
@click.option("--max-hops", type=WholeNumber(1), metavar="N", help="The limit of a chain of events.")
@click.option("--name", metavar="TEXT", help="A name, for people.")
@mutating
def create(app: App, once: bool, coalesce_s: float | None, **params: Any) -> None:
    """Let events wake a conversation or a session.

    The newest events that match are shown, so that the pattern can be checked before the first delivery.
    """
    target = {
        name: params.pop(name) for name in ("agent", "sender", "session_id", "prompt", "skill", "arguments")
    }
    if target["agent"] is None and target["session_id"] is None:
        target["agent"] = app.call("daemon.status").get("default_agent", "default")
    seconds = None if coalesce_s is None else int(coalesce_s)
    params |= {"target": drop_unset(**target), "once": once or None, "coalesce_s": seconds}
    made = app.call("trigger.create", drop_unset(**params))
    warnings = made.get("warnings", [])
    fields = {field: value for field, value in made.items() if field != "warnings"}
    app.emit(made, lambda _, display: format_record(fields, display))
    if not app.as_json:
        for warning in warnings:
            app.note(one_line(f"warning: {warning}"))
        _preview(app, params["source"])


def _preview(app: App, source: str) -> None:
    """Show the newest events of some sources."""
    events: list[Json] = app.call("event.list", {"source": source, "limit": PREVIEWED_EVENTS})["events"]
    app.note("The newest events that match:" if events else "No event that matches has been published yet.")
    for event in events:
        app.note(format_event(event, app.display()))


@command(group, "show", alias="get", method="trigger.get", examples=("kheishctl trigger show trg_0EXAMPLE",))
@_trigger
def show(app: App, trigger_id: str) -> None:
    """Show a trigger, its deliveries and its last problem."""
    app.emit(app.call("trigger.get", {"trigger_id": trigger_id}), format_record)


@command(group, "list", method="trigger.list", examples=("kheishctl trigger list",))
@session_filter
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List triggers by id."""
    page = fetch_pages(app, "trigger.list", drop_unset(**params), "triggers", everything=everything)
    if not app.as_json:
        for row in page["triggers"]:
            target = row["target"]
            row["target"] = target.get("session_id") or f"{target['agent']} as {target['sender']}"
    show_table(app, page, "triggers", COLUMNS, "No triggers.")


@command(group, "pause", method="trigger.pause", examples=("kheishctl trigger pause trg_0EXAMPLE",))
@_trigger
@mutating
def pause(app: App, **params: Any) -> None:
    """Pause a trigger: it gets no event until it is resumed."""
    app.emit(app.call("trigger.pause", drop_unset(**params)), format_record)


@command(group, "resume", method="trigger.resume", examples=("kheishctl trigger resume trg_0EXAMPLE",))
@_trigger
@mutating
def resume(app: App, **params: Any) -> None:
    """Resume a trigger, and forget its last problem."""
    app.emit(app.call("trigger.resume", drop_unset(**params)), format_record)


@command(group, "delete", method="trigger.delete", examples=("kheishctl trigger delete trg_0EXAMPLE",))
@_trigger
@mutating
def delete(app: App, **params: Any) -> None:
    """Delete a trigger; events that it holds are not delivered."""
    app.emit(app.call("trigger.delete", drop_unset(**params)), format_record)
