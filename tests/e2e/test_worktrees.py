"""Worktrees of agents in a real daemon with real git: work, commits, kill -9, and commands beside them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemons import Daemon, short_home, until
from tests.support.git_repositories import exists, git, make_hostile, make_repository
from tests.support.waiting_runs import order

ALLOW = """
[permissions]
mode = "bypassPermissions"

[[permissions.rules]]
tool = "bash"
decision = "allow"
"""

GIT = "git -c user.name=a -c user.email=b"

pytestmark = pytest.mark.usefixtures("bubblewrap")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Provide a daemon whose agents may run commands."""
    with short_home() as home:
        home.mkdir()
        (home / "config.toml").write_text(ALLOW)
        with Daemon(home) as daemon:
            yield daemon


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Provide a repository whose path has a blank."""
    return make_repository(tmp_path / "a repository")


def root(daemon: Daemon, source: Path) -> str:
    """Create a session that works in a repository."""
    return str(daemon.call("session.create", workspace=str(source))["session_id"])


def spawn(daemon: Daemon, parent: str, prompt: str) -> Any:
    """Spawn an agent with a worktree."""
    return daemon.call("agent.spawn", parent=parent, name="scout", prompt=prompt, isolation="worktree")


def until_idle(daemon: Daemon, agent_id: str) -> Any:
    """Wait until an agent has settled; return its snapshot."""

    def snapshot() -> Any:
        return daemon.call("agent.get", agent=agent_id)

    until(lambda: snapshot()["status"] in ("idle", "failed"), "the agent has settled")
    return snapshot()


def result_of(daemon: Daemon, agent_id: str) -> str:
    """Return the results of an agent's calls."""
    events = daemon.events(session_id=agent_id)
    return "\n".join(event["text"] for event in events if event["type"] == "tool_returned")


def test_two_agents_change_the_same_file(daemon: Daemon, source: Path, tmp_path: Path) -> None:
    """Each commits on its own branch; nothing of a hostile configuration is executed outside of a sandbox."""
    mark = make_hostile(source, tmp_path / "tools")
    parent = root(daemon, source)
    # Its own filters would fail in the sandbox, where they do not exist.
    settings = " ".join(f"-c filter.evil.{key}=" for key in ("clean", "process"))
    commit = f"{GIT} {settings} -c filter.evil.required=false -c core.fsmonitor=false commit -qam"
    agents = [
        spawn(
            daemon,
            parent,
            order("bash", command=f"echo {name} >file; {commit} {name}; git log -1 --format=%s"),
        )
        for name in ("left", "right")
    ]
    for agent, name in zip(agents, ("left", "right"), strict=True):
        snapshot = until_idle(daemon, agent["agent_id"])
        assert name in result_of(daemon, agent["agent_id"])
        closed = daemon.call("agent.close", agent=agent["agent_id"])
        assert closed["kept_branch"] == snapshot["worktree"]["branch"]
        assert git(source, "log", "-1", "--format=%s", closed["kept_branch"]) == name
        assert not exists(snapshot["worktree"]["path"])
    assert not exists(mark)


def test_delegated_tasks_leave_branches(daemon: Daemon, source: Path) -> None:
    """Each task has a worktree; the branches with commits stay, and the worktrees are removed."""
    tasks = [
        {
            "name": name,
            "isolation": "worktree",
            "prompt": order("bash", command=f"echo {name} >file; {GIT} commit -qam {name}"),
        }
        for name in ("left", "right")
    ]
    parent = root(daemon, source)
    daemon.call("session.send", session_id=parent, content=order("delegate", tasks=tasks), wait="settled")
    agents = daemon.call("agent.list", root=parent, closed=True)["agents"][1:]
    assert len(agents) == 2
    for agent in agents:
        until_state(daemon, agent["agent_id"], "closed")
        assert git(source, "log", "-1", "--format=%s", agent["worktree"]["branch"]) == agent["name"]
        assert not exists(agent["worktree"]["path"])


