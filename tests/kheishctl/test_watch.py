"""Output that is repeated after every change."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, short_home
from tests.support.terminal import Terminal


@contextmanager
def watching(daemon: Daemon, *words: str) -> Iterator[Iterator[str]]:
    """Run a command with --watch, and provide the lines that it prints into a pipe."""
    command = [sys.executable, "-m", "kheishctl", "--home", str(daemon.home), *words, "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield iter(process.stdout)
        process.kill()


def put(daemon: Daemon, name: str) -> None:
    """Add a row to the list of routes."""
    daemon.call("route.put", route_id=name, settings={"model": "m", "driver": "offline"})


def test_a_pipe_gets_the_new_lines(daemon: Daemon) -> None:
    """A list is printed once, and then each line that is new in it."""
    with watching(daemon, "route", "list") as lines:
        assert next(lines).split("\t")[0] == "offline"
        put(daemon, "watched")
        assert next(lines).split("\t")[0] == "watched"
    daemon.call("route.delete", route_id="watched")


def test_json_is_one_document_for_each_change(daemon: Daemon, ctl: Ctl) -> None:
    """With --json, a line holds the whole list; a command with an exit code of its own is repeated, too."""
    with watching(daemon, "route", "list", "--json") as lines:
        assert [row["route_id"] for row in json.loads(next(lines))["routes"]] == ["offline"]
        put(daemon, "watched")
        assert [row["route_id"] for row in json.loads(next(lines))["routes"]] == ["offline", "watched"]
    with watching(daemon, "status", "--json", "--exit-code") as lines:
        cursor = json.loads(next(lines))["cursor"]
        daemon.call("route.delete", route_id="watched")
        assert json.loads(next(lines))["cursor"] > cursor


def test_a_terminal_is_redrawn() -> None:
    """A terminal shows the current list on a second screen, over a restart of the daemon, until Ctrl-C."""
    with short_home() as home, Daemon(home) as own:
        command = [sys.executable, "-m", "kheishctl", "--home", str(home), "route", "list", "--watch"]
        with Terminal(command, {}, columns=80) as terminal:
            terminal.sees("offline")
            put(own, "one")
            terminal.sees("one")
            own.stop()
            own.restart()
            put(own, "two")
            terminal.sees("two")
            terminal.press("ctrl-c")
            assert terminal.ends() == 130
        assert "\x1b[?1049h" in terminal.raw
        assert terminal.raw.rstrip().endswith("\x1b[?1049l")


def test_without_a_daemon(ctl: Ctl) -> None:
    """Without a daemon, the command fails at once."""
    with short_home() as home:
        assert Ctl(home)("route", "list", "--watch").code == 3


@pytest.mark.parametrize("words", [("run", "list"), ("approval", "list"), ("route", "list"), ("status",)])
def test_every_list_has_the_option(ctl: Ctl, words: tuple[str, ...]) -> None:
    """The option is part of the options of lists."""
    assert "--watch" in ctl(*words, "--help").out
