"""Lifecycle hooks in a real daemon: a guard, kill -9 while a hook runs, and files that are invalid."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemons import Daemon, RpcError, short_home, until
from tests.support.git_repositories import make_repository
from tests.support.waiting_runs import order

GUARD = """
[[hook]]
name = "guard"
event = "pre_tool_use"
matcher = "read_file"
command = "echo not here >&2; exit 2"
failure = "closed"
"""

SLOW = """
[[hook]]
name = "slow"
event = "pre_tool_use"
matcher = "list_files"
command = ["{home}/slow.sh"]
timeout_s = 30
"""

SCRIPT = """#!/bin/sh
cat >> {home}/inputs; echo >> {home}/inputs
test -e {home}/again && exit 0
touch {home}/again
exec sleep 60
"""


@pytest.fixture
def hooked() -> Iterator[Daemon]:
    """Provide a daemon with a guard and a slow hook."""
    with short_home() as home:
        (home / "hooks").mkdir(parents=True)
        (home / "hooks/guard.toml").write_text(GUARD)
        (home / "hooks/slow.toml").write_text(SLOW.format(home=home))
        script = home / "slow.sh"
        script.write_text(SCRIPT.format(home=home))
        script.chmod(0o700)
        with Daemon(home) as daemon:
            yield daemon


def results(daemon: Daemon, session_id: str) -> list[str]:
    """Return the texts of a session's results."""
    events = daemon.events(session_id=session_id)
    return [event["text"] for event in events if event["type"] == "tool_returned"]


def test_a_guard_and_a_daemon_that_is_killed_while_a_hook_runs(hooked: Daemon) -> None:
    """The run is resumed, its call is judged again under the same key, and the guard still guards."""
    sent = hooked.say(order("read_file", path="a"))
    assert "the hook 'guard' blocked it: not here" in results(hooked, sent["session_id"])[0]
    sent = hooked.call("conversation.send", content=order("list_files"), sender="bob")
    inputs = hooked.home / "inputs"
    until(lambda: (hooked.home / "again").exists(), "the hook runs")
    hooked.kill()
    hooked.start()
    run_id = sent["run_id"]
    until(lambda: hooked.call("run.get", run_id=run_id)["status"] == "completed", "the run is completed")
    first, second = (json.loads(line) for line in inputs.read_text().split("\n") if line)
    assert first["invocation_key"] == second["invocation_key"]
    assert first["run_id"] == run_id
    assert len(results(hooked, sent["session_id"])) == 1
    refuse_bad_files(hooked, hooked.home / "hooks")


def refuse_bad_files(daemon: Daemon, directory: Path) -> None:
    """Reload with files that are invalid, and restart with them."""
    (directory / "bad.toml").write_text('[[hook]]\nname = "a"\nevent = "stopp"\n')
    assert "skipped the hooks in bad.toml:3: hook[0].event" in daemon.call("daemon.reload")["warnings"][0]
    (directory / "guard.toml").write_text(GUARD.replace("command", "comand"))
    with pytest.raises(RpcError, match=r"hooks/guard.toml:6: hook\[0\].comand: unknown key"):
        daemon.call("daemon.reload")
    # The guard that was read before stays.
    sent = daemon.say(order("read_file", path="a"), sender="carol")
    assert "blocked" in results(daemon, sent["session_id"])[0]
    daemon.stop()
    daemon.start(wait=False)
    assert daemon.wait() != 0
    (directory / "guard.toml").unlink()
    daemon.start()
    sent = daemon.say(order("read_file", path="a"), sender="dora")
    assert "blocked" not in results(daemon, sent["session_id"])[0]


OBSERVERS = (
    *("permission_denied", "subagent_start", "subagent_stop", "post_compact"),
    *("task_created", "task_completed", "worktree_remove"),
)

OBSERVER = """
[[hook]]
name = "see-{event}"
event = "{event}"
command = ["./see.sh"]
"""

SEE = """#!/bin/sh
x=$(cat); echo "$x" >> {home}/seen
"""

DENIED = """
[[permissions.rules]]
tool = "read_file"
decision = "deny"
"""


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Daemon]:
    """Provide a daemon whose hooks only look."""
    with short_home() as home:
        (home / "hooks").mkdir(parents=True)
        text = "".join(OBSERVER.format(event=event) for event in OBSERVERS)
        (home / "hooks/observers.toml").write_text(text)
        (home / "hooks/see.sh").write_text(SEE.format(home=home))
        (home / "hooks/see.sh").chmod(0o700)
        (home / "config.toml").write_text(DENIED)
        with Daemon(home) as daemon:
            yield daemon


