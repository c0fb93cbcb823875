"""Repeat a command's output after every change, for ``--watch``.

The journal says when: each event may change a list, so the command runs again after one, and never on a
timer. A terminal always shows the current output; a pipe gets the lines that are new in it, and with
``--json`` one document in a line for each change.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click

from kheishctl.cli import REPEAT, App
from kheishctl.client import Client, ConnectionLost, NoDaemon, NotADaemon, TimedOut
from kheishctl.render.layout import sanitize_styled

RECONNECT_PAUSE_SECONDS = 0.5

REDRAW_SECONDS = 0.25
"""The events of this time are drawn together: a busy daemon commits thousands in a second."""

DEFAULT_ROWS = 24
"""A terminal that reports no size has the usual one."""

SCREEN_ON, SCREEN_OFF = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
"""The second screen without a cursor; a line that is too long is cut at the edge."""

HOME, END_OF_LINE, END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def watch(app: App, run: Callable[[], object]) -> None:
    """Run a command after every change, also over restarts of the daemon. Errors: Failure."""
    is_screen = sys.stdout.isatty() and not app.as_json and os.environ.get("TERM") != "dumb"
    # A page is for a person who reads it once.
    app.has_pager = False
    app.client  # noqa: B018 - fail at once if there is no daemon.
    previous: list[str] = []
    with _screen(is_screen):
        while True:
            try:
                with Client.dial(app.path) as events:
                    events.call("journal.subscribe")
                    while True:
                        lines = _record(app, run)
                        if is_screen:
                            draw(lines)
                        else:
                            known = set(previous)
                            for line in lines:
                                if line not in known:
                                    app.print(line)
                        previous = lines
                        if not _wait_for_change(events):
                            return
            except NotADaemon:
                raise
            except (ConnectionLost, NoDaemon):
                app.disconnect()
                time.sleep(RECONNECT_PAUSE_SECONDS)


def draw(lines: list[str]) -> None:
    """Draw lines over a terminal's whole screen; the last one counts those without room."""
    rows = count_rows()
    if len(lines) > rows:
        lines = [*lines[: rows - 1], f"… {len(lines) - rows + 1} more lines"]
    text = f"{END_OF_LINE}\n".join(sanitize_styled(line) for line in lines)
    sys.stdout.write(HOME + text + END_OF_LINE + END_OF_SCREEN)
    sys.stdout.flush()


def count_rows() -> int:
    """Return the rows of the terminal; a terminal that reports none, and a pipe, have the usual number."""
    return (os.get_terminal_size(sys.stdout.fileno()).lines if sys.stdout.isatty() else 0) or DEFAULT_ROWS


def _record(app: App, run: Callable[[], object]) -> list[str]:
    """Run the command; return the lines that it prints. An exit code of its own does not end the watch."""
    app.recorded = []
    try:
        with suppress(click.exceptions.Exit):
            run()
        return "\n".join(app.recorded).split("\n")
    finally:
        app.recorded = None


def _wait_for_change(events: Client) -> bool:
    """Wait for an event, and for those right after it; return whether the stream continues."""
    until: float | None = None
    timeout_s: float | None = None
    while True:
        try:
            for method, params in events.notifications(timeout_s):
                if method == "journal.end" and params.get("reason") != "shutdown":
                    return False
                if method in ("journal.event", "journal.gap"):
                    until = until or time.monotonic() + REDRAW_SECONDS
                    timeout_s = max(until - time.monotonic(), 0.0)
                    break
        except TimedOut:
            return True
        if until is not None and time.monotonic() >= until:
            return True


def _store_watch(ctx: click.Context, parameter: click.Parameter, enabled: bool) -> None:
    if enabled:
        ctx.meta[REPEAT] = watch


watch_option = click.option(
    "--watch",
    is_flag=True,
    expose_value=False,
    callback=_store_watch,
    help="Show it again after every change, until Ctrl-C; a pipe gets the new lines.",
)
"""The option that repeats a command's output."""


@contextmanager
def _screen(is_wanted: bool) -> Iterator[None]:
    """Use the terminal's second screen, and leave it as it was."""
    if not is_wanted:
        yield
        return
    try:
        sys.stdout.write(SCREEN_ON)
        yield
    finally:
        sys.stdout.write(SCREEN_OFF)
        sys.stdout.flush()
