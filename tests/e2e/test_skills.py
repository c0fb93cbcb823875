"""Skills in a real daemon: those of contrib/skills, new and bad ones, and a daemon that is killed."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemons import Daemon, short_home, until
from tests.support.programs import ROOT
from tests.support.skills import write_skill
from tests.support.waiting_runs import order

SKILLS = ROOT / "contrib" / "skills"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Provide a daemon with the skills of contrib."""
    with short_home() as home:
        home.mkdir()
        skills = f'[skills]\nroots = ["{SKILLS}"]\nuser = false\n'
        (home / "config.toml").write_text(f"{skills}[workspace]\ntrusted = []\n")
        with Daemon(home) as daemon:
            yield daemon


def results(daemon: Daemon, sent: Any) -> list[str]:
    """Return the texts of a run's results."""
    events = daemon.events(session_id=sent["session_id"], run_id=sent["run_id"])
    return [event["text"] for event in events if event["type"] == "tool_returned"]


def test_the_skills_of_contrib_load_without_a_warning(daemon: Daemon) -> None:
    """Each of them is in the catalogue, by the name of its directory."""
    skills = {skill["name"]: skill for skill in daemon.call("skill.list")["skills"]}
    names = {path.name for path in SKILLS.iterdir()}
    assert len(names) == 3
    assert names <= skills.keys()
    assert daemon.call("skill.reload")["warnings"] == []
    assert {skills[name].get("context", "inline") for name in names} == {"inline", "fork"}


def test_an_agent_uses_an_inline_skill(daemon: Daemon) -> None:
    """Its instructions are the result, its tools are enforced, and both survive kill -9."""
    sent = daemon.say(order("use_skill", name="explain-code", args="the parser"), sender="ada")
    (text,) = results(daemon, sent)
    assert "Explain: the parser" in text
    session_id = sent["session_id"]
    daemon.kill()
    daemon.start()
    (active,) = daemon.call("session.skills", session_id=session_id)["active"]
    assert active["name"] == "explain-code"
    sent = daemon.say(order("bash", command="ls"), sender="ada")
    assert "There is no tool 'bash'. The tools are: " in results(daemon, sent)[0]
    why = daemon.call("permission.why", tool="bash", session_id=session_id)
    assert (why["decision"], why["why"]) == ("deny", "skill explain-code")
    (daemon.home / "workspace" / "parser.py").write_text("def parse(): ...\n")
    sent = daemon.say(order("read_file", path="parser.py"), sender="ada")
    assert "def parse" in results(daemon, sent)[0]
    daemon.call("skill.deactivate", session_id=session_id, name="explain-code")
    assert daemon.call("permission.why", tool="bash", session_id=session_id)["decision"] == "ask"
    assert daemon.call("daemon.doctor", deep=True)["findings"] == []


def test_patterns_of_a_skill_are_enforced(daemon: Daemon) -> None:
    """commit-message may look at the changes with git, and do nothing else, whatever the mode."""
    session = daemon.call("session.create", permission_mode="bypassPermissions")["session_id"]
    daemon.call("skill.activate", session_id=session, name="commit-message")

    def run(command: str) -> str:
        sent = daemon.call(
            "session.send", session_id=session, content=order("bash", command=command), wait="settled"
        )
        return results(daemon, sent)[0]

    assert "allows bash only for: git status, git status *" in run("touch x")
    assert "allows bash only for" in run("git status; touch x")
    assert not (daemon.home / "workspace" / "x").exists()
    daemon.call("session.end", session_id=session)


def test_a_skill_written_meanwhile(daemon: Daemon) -> None:
    """The next turn can use it; a bad one beside it is one warning of the status."""
    daemon.say("hello", sender="bob")
    write_skill(daemon.home / "skills", "late", "Say that you are late.\n")
    bad = write_skill(daemon.home / "skills", "bad", "---\nname: [\n---\n")
    sent = daemon.say(order("use_skill", name="late"), sender="bob")
    assert "Say that you are late." in results(daemon, sent)[0]
    warnings = [text for text in daemon.call("daemon.status")["warnings"] if "SKILL.md" in text]
    assert [text.split(": ")[0] for text in warnings] == [f"{bad}:3"]
    assert daemon.read_log().count("while parsing a flow node") == 1


def test_skills_of_the_workspace_need_its_trust(daemon: Daemon) -> None:
    """A skill in the workspace has no effect until the operator trusts the workspace, and none after that."""
    workspace = daemon.home / "workspace"
    write_skill(workspace / "skills", "planted")
    sent = daemon.say(order("use_skill", name="planted"), sender="eve")
    assert "no skill 'planted' here" in results(daemon, sent)[0]
    daemon.call("workspace.trust", root=str(workspace))
    sent = daemon.say(order("use_skill", name="planted"), sender="eve")
    assert "# Skill: planted" in results(daemon, sent)[0]
    daemon.call("workspace.untrust", root=str(workspace))
    sent = daemon.say(order("list_skills", query="planted"), sender="eve")
    assert results(daemon, sent) == ["No skill matches."]


def test_a_fork_survives_the_daemon(daemon: Daemon) -> None:
    """A daemon that is killed while an agent carries out a skill goes on with the same agent."""
    path = write_skill(daemon.home / "skills", "slow", "/slow 20 100\n\nA slow one.\n", "context: fork")
    sent = daemon.call("conversation.send", sender="ben", content=order("use_skill", name="slow"))
    children = {"parent_session_id": sent["session_id"], "sidechains": True}
    until(lambda: daemon.call("session.list", **children)["sessions"] != [], "the agent is spawned")
    daemon.kill()
    daemon.start()
    daemon.call("run.wait", run_id=sent["run_id"])
    (text,) = results(daemon, sent)
    spawned = json.loads(text)["spawn"]
    assert spawned["outcome"] == "completed"
    assert "A slow one." in spawned["final_output"]
    agents = daemon.call("session.list", **children)["sessions"]
    assert [agent["session_id"] for agent in agents] == [spawned["session_id"]]
    assert path.exists()
    assert daemon.call("daemon.doctor", deep=True)["findings"] == []


def test_the_fork_of_contrib(daemon: Daemon) -> None:
    """The agent that surveys a directory answers, and its agent has no tool to write with."""
    sent = daemon.say(order("use_skill", name="survey", args="."), sender="cid")
    spawned = json.loads(results(daemon, sent)[0])["spawn"]
    assert spawned["outcome"] == "completed"
    assert "Survey this directory of the workspace: ." in spawned["final_output"]
    why = daemon.call("permission.why", tool="write_file", session_id=spawned["session_id"])
    assert (why["decision"], why["why"]) == ("deny", "skill survey")