def seen(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """Return the inputs that the hooks have got so far, by event."""
    path = daemon.home / "seen"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return {content["event"]: content for content in map(json.loads, lines)}


def test_observers_learn_of_what_happens(watched: Daemon, tmp_path: Path) -> None:
    """Denials, agents, compactions, tasks and worktrees reach the hooks that watch them, with their data."""
    repository = make_repository(tmp_path / "repository")
    sent = watched.say(order("read_file", path="a"))
    for number in range(6):
        watched.say(f"{number} " + "word " * 1000)
    watched.call("conversation.compact", wait="settled")
    task = watched.call("task.create", session_id=sent["session_id"], title="sweep")
    watched.call("task.update", task_id=task["task_id"], status="completed", output="swept")
    parent = watched.call("session.create", workspace=str(repository))["session_id"]
    child = watched.call("agent.spawn", parent=parent, name="scout", prompt="hi", isolation="worktree")
    agent_id = child["agent_id"]
    until(lambda: watched.call("agent.get", agent=agent_id)["status"] == "idle", "the agent has settled")
    worktree = watched.call("agent.get", agent=agent_id)["worktree"]
    watched.call("agent.close", agent=agent_id)
    until(lambda: seen(watched).keys() >= set(OBSERVERS), "all hooks have run")
    inputs = seen(watched)
    facts = {event: (content["subject"], content["payload"]) for event, content in inputs.items()}
    subject, denial = facts["permission_denied"]
    assert (subject, denial["agent"]) == ("read_file", "default")
    assert "not allowed" in denial["text"]
    assert inputs["permission_denied"]["run_id"] == sent["run_id"]
    subject, start = facts["subagent_start"]
    assert (subject, start["prompt"], start["parent_session_id"]) == ("default", "hi", parent)
    assert inputs["subagent_start"]["session_id"] == inputs["subagent_stop"]["session_id"] == agent_id
    assert facts["subagent_stop"][1] == {"outcome": "completed", "error": None}
    subject, compaction = facts["post_compact"]
    assert (subject, compaction["agent"]) == ("manual", "default")
    assert compaction["post_tokens"] >= 0
    assert facts["task_created"] == ("sweep", {"agent": "default", "task_id": task["task_id"]})
    assert facts["task_completed"] == (task["task_id"], {"agent": "default"})
    assert facts["worktree_remove"][0] == worktree["path"]
    assert watched.call("hook.dead_letters")["dead_letters"] == []


BAD_HOOK = """
[[hook]]
name = "{mode}"
event = "pre_tool_use"
matcher = "{tool}"
command = ["./{mode}.sh"]
failure = "closed"
timeout_s = {timeout_s}
"""

# At first each of them is busy, with a child in a session of its own, until the daemon dies.
BUSY = """#!/bin/sh
cat > /dev/null
cd {home}
if ! test -e {mode}.pid; then
    setsid sleep 1000 &
    echo $! > {mode}.new && mv {mode}.new {mode}.pid
    exec sleep 1000
fi
"""

# Mode → its tool, the arguments of a call, what it does after the restart, and the problem on record.
BAD_HOOKS = {
    "flood": ("list_files", {}, "yes", "it wrote more than 131072 bytes"),
    "hang": ("glob_search", {"pattern": "*"}, "setsid sleep 1000 & sleep 1000", "it took longer than 3 s"),
    "missing": ("grep_search", {"pattern": "x"}, "", "No such file or directory"),
    "veto": ("read_file", {"path": "a"}, "echo not now >&2; exit 2", ""),
}


@pytest.fixture
def troubled() -> Iterator[Daemon]:
    """Provide a daemon whose guards behave badly."""
    with short_home() as home:
        (home / "hooks").mkdir(parents=True)
        text = ""
        for mode, (tool, _, line, _) in BAD_HOOKS.items():
            text += BAD_HOOK.format(mode=mode, tool=tool, timeout_s=3 if mode == "hang" else 30)
            script = home / "hooks" / f"{mode}.sh"
            script.write_text(BUSY.format(home=home, mode=mode) + line + "\n")
            script.chmod(0o700)
        (home / "hooks/bad.toml").write_text(text)
        with Daemon(home) as daemon:
            yield daemon


def is_gone(home: Path, mode: str) -> bool:
    """Whether the child that a hook has put into a session of its own has ended, if there was one."""
    path = home / f"{mode}.pid"
    return not path.exists() or not Path("/proc", path.read_text().strip()).exists()


def test_bad_hooks_and_a_restart_during_each(troubled: Daemon) -> None:
    """A hook that floods, hangs, is missing or vetoes blocks its call, also over a kill; nothing stays."""
    sessions = {}
    for mode, (tool, arguments, _, _) in BAD_HOOKS.items():
        sent = troubled.call("conversation.send", content=order(tool, **arguments), sender=mode)
        sessions[mode] = sent["session_id"]
    # On a slow machine, the one with a short time may be over before it has done anything.
    patient = BAD_HOOKS.keys() - {"hang"}
    until(lambda: all((troubled.home / f"{mode}.pid").exists() for mode in patient), "all hooks run")
    troubled.kill()
    until(lambda: all(is_gone(troubled.home, mode) for mode in BAD_HOOKS), "their children have ended")
    (troubled.home / "hooks/missing.sh").unlink()
    troubled.start()
    until(lambda: not troubled.call("run.list", active=True)["runs"], "all runs are completed")
    texts = {mode: results(troubled, session_id)[0] for mode, session_id in sessions.items()}
    assert "the hook 'veto' blocked it: not now" in texts.pop("veto")
    for mode, text in texts.items():
        assert f"the hook '{mode}' failed, and without its consent this must not be done" in text
    letters = troubled.call("hook.dead_letters")["dead_letters"]
    problems = {letter["hook"]: letter["problem"] for letter in letters}
    assert problems.keys() == texts.keys()
    for mode, problem in problems.items():
        assert BAD_HOOKS[mode][3] in problem
    warnings = troubled.call("daemon.status")["health"]["warnings"]
    assert any("missing" in str(warning) for warning in warnings)
    diagnosis = troubled.call("daemon.doctor", deep=True)
    assert (diagnosis["findings"], diagnosis["complete"]) == ([], True)
