"""The agents worker: it closes agents whose time is over, after a crash, too."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.lifecycle.part import LifecycleHooks
from kheishd.hooks.os import worktrees
from kheishd.hooks.os.worktrees import make_worktree
from kheishd.kernel.runtime import ModelEvent, ModelFailure, ModelRequest
from kheishd.objects.agents.spawn import prepare_spawn, spawn
from kheishd.objects.work.shell import ShellOutcome, record_ended
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import AGENTS, SESSIONS, SHELLS_STOPPING
from kheishd.workers import agents as worker
from kheishd.workers.agents import begin_close, finish
from protocol.events.task import TaskCreated
from protocol.objects.agent import AgentWorktree, ManagedAgent, SpawnRequest
from tests.support.desk import Gate
from tests.support.families import root, until, until_closed
from tests.support.families import spawn as spawn_over_socket
from tests.support.git_repositories import exists, git, make_repository
from tests.support.histories import SHELL
from tests.support.hooked import shell_hook
from tests.support.household import Household, household


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon with workers."""
    async with household(tmp_path) as house:
        yield house


class Failing(Gate):
    """A model call that fails for good once the gate opens."""

    async def __call__(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Wait, then fail."""
        self.reached.set()
        await self.opened.wait()
        raise ModelFailure("bad_request", "no", retryable=False)
        yield


async def spawn_from_run(house: Household, parent: str, run_id: str, **params: Any) -> str:
    """Spawn an agent as a tool of a run does; return its id."""
    runtime = house.holder.current()
    request = SpawnRequest(name="scout", prompt="look", retention="close_on_settle", **params)
    plan = prepare_spawn(house.state, runtime, request, parent_id=parent, run_id=run_id)
    return (await house.state.update(lambda tx: spawn(tx, runtime, plan))).agent_id


async def test_an_agent_that_closes_by_itself_is_closed_once_it_has_settled(house: Household) -> None:
    """Its output and its status stay readable; one that is retained stays open."""
    parent = await root(house)
    child = await spawn_over_socket(house, parent, retention="close_on_settle")
    closed = await until_closed(house, child["agent_id"])
    assert (closed["status"], closed["output"], closed["close_note"]) == (
        "completed",
        "You said: look",
        "it has settled",
    )
    kept = await spawn_over_socket(house, parent)
    await until(house, kept["agent_id"], "idle")
    assert (await house.call("agent.get", agent=kept["agent_id"]))["state"] == "open"


async def test_an_agent_waits_for_the_agents_below_it(house: Household) -> None:
    """An agent that has settled stays open as long as a child of it is live."""
    parent = await root(house)
    gate = house.gate("slow")
    child = await spawn_over_socket(house, parent, retention="close_on_settle", prompt="slow")
    inner = await spawn_over_socket(house, child["agent_id"])
    gate.opened.set()
    await until(house, child["agent_id"], "completed")
    await until(house, inner["agent_id"], "idle")
    assert (await house.call("agent.get", agent=child["agent_id"]))["state"] == "open"
    await house.call("agent.close", agent=inner["agent_id"])
    await until_closed(house, child["agent_id"])


async def test_an_agent_waits_for_the_sessions_below_it(house: Household) -> None:
    """An agent that has settled stays open as long as a session that a client created below it works."""
    parent = await root(house)
    gate = house.gate("slow")
    child = await spawn_over_socket(house, parent, retention="close_on_settle", prompt="slow")
    created = await root(house, parent_session_id=child["agent_id"])
    inner_gate = house.gate("inner")
    await house.call("session.send", session_id=created, content="inner")
    gate.opened.set()
    await until(house, child["agent_id"], "completed")
    await inner_gate.reached.wait()
    assert (await house.call("agent.get", agent=child["agent_id"]))["state"] == "open"
    inner_gate.opened.set()
    await until_closed(house, child["agent_id"])
    assert (await house.call("session.get", session_id=created))["status"] == "ended"


async def test_a_close_ends_the_sessions_below_and_their_agents(house: Household) -> None:
    """The runs of sessions that clients created below are stopped, too, and agents below those are closed."""
    child = await spawn_over_socket(house, await root(house))
    created = await root(house, parent_session_id=child["agent_id"])
    lowest = await root(house, parent_session_id=created)
    gate = house.gate("slow")
    sent = await house.call("session.send", session_id=lowest, content="slow")
    await gate.reached.wait()
    inner = await spawn_over_socket(house, created, "inner")
    await house.call("agent.close", agent=child["agent_id"], note="enough")
    assert (await house.call("run.get", run_id=sent["run_id"]))["status"] == "cancelled"
    for session_id in (created, lowest, inner["agent_id"]):
        assert (await house.call("session.get", session_id=session_id))["status"] == "ended"
    assert (await house.call("agent.get", agent=inner["agent_id"]))["state"] == "closed"


async def test_agents_of_a_cancelled_run_are_closed(house: Household) -> None:
    """Their runs are cancelled; retained agents go on."""
    gate = house.gate("work")
    sent = await house.send("work")
    await gate.reached.wait()
    # The task of an agent is framed as one.
    house.gate(f'<task source="{sent["session_id"]}">\nlook\n</task>')
    child = await spawn_from_run(house, sent["session_id"], sent["run_id"])
    kept = await spawn_over_socket(house, sent["session_id"])
    await house.call("run.cancel", run_id=sent["run_id"])
    closed = await until_closed(house, child)
    assert (closed["close_note"], closed["last_outcome"], closed["status"]) == (
        "the run that spawned it was cancelled",
        "cancelled",
        "idle",
    )
    assert (await house.call("agent.get", agent=kept["agent_id"]))["state"] == "open"


async def test_agents_of_a_failed_run_have_failed(house: Household) -> None:
    """The agents that it spawned are closed as failed, and the agents below them, too."""
    gate = Failing()
    house.models.answers_to["work"] = gate
    sent = await house.send("work")
    await gate.reached.wait()
    child = await spawn_from_run(house, sent["session_id"], sent["run_id"])
    inner = await spawn_over_socket(house, child)
    gate.opened.set()
    for agent_id in (child, inner["agent_id"]):
        closed = await until_closed(house, agent_id)
        assert (closed["status"], closed["state"]) == ("failed", "closed")


async def test_a_close_continues_after_a_crash(tmp_path: Path) -> None:
    """Whatever a daemon left undone, the next one does."""
    async with household(tmp_path, work=False) as house:
        parent = await root(house)
        child = await spawn_over_socket(house, parent)
        inner = await spawn_over_socket(house, child["agent_id"])
        await house.state.update(
            lambda tx: begin_close(tx, tx.need(AGENTS, child["agent_id"]), note="enough")
        )
    async with household(tmp_path) as house:
        for agent in (child, inner):
            assert (await until_closed(house, agent["agent_id"]))["state"] == "closed"


async def test_an_agent_reads_its_mail_before_it_closes(house: Household) -> None:
    """An agent that closes once it has settled has not settled while mail waits for it."""
    parent = await root(house)
    gate = house.gate("slow")
    child = await spawn_over_socket(house, parent, retention="close_on_settle", prompt="slow")
    await gate.reached.wait()
    mail = {"from": parent, "to": child["agent_id"], "subject": "more", "payload": 1, "message_id": "m1"}
    await house.call("mailbox.post", **mail)
    gate.opened.set()
    await until_closed(house, child["agent_id"])
    message = await house.call("mailbox.get", agent=child["agent_id"], message_id="m1")
    assert (message["state"], message["outcome"]) == ("done", "delivered")


async def test_an_agent_reaches_its_goal_before_it_closes(house: Household) -> None:
    """An agent that closes once it has settled has not settled while the daemon pursues its goal."""
    parent = await root(house)
    gate = house.gate("slow")
    child = await spawn_over_socket(house, parent, retention="close_on_settle", prompt="slow")
    await gate.reached.wait()
    await house.call("goal.set", session_id=child["agent_id"], objective="Count to three.")
    gate.opened.set()
    await until(house, child["agent_id"], "completed")
    # The worker closes one agent after the other, in the order of their ids.
    later = await spawn_over_socket(house, parent, retention="close_on_settle")
    await until_closed(house, later["agent_id"])
    assert (await house.call("agent.get", agent=child["agent_id"]))["state"] == "open"
    await house.call("goal.pause", session_id=child["agent_id"])
    await until_closed(house, child["agent_id"])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Provide a repository."""
    return make_repository(tmp_path / "source")


async def test_an_isolated_agent_works_in_a_worktree_of_its_own(house: Household, source: Path) -> None:
    """Two at once have two directories and branches; a clean one is removed when its agent is closed."""
    parent = await root(house, workspace=str(source))
    first, second = [await spawn_over_socket(house, parent, isolation="worktree") for _ in range(2)]
    for agent in (first, second):
        snapshot = await until(house, agent["agent_id"], "idle")
        worktree = snapshot["worktree"]
        assert worktree["path"] == f"{source}/.kheish/worktrees/{agent['agent_id']}"
        assert worktree["base_commit"] == git(source, "rev-parse", "HEAD")
        run = await house.call("run.get", run_id=snapshot["last_run_id"])
        assert run["pinned"]["workspace"] == worktree["path"]
        assert (Path(worktree["path"]) / "file").read_text() == "one\n"
        audit = await house.call("agent.audit", agent=agent["agent_id"])
        statuses = [entry["status"] for entry in audit["transitions"]]
        assert statuses[:4] == ["idle", "preparing", "queued", "running"]
    path = Path(second["worktree"]["path"])
    (path / "file").write_text("changed\n")
    kept = await house.call("agent.close", agent=second["agent_id"])
    assert (kept["kept_worktree"], kept["kept_branch"]) == (str(path), second["worktree"]["branch"])
    assert "contains modified or untracked files" in kept["close_note"]
    closed = await house.call("agent.close", agent=first["agent_id"])
    assert "kept_worktree" not in closed
    assert not exists(first["worktree"]["path"])
    assert (path / "file").read_text() == "changed\n"


async def test_a_worktree_that_cannot_be_made_fails_the_first_run(house: Household, tmp_path: Path) -> None:
    """The agent is closed as failed with the reason, and its parent is told once."""
    (tmp_path / "source").mkdir()
    git(tmp_path / "source", "init", "-q")
    parent = await root(house, workspace=str(tmp_path / "source"))
    child = await spawn_over_socket(house, parent, isolation="worktree")
    closed = await until_closed(house, child["agent_id"])
    assert (closed["status"], closed["last_outcome"]) == ("failed", "failed")
    assert closed["last_error"]["reason"] == "worktree_failed"
    assert "the repository has no commit yet" in closed["close_note"]
    messages: list[Any] = []
    while not messages:
        bell = house.state.bell("journal")
        messages = (await house.call("mailbox.list", agent=parent, state="any"))["messages"]
        if not messages:
            await bell.wait()
    assert len(messages) == 1


async def test_a_hook_blocks_a_worktree(tmp_path: Path, source: Path) -> None:
    """The agent is closed as failed, with the hook's reason, and nothing was made."""
    hook = shell_hook("space", "worktree_create", "echo no room >&2; exit 2")
    async with household(tmp_path / "home", lifecycle=(hook,)) as house:
        parent = await root(house, workspace=str(source))
        child = await spawn_over_socket(house, parent, isolation="worktree")
        closed = await until_closed(house, child["agent_id"])
    assert closed["status"] == "failed"
    assert "the hook 'space' blocked it: no room" in closed["close_note"]
    assert not (source / ".kheish").exists()


@pytest.mark.parametrize("event", ["subagent_start", "user_prompt_submit"])
async def test_a_hook_blocks_an_agent(tmp_path: Path, event: Any) -> None:
    """An agent that a hook refuses at its start is closed as failed, with the reason; another one works."""
    line = "grep -q forbidden || exit 0; echo not this one >&2; exit 2"
    houses: list[Household] = []
    judge = CompositeHook((LifecycleHooks(lambda: houses[0].server.services),))
    hook = shell_hook("census", event, line)
    async with household(tmp_path, hooks=judge, lifecycle=(hook,)) as house:
        houses.append(house)
        parent = await root(house)
        child = await spawn_over_socket(house, parent, prompt="a forbidden task")
        closed = await until_closed(house, child["agent_id"])
        assert (closed["status"], closed["last_outcome"]) == ("failed", "failed")
        assert closed["last_error"]["reason"] == "hook_blocked"
        assert "the hook 'census' blocked it: not this one" in closed["close_note"]
        kinds = await house.kinds(session_id=child["agent_id"])
        assert "message_appended" not in kinds
        other = await spawn_over_socket(house, parent, prompt="an allowed task", spawn_request_id="other")
        assert (await until(house, other["agent_id"], "idle"))["state"] == "open"


async def test_an_agent_that_is_closed_before_its_worktree_is_made_leaves_nothing(
    tmp_path: Path, source: Path
) -> None:
    """Its run has not started, and nothing of the worktree stays."""
    async with household(tmp_path / "home", work=False) as house:
        parent = await root(house, workspace=str(source))
        child = await spawn_over_socket(house, parent, isolation="worktree")
        assert child["status"] == "preparing"
        await house.state.update(
            lambda tx: begin_close(tx, tx.need(AGENTS, child["agent_id"]), note="enough")
        )
    async with household(tmp_path / "home") as house:
        closed = await until_closed(house, child["agent_id"])
        assert (closed["last_outcome"], closed["close_note"]) == ("cancelled", "enough")
    assert not exists(child["worktree"]["path"])


async def test_a_preparation_continues_after_a_crash(tmp_path: Path, source: Path) -> None:
    """The next daemon makes the worktree again, whatever the last one has made of it; the run starts then."""
    async with household(tmp_path / "home", work=False) as house:
        parent = await root(house, workspace=str(source))
        child = await spawn_over_socket(house, parent, isolation="worktree")
        with house.state.read() as store:
            worktree = store.need(AGENTS, child["agent_id"]).worktree
        assert worktree is not None
        await make_worktree(worktree)
    async with household(tmp_path / "home") as house:
        snapshot = await until(house, child["agent_id"], "idle")
        assert snapshot["last_outcome"] == "completed"


async def test_agent_spawn_worktree_unavailable(house: Household, tmp_path: Path) -> None:
    """Without one the spawn is refused, and the dry run says so; with one it names the branch."""
    (tmp_path / "plain").mkdir()
    parent = await root(house, workspace=str(tmp_path / "plain"))
    refusal = await house.refusal_of("agent.spawn", parent=parent, name="a", prompt="b", isolation="worktree")
    assert (refusal.reason, refusal.field) == ("worktree_unavailable", "$.params.isolation")
    spawned = {"parent": parent, "name": "a", "prompt": "b", "isolation": "worktree"}
    assert (await house.call("agent.explain", spawn=spawned))["reason"] == "worktree_unavailable"
    make_repository(tmp_path / "plain")
    explained = await house.call("agent.explain", spawn=spawned)
    assert explained["branch"].endswith("/a")
    assert "/.kheish/worktrees/ses_" in explained["workspace"]


async def test_an_internal_error_about_a_worktree_blocks_nothing(
    house: Household, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run fails, or the agent is closed and names the directory."""

    async def fail(worktree: AgentWorktree) -> None:
        raise RuntimeError

    parent = await root(house, workspace=str(source))
    first = await spawn_over_socket(house, parent, isolation="worktree")
    await until(house, first["agent_id"], "idle")
    monkeypatch.setattr(worktrees, "make_worktree", fail)
    monkeypatch.setattr(worktrees, "remove_worktree", fail)
    second = await spawn_over_socket(house, parent, isolation="worktree")
    assert (await until(house, second["agent_id"], "failed"))["last_error"]["reason"] == "worktree_failed"
    closed = await house.call("agent.close", agent=first["agent_id"])
    assert closed["kept_worktree"] == first["worktree"]["path"]
    assert "an internal error" in closed["close_note"]


async def test_every_shell_in_a_worktree_is_stopped_before_it_is_removed(
    house: Household, source: Path
) -> None:
    """Also that of a fork of the agent's session, in a subdirectory."""
    parent = await root(house, workspace=str(source))
    child = await spawn_over_socket(house, parent, isolation="worktree")
    await until(house, child["agent_id"], "idle")
    fork_id = (await house.call("session.fork", session_id=child["agent_id"]))["session_id"]
    directory = f"{child['worktree']['path']}/sub"
    shell = replace(SHELL, workspace=directory, workdir=directory)

    def begin_shell(tx: Transaction) -> None:
        writer = SessionWriter(tx, fork_id, session=tx.need(SESSIONS, fork_id))
        writer.append(TaskCreated(task_id="tsk_x", title="x", kind="shell", shell=shell))
        writer.write()

    await house.state.update(begin_shell)
    await house.state.update(lambda tx: begin_close(tx, tx.need(AGENTS, child["agent_id"]), note=""))
    while True:
        bell = house.state.bell("journal")
        with house.state.read() as store:
            if store.count(SHELLS_STOPPING):
                break
        await bell.wait()
    await house.state.update(lambda tx: record_ended(tx, "tsk_x", ShellOutcome("stopped", 143)))
    await until_closed(house, child["agent_id"])


async def test_a_step_that_has_failed_is_tried_again(
    house: Household, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fault of the daemon keeps an agent open for good."""
    failures = [RuntimeError()]

    def fail_once(tx: Transaction, agent: ManagedAgent) -> None:
        if failures:
            raise failures.pop()
        finish(tx, agent)

    monkeypatch.setattr(worker, "finish", fail_once)
    monkeypatch.setattr(worker, "RETRY_FAILED_SECONDS", 0.0)
    child = await spawn_over_socket(house, await root(house))
    await house.call("agent.close", agent=child["agent_id"])
    await until_closed(house, child["agent_id"])
    assert not failures
