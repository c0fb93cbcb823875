"""``kheishctl daemon``: start, stop and maintain the daemon; and ``kheishctl status``."""

import json
import os
import signal
import sys
import time
from typing import Any, NoReturn

import click

from kheishctl import exit_codes, launch
from kheishctl.cli import App, command, make_group
from kheishctl.client import Failure, NoDaemon, TimedOut, dial, find_lock_holder
from kheishctl.contract import Json
from kheishctl.options import Duration, WholeNumber, complete, drop_unset
from kheishctl.progress import measure_path, progress
from kheishctl.render.daemon import format_daemon_status, format_metrics
from kheishctl.render.layout import Display
from kheishctl.render.logs import LEVELS, LogFilter, format_since
from kheishctl.render.units import format_duration
from kheishctl.watch import watch_option
from protocol.text import one_line, sanitize

group = make_group("daemon", "Start, stop, reload, back up and check the daemon.")

# After draining, the daemon closes its store and ends; a daemon that takes longer hangs.
STOP_SECONDS = 30.0

DEFAULT_LOG_LINES = 50
LOG_PAUSE_SECONDS = 0.2
MAX_LOG_TAIL_BYTES = 4 * 1024 * 1024

MAINTENANCE_LABELS = {
    "compact": "compacting the store",
    "doctor": "checking the store",
    "restore": "restoring the backup",
    "upgrade": "upgrading the store",
}
"""The progress of each maintenance command."""


@command(
    group,
    "status",
    method="daemon.status",
    examples=("kheishctl status", "kheishctl status --json | jq .disk", "kheishctl status --exit-code"),
)
@click.option("--exit-code", is_flag=True, help="Exit with 1 if a warning needs attention.")
@watch_option
def status(app: App, exit_code: bool) -> None:
    """Show the status of the daemon: version, counts, disk use, and warnings with remedies.

    The exit code is 0 if a daemon answers, 3 if none does. With --exit-code it is 1 if a warning is more
    severe than "info". With --watch it is that of Ctrl-C; values without events, such as the memory, are
    those of the last event.
    """
    result = app.call("daemon.status")
    app.emit(result, format_daemon_status)
    is_healthy = result.get("health", {}).get("ok", not result["warnings"])
    click.get_current_context().exit(exit_codes.FAILED if exit_code and not is_healthy else exit_codes.OK)


@command(
    group,
    "metrics",
    method="daemon.metrics",
    examples=("kheishctl daemon metrics", "kheishctl daemon metrics --json | jq .metrics[].name"),
)
def metrics(app: App) -> None:
    """Show the daemon's counters since its start, and gauges of its present state."""
    app.emit(app.call("daemon.metrics"), format_metrics)


@command(
    group,
    "start",
    examples=("kheishctl daemon start", "kheishctl daemon start --foreground -- --log-level debug"),
)
@click.option("--foreground", is_flag=True, help="Run in this terminal instead of the background.")
@click.argument("arguments", nargs=-1, help="Arguments for kheishd, after '--'; see 'kheishd --help'.")
def start(app: App, foreground: bool, arguments: tuple[str, ...]) -> None:
    """Start a daemon in the background; its log is <home>/run/kheishd.log.

    A running daemon keeps running. As a service, use systemd: 'systemctl --user start kheishd'.

    If the daemon does not start, this command ends with the daemon's exit code, and not with one of the table
    in 'kheishctl --help': 3 for an unusable configuration, home or listener, 4 if another daemon uses the
    home, 5 if the store cannot be opened.
    """
    _reject_socket_option(app)
    if foreground:
        launch.exec_daemon(app.home, *arguments)
    running = launch.probe(app.path)
    status = running or launch.start(app.home, arguments, note=app.note)
    result = {name: status[name] for name in ("pid", "version", "home", "warnings")}
    app.emit({"started": running is None, **result}, _format_start)


def _format_start(result: Json, display: Display) -> str:
    pid, home = result["pid"], one_line(result["home"])
    if not result["started"]:
        return f"a daemon is already running, pid {pid}, home {home}"
    return "\n".join([f"started, pid {pid}, home {home}", *_format_warnings(result)])


