"""The zygote of a real daemon: when it runs, and what becomes of commands when it or the daemon is killed."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kheishd.hooks.os.shell.watch import tree
from tests.support.commands import running_with, wait_ended, wait_for_processes
from tests.support.daemons import Daemon, short_home, until
from tests.support.waiting_runs import order

CONFIG = """
[workspace]
sandbox = "{mode}"

[permissions]
mode = "bypassPermissions"
"""

WAIT = "touch {name}; until [ -e go ]; do sleep 0.02; done; echo done {name}; exit 3"


@pytest.fixture(params=["required", "off"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Provide a daemon with a secret among its variables, for commands inside of a sandbox and outside."""
    if request.param == "required":
        request.getfixturevalue("bubblewrap")
    with short_home() as home:
        home.mkdir()
        (home / "config.toml").write_text(CONFIG.format(mode=request.param))
        with Daemon(home, environ={"OPENAI_API_KEY": "sk-of-the-daemon"}) as daemon:
            yield daemon


def zygotes(daemon: Daemon) -> list[int]:
    """Return the live zygotes of a daemon."""
    return [
        pid
        for pid in tree(daemon.pid)
        if b"shell.zygote import" in arguments(pid) and parent(pid) == daemon.pid
    ]


def arguments(pid: int) -> bytes:
    """Return the command line of a process; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def parent(pid: int) -> int:
    """Return the parent of a process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def begin(daemon: Daemon, name: str, **options: Any) -> Any:
    """Start a command that waits for a file; return the accepted message."""
    line = order("bash", command=WAIT.format(name=name), **options)
    sent = daemon.call("conversation.send", content=line, sender=name)
    until((daemon.home / "workspace" / name).exists, f"{name} runs")
    return sent


def test_it_runs_with_the_first_command_and_ends_with_the_daemon(daemon: Daemon) -> None:
    """A daemon without commands has no zygote, all commands have the same one, and it knows no secret."""
    assert zygotes(daemon) == []
    for _ in range(3):
        assert '"exit_code":0' in daemon.say(order("bash", command="true"))["output"].replace(" ", "")
        (zygote,) = zygotes(daemon)
    assert b"sk-of-the-daemon" not in Path(f"/proc/{zygote}/environ").read_bytes()
    files = {os.readlink(f"/proc/{zygote}/fd/{name}") for name in os.listdir(f"/proc/{zygote}/fd")}
    assert sum(file.startswith("socket:") for file in files) == 1
    assert not any(str(daemon.home) + "/" in file for file in files)
    daemon.stop()
    assert wait_ended([zygote])


def test_a_spare_keeper_waits_for_the_next_command(daemon: Daemon) -> None:
    """After a command one keeper is forked ahead. It serves the next command, and ends with the daemon."""
    spares: list[int] = []
    for _ in range(2):
        daemon.say(order("bash", command="true"))
        (zygote,) = zygotes(daemon)
        until(partial(has_other_spare, zygote, spares), "a keeper waits")
        spares += [pid for pid in tree(zygote) if parent(pid) == zygote]
    begin(daemon, "third")
    spare = spares[-1]
    assert wait_for_processes(WAIT.format(name="third"), 1)[0] in tree(spare)
    daemon.kill()
    assert wait_ended([spare])


def has_other_spare(zygote: int, spares: list[int]) -> bool:
    """Whether one keeper is below the zygote, and it is none of these."""
    below = [pid for pid in tree(zygote) if parent(pid) == zygote]
    return len(below) == 1 and below[0] not in spares


def test_commands_outlive_it(daemon: Daemon) -> None:
    """If the zygote is killed, commands in the foreground and in the background go on and end well."""
    first, second = begin(daemon, "first"), begin(daemon, "second", run_in_background=True)
    (task,) = daemon.call("task.list", kind="shell", session_id=second["session_id"])["tasks"]
    (zygote,) = zygotes(daemon)
    os.kill(zygote, signal.SIGKILL)
    assert wait_ended([zygote])
    assert "next" in daemon.say(order("bash", command="echo next"))["output"]
    assert zygotes(daemon) != [zygote]
    (daemon.home / "workspace" / "go").touch()
    output = daemon.call("run.wait", run_id=first["run_id"])["output"]
    assert "done first" in output
    assert '"exit_code":3' in output.replace(" ", "")
    until(lambda: not is_open(daemon, task["task_id"]), "the shell has ended")
    ended = daemon.call("task.get", task_id=task["task_id"])
    assert (ended["shell"]["terminal_reason"], ended["shell"]["exit_code"]) == ("exited", 3)


def is_open(daemon: Daemon, task_id: str) -> bool:
    """Whether a task has not ended."""
    return daemon.call("task.get", task_id=task_id)["status"] in ("pending", "in_progress")


def test_a_command_that_kills_it(daemon: Daemon) -> None:
    """A command without a sandbox can kill the zygote; its own result and the next command's are right."""
    if daemon.call("daemon.config")["config"]["workspace"]["sandbox"] == "required":
        pytest.skip("the zygote is not visible in a sandbox")
    script = 'read -r _ _ _ zygote _ </proc/$PPID/stat; kill -9 "$zygote"; echo "killed $?"'
    for _ in range(2):
        assert "killed 0" in daemon.say(order("bash", command=script))["output"]


def test_everything_ends_with_a_killed_daemon(daemon: Daemon) -> None:
    """After SIGKILL of the daemon, its zygote and all commands end; the next daemon says what happened."""
    first = begin(daemon, "first", workdir=".")
    begin(daemon, "second", run_in_background=True)
    (zygote,) = zygotes(daemon)
    rest = [zygote, *wait_for_processes(WAIT.format(name="first"), 1)]
    rest += wait_for_processes(WAIT.format(name="second"), 1)
    daemon.kill()
    assert wait_ended(rest)
    daemon.restart()
    output = daemon.call("run.wait", run_id=first["run_id"])["output"]
    # The daemon may have died before it noted that the command had begun.
    assert "when the daemon ended" in output
    assert running_with(WAIT.format(name="first")) == []
    assert zygotes(daemon) == []


def test_a_suspended_zygote_ends_with_a_killed_daemon(daemon: Daemon) -> None:
    """After SIGKILL of the daemon, its zygote ends even if it cannot notice that."""
    daemon.say(order("bash", command="true"))
    (zygote,) = zygotes(daemon)
    os.kill(zygote, signal.SIGSTOP)
    daemon.kill()
    assert wait_ended([zygote])
