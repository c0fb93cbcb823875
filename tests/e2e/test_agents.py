"""Agents in a real daemon: those of contrib/agents, roles, bad requests, and a daemon that is killed."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemons import Daemon, RpcError, short_home, until
from tests.support.programs import ROOT
from tests.support.waiting_runs import order

EXAMPLES = ROOT / "contrib" / "agents"

CONFIG = f"""
[skills]
roots = ["{ROOT / "contrib" / "skills"}"]
user = false

[routes.second]
driver = "offline"
model = "second"
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Provide a daemon with the agents and the skills of contrib."""
    with short_home() as home:
        shutil.copytree(EXAMPLES, home / "agents")
        (home / "config.toml").write_text(CONFIG)
        with Daemon(home) as daemon:
            yield daemon


def result_of(daemon: Daemon, run: Any) -> Any:
    """Return the result of a run's only call, decoded if it is JSON."""
    events = daemon.events(session_id=run["session_id"], run_id=run["run_id"])
    (event,) = [event for event in events if event["type"] == "tool_returned"]
    return event["text"] if event.get("is_error") else json.loads(event["text"])


def until_idle(daemon: Daemon, agent: str) -> Any:
    """Wait until an agent is idle; return its snapshot."""
    until(lambda: bool(daemon.call("agent.get", agent=agent)["status"] == "idle"), f"{agent} is idle")
    return daemon.call("agent.get", agent=agent)


def refusal_of(daemon: Daemon, method: str, **params: Any) -> str:
    """Return the reason and the field of a refusal."""
    with pytest.raises(RpcError) as caught:
        daemon.call(method, **params)
    return f"{caught.value.reason} {caught.value.data.get('field')}"


def test_the_definitions_of_contrib_load_without_a_warning(daemon: Daemon) -> None:
    """Each of them is an agent that a person can address, and it answers."""
    names = {path.stem for path in EXAMPLES.iterdir()}
    assert names == {"default", "reviewer", "coordinator"}
    rows = {row["name"]: row for row in daemon.call("definition.list")["definitions"]}
    assert all(rows[name]["source"] == "file" for name in names)
    assert daemon.call("daemon.status").get("warnings", []) == []
    for name in names:
        assert daemon.say("hello", agent=name)["status"] == "completed"


def test_a_coordinator_delegates_to_three_reviewers(daemon: Daemon) -> None:
    """They work at once, their results come in order, and each has only a reviewer's rights."""
    tasks = [{"name": name, "agent": "reviewer", "prompt": f"/answer {name}"} for name in ("a", "b", "c")]
    run = daemon.say(order("delegate", tasks=tasks), agent="coordinator", sender="ada")
    results = result_of(daemon, run)["results"]
    assert [row["final_output"] for row in results] == ["a", "b", "c"]
    assert [row["status"] for row in results] == ["completed"] * 3
    root = run["session_id"]
    until(lambda: len(daemon.call("agent.list", root=root)["agents"]) == 1, "the agents are closed")
    rows = daemon.call("agent.list", root=root, closed=True)["agents"]
    assert [row["path"] for row in rows] == [root, *(f"{root}/{name}" for name in ("a", "b", "c"))]
    child = results[0]["agent_id"]
    why = daemon.call("permission.why", tool="bash", session_id=child)
    assert why["decision"] == "deny"
    assert daemon.call("permission.why", tool="bash", session_id=root)["decision"] == "ask"
    # A reviewer delegates to nobody.
    run = daemon.say(order("delegate", tasks=tasks), agent="reviewer", sender="ada")
    assert "There is no tool 'delegate'" in result_of(daemon, run)


def test_a_role_is_enforced(daemon: Daemon) -> None:
    """An agent whose role has no tool cannot call it, whatever it was told and whatever its mode."""
    root = daemon.call("session.create", permission_mode="bypassPermissions")["session_id"]
    child = daemon.call(
        "agent.spawn",
        parent=root,
        name="checker",
        prompt=order("write_file", path="x", content="x"),
        profile="verification",
    )
    settled = until_idle(daemon, child["agent_id"])
    run = {"session_id": child["agent_id"], "run_id": settled["last_run_id"]}
    assert "There is no tool 'write_file'" in result_of(daemon, run)
    assert not (daemon.home / "workspace" / "x").exists()