def _reject_socket_option(app: App) -> None:
    """Reject ``--socket`` for a command that works on a home. Errors: a usage error."""
    if app.path_option:
        raise click.UsageError("this command works on a home directory: use --home, not --socket")


@command(group, "stop", method="daemon.shutdown", examples=("kheishctl daemon stop --drain 5s",))
@click.option("--drain", type=Duration(), metavar="TIME", help="Time for active runs to finish.")
def stop(app: App, drain: float | None) -> None:
    """Stop the daemon cleanly; unfinished work resumes when it starts again."""
    try:
        dial(app.path).close()
    except NoDaemon:
        pid = find_lock_holder(app.path)
        if pid is None:
            raise NoDaemon(f"no daemon is running at {app.path}; there is nothing to stop") from None
        # Its socket was removed, or does not exist yet: a signal stops it as well.
        os.kill(pid, signal.SIGTERM)
        _wait_until_stopped(app, pid, 2 * STOP_SECONDS)
        return
    configured = app.call("daemon.config")["config"]["daemon"]["drain_s"]
    pid = int(app.call("daemon.shutdown", drop_unset(drain_s=drain))["pid"])
    _wait_until_stopped(app, pid, (configured if drain is None else drain) + STOP_SECONDS)


def _wait_until_stopped(app: App, pid: int, timeout_s: float) -> None:
    """Wait for the end of the daemon, and print it. Errors: TimedOut."""
    if not launch.wait_for_exit(pid, timeout_s):
        raise TimedOut(f"the daemon (pid {pid}) has not stopped yet; see 'kheishctl daemon logs'")
    app.emit({"pid": pid, "stopped": True}, lambda result, _: f"stopped, pid {result['pid']}")


@command(group, "reload", method="daemon.reload", examples=("kheishctl daemon reload",))
def reload(app: App) -> None:
    """Reload the configuration and the agents; an invalid file changes nothing."""
    app.emit(
        app.call("daemon.reload"),
        lambda result, _: "\n".join(
            [f"reloaded: generation {result['generation']}", *_format_warnings(result)]
        ),
    )


def _format_warnings(result: Json) -> list[str]:
    return [f"warning: {one_line(warning)}" for warning in result["warnings"]]


@command(group, "config", method="daemon.config", examples=("kheishctl daemon config --json",))
def config(app: App) -> None:
    """Show the current configuration; credentials are shown by reference only."""
    app.emit(app.call("daemon.config"), _format_config)


def _format_config(result: Json, display: Display) -> str:
    origin = one_line(result.get("path") or "no file: all settings have their defaults")
    lines = [
        f"# {key} is not set"
        if value is None
        else f"{key} = {one_line(json.dumps(value, ensure_ascii=False))}"
        for key, value in _flatten("", result["config"])
    ]
    return "\n".join([f"# {origin}, generation {result['generation']}", *lines])


def _flatten(prefix: str, value: Any) -> list[tuple[str, Any]]:
    """Return the values of a nested table by dotted TOML keys."""
    if not isinstance(value, dict) or not value:
        return [(prefix, value)]
    pairs = []
    for name, inner in value.items():
        plain = name.replace("-", "").replace("_", "").isalnum() and name.isascii()
        pairs += _flatten(f"{prefix}{'.' if prefix else ''}{name if plain else json.dumps(name)}", inner)
    return pairs


class Since(click.ParamType[str]):
    """A time as the log writes it: a length of time before now, or a date with or without a time of day."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the time. Errors: a usage error that names the valid forms."""
        from datetime import datetime

        try:
            # Without a zone, it is the time of this machine.
            return format_since(datetime.fromisoformat(value).timestamp())
        except (ValueError, OverflowError):
            pass
        try:
            return format_since(time.time() - Duration().convert(value, param, ctx))
        except (click.UsageError, ValueError, OverflowError):
            self.fail(
                f"{value!r} is neither a length of time such as 15m nor a time such as 2026-11-20T09:53"
            )


