"""``kheishctl approval watch``: live, in a pipe and in a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from kheishctl import exit_codes
from kheishctl.commands.approval_watch import PROMPT
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon, run_kheishd, short_home
from tests.support.terminal import Terminal
from tests.support.waiting_runs import waits, writes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def session(ctl: Ctl, sender: str) -> str:
    """Return a session of its own."""
    return str(ctl.json("send", "default", "hello", "--as", sender)["session_id"])


def program(home: Path, *words: str) -> list[str]:
    """Return the program line of the program."""
    return [sys.executable, "-m", "kheishctl", "--home", str(home), "approval", "watch", *words]


@contextmanager
def watch_in_a_pipe(home: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a watch whose output this process reads."""
    pipe = subprocess.PIPE
    with subprocess.Popen(program(home, *words), stdout=pipe, stderr=pipe, text=True) as child:
        yield child
        child.terminate()


def test_json_lines(daemon: Daemon, ctl: Ctl, sender: str, session: str) -> None:
    """With --json, pending, new and answered approvals each print a line."""
    waits(ctl, sender, writes("a.txt"))
    with watch_in_a_pipe(daemon.home, "--session", session, "--json") as child:
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
    """A pipe receives each approval as a block of text with its diff."""
    run_id = waits(ctl, sender, writes("a.txt"))
    with watch_in_a_pipe(daemon.home, "--session", session) as child:
        assert child.stdout is not None
        lines = iter(child.stdout.readline, "+one\n")
        assert f"run\t{run_id}\n" in list(lines)
        ctl("approval", "deny-all", "--run", run_id)
        assert any("denied by uid:" in line for line in iter(child.stdout.readline, ""))


def test_answering_by_a_key(daemon: Daemon, ctl: Ctl, sender: str, session: str) -> None:
    """Approvals appear oldest first; keys allow, deny with a note, skip and quit."""
    name = f"{sender}-watched.txt"
    run_id = waits(ctl, sender, writes(name, "b.txt", "c.txt"))
    with Terminal(program(daemon.home, "--session", session), {}) as terminal:
        terminal.sees(f"{PROMPT} (2 more)")
        terminal.type("x")
        terminal.until(lambda text: text.count(PROMPT) == 2, "that only these keys mean something")
        terminal.type("a")
        terminal.sees("allowed by uid:")
        terminal.sees(f"{PROMPT} (1 more)")
        terminal.type("d")
        terminal.sees("Note for the model")
        terminal.say("not this one")
        terminal.sees("denied by uid:")
        terminal.until(lambda text: text.count("write_file c.txt") == 1, "the third one")
        terminal.type("n")
        terminal.type("q")
        assert terminal.ends() == exit_codes.OK
    rows = ctl.json("approval", "list", "--run", run_id, "--status", "any")["approvals"]
    assert [row["status"] for row in rows] == ["allowed", "denied", "pending"]
    assert rows[1]["denial_note"] == "not this one"
    ctl("approval", "deny-all", "--run", run_id)


def test_answers_of_other_clients(daemon: Daemon, ctl: Ctl, sender: str, session: str) -> None:
    """An answer of another client is reported at once, and the next approval appears."""
    with Terminal(program(daemon.home, "--session", session), {}) as terminal:
        run_id = waits(ctl, sender, writes("a.txt", "b.txt"))
        terminal.sees("write_file a.txt")
        first, _ = ctl.json("approval", "list", "--run", run_id)["approvals"]
        ctl("approval", "deny", first["approval_id"])
        terminal.sees("denied by uid:")
        terminal.sees("write_file b.txt")
        terminal.type("d")
        terminal.sees("Note for the model")
        terminal.press("enter")
        terminal.until(lambda text: text.count("denied by uid:") == 2, "both answers")
        terminal.type("q")
        assert terminal.ends() == exit_codes.OK
    ctl("run", "wait", run_id)


def test_watching_survives_a_restart() -> None:
    """After a restart of the daemon, missed requests and answers are reported."""
    with short_home() as home, Daemon(home) as daemon:
        ctl = Ctl(home)
        waits(ctl, "ann", writes("a.txt"))
        with watch_in_a_pipe(home, "--json") as child:
            assert child.stdout is not None
            first = json.loads(child.stdout.readline())
            daemon.kill()
            daemon.restart()
            ctl("approval", "deny", first["approval_id"])
            lines = (json.loads(line) for line in child.stdout)
            assert next(line["status"] for line in lines) == "denied"


def test_notes_about_a_restart() -> None:
    """Notes report the lost connection and the new one."""
    with short_home() as home, Daemon(home) as daemon:
        waits(Ctl(home), "ann", writes("a.txt"))
        with watch_in_a_pipe(home) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            assert child.stdout.readline()
            daemon.kill()
            daemon.restart()
            assert child.stderr.readline() == "Connection lost; waiting for the daemon.\n"
            assert child.stderr.readline() == "Reconnected.\n"


def test_notes_about_a_restored_backup() -> None:
    """After a restore, a note says that earlier approvals are withdrawn; new ones are shown."""
    with short_home() as home, Daemon(home) as daemon:
        ctl, backup = Ctl(home), home.parent / "backup"
        daemon.call("daemon.backup", path=str(backup))
        waits(ctl, "ann", writes("a.txt"))
        with watch_in_a_pipe(home) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            assert any("a.txt" in line for line in child.stdout)
            daemon.stop()
            assert run_kheishd(home, "restore", str(backup)).returncode == 0
            daemon.restart()
            note = "A backup was restored; earlier approvals are withdrawn.\n"
            assert child.stderr.readline() == note
            waits(ctl, "ann", writes("b.txt"))
            assert any("b.txt" in line for line in child.stdout)


def test_watching_without_a_daemon(tmp_path: Path) -> None:
    """Without a daemon, watching fails at once."""
    assert Ctl(tmp_path)("approval", "watch").code == exit_codes.NO_DAEMON