def test_a_child_has_another_route_and_model(daemon: Daemon) -> None:
    """It does not have its parent's: what the request names, else its definition's."""
    root = daemon.call("session.create", route="second")["session_id"]
    child = daemon.call("agent.spawn", parent=root, name="x", prompt="x", route="second", model="other")
    plain = daemon.call("agent.spawn", parent=root, name="y", prompt="y")
    runs = [daemon.call("run.get", run_id=agent["launch_run_id"]) for agent in (child, plain)]
    assert [(run["pinned"]["route"], run["pinned"]["model"]) for run in runs] == [
        ("second", "other"),
        ("offline", "offline"),
    ]


def test_a_child_obeys_the_rules_of_its_parents_session(daemon: Daemon) -> None:
    """An allow counts for both; a deny that comes later, too, and nothing of the child's own overrules it."""
    root = daemon.call("session.create")["session_id"]
    rule = {"tool": "bash", "subject": "ls", "decision": "allow"}
    daemon.call("permission.update", session_id=root, add=[rule])
    child = daemon.call("agent.spawn", parent=root, name="x", prompt="x")["agent_id"]

    def why() -> str:
        return str(daemon.call("permission.why", session_id=child, tool="bash", subject="ls")["decision"])

    assert why() == "allow"
    daemon.call("permission.update", session_id=root, add=[rule | {"decision": "deny"}])
    daemon.call("permission.update", session_id=child, add=[rule])
    assert why() == "deny"


def test_bad_requests_name_their_field(daemon: Daemon) -> None:
    """Unknown roles, wider rights, strangers, cycles and closed agents are refused, and leave nothing."""
    root = daemon.call("session.create", session_id="bad", scope={"tools": ["read_file"]})["session_id"]
    stranger = daemon.call("session.create")["session_id"]
    spawn = {"parent": root, "name": "x", "prompt": "x"}
    for changes, reason in (
        ({"profile": "emperor"}, "invalid_params $.params.profile"),
        ({"permission_mode": "bypassPermissions"}, "scope_would_widen $.params.permission_mode"),
        ({"allowed_tools": ["bash"]}, "scope_would_widen $.params.allowed_tools"),
        (
            {"scope": {"tools": None, "skills": ["x"]}, "parent": f"{root}/nobody"},
            "no_such_agent $.params.parent",
        ),
        ({"workspace": "../.."}, "workspace_forbidden $.params.workspace"),
        ({"name": ""}, "invalid_params $.params.name"),
        ({"budget": {"max_tokens": -1}}, "invalid_params $.params.budget.max_tokens"),
        ({"agent": "nobody"}, "member_forbidden $.params.agent"),
    ):
        assert refusal_of(daemon, "agent.spawn", **(spawn | changes)) == reason
    own_parent = {"session_id": "loop", "parent_session_id": "loop"}
    assert refusal_of(daemon, "session.create", **own_parent).startswith("session_not_found")
    assert len(daemon.call("agent.list", root=root, closed=True)["agents"]) == 1
    child = daemon.call("agent.spawn", **spawn)["agent_id"]
    until_idle(daemon, child)
    mail = {"from": stranger, "to": child, "subject": "s", "payload": 1}
    daemon.call("agent.close", agent=child)
    assert refusal_of(daemon, "mailbox.post", **mail) == "agent_already_closed $.params.to"
    assert refusal_of(daemon, "agent.spawn", **(spawn | {"parent": child})).startswith(
        "session_already_ended"
    )


def test_a_killed_daemon_loses_no_agent(daemon: Daemon) -> None:
    """Whenever it is killed, each request leaves one agent, and its parent one notice."""
    root = daemon.call("session.create")["session_id"]
    spawn = {"parent": root, "name": "x", "prompt": "/slow 20 5"}
    for number in range(3):
        with daemon.connect() as client:
            client.ask("agent.spawn", **spawn, spawn_request_id=f"r{number}")
            daemon.kill()
        daemon.start()
        daemon.call("agent.spawn", **spawn, spawn_request_id=f"r{number}")
    agents = [row for row in daemon.call("agent.list", root=root)["agents"] if row["agent_id"] != root]
    assert len(agents) == 3

    def is_told() -> bool:
        done = daemon.call("mailbox.list", agent=root, state="done")["messages"]
        return len(done) == 3

    until(is_told, "the parent has read three notices")
    assert {until_idle(daemon, row["agent_id"])["last_outcome"] for row in agents} == {"completed"}
    assert daemon.call("daemon.doctor", deep=True)["findings"] == []