@command(
    group,
    "logs",
    examples=("kheishctl logs -f", "kheishctl logs --since 1h --level warning", "kheishctl logs --run RUN"),
)
@click.option("--follow", "-f", is_flag=True, help="Keep printing new lines.")
@click.option(
    "--lines",
    "-n",
    type=WholeNumber(0),
    help=f"Print the last N lines first (default: {DEFAULT_LOG_LINES}; with a filter, all).",
    metavar="N",
)
@click.option("--since", type=Since(), metavar="TIME", help="Only lines since this time, such as 15m.")
@click.option("--level", type=click.Choice(LEVELS), help="Only lines of this level and higher ones.")
@click.option(
    # Without a daemon, too, so the id is not looked up.
    "--run",
    "run_id",
    metavar="RUN",
    shell_complete=complete("runs"),
    help="Only lines of this run and of the agents' runs that it spawned.",
)
@click.option("--request", "request_id", metavar="ID", help="Only lines of the runs of this request.")
def logs(app: App, follow: bool, lines: int | None, **fields: Any) -> None:
    """Print the log of a daemon in the background.

    The last 4 MiB are searched. The daemon need not be running.
    """
    selection = LogFilter(**fields)
    path = launch.get_log_path(app.home)
    count = lines if lines is not None else DEFAULT_LOG_LINES if selection.is_empty else MAX_LOG_TAIL_BYTES
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - MAX_LOG_TAIL_BYTES))
            rows = log.read().splitlines(keepends=True)
            # The daemon may be writing the last line.
            rest = rows.pop() if follow and rows and not rows[-1].endswith(b"\n") else b""
            rows = [row for row in rows if selection.admits(row.decode(errors="replace"))]
            _print_log(app, b"".join(rows[len(rows) - min(count, len(rows)) :]))
            while follow:
                if chunk := log.read():
                    whole, newline, rest = (rest + chunk).rpartition(b"\n")
                    rows = (whole + newline).splitlines(keepends=True)
                    admitted = [row for row in rows if selection.admits(row.decode(errors="replace"))]
                    _print_log(app, b"".join(admitted))
                elif os.fstat(log.fileno()).st_size < log.tell():
                    log.seek(0)  # A new start truncated the log.
                    rest = b""
                else:
                    time.sleep(LOG_PAUSE_SECONDS)
    except FileNotFoundError:
        raise Failure(
            f"there is no log at {path}, because no daemon was started here in the background; "
            "a daemon that systemd runs logs to its journal: journalctl --user -u kheishd"
        ) from None