def test_uncommitted_work_stays(daemon: Daemon, source: Path) -> None:
    """A tool spawns the agent, a file tool writes, and the closed agent names the directory."""
    prompt = order("write_file", path="new", content="work\n")
    task = order("spawn_agent", name="writer", prompt=prompt, isolation="worktree", wait=True)
    parent = root(daemon, source)
    daemon.call("session.send", session_id=parent, content=task, wait="settled")
    (agent,) = [row for row in daemon.call("agent.list", root=parent)["agents"] if row["agent_id"] != parent]
    assert (Path(agent["worktree"]["path"]) / "new").read_text() == "work\n"
    closed = daemon.call("agent.close", agent=agent["agent_id"])
    assert closed["kept_worktree"] == agent["worktree"]["path"]
    assert closed["kept_worktree"] in closed["close_note"]
    assert (Path(closed["kept_worktree"]) / "new").read_text() == "work\n"
    assert not exists(source / "new")


def until_state(daemon: Daemon, agent_id: str, *states: str) -> None:
    """Wait until an agent is in one of these states."""
    until(lambda: daemon.call("agent.get", agent=agent_id)["state"] in states, f"the agent is {states}")


def until_exists(path: Path) -> None:
    """Wait for a file or a directory."""
    until(lambda: exists(path), f"{path} exists")


def test_kill_while_worktrees_are_made_and_removed(daemon: Daemon, source: Path) -> None:
    """The next daemon makes or removes what the last one has begun; no worktree is lost or made twice."""
    for index in range(300):
        (source / f"file{index}").write_text("x\n")
    git(source, "add", "-A")
    git(source, "commit", "-q", "-m", "many")
    parent = root(daemon, source)
    agents = []
    for stage in ("", ".kheish/worktrees/{}", ".kheish/worktrees/{}/file"):
        agent = spawn(daemon, parent, "look")
        agents.append(agent)
        until_exists(source / stage.format(agent["agent_id"]))
        daemon.kill()
        daemon.start()
    for agent in agents:
        snapshot = until_idle(daemon, agent["agent_id"])
        assert snapshot["last_outcome"] == "completed"
        assert git(Path(snapshot["worktree"]["path"]), "status", "--porcelain") == ""
    for agent in agents:
        with daemon.connect() as client:
            client.ask("agent.close", agent=agent["agent_id"])
            until_state(daemon, agent["agent_id"], "closing", "closed")
            daemon.kill()
        daemon.start()
    for agent in agents:
        until_state(daemon, agent["agent_id"], "closed")
        assert not exists(agent["worktree"]["path"])
    assert git(source, "worktree", "list").count("\n") == 0
    assert git(source, "branch", "--list", "--format=%(refname:short)") == "main"


def test_shells_beside_worktrees(daemon: Daemon, source: Path) -> None:
    """A shell of the agent ends before its worktree is removed; one of the parent goes on."""
    parent = root(daemon, source)
    first = spawn(daemon, parent, order("bash", command="sleep 1000", run_in_background=True))
    until_idle(daemon, first["agent_id"])
    command = "touch .kheish/x; cat .kheish/worktrees/*/file; sleep 1000"
    shell = order("bash", command=command, run_in_background=True)
    daemon.call("session.send", session_id=parent, content=shell, wait="settled")
    until(lambda: len(daemon.call("task.list", status="in_progress")["tasks"]) == 2, "both shells run")
    daemon.call("agent.close", agent=first["agent_id"])
    assert not exists(first["worktree"]["path"])
    (running,) = daemon.call("task.list", status="in_progress")["tasks"]
    assert running["session_id"] == parent
    output = daemon.call("task.output", task_id=running["task_id"])
    assert "Read-only file system" in str(output)
    assert "one" in str(output)
    daemon.call("task.stop", task_id=running["task_id"])
