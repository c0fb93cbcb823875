"""``kheishctl daemon``: start, stop, look after; and ``kheishctl status``."""

import json
import os
import sys
import time
from typing import Any, NoReturn

import click

from kheishctl import exits, launch
from kheishctl.cli import App, Duration, given, noun, verb
from kheishctl.client import Failure, Json, NoDaemon, TimedOut, dial
from kheishctl.render.events import status as status_text
from kheishctl.render.layout import Look, clean, duration, one_line, size

group = noun("daemon", "Start, stop, reload, back up and examine the daemon.")

# After the time for draining the daemon closes its store and ends; more than this means it hangs.
STOP_SECONDS = 30.0
DEFAULT_DRAIN_SECONDS = 10.0

LOG_LINES = 50
LOG_PAUSE_SECONDS = 0.2
MAX_LOG_TAIL_BYTES = 4 * 1024 * 1024


@verb(
    group,
    "status",
    method="daemon.status",
    examples=("kheishctl status", "kheishctl status --json | jq .disk"),
)
def status(app: App) -> None:
    """Show how the daemon is: version, counts, disk use, and warnings with what to do."""
    app.emit(app.call("daemon.status"), status_text)


@verb(
    group,
    "start",
    examples=("kheishctl daemon start", "kheishctl daemon start --foreground -- --log-level debug"),
)
@click.option("--foreground", is_flag=True, help="Run in this terminal instead of the background.")
@click.argument("arguments", nargs=-1, help="More for kheishd, after '--': see 'kheishd --help'.")
def start(app: App, foreground: bool, arguments: tuple[str, ...]) -> None:
    """Start a daemon in the background; its log is <home>/run/kheishd.log.

    One that already runs is left alone. As a service, use systemd: 'systemctl --user start kheishd'.
    """
    _own_socket_only(app)
    if foreground:
        launch.replace(app.home, *arguments)
    running = launch.probe(app.path)
    result = running or launch.start(app.home, arguments, tell=app.note)
    told = {name: result[name] for name in ("pid", "version", "home", "warnings")}
    app.emit({"started": running is None, **told}, _started)


def _started(result: Json, look: Look) -> str:
    pid, home = result["pid"], one_line(result["home"])
    if not result["started"]:
        return f"a daemon already runs, pid {pid}, home {home}"
    return "\n".join([f"started, pid {pid}, home {home}", *_warnings(result)])


def _own_socket_only(app: App) -> None:
    if app.given_path:
        raise click.UsageError("a daemon is started in a home: give --home, not --socket")


@verb(group, "stop", method="daemon.shutdown", examples=("kheishctl daemon stop --drain 5s",))
@click.option("--drain", type=Duration(), metavar="TIME", help="How long runs in flight may take to finish.")
def stop(app: App, drain: float | None) -> None:
    """Stop the daemon in an orderly way; what is not finished goes on at its next start."""
    try:
        dial(app.path).close()
    except NoDaemon:
        raise NoDaemon(f"no daemon is running at {app.path}; there is nothing to stop") from None
    configured = app.call("daemon.config")["config"].get("daemon", {}).get("drain_s", DEFAULT_DRAIN_SECONDS)
    pid = int(app.call("daemon.shutdown", given(drain_s=drain))["pid"])
    if not launch.wait_gone(pid, (configured if drain is None else drain) + STOP_SECONDS):
        raise TimedOut(
            f"the daemon, pid {pid}, was asked to stop and still runs; see 'kheishctl daemon logs'"
        )
    app.emit({"pid": pid, "stopped": True}, lambda result, _: f"stopped, pid {result['pid']}")


@verb(group, "reload", method="daemon.reload", examples=("kheishctl daemon reload",))
def reload(app: App) -> None:
    """Read the configuration and agents again; an invalid file changes nothing."""
    app.emit(app.call("daemon.reload"), _reloaded)


def _reloaded(result: Json, look: Look) -> str:
    return "\n".join([f"reloaded: generation {result['generation']}", *_warnings(result)])


def _warnings(result: Json) -> list[str]:
    return [f"warning: {one_line(warning)}" for warning in result["warnings"]]


@verb(group, "config", method="daemon.config", examples=("kheishctl daemon config --json",))
def config(app: App) -> None:
    """Show the configuration in force, credentials by reference only."""
    app.emit(app.call("daemon.config"), _config)


def _config(result: Json, look: Look) -> str:
    origin = one_line(result.get("path") or "no file: everything is as built in")
    lines = [
        f"# {key} is not set"
        if value is None
        else f"{key} = {one_line(json.dumps(value, ensure_ascii=False))}"
        for key, value in _flat("", result["config"])
    ]
    return "\n".join([f"# {origin}, generation {result['generation']}", *lines])


def _flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    """A nested table as dotted keys, as TOML writes them."""
    if not isinstance(value, dict) or not value:
        return [(prefix, value)]
    pairs = []
    for name, inner in value.items():
        plain = name.replace("-", "").replace("_", "").isalnum() and name.isascii()
        pairs += _flat(f"{prefix}{'.' if prefix else ''}{name if plain else json.dumps(name)}", inner)
    return pairs