def _print_log(app: App, chunk: bytes) -> None:
    text = chunk.decode(errors="replace")
    if app.as_json:
        for line in text.splitlines():
            app.print_json_line({"line": line})
        return
    sys.stdout.write(sanitize(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


@command(group, "backup", method="daemon.backup", examples=("kheishctl daemon backup ~/kheish-backup",))
@click.argument("path", type=click.Path(), help="Destination; must not exist.")
def backup(app: App, path: str) -> None:
    """Write a consistent copy of the store while the daemon runs.

    All state is in the store. Debug captures, in <home>/debug, are not part of it, nor is the master key of
    the secrets, without which a restored store opens none of them.
    """
    target = os.path.abspath(os.path.expanduser(path))

    with progress(app, "backing up", lambda: measure_path(target)):
        result = app.call("daemon.backup", {"path": target})
    app.emit(result, _format_backup)


def _format_backup(result: Json, display: Display) -> str:
    took = format_duration(result["took_ms"] / 1000)
    path = one_line(result["path"])
    text = f"{result['bytes']:,} bytes in {took}: {path}\nrestore with: kheishctl daemon restore {path}"
    slots = result.get("sealed_slots")
    if slots:
        text += f"\nnot in it: the master key, which opens its {slots} secret slots; keep a copy elsewhere"
    return text


@command(
    group,
    "doctor",
    method="daemon.doctor",
    examples=("kheishctl daemon doctor --deep", "kheishctl daemon doctor --repair"),
)
@click.option("--deep", is_flag=True, help="Read the whole journal, not only its newest part.")
@click.option(
    "--repair",
    is_flag=True,
    help="Copy a damaged store to a new file, rebuild records; stop the daemon first.",
)
def doctor(app: App, deep: bool, repair: bool) -> None:
    """Verify the store's pages, the journal's hash chain, and the records and indexes against the journal.

    A running daemon checks its store itself. The exit code is 1 if there are findings.
    """
    if repair:
        _require_stopped(app)
    if repair or (launch.probe(app.path) is None and find_lock_holder(app.path) is None):
        _reject_socket_option(app)
        flags = {"--deep": deep, "--repair": repair}
        _run_maintenance(app, "doctor", *(flag for flag, enabled in flags.items() if enabled))
    with progress(app, "checking the store"):
        result = app.call("daemon.doctor", drop_unset(deep=deep))
    app.emit(result, _format_findings)
    click.get_current_context().exit(exit_codes.FAILED if result["findings"] else exit_codes.OK)


def _format_findings(result: Json, display: Display) -> str:
    lines = [
        f"{result['events']} events in {result['streams']} streams and {result['records']} records checked"
    ]
    if not result.get("complete", True) and result["events"]:
        lines.append("only the newest events were checked; --deep checks all")
    for finding in result["findings"]:
        location = f"{finding.get('stream') or 'store'}"
        location += f" cursor {finding['cursor']}" if finding.get("cursor") else ""
        lines.append(one_line(f"{finding['kind']}: {location}: {finding['message']}"))
        lines.append(f"  {one_line(finding['remedy'])}")
    return "\n".join(lines if result["findings"] else [*lines, "healthy"])


@command(group, "restore", examples=("kheishctl daemon stop && kheishctl daemon restore ~/kheish-backup",))
@click.argument("path", type=click.Path(exists=True), help="A backup from 'daemon backup'.")
def restore(app: App, path: str) -> None:
    """Verify a backup and replace the store with it. The daemon must be stopped."""
    _require_stopped(app)
    _run_maintenance(app, "restore", os.path.abspath(path))


@command(
    group,
    "upgrade",
    examples=("kheishctl daemon upgrade --rehearse", "kheishctl daemon stop && kheishctl daemon upgrade"),
)
@click.option(
    "--rehearse", is_flag=True, help="Upgrade a copy and compare it; the daemon may run, and stays as it is."
)
@click.option("--no-backup", is_flag=True, help="Keep no copy for the way back.")
@click.option("--force", is_flag=True, help="Leave out events that cannot be read.")
def upgrade(app: App, rehearse: bool, no_backup: bool, force: bool) -> None:
    """Upgrade the store of an older version, as the start of the daemon does.

    Everything is read before the first write, and a copy is kept for the way back.
    """
    if rehearse:
        _reject_socket_option(app)
        _run_maintenance(app, "upgrade", "--rehearse")
    _require_stopped(app)
    flags = {"--no-backup": no_backup, "--force": force}
    _run_maintenance(app, "upgrade", *(flag for flag, enabled in flags.items() if enabled))


@command(group, "compact", examples=("kheishctl daemon stop && kheishctl daemon compact",))
def compact(app: App) -> None:
    """Give the store's free pages back to the disk, and shrink its file if a copy fits.

    This works on a full disk. The daemon must be stopped.
    """
    _require_stopped(app)
    _run_maintenance(app, "compact")


def _run_maintenance(app: App, *words: str) -> NoReturn:
    """Run a maintenance command of kheishd and exit with its code. Errors: Failure with its message."""
    with progress(app, MAINTENANCE_LABELS[words[0]]):
        code, output = launch.run_maintenance(app.home, *words, *(["--json"] if app.as_json else []))
    if app.as_json:
        app.print_json(json.loads(output))
    else:
        app.print(sanitize(output))
    click.get_current_context().exit(code)


def _require_stopped(app: App) -> None:
    """Require that no daemon uses the store. Errors: Failure."""
    _reject_socket_option(app)
    running = launch.probe(app.path)
    pid = find_lock_holder(app.path) if running is None else running["pid"]
    if pid is not None:
        failure = Failure(f"the daemon (pid {pid}) is using the store; stop it first: kheishctl daemon stop")
        failure.exit_code = exit_codes.HOME_TAKEN
        raise failure
