"""The person who answers for an agent: an unattended one never waits for nobody."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.config.sections.agents import AgentsSection
from kheishd.objects.agents.attendance import find_attendance
from kheishd.objects.agents.spawn import prepare_spawn
from kheishd.objects.agents.spawn import spawn as spawn_agent
from kheishd.store.tables import SESSIONS
from protocol.audience import Audience
from protocol.errors.approval import NotInAudience
from protocol.objects.agent import SpawnRequest
from tests.support.desk import gives, says
from tests.support.families import root, spawn, until
from tests.support.household import Household, household
from tests.support.workshop import Workshop, ask, hooks, write


def call_tool(house: Household, tool_call: Any) -> None:
    """Let every model call a tool first, and then answer with the result that it got."""

    def answer(request: Any) -> Any:
        last = request.messages[-1]
        if last.role == "tool":
            return says(last.items[-1].text)
        return gives(tool_call, stop_reason="tool_calls")

    house.models.answers = [answer]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon whose agents write, which needs a person, and ask."""
    async with household(tmp_path, tcp=True, hooks=hooks(Workshop())) as house:
        yield house


@pytest.mark.parametrize("tool_call", [write(), ask()], ids=["approval", "question"])
async def test_without_a_person_requests_are_denied(house: Household, tool_call: Any) -> None:
    """The model of a child without a person or an owner reads why, and goes on; nothing waits."""
    call_tool(house, tool_call)
    child = await spawn(house, await root(house))
    settled = await until(house, child["agent_id"], "idle", "waiting_for_approval", "waiting_for_user_input")
    assert settled["status"] == "idle"
    assert "no person is attached to this agent" in settled["output"]
    assert (await house.call("approval.list"))["approvals"] == []


async def test_with_a_person_requests_wait(house: Household) -> None:
    """A child of a person's session waits for any authorized client, as its parent does."""
    sent = await house.ask(sender="ann")
    call_tool(house, write())
    child = await spawn(house, sent["session_id"])
    shown = await until(house, child["agent_id"], "waiting_for_approval")
    (approval,) = (await house.call("approval.list"))["approvals"]
    assert "audience" not in approval
    assert (shown["approval_ids"], "question_ids" in shown) == ([approval["approval_id"]], False)


async def test_an_agent_works_for_the_person_of_the_run(house: Household) -> None:
    """A child that a person's run spawns works for that person, also in a session that has none."""
    parent = await root(house)
    sent = await house.call("session.send", session_id=parent, content="go", sender="ann", wait="settled")
    runtime = house.holder.current()
    request = SpawnRequest(name="scout", prompt="look")
    plan = prepare_spawn(house.state, runtime, request, parent_id=parent, run_id=sent["run_id"])
    child = await house.state.update(lambda tx: spawn_agent(tx, runtime, plan))
    assert (await house.call("agent.get", agent=child.agent_id))["sender"] == "ann"


async def test_a_root_waits_for_anyone(house: Household) -> None:
    """A root that a program uses waits: the program or any other client can answer."""
    call_tool(house, write())
    sent = await house.call("session.send", session_id=await root(house), content="go", wait="settled")
    assert sent["status"] == "waiting_for_approval"


@pytest.mark.parametrize("sender", [None, "bob"])
async def test_requests_go_to_the_declared_owner(house: Household, sender: str | None) -> None:
    """The owner of a child answers for it and for the agents below it; nobody else can."""
    parent = await root(house) if sender is None else (await house.ask(sender=sender))["session_id"]
    call_tool(house, write())
    child = await spawn(house, parent, owner="ann")
    inner = await spawn(house, child["agent_id"], "inner")
    for agent in (child, inner):
        await until(house, agent["agent_id"], "waiting_for_approval")
    branch = await house.call("session.fork", session_id=child["agent_id"])
    fork_id = branch["session_id"]
    with house.state.read() as store:
        attendance = find_attendance(store, house.holder.current(), store.need(SESSIONS, fork_id))
    assert attendance == Audience(people=["ann"])
    approvals = (await house.call("approval.list"))["approvals"]
    assert [approval["audience"] for approval in approvals] == [{"people": ["ann"]}] * 2
    refusal = await house.refusal_of(
        "approval.resolve", resolutions=[{"approval_id": approvals[0]["approval_id"], "decision": "allow"}]
    )
    assert isinstance(refusal, NotInAudience)


async def test_requests_go_to_the_configured_owner(tmp_path: Path) -> None:
    """Where the configuration says so, its owner answers for agents without a person."""
    for number, (section, status) in enumerate(
        (
            (AgentsSection(unattended="owner", owner="ann"), "waiting_for_approval"),
            # Without a name there is no owner.
            (AgentsSection(unattended="owner"), "idle"),
            (AgentsSection(owner="ann"), "idle"),
        )
    ):
        directory = tmp_path / str(number)
        async with household(directory, hooks=hooks(Workshop()), agents=section) as house:
            call_tool(house, write())
            child = await spawn(house, await root(house))
            settled = await until(house, child["agent_id"], "idle", "waiting_for_approval")
            assert settled["status"] == status
