"""Tasks and background shells of a real daemon that is stopped and killed at any moment."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import running_with
from tests.support.daemons import Daemon, short_home, until
from tests.support.waiting_runs import order


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """Provide a daemon whose agents need no approvals."""
    with short_home() as home:
        home.mkdir()
        (home / "config.toml").write_text('[permissions]\nmode = "bypassPermissions"\n')
        with Daemon(home) as daemon:
            yield daemon


def start_shell(daemon: Daemon, command: str, *, before: str = "") -> Any:
    """Start a shell in the background and wait until it has written something, which is after ``before``."""
    sent = daemon.say(order("bash", command=f"{before}echo begun; {command}", run_in_background=True))
    (task,) = daemon.call("task.list", session_id=sent["session_id"], kind="shell")["tasks"]
    daemon.call("task.output", task_id=task["task_id"], wait=True, offset=0)
    return daemon.call("task.get", task_id=task["task_id"])


def wait_until_gone(word: str) -> None:
    """Wait until no process has a word in its arguments."""
    until(lambda: not running_with(word), f"nothing runs {word}")


def is_sound(daemon: Daemon) -> bool:
    """Whether the doctor finds nothing."""
    findings: list[Any] = daemon.call("daemon.doctor", deep=True)["findings"]
    return findings == []


def test_a_shell_outlives_its_run(daemon: Daemon) -> None:
    """A shell outlives its run; the next answer reports its end, and its output is readable."""
    go = daemon.home / "workspace" / "go"
    task = start_shell(daemon, "until [ -e go ]; do sleep 0.02; done; echo done; exit 3")
    assert daemon.call("run.get", run_id=task["created_by_run_id"])["status"] == "completed"
    assert "You say" in daemon.say("are you there?")["output"]
    go.touch()
    read = daemon.call("task.output", task_id=task["task_id"], wait=True)
    assert (read["text"], read["task"]["status"]) == ("begun\ndone\n", "failed")
    assert Path(read["path"]).read_text() == "begun\ndone\n"
    output = daemon.say("and now?")["output"]
    assert f"{task['task_id']}, 'echo begun;" in output
    assert "ended with exit code 3" in output
    assert "ended with" not in daemon.say("once more")["output"]
    assert is_sound(daemon)


def test_an_agent_stops_and_reads_a_shell(daemon: Daemon) -> None:
    """An agent stops a shell with one tool and reads its output with another."""
    task = start_shell(daemon, "exec sleep 4400.5")
    stopped = daemon.say(order("task_stop", task_id=task["task_id"], note="not needed"))
    assert "it is being stopped" in stopped["output"]
    # The offline model obeys only the last message, which may be the notice about the end of the shell.
    daemon.call("task.output", task_id=task["task_id"], wait=True)
    output = daemon.say(order("task_output", task_id=task["task_id"]))["output"]
    assert '"status":"cancelled"' in output
    assert '"note":"not needed"' in output
    assert '"output":"begun\\n' in output
    wait_until_gone("4400.5")


def test_a_killed_daemon_leaves_no_shells(daemon: Daemon) -> None:
    """A kill ends the shells, which the next daemon reports; open tasks are unchanged."""
    task = start_shell(daemon, "(setsid sleep 4401.5 &); exec sleep 4401.5")
    session_id = task["session_id"]
    todo = daemon.call("task.create", session_id=session_id, title="Paint", blocked_by=[task["task_id"]])
    daemon.kill()
    daemon.restart()
    after = daemon.call("task.get", task_id=task["task_id"])
    assert (after["status"], after["shell"]["terminal_reason"]) == ("failed", "daemon_restarted")
    assert "exit_code" not in after["shell"]
    wait_until_gone("4401.5")
    assert daemon.call("task.output", task_id=task["task_id"])["text"] == "begun\n"
    assert daemon.call("task.get", task_id=todo["task_id"]) == todo
    assert "because the daemon went down" in daemon.say("what happened?")["output"]
    daemon.kill()
    daemon.restart()
    again = daemon.call("task.get", task_id=task["task_id"])
    assert again == after
    assert is_sound(daemon)


def test_a_daemon_that_stops_ends_its_shells_in_order(daemon: Daemon) -> None:
    """A stop lets shells clean up; the next daemon shows their results."""
    task = start_shell(daemon, "while :; do sleep 0.02; done", before="trap 'echo put away; exit 0' TERM; ")
    assert daemon.stop() == 0
    daemon.restart()
    after = daemon.call("task.get", task_id=task["task_id"])
    assert (after["status"], after["shell"]["terminal_reason"]) == ("failed", "daemon_stopped")
    assert "put away\n" in daemon.call("task.output", task_id=task["task_id"])["text"]


def test_ending_a_session_ends_its_shells(daemon: Daemon) -> None:
    """Ending a session ends its shells and no other session's."""
    task = start_shell(daemon, "exec sleep 4402.5")
    daemon.call("conversation.reset", agent="default", sender="user")
    second_task = start_shell(daemon, "exec sleep 4403.5")
    daemon.call("session.end", session_id=task["session_id"])
    read = daemon.call("task.output", task_id=task["task_id"], wait=True)
    assert (read["task"]["status"], read["task"]["note"]) == ("cancelled", "the session was ended")
    wait_until_gone("4402.5")
    assert daemon.call("task.get", task_id=second_task["task_id"])["status"] == "in_progress"