@verb(group, "logs", examples=("kheishctl daemon logs -f",))
@click.option("--follow", "-f", is_flag=True, help="Go on printing what is added.")
@click.option(
    "--lines", "-n", type=click.IntRange(0), default=LOG_LINES, show_default=True, help="Lines to begin with."
)
def logs(app: App, follow: bool, lines: int) -> None:
    """Print the log of a daemon that was started in the background."""
    path = launch.log_path(app.home)
    try:
        with open(path, "rb") as log:
            _tail(app, log, lines)
            while follow:
                if chunk := log.read():
                    _print_log(app, chunk)
                elif os.fstat(log.fileno()).st_size < log.tell():
                    log.seek(0)  # A new start began it anew.
                else:
                    time.sleep(LOG_PAUSE_SECONDS)
    except FileNotFoundError:
        raise Failure(
            f"there is no log at {path}: no daemon was started here in the background; "
            "one that systemd runs logs to its journal: journalctl --user -u kheishd"
        ) from None


def _tail(app: App, log: Any, lines: int) -> None:
    log.seek(max(0, os.fstat(log.fileno()).st_size - MAX_LOG_TAIL_BYTES))
    kept = log.read().splitlines(keepends=True)
    if kept and lines:
        _print_log(app, b"".join(kept[-lines:]))


def _print_log(app: App, chunk: bytes) -> None:
    text = chunk.decode(errors="replace")
    if app.as_json:
        for line in text.splitlines():
            app.line({"line": line})
        return
    sys.stdout.write(clean(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


@verb(group, "backup", method="daemon.backup", examples=("kheishctl daemon backup ~/kheish-backup",))
@click.argument("path", type=click.Path(), help="Where to; must not exist yet.")
def backup(app: App, path: str) -> None:
    """Write a consistent copy of the store while the daemon runs.

    All state is in the store. What is captured for debugging, in <home>/debug, is no part of it.
    """
    target = os.path.abspath(os.path.expanduser(path))
    app.emit(app.call("daemon.backup", {"path": target}), _backed_up)


def _backed_up(result: Json, look: Look) -> str:
    took = duration(result["took_ms"] / 1000)
    path = one_line(result["path"])
    return f"{size(result['bytes'])} in {took}: {path}\nput back with: kheishctl daemon restore {path}"


@verb(
    group,
    "doctor",
    method="daemon.doctor",
    examples=("kheishctl daemon doctor --deep", "kheishctl daemon doctor --repair"),
)
@click.option("--deep", is_flag=True, help="Read the whole journal, not only the newest of it.")
@click.option(
    "--repair", is_flag=True, help="Rebuild records and indexes from the journal; the daemon must be stopped."
)
def doctor(app: App, deep: bool, repair: bool) -> None:
    """Verify the journal's hash chain, and the records and indexes against it.

    Asks the daemon if it runs; otherwise works on the store itself. The exit code is 1 if something
    was found.
    """
    if repair:
        _stopped_only(app, "repairing")
    if repair or launch.probe(app.path) is None:
        _own_socket_only(app)
        _offline(app, "doctor", *(flag for flag, on in (("--deep", deep), ("--repair", repair)) if on))
    result = app.call("daemon.doctor", given(deep=deep))
    app.emit(result, _diagnosis)
    click.get_current_context().exit(exits.FAILED if result["findings"] else exits.OK)


def _diagnosis(result: Json, look: Look) -> str:
    lines = [
        f"{result['events']} events in {result['streams']} streams and {result['records']} records examined"
    ]
    if not result.get("complete", True):
        lines.append("only the newest were read; --deep reads all")
    for finding in result["findings"]:
        where = f"{finding.get('stream') or 'store'}"
        where += f" cursor {finding['cursor']}" if finding.get("cursor") else ""
        lines.append(one_line(f"{finding['kind']}: {where}: {finding['message']}"))
        lines.append(f"  {one_line(finding['remedy'])}")
    return "\n".join(lines if result["findings"] else [*lines, "healthy"])


@verb(group, "restore", examples=("kheishctl daemon stop && kheishctl daemon restore ~/kheish-backup",))
@click.argument("path", type=click.Path(exists=True), help="What 'daemon backup' wrote.")
def restore(app: App, path: str) -> None:
    """Put a backup in the place of the store; verified first. The daemon must be stopped."""
    _stopped_only(app, "restoring")
    _offline(app, "restore", os.path.abspath(path))


@verb(group, "compact", examples=("kheishctl daemon stop && kheishctl daemon compact",))
def compact(app: App) -> None:
    """Give unused space of the store back to the disk. The daemon must be stopped."""
    _stopped_only(app, "compacting")
    _offline(app, "compact")


def _offline(app: App, *words: str) -> NoReturn:
    """Let the daemon's program do it, and end as it did. Errors: Failure in its words."""
    code, said = launch.offline(app.home, *words, *(["--json"] if app.as_json else []))
    if app.as_json:
        app.document(json.loads(said))
    else:
        app.say(clean(said))
    click.get_current_context().exit(code)


def _stopped_only(app: App, what: str) -> None:
    _own_socket_only(app)
    running = launch.probe(app.path)
    if running is not None:
        raise Failure(
            f"{what} works on the store itself, and the daemon, pid {running['pid']}, has it open; "
            "stop it first: kheishctl daemon stop"
        )
