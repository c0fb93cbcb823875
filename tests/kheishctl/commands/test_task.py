"""``kheishctl task`` against a real daemon: tasks and background shells."""

import json
import subprocess
import sys
from pathlib import Path

from kheishctl import exit_codes
from tests.support.ctl import Ctl
from tests.support.daemons import Daemon
from tests.support.terminal import Terminal
from tests.support.waiting_runs import order, waits


def session(ctl: Ctl, sender: str) -> str:
    """Return a session of the sender."""
    return str(ctl.json("send", "default", "hello", "--as", sender)["session_id"])


def create(ctl: Ctl, session_id: str, title: str, *more: str) -> str:
    """Create a task and return its id, as printed."""
    done = ctl("task", "create", "--session", session_id, title, *more)
    assert done.code == exit_codes.OK, done.err
    return done.out.strip()


def shell(ctl: Ctl, sender: str, command: str) -> tuple[str, str]:
    """Run a command in the background, approve it, and return the ids of its session and task."""
    run_id = waits(ctl, sender, order("bash", command=command, run_in_background=True))
    ((approval_id, *_),) = ctl("approval", "list", "--run", run_id).rows
    assert ctl("approval", "allow", approval_id).code == exit_codes.OK
    run = ctl.json("run", "wait", run_id)
    ((task_id, *_),) = ctl("task", "list", "--session", run["session_id"], "--status", "any").rows
    return run["session_id"], task_id


def test_life_of_a_task(ctl: Ctl, sender: str) -> None:
    """A task is create, listed, updated, completed and deleted."""
    session_id = session(ctl, sender)
    first = create(ctl, session_id, "Buy paint", "--owner", "ann")
    second = create(ctl, session_id, "Paint", "--blocked-by", first, "--description", "blue")
    listed = ctl("task", "list", "--session", session_id).rows
    assert [row[0] for row in listed] == [first, second]
    assert listed[0][1:4] == ["pending", "task", "ann"]
    assert listed[1][5:7] == ["Paint", first]
    blocked = ctl("task", "update", second, "--status", "in_progress")
    assert (blocked.code, "waits for" in blocked.err) == (exit_codes.FAILED, True)
    done = ctl("task", "update", first, "--status", "completed", "--output", "It is in the shed.")
    assert done.out == f"{first} completed\n"
    assert ctl("task", "output", first).out == "It is in the shed."
    assert "description\tblue" in ctl("task", "show", second).out
    stopped = ctl("task", "stop", second, "--note", "it rains")
    assert stopped.out == f"{second} cancelled: it rains\n"
    assert ctl("task", "list", "--session", session_id).out == ""
    assert len(ctl("task", "list", "--session", session_id, "--status", "any").rows) == 2
    assert ctl("task", "delete", second).out == f"deleted {second}\n"
    gone = ctl("task", "show", second)
    assert (gone.code, "was deleted" in gone.err) == (exit_codes.FAILED, True)


def test_clear(ctl: Ctl, sender: str) -> None:
    """Owner, blockers and metadata of a task can be unset."""
    session_id = session(ctl, sender)
    first = create(ctl, session_id, "one")
    second = create(ctl, session_id, "two", "--owner", "ann", "--blocked-by", first, "-m", "ticket=7")
    assert ctl.json("task", "show", second)["metadata"] == {"ticket": "7"}
    ctl("task", "update", second, "--clear", "owner", "--clear", "blocked_by", "--clear", "metadata")
    record = ctl.json("task", "show", second)
    assert record.keys() & {"owner", "blocked_by", "metadata"} == set()


def test_check_changes_nothing(ctl: Ctl, sender: str) -> None:
    """A dry run reports the result and changes nothing."""
    session_id = session(ctl, sender)
    task_id = create(ctl, session_id, "one")
    assert ctl("task", "stop", task_id, "--check").out == f"{task_id} cancelled\n"
    assert ctl.json("task", "show", task_id)["status"] == "pending"


def test_a_shell_is_followed(ctl: Ctl, sender: str, daemon: Daemon) -> None:
    """The output of a shell is printed as it arrives, and the exit code reports its end."""
    work = Path(ctl.json("daemon", "status")["home"]) / "workspace"
    command = f"echo one; until [ -e {sender} ]; do sleep 0.02; done; echo two; exit 3"
    session_id, task_id = shell(ctl, sender, command)
    ((_, status, kind, *_),) = ctl("task", "list", "--session", session_id, "--kind", "shell").rows
    assert (status in ("pending", "in_progress"), kind) == (True, "shell")
    argv = [sys.executable, "-m", "kheishctl", "--home", str(daemon.home), "task", "output", task_id, "-f"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        # The end of the line may be the beginning of a secret of another test: it waits for more text.
        assert follower.stdout.read(1) == "o"
        (work / sender).touch()
        assert follower.stdout.read() == "ne\ntwo\n"
    assert follower.returncode == exit_codes.RUN_FAILED
    again = ctl("task", "output", task_id, "--wait")
    assert (again.out, again.code) == ("one\ntwo\n", exit_codes.RUN_FAILED)
    tail = ctl("task", "output", task_id, "--tail", "4")
    assert (tail.out, tail.err) == ("two\n", "the 4 bytes before this are not shown\n")
    lines = ctl("task", "output", task_id, "--follow", "--json").out.splitlines()
    assert "".join(json.loads(line)["text"] for line in lines) == "one\ntwo\n"
    assert ctl("task", "output", task_id, "--follow", "--wait").code == exit_codes.USAGE


def test_a_shell_is_stopped(ctl: Ctl, sender: str) -> None:
    """A shell is ended with all its processes; a timed-out wait has its own exit code."""
    _, task_id = shell(ctl, sender, "echo begun; exec sleep 4300.5")
    early = ctl("task", "output", task_id, "--wait", "--timeout", "0.01s")
    assert early.code == exit_codes.TIMED_OUT
    stopped = ctl("task", "stop", task_id, "--note", "enough")
    assert stopped.out == f"{task_id} cancelled: enough\n"
    assert ctl("task", "output", task_id, "--wait").code == exit_codes.RUN_STOPPED


def test_output_is_sanitized_on_a_terminal(ctl: Ctl, sender: str, daemon: Daemon) -> None:
    """A terminal receives the output of a shell sanitized."""
    _, task_id = shell(ctl, sender, r"printf '\033]0;owned\007 text\n'")
    ctl("task", "output", task_id, "--wait")
    argv = [sys.executable, "-m", "kheishctl", "--home", str(daemon.home), "task", "output", task_id]
    with Terminal(argv, {}) as terminal:
        terminal.sees("owned")
        assert "\x1b]0;owned" not in terminal.raw