def test_a_shell_passes_to_the_parent_of_a_closed_agent(daemon: Daemon) -> None:
    """It goes on as the parent's, which is told and may stop it; a killed daemon ends it."""
    parent = daemon.call("session.create")["session_id"]
    prompt = order("bash", command="echo begun; sleep 997", run_in_background=True)
    shells = []
    for _ in range(2):
        spawned = daemon.call("agent.spawn", parent=parent, name="scout", prompt=prompt, shells="pass")
        agent = spawned["agent_id"]
        daemon.call("run.wait", run_id=spawned["launch_run_id"])
        (task,) = daemon.call("task.list", session_id=agent)["tasks"]
        daemon.call("task.output", task_id=task["task_id"], wait=True, offset=0)
        daemon.call("agent.close", agent=agent)
        shells.append(task["task_id"])
        assert daemon.call("task.list", session_id=agent, status="any")["tasks"] == []
    first, second = daemon.call("task.list", session_id=parent)["tasks"]
    assert [first["task_id"], second["task_id"]] == shells
    assert daemon.call("task.output", task_id=shells[0])["text"] == "begun\n"
    daemon.call("session.send", session_id=parent, content="hello", wait="settled")
    answers = str(
        [event for event in daemon.events(session_id=parent) if event["type"] == "message_appended"]
    )
    assert all(f"The background shell {task_id} of" in answers for task_id in shells)
    stop = order("task_stop", task_id=shells[0])
    daemon.call("session.send", session_id=parent, content=stop, wait="settled")
    daemon.call("task.output", task_id=shells[0], wait=True)
    assert is_sound(daemon)
    daemon.kill()
    daemon.start()
    wait_until_gone("997")
    ended = daemon.call("task.get", task_id=shells[1])
    assert (ended["session_id"], ended["shell"]["terminal_reason"]) == (parent, "daemon_restarted")
    assert is_sound(daemon)


def test_a_kill_at_any_moment_leaves_one_task_per_call(daemon: Daemon) -> None:
    """A kill at any moment of a background call leaves one task and no orphan process."""
    command = order("bash", command="exec sleep 4404.5", run_in_background=True)
    for number in (0, 1, 2, 4, 8, 16):
        sent = daemon.call("conversation.send", content=command, sender=f"s{number}")
        for _ in range(number):
            daemon.call("rpc.ping")
        daemon.kill()
        daemon.restart()
        assert daemon.call("run.wait", run_id=sent["run_id"])["status"] == "completed"
    tasks = daemon.call("task.list", status="any")["tasks"]
    assert sorted(task["session_id"] for task in tasks) == sorted(
        session["session_id"] for session in daemon.call("session.list")["sessions"]
    )
    assert daemon.call("indoubt.list", status="any")["indoubts"] == []
    results = [json.loads(event["text"]) for event in daemon.events(types=["tool_returned"])]
    assert {result["task_id"] for result in results} == {task["task_id"] for task in tasks}
    live = [task for task in tasks if task["status"] in ("pending", "in_progress")]
    until(
        lambda: all(
            daemon.call("task.get", task_id=task["task_id"])["status"] == "in_progress" for task in live
        ),
        "all of them run",
    )
    for task in live:
        daemon.call("task.stop", task_id=task["task_id"])
    wait_until_gone("4404.5")
    assert is_sound(daemon)
