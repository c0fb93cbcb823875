"""``kheishctl daemon`` and ``kheishctl status``: the life of a daemon, driven by commands only."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kheishctl import exit_codes
from kheishctl.commands.daemon import _flatten
from protocol import __version__
from tests.support.ctl import Ctl, Done
from tests.support.daemons import Daemon, short_home


class Program:
    """The installed program, for commands that replace their own process."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *arguments: str) -> Done:
        """Run the program and wait for its end."""
        done = subprocess.run(
            [sys.executable, "-m", "kheishctl", "--home", str(self.home), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def program() -> Iterator[Program]:
    """Return the program for a home of its own; a daemon that it started is stopped at the end."""
    with short_home() as home:
        program = Program(home)
        yield program
        program("daemon", "stop", "--drain", "0.1")


def test_status(ctl: Ctl, daemon: Daemon) -> None:
    """Both names of the command show the same status, also as JSON."""
    for words in (["status"], ["daemon", "status"]):
        assert f"version {__version__}, pid {daemon.pid}" in ctl(*words).out
        assert ctl.json(*words)["disk"]["used_bytes"] > 0


def test_the_exit_code_tells_a_monitor(ctl: Ctl) -> None:
    """With --exit-code, the status of a healthy daemon exits with 0."""
    done = ctl("status", "--exit-code", "--json")
    assert (done.code, done.json["health"]) == (0, {"ok": True, "warnings": []})


def test_metrics(ctl: Ctl) -> None:
    """The metrics count at least the request that asks for them."""
    done = ctl("daemon", "metrics", "--json")
    requests = next(row for row in done.json["metrics"] if row["name"] == "kheish_requests_total")
    assert {"method": "daemon.metrics"} in [sample["labels"] for sample in requests["samples"]]
    assert "kheish_uptime_seconds" in ctl("daemon", "metrics").out


def test_status_without_a_daemon(tmp_path: Path) -> None:
    """Without a daemon, the message and the JSON error say how to start one."""
    done = Ctl(tmp_path)("status")
    assert done.code == exit_codes.NO_DAEMON
    assert "kheishctl daemon start" in done.err
    assert Ctl(tmp_path)("status", "--json").json["error"]["data"]["reason"] == "no_daemon"


def test_life_of_a_daemon(program: Program) -> None:
    """A daemon is started, found running, backed up, stopped, checked, repaired, compacted and restored."""
    assert program("daemon", "start").out.startswith("started, pid ")
    assert program("daemon", "start").out.startswith("a daemon is already running, pid ")
    assert program("send", "default", "remember this").code == 0
    copy = program.home.parent / "copy"
    made = program("daemon", "backup", str(copy)).out
    assert "daemon restore" in made
    assert program("daemon", "restore", str(copy)).code == exit_codes.HOME_TAKEN
    assert program("daemon", "doctor").out.endswith("healthy\n")
    assert json.loads(program("daemon", "stop", "--json").out)["stopped"]
    assert "nothing to stop" in program("daemon", "stop").err
    examined = program("daemon", "doctor", "--deep")
    assert (examined.code, examined.out.splitlines()[-1]) == (0, "healthy")
    assert json.loads(program("daemon", "doctor", "--repair", "--json").out)["findings"] == []
    assert program("daemon", "compact").out.startswith("compacted ")
    assert program("daemon", "upgrade").out.startswith("nothing to upgrade")
    rehearsed = program("daemon", "upgrade", "--rehearse").out.splitlines()
    assert rehearsed[0].startswith("nothing to upgrade: the store has the schema ")
    assert len(rehearsed) == 4, "no table differs"
    assert json.loads(program("daemon", "upgrade", "--rehearse", "--json").out)["differences"] == []
    assert json.loads(program("daemon", "compact", "--json").out).keys() >= {"before_bytes", "after_bytes"}
    size = made.partition(" in ")[0]
    assert size.endswith(" bytes")
    assert program("daemon", "restore", str(copy)).out.startswith(f"restored {size}, ")
    refused = program("daemon", "restore", str(program.home), "--json")
    assert refused.code == exit_codes.FAILED
    assert "is not a backup" in json.loads(refused.out)["error"]["message"]
    assert json.loads(program("daemon", "start", "--json").out)["started"]
    assert "remember this" in program("conversation", "history").out


def test_start_in_the_foreground(program: Program, daemon: Daemon) -> None:
    """The daemon replaces the command's process, so its exit code is the command's."""
    done = Program(daemon.home)("daemon", "start", "--foreground")
    assert done.code == exit_codes.HOME_TAKEN
    assert str(daemon.pid) in done.err


def test_start_needs_a_home(ctl: Ctl) -> None:
    """A socket path is refused, because it does not determine a home."""
    done = ctl("daemon", "start", "--socket", "/nowhere/s")
    assert done.code == exit_codes.USAGE


def test_stop_without_a_daemon(tmp_path: Path) -> None:
    """Without a daemon, stopping fails with the exit code for a missing daemon."""
    assert Ctl(tmp_path)("daemon", "stop").code == exit_codes.NO_DAEMON


def test_a_daemon_without_its_socket_is_named_and_stopped(program: Program) -> None:
    """If the socket file was removed, commands name the daemon by its lock, and it can be stopped."""
    started = program("daemon", "start", "--json")
    pid = json.loads(started.out)["pid"]
    (program.home / "run" / "kheishd.sock").unlink()
    for command in (("status",), ("daemon", "status")):
        done = program(*command)
        assert done.code == exit_codes.NO_DAEMON
        assert f"the daemon (pid {pid}) does not listen on" in done.err
        assert "kheishctl daemon stop" in done.err
    stopped = program("daemon", "stop", "--json")
    assert json.loads(stopped.out) == {"pid": pid, "stopped": True}
    assert "there is nothing to stop" in program("daemon", "stop").err


def test_reload(ctl: Ctl) -> None:
    """The new generation is printed."""
    assert ctl("daemon", "reload").out.startswith("reloaded: generation ")


def test_start_prints_warnings(program: Program) -> None:
    """Starting a daemon with a route that lacks its credential prints a warning."""
    program.home.mkdir()
    (program.home / "config.toml").write_text(
        "[routes.r]\ndriver = 'openai'\nmodel = 'm'\nauth_ref = 'env:NONE'\n"
    )
    out = program("daemon", "start").out
    assert "\nwarning: the route 'r' is not ready: 'env:NONE' is not set" in out


def test_reload_refused(program: Program) -> None:
    """An invalid file changes nothing, and the message names the key."""
    program("daemon", "start")
    (program.home / "config.toml").write_text("default_agnet = 1\n")
    done = program("daemon", "reload")
    assert done.code == exit_codes.FAILED
    assert "default_agnet" in done.err


def test_config(ctl: Ctl) -> None:
    """The configuration is printed with dotted keys, as valid TOML."""
    out = ctl("daemon", "config").out
    assert tomllib.loads(out)["runs"]["max_turns"] == 500
    lines = out.splitlines()
    assert "# listen.tcp is not set" in lines
    assert lines[0].startswith("# no file")
    assert 'default_route = "offline"' in lines
    assert ctl.json("daemon", "config")["config"]["default_route"] == "offline"


def test_flatten() -> None:
    """Nested tables become dotted keys, quoted where necessary; empty tables stay."""
    value: dict[str, Any] = {"a": {"b-c": 1, "d e": [2]}, "f": {}}
    assert _flatten("", value) == [("a.b-c", 1), ('a."d e"', [2]), ("f", {})]


def test_logs(tmp_path: Path) -> None:
    """The newest lines of the log are printed; with --json, one object per line."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kheishd.log").write_text("".join(f"line {n}\n" for n in range(9)))
    ctl = Ctl(tmp_path)
    assert ctl("daemon", "logs", "-n", "2").out == "line 7\nline 8\n"
    assert ctl("daemon", "logs", "-n", "0").out == ""
    assert ctl("daemon", "logs", "-n", "1", "--json").json == {"line": "line 8"}
    assert len(ctl("daemon", "logs").out.splitlines()) == 9


def test_logs_are_selected(tmp_path: Path) -> None:
    """Lines are selected by time, level and run; the number of lines counts the selected ones."""
    (tmp_path / "run").mkdir()
    lines = [
        f"2026-11-20T09:53:2{number}.000Z {level} kheishd: text run_id=run_{number % 2}\n"
        for number, level in enumerate(("info", "error", "debug", "warning"))
    ]
    (tmp_path / "run" / "kheishd.log").write_text("".join(lines))
    ctl = Ctl(tmp_path)
    assert ctl("logs", "--level", "warning").out == lines[1] + lines[3]
    assert ctl("logs", "--level", "warning", "-n", "1").out == lines[3]
    assert ctl("logs", "--run", "run_0").out == lines[0] + lines[2]
    assert ctl("logs", "--since", "2026-11-20T09:53:22Z").out == lines[2] + lines[3]
    assert ctl("logs", "--since", "1s").out == ""
    assert ctl("logs", "--since", "yesterday").code == exit_codes.USAGE


def test_logs_follow(tmp_path: Path) -> None:
    """New lines are printed; a truncated log is read from its beginning."""
    (tmp_path / "run").mkdir()
    log = tmp_path / "run" / "kheishd.log"
    log.write_text("one, and a long one\n")
    command = [sys.executable, "-m", "kheishctl", "--home", str(tmp_path), "daemon", "logs", "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "one, and a long one\n"
        with log.open("a") as more:
            more.write("two\n")
        assert child.stdout.readline() == "two\n"
        log.write_text("new\n")
        assert child.stdout.readline() == "new\n"
        child.terminate()


def test_logs_without_a_log(tmp_path: Path) -> None:
    """Without a log, the message says where systemd keeps it."""
    done = Ctl(tmp_path)("daemon", "logs")
    assert done.code == exit_codes.FAILED
    assert "journalctl" in done.err


def test_backup_refused(ctl: Ctl, daemon: Daemon) -> None:
    """A backup into an unusable directory is refused."""
    done = ctl("daemon", "backup", str(daemon.home / "state" / "copy"))
    assert done.code == exit_codes.FAILED


def test_doctor(ctl: Ctl) -> None:
    """The running daemon checks its own store."""
    done = ctl("daemon", "doctor", "--deep")
    assert (done.code, done.out.splitlines()[-1:]) == (0, ["healthy"]), done.err


@pytest.mark.parametrize(
    "words",
    [
        ["daemon", "doctor", "--repair"],
        ["daemon", "compact"],
        ["daemon", "upgrade"],
        ["daemon", "restore", os.devnull],
    ],
)
def test_maintenance_needs_a_stopped_daemon(ctl: Ctl, daemon: Daemon, words: list[str]) -> None:
    """Maintenance commands are refused with a code of their own while a daemon uses the store."""
    done = ctl(*words)
    assert done.code == exit_codes.HOME_TAKEN
    assert f"pid {daemon.pid}" in done.err
    assert "daemon stop" in done.err
