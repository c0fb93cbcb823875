"""The spawn of an agent as one transaction, which every kind of caller uses."""

from pathlib import Path

import pytest

from kheishd.objects.agents.spawn import measure_limits, prepare_spawn, spawn
from kheishd.store.tables import AGENTS, AGENTS_LIVE, SESSIONS
from protocol.errors.agent import SpawnLimit
from protocol.errors.session import WorkspaceMissing
from protocol.objects.agent import ManagedAgent, SpawnRequest
from tests.support.families import root, until
from tests.support.families import spawn as spawn_over_socket
from tests.support.household import Household, household

REQUEST = SpawnRequest(name="scout", prompt="look")


async def spawn_one(
    house: Household, parent: str, request_id: str, run_id: str | None = None
) -> ManagedAgent:
    """Spawn an agent, as a tool of a run does."""
    runtime = house.holder.current()
    plan = prepare_spawn(
        house.state, runtime, REQUEST, parent_id=parent, request_id=request_id, run_id=run_id
    )
    return await house.state.update(lambda tx: spawn(tx, runtime, plan))


async def test_a_run_spawns_a_limited_number(idle: Household) -> None:
    """Repeating a request is not one more; the agents of other runs do not count."""
    parent, runtime = await root(idle), idle.holder.current()
    limit = runtime.config.agents.max_spawns_per_run
    run_id = (await idle.call("session.send", session_id=parent, content="go"))["run_id"]

    for number in [*range(limit - 1), *range(limit - 1)]:
        await spawn_one(idle, parent, f"r{number}", run_id)
    with idle.state.read() as store:
        uses = measure_limits(
            store, runtime.config.agents, store.need(SESSIONS, parent), run_id, idle.state.now_ms()
        )
        assert {use.limit: use.used for use in uses}["agents.max_spawns_per_run"] == limit - 1


async def test_a_refused_spawn_leaves_nothing(idle: Household) -> None:
    """The transaction is all or nothing."""
    parent, runtime = await root(idle), idle.holder.current()
    head = idle.head()
    limits = runtime.config.agents
    for number in range(limits.max_children):
        await spawn_one(idle, parent, f"r{number}")
    assert idle.head() == head + 5 * limits.max_children
    with pytest.raises(SpawnLimit):
        await spawn_one(idle, parent, "one too many")
    with idle.state.read() as store:
        assert store.count(AGENTS) == store.count(AGENTS_LIVE) == limits.max_children


async def test_a_child_has_its_parents_sender(idle: Household) -> None:
    """Who may read the parent's conversation may read the child's."""
    sent = await idle.send(sender="ann")
    agent = await spawn_one(idle, sent["session_id"], "r")
    ann = await idle.connect_limited(senders=["ann"])
    assert (await ann.call("agent.get", agent=agent.path))["sender"] == "ann"


async def test_the_first_run_starts_with_the_spawn(tmp_path: Path) -> None:
    """The spawn's commit has its start and its model call, too; a repeated request starts nothing."""
    async with household(tmp_path) as house:
        await house.send(wait="settled")
        parent, gate = await root(house), house.gate("slow")
        request = {"prompt": "slow", "spawn_request_id": "r"}
        child = await spawn_over_socket(house, parent, **request)
        assert child["status"] == "running"
        await gate.reached.wait()
        assert (await spawn_over_socket(house, parent, **request))["agent_id"] == child["agent_id"]
        events = (await house.call("journal.read", session_id=child["agent_id"]))["events"]
        started = [event["type"] for event in events].index("run_started")
        assert [event["type"] for event in events[started - 1 :]] == [
            "run_accepted",
            "run_started",
            "model_asked",
        ]
        assert len({event["at_ms"] for event in events}) == 1
        gate.opened.set()
        await until(house, child["agent_id"], "idle")


async def test_a_repeated_request_needs_no_workspace(idle: Household, tmp_path: Path) -> None:
    """The agent of a request is found after its directory was removed; a new request is refused."""
    (tmp_path / "part").mkdir()
    parent = await root(idle, workspace=str(tmp_path))
    request = {"parent": parent, "name": "x", "prompt": "x", "workspace": "part"}
    child = await idle.call("agent.spawn", **request, spawn_request_id="r")
    (tmp_path / "part").rmdir()
    again = await idle.call("agent.spawn", **request, spawn_request_id="r")
    assert again["agent_id"] == child["agent_id"]
    assert isinstance(await idle.refusal_of("agent.spawn", **request), WorkspaceMissing)
    explained = await idle.call("agent.explain", spawn=request | {"spawn_request_id": "r"})
    assert explained["reason"] == "workspace_missing"
