"""``kheishctl approval watch``: live, in a pipe and in a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from kheishctl import exits
from kheishctl.commands.watch import PROMPT
from tests.support.asked import waits, writes
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, short_home
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def session(ctl: Ctl, sender: str) -> str:
    """A session that nobody else uses."""
    return str(ctl.json("send", "default", "hello", "--as", sender)["session_id"])


def command(home: Path, *words: str) -> list[str]:
    """The program as it is typed."""
    return [sys.executable, "-m", "kheishctl", "--home", str(home), "approval", "watch", *words]


@contextmanager
def piped(home: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Watching, with its output read by this process."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command(home, *words), stdout=pipe, stderr=pipe, text=True) as child:
        yield child
        child.terminate()


def test_json_lines(daemon: Daemon, ctl: Ctl, sender: str, session: str) -> None:
    """A line for what waits already, for what is asked for, and for what is answered."""
    waits(ctl, sender, writes("a.txt"))
    with piped(daemon.home, "--session", session, "--json") as child:
        assert child.stdout is not None
        first = json.loads(child.stdout.readline())
        assert (first["status"], first["arguments"]["path"]) == ("pending", "a.txt")
        ctl("approval", "deny", first["approval_id"])
        answered = json.loads(child.stdout.readline())
        assert (answered["approval_id"], answered["status"]) == (first["approval_id"], "denied")
        run_id = waits(ctl, sender, writes("b.txt"))
        second = json.loads(child.stdout.readline())
        assert (second["run_id"], second["preview"]["kind"]) == (run_id, "diff")
        ctl("run", "cancel", run_id)
        assert json.loads(child.stdout.readline())["status"] == "withdrawn"


def test_text_for_a_pipe(daemon: Daemon, ctl: Ctl, sender: str, session: str) -> None:
    """The same as blocks of text, diff and all."""
    run_id = waits(ctl, sender, writes("a.txt"))
    with piped(daemon.home, "--session", session) as child:
        assert child.stdout is not None
        lines = iter(child.stdout.readline, "+one\n")
        assert f"run\t{run_id}\n" in list(lines)
        ctl("approval", "deny-all", "--run", run_id)
        assert any("denied by uid:" in line for line in iter(child.stdout.readline, ""))


def test_answering_by_a_key(daemon: Daemon, ctl: Ctl, sender: str, session: str) -> None:
    """One after the other, the oldest first: allowed, denied with a reason, skipped; q ends it."""
    name = f"{sender}-watched.txt"
    run_id = waits(ctl, sender, writes(name, "b.txt", "c.txt"))
    with Terminal(command(daemon.home, "--session", session), {}) as terminal:
        terminal.sees(f"{PROMPT} (2 more)")
        terminal.type("x")
        terminal.until(lambda text: text.count(PROMPT) == 2, "that only these keys mean something")
        terminal.type("a")
        terminal.sees("allowed by uid:")
        terminal.sees(f"{PROMPT} (1 more)")
        terminal.type("d")
        terminal.sees("Reason, for the model")
        terminal.say("not this one")
        terminal.sees("denied by uid:")
        terminal.until(lambda text: text.count("write_file c.txt") == 1, "the third one")
        terminal.type("n")
        terminal.type("q")
        assert terminal.ends() == exits.OK
    rows = ctl.json("approval", "list", "--run", run_id, "--status", "any")["approvals"]
    assert [row["status"] for row in rows] == ["allowed", "denied", "pending"]
    assert rows[1]["denial_note"] == "not this one"
    ctl("approval", "deny-all", "--run", run_id)


def test_somebody_else_was_first(daemon: Daemon, ctl: Ctl, sender: str, session: str) -> None:
    """What is answered elsewhere is told at once, and the next one is shown."""
    with Terminal(command(daemon.home, "--session", session), {}) as terminal:
        run_id = waits(ctl, sender, writes("a.txt", "b.txt"))
        terminal.sees("write_file a.txt")
        first, _ = ctl.json("approval", "list", "--run", run_id)["approvals"]
        ctl("approval", "deny", first["approval_id"])
        terminal.sees("denied by uid:")
        terminal.sees("write_file b.txt")
        terminal.type("d")
        terminal.sees("Reason, for the model")
        terminal.press("enter")
        terminal.until(lambda text: text.count("denied by uid:") == 2, "both answers")
        terminal.type("q")
        assert terminal.ends() == exits.OK
    ctl("run", "wait", run_id)


def test_watching_goes_on_over_a_restart() -> None:
    """What was asked for or answered in between is caught up with."""
    with short_home() as home, Daemon(home) as daemon:
        ctl = Ctl(home)
        waits(ctl, "ann", writes("a.txt"))
        with piped(home, "--json") as child:
            assert child.stdout is not None
            first = json.loads(child.stdout.readline())
            daemon.kill()
            daemon.restart()
            ctl("approval", "deny", first["approval_id"])
            lines = (json.loads(line) for line in child.stdout)
            assert next(line["status"] for line in lines) == "denied"


def test_what_is_said_over_a_restart() -> None:
    """That the daemon is gone, and that it is there again."""
    with short_home() as home, Daemon(home) as daemon:
        waits(Ctl(home), "ann", writes("a.txt"))
        with piped(home) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            assert child.stdout.readline()
            daemon.kill()
            daemon.restart()
            assert child.stderr.readline() == "The connection is lost; waiting for the daemon.\n"
            assert child.stderr.readline() == "Connected again.\n"


def test_watching_without_a_daemon(tmp_path: Path) -> None:
    """With no daemon at all it does not wait for one."""
    assert Ctl(tmp_path)("approval", "watch").code == exits.NO_DAEMON
