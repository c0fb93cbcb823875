"""``kheishctl journal``: read past events, and follow new ones."""

import time
from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from kheishctl.cli import App, command, make_group, note_next_page
from kheishctl.client import ConnectionLost, NoDaemon, NotADaemon
from kheishctl.contract import MAX_PAGE_ROWS, Json
from kheishctl.options import WholeNumber, drop_unset, name_option, newest_option, options
from kheishctl.render.events import SUMMARIES, describe_gap, format_delta, format_event
from kheishctl.render.layout import Display

group = make_group("journal", "The journal: every event, in order, each with its cursor.")

RECONNECT_PAUSE_SECONDS = 0.5


class EventType(click.ParamType[str]):
    """A type of the journal's events, completed by the shell."""

    name = "type"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the type. Errors: a usage error for an unknown type, with similar ones."""
        if value not in SUMMARIES:
            from difflib import get_close_matches

            near = get_close_matches(value, SUMMARIES, 3, 0.5)
            suggestion = f"; did you mean {' or '.join(near)}?" if near else "; such as run_ended"
            self.fail(f"there are no events of the type {value!r}{suggestion}", param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the types that begin with the typed text."""
        return [CompletionItem(name) for name in SUMMARIES if name.startswith(incomplete)]


event_filters = options(
    click.option(
        "--type",
        "types",
        type=EventType(),
        multiple=True,
        metavar="TYPE",
        help="Only events of this type (repeatable).",
    ),
    click.option("--subtree", is_flag=True, help="Include the session's descendants."),
    name_option("--run", "run_id", "runs", "Only events of this run."),
    name_option("--session", "session_id", "sessions", "Only events of this session."),
)
"""The options that select events."""

epoch_option = click.option(
    "--epoch", metavar="EPOCH", help="The epoch of CURSOR: a restored store has another one, and is noticed."
)


@command(
    group,
    "read",
    method="journal.read",
    examples=(
        "kheishctl journal read --newest --limit 20",
        "kheishctl journal read --all --type run_ended --json",
        "kheishctl journal read --all --request 5f0c61d2a9b4-1",
    ),
)
@event_filters
@click.option("--after", type=WholeNumber(0), metavar="CURSOR", help="Continue after this cursor.")
@epoch_option
@click.option(
    "--request",
    "request_id",
    metavar="ID",
    help="Only events of this request and of the runs that it led to; 'run show' names it.",
)
@newest_option
@click.option("--limit", type=WholeNumber(1, MAX_PAGE_ROWS), metavar="N", help="Maximum events per page.")
@click.option("--all", "everything", is_flag=True, help="Fetch all pages.")
def read(app: App, types: tuple[str, ...], newest: bool, everything: bool, **params: Any) -> None:
    """Read events, oldest first; with --json, one JSON line each."""
    params = drop_unset(types=list(types), order="newest" if newest else None, **params)
    while True:
        page = app.call("journal.read", params)
        for event in page["events"]:
            _show(app, event, format_event)
        if page["next"] is None:
            return
        if not everything:
            note_next_page(app, page["next"])
            return
        params["after"] = page["next"]


@command(
    group,
    "follow",
    method="journal.subscribe",
    examples=(
        "kheishctl journal follow --session ses_0EXAMPLE --deltas",
        "kheishctl journal follow --after 0 --json | jq .type",
    ),
)
@event_filters
@click.option(
    "--after", type=WholeNumber(0), metavar="CURSOR", help="Start after this cursor (default: now)."
)
@epoch_option
@click.option("--deltas", is_flag=True, help="Include text in progress.")
def follow(app: App, types: tuple[str, ...], after: int | None, epoch: str | None, **params: Any) -> None:
    """Follow events as they happen, until Ctrl-C; with --json, one JSON line each.

    Following survives a restart of the daemon: no event is lost or repeated. If a backup is restored
    meanwhile, a note says so (with --json a line with 'gap'), and the events after the backup follow.
    """
    follow_events(app, JournalFollower(app, drop_unset(types=list(types), **params), after, epoch))


def follow_events(app: App, follower: "JournalFollower") -> None:
    """Follow until the daemon ends the subscription, over restarts of the daemon."""
    app.client  # noqa: B018 - fail at once if there is no daemon.
    while True:
        try:
            follower.run()
            return
        except NotADaemon:
            raise
        except ConnectionLost:
            app.note("Connection lost; waiting for the daemon.")
        except NoDaemon:
            pass  # The daemon has not restarted yet.
        app.disconnect()
        time.sleep(RECONNECT_PAUSE_SECONDS)


class JournalFollower:
    """A subscription that survives reconnections.

    ``cursor`` is the cursor of the last event, ``epoch`` the id of its line of history, ``method`` the method
    that subscribes.
    """

    def __init__(
        self,
        app: App,
        params: Json,
        cursor: int | None,
        epoch: str | None = None,
        method: str = "journal.subscribe",
    ) -> None:
        self.app = app
        self.method = method
        self.params = params
        self.cursor = cursor
        self.epoch = epoch

    def run(self) -> None:
        """Follow over one connection; return when the daemon ends the subscription. Errors: Failure."""
        subscription = self.app.call(
            self.method, self.params | drop_unset(after=self.cursor, epoch=self.epoch)
        )
        self.epoch = subscription.get("epoch")
        if self.cursor is None:
            self.cursor = int(subscription["cursor"])
        for method, params in self.app.client.notifications():
            if method == "journal.end" and params.get("reason") != "shutdown":
                return
            match method:
                case "journal.event":
                    _show(self.app, params["event"], format_event)
                    self.cursor = params["cursor"]
                case "journal.synced":
                    self.cursor = params["cursor"]
                case "journal.gap":
                    self.cursor = int(params["to"])
                    if self.app.as_json:
                        gap = {name: value for name, value in params.items() if name != "subscription"}
                        self.app.print_json_line({"gap": gap})
                    self.app.note(describe_gap(params))
                case "journal.delta":
                    delta = {name: value for name, value in params.items() if name != "subscription"}
                    _show(
                        self.app, {"delta": delta}, lambda row, display: format_delta(row["delta"], display)
                    )
                case _:
                    pass  # A later version added this notification.


def _show(app: App, row: Json, format_row: Callable[[Json, Display], str]) -> None:
    if app.as_json:
        app.print_json_line(row)
    else:
        app.print(format_row(row, app.display()))
