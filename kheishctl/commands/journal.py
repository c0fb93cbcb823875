"""``kheishctl journal``: everything that happened, and what is happening."""

import time
from collections.abc import Callable
from typing import Any

import click

from kheishctl.cli import App, complete, given, note_more, noun, options, verb
from kheishctl.client import ConnectionLost, Json, NoDaemon
from kheishctl.render.events import delta_line, event_line
from kheishctl.render.layout import Look

group = noun("journal", "The journal: everything that happened, each event with its cursor.")

RECONNECT_PAUSE_SECONDS = 0.5


filters = options(
    click.option(
        "--type",
        "types",
        multiple=True,
        metavar="TYPE",
        help="Only events of this type; repeat for more.",
    ),
    click.option("--subtree", is_flag=True, help="Also the session's descendants."),
    click.option(
        "--run", "run_id", metavar="RUN", shell_complete=complete("runs"), help="Only events of this run."
    ),
    click.option(
        "--session",
        "session_id",
        metavar="SESSION",
        shell_complete=complete("sessions"),
        help="Only events of this session.",
    ),
)
"""The options that choose events."""


@verb(
    group,
    "read",
    method="journal.read",
    examples=(
        "kheishctl journal read --newest --limit 20",
        "kheishctl journal read --all --type run_ended --json",
    ),
)
@filters
@click.option("--after", type=click.IntRange(0), metavar="CURSOR", help="Go on after this cursor.")
@click.option("--newest", is_flag=True, help="Newest first.")
@click.option("--limit", type=click.IntRange(1, 500), metavar="N", help="Events a page at most.")
@click.option("--all", "everything", is_flag=True, help="All pages, not only one.")
def read(app: App, types: tuple[str, ...], newest: bool, everything: bool, **chosen: Any) -> None:
    """Read events, oldest first; with --json, one JSON line each."""
    params = given(types=list(types), order="newest" if newest else None, **chosen)
    while True:
        page = app.call("journal.read", params)
        for event in page["events"]:
            _show(app, event, event_line)
        if page["next"] is None:
            return
        if not everything:
            note_more(app, page["next"])
            return
        params["after"] = page["next"]


@verb(
    group,
    "follow",
    method="journal.subscribe",
    examples=(
        "kheishctl journal follow --session ses_0EXAMPLE --deltas",
        "kheishctl journal follow --after 0 --json | jq .type",
    ),
)
@filters
@click.option("--after", type=click.IntRange(0), metavar="CURSOR", help="Start after this cursor; else now.")
@click.option("--deltas", is_flag=True, help="Also text while it is written.")
def follow(app: App, types: tuple[str, ...], after: int | None, deltas: bool, **chosen: Any) -> None:
    """Follow events as they happen, until Ctrl-C; with --json, one JSON line each.

    If the daemon restarts, following goes on where it was: nothing is lost or shown twice.
    """
    watch = JournalWatch(app, given(types=list(types), deltas=deltas, **chosen), after)
    app.client  # noqa: B018 - with no daemon at all, say so at once.
    while True:
        try:
            watch.run()
            return
        except ConnectionLost:
            app.note("The connection is lost; waiting for the daemon.")
        except NoDaemon:
            pass  # It is still away.
        app.hang_up()
        time.sleep(RECONNECT_PAUSE_SECONDS)


class JournalWatch:
    """A subscription over as many connections as it takes. ``cursor`` is where to go on after."""

    def __init__(self, app: App, params: Json, cursor: int | None) -> None:
        self.app = app
        self.params = params
        self.cursor = cursor

    def run(self) -> None:
        """Follow over one connection; returns when the daemon ends it for good. Errors: Failure."""
        after = {} if self.cursor is None else {"after": self.cursor}
        begun = self.app.call("journal.subscribe", self.params | after)
        if self.cursor is None:
            self.cursor = int(begun["cursor"])
        for method, params in self.app.client.notifications():
            if method == "journal.end" and params.get("reason") != "shutdown":
                return
            self._show(method, params)

    def _show(self, method: str, params: Json) -> None:
        match method:
            case "journal.event":
                _show(self.app, params["event"], event_line)
                self.cursor = params["cursor"]
            case "journal.synced":
                self.cursor = params["cursor"]
            case "journal.gap":
                self.app.note(f"events {params['from']} to {params['to']} were pruned")
            case "journal.delta":
                delta = {name: value for name, value in params.items() if name != "subscription"}
                _show(self.app, {"delta": delta}, lambda row, look: delta_line(row["delta"], look))
            case _:
                pass  # Of a later version.


def _show(app: App, row: Json, human: Callable[[Json, Look], str]) -> None:
    if app.as_json:
        app.line(row)
    else:
        app.say(human(row, app.look()))
