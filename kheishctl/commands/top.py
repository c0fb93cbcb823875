"""``kheishctl top``: a live table of the daemon's work, over one connection."""

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from kheishctl.cli import App, command
from kheishctl.client import ConnectionLost, NoDaemon, NotADaemon, RequestRefused
from kheishctl.contract import MAX_PAGE_ROWS, Json
from kheishctl.render.top import SORT_KEYS, Sample, format_top
from kheishctl.watch import SCREEN_OFF, SCREEN_ON, count_rows, draw

RECONNECT_PAUSE_SECONDS = 0.5

KEYS = {name[0]: name for name in SORT_KEYS}
"""The keys that choose an order."""


@command(
    None,
    "top",
    method="daemon.metrics",
    examples=(
        "kheishctl top",
        "kheishctl top --once --sort tokens",
        "kheishctl top --once --json | jq .runs",
    ),
)
@click.option("--once", is_flag=True, help="Print the table once and exit.")
@click.option(
    "--sort",
    type=click.Choice(list(SORT_KEYS)),
    default="age",
    show_default=True,
    help="The order of the runs; on a terminal, the first letter of each changes it.",
)
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="The time between two tables.",
)
def top(app: App, once: bool, sort: str, interval: float) -> None:
    """Watch runs, waits, timers and rates in a table that is drawn again and again; q ends it.

    A restart of the daemon is waited for. Without a terminal, or with --json, one table or one JSON line
    follows another.
    """
    sample = take_sample(app)
    if once:
        _print(app, sample, None, sort)
        return
    previous: Sample | None = None
    with _screen(not app.as_json) as is_screen:
        while True:
            if is_screen:
                draw(format_top(sample, previous, sort, app.display(), count_rows()).split("\n"))
            else:
                _print(app, sample, previous, sort)
            key = _wait(interval, is_screen)
            if key == "q":
                return
            sort = KEYS.get(key, sort)
            if key in KEYS:
                continue
            previous, sample = sample, _await_sample(app, interval)


def take_sample(app: App) -> Sample:
    """Ask the daemon for everything that a table shows. Errors: Failure."""
    metrics = {row["name"]: row["samples"] for row in app.call("daemon.metrics")["metrics"]}
    waits = [
        {
            "id": row[f"{kind}_id"],
            "begin_ms": row[begin],
            "audience": row.get("audience"),
            "agent": row.get("agent"),
            "end_ms": row.get("expires_at_ms"),
        }
        for kind, begin in (
            ("approval", "requested_at_ms"),
            ("question", "asked_at_ms"),
            ("indoubt", "found_at_ms"),
        )
        for row in _list(app, f"{kind}.list", f"{kind}s")
    ]
    return Sample(
        status=app.call("daemon.status"),
        metrics=metrics,
        runs=_list(app, "run.list", "runs", active=True),
        waits=sorted(waits, key=lambda wait: int(wait["begin_ms"])),
        crons=_list(app, "cron.list", "crons", status="active"),
        servers=_list(app, "mcp.list", "servers"),
        agents=_list(app, "agent.list", "agents"),
        at_ms=time.time_ns() // 1_000_000,
    )


def _list(app: App, method: str, field: str, **params: object) -> list[Json]:
    """Return the first page of a list; none if the caller may not read it."""
    try:
        page = app.call(method, {"limit": MAX_PAGE_ROWS, **params})
    except RequestRefused:
        return []
    rows: list[Json] = page[field]
    return rows


def _await_sample(app: App, interval: float) -> Sample:
    """Return a sample, once a daemon answers: it may be restarting. Errors: Failure of another kind."""
    while True:
        try:
            return take_sample(app)
        except NotADaemon:
            raise
        except (ConnectionLost, NoDaemon):
            app.disconnect()
            time.sleep(min(interval, RECONNECT_PAUSE_SECONDS))


def _print(app: App, sample: Sample, previous: Sample | None, sort: str) -> None:
    if app.as_json:
        fields = ("runs", "waits", "crons", "servers", "agents", "metrics", "at_ms")
        app.print_json_line({"status": sample.status, **{name: getattr(sample, name) for name in fields}})
        return
    app.print(format_top(sample, previous, sort, app.display(), count_rows()))


@contextmanager
def _screen(is_wanted: bool) -> Iterator[bool]:
    """Use the terminal's second screen and read single keys; False without a terminal."""
    if not (is_wanted and sys.stdin.isatty() and sys.stdout.isatty()):
        yield False
        return
    import termios
    import tty

    settings = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write(SCREEN_ON)
        yield True
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
        sys.stdout.write(SCREEN_OFF)
        sys.stdout.flush()


def _wait(seconds: float, has_keys: bool) -> str:
    """Wait for a time; return early with a key if the terminal has one."""
    if not has_keys:
        time.sleep(seconds)
        return ""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return os.read(sys.stdin.fileno(), 1).decode(errors="replace") if ready else ""
