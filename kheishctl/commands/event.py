"""``kheishctl event``: the event bus."""

from __future__ import annotations

from typing import Any

import click

from kheishctl.cli import App, command, make_group, note_next_page
from kheishctl.commands.journal import JournalFollower, epoch_option, follow_events
from kheishctl.options import JsonValue, WholeNumber, drop_unset, id_argument, mutating, paged
from kheishctl.render.events import format_event
from kheishctl.render.layout import format_record

group = make_group("event", "The event bus: publish and follow events. Triggers let events wake agents.")

_pattern = click.argument(
    "source",
    metavar="PATTERN",
    default="*",
    help="A source, or its beginning and '*' (default: every source).",
)


@command(
    group,
    "publish",
    method="event.publish",
    examples=(
        'kheishctl event publish ci.build \'{"status": "red"}\'',
        "kheishctl event publish backup.done --idempotency-key backup-2026-12-01",
    ),
)
@click.argument("source", metavar="SOURCE", help="The author and the topic, such as ci.build.")
@click.argument("payload", metavar="JSON", type=JsonValue(), required=False, help="The content.")
@mutating
def publish(app: App, **params: Any) -> None:
    """Publish an event; its triggers wake their targets after the answer."""
    app.emit(app.call("event.publish", drop_unset(**params)), format_record)


@command(group, "show", alias="get", method="event.get", examples=("kheishctl event show evt_0EXAMPLE",))
@id_argument("event_id", "EVENT", "events")
def show(app: App, event_id: str) -> None:
    """Show an event and the numbers of its deliveries."""
    app.emit(app.call("event.get", {"event_id": event_id}), format_record)


@command(
    group,
    "list",
    method="event.list",
    examples=("kheishctl event list 'agent:*' --limit 5", "kheishctl event list --all --json | jq .payload"),
)
@_pattern
@paged
def list_(app: App, everything: bool, **params: Any) -> None:
    """List events by their source, newest first; with --json, one JSON line each."""
    params = drop_unset(**params)
    while True:
        page = app.call("event.list", params)
        for event in page["events"]:
            if app.as_json:
                app.print_json_line(event)
            else:
                app.print(format_event(event, app.display()))
        if page["next"] is None:
            return
        if not everything:
            note_next_page(app, page["next"])
            return
        params["after"] = page["next"]


@command(
    group,
    "follow",
    method="event.subscribe",
    examples=("kheishctl event follow 'ci.*'", "kheishctl event follow --after 0 --json | jq .source"),
)
@_pattern
@click.option(
    "--after", type=WholeNumber(0), metavar="CURSOR", help="Start after this cursor (default: now)."
)
@epoch_option
def follow(app: App, source: str, after: int | None, epoch: str | None) -> None:
    """Follow events as they are published, until Ctrl-C; with --json, one JSON line each.

    Following survives a restart of the daemon: no event is lost or repeated.
    """
    follow_events(app, JournalFollower(app, {"source": source}, after, epoch, "event.subscribe"))
