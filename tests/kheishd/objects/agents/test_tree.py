"""The tree of agents: addresses, and agents as shown."""

import pytest

from kheishd.objects.agents.tree import (
    find_relative,
    live_children,
    path_of,
    top_id_of,
    tree_of,
)
from kheishd.store.tables import SESSIONS
from protocol.errors.agent import NoSuchAgent
from protocol.errors.rpc import InvalidParams
from tests.support.families import root, spawn
from tests.support.household import Household


async def test_an_agent_has_four_addresses(idle: Household) -> None:
    """An id, a path, a nickname and a name; other texts name no agent."""
    parent = await root(idle)
    child = await spawn(idle, parent, nickname="Big Hawk")
    for address in (child["agent_id"], child["path"], "big hawk", "BIG  HAWK", "scout"):
        assert (await idle.call("agent.get", agent=address))["agent_id"] == child["agent_id"]
    for address in ("a\0b", parent + "/", "../scout", "ü" * 300):
        assert isinstance(await idle.refusal_of("agent.get", agent=address), NoSuchAgent)


async def test_an_agent_is_shown_with_the_properties_of_its_session(idle: Household) -> None:
    """One agent has its profile, mode and goal; a list does not."""
    parent = await root(idle, profile="plan", permission_mode="plan")
    await idle.call("goal.set", session_id=parent, objective="Be done.")
    shown = await idle.call("agent.get", agent=parent)
    assert (shown["profile"], shown["permission_mode"], shown["goal_status"]) == ("plan", "plan", "active")
    (listed,) = (await idle.call("agent.list", root=parent))["agents"]
    assert not {"profile", "permission_mode", "goal_status"} & listed.keys()


async def test_the_name_of_a_definition_is_no_agent(idle: Household) -> None:
    """The refusal says so, but not to a caller that may not read the definition."""
    refusal = await idle.refusal_of("agent.get", agent="critic")
    assert "it is the name of a definition: session.list lists its sessions" in refusal.message
    limited = await idle.connect_limited(agents=["default"])
    with pytest.raises(NoSuchAgent) as caught:
        await limited.call("agent.get", agent="critic")
    assert caught.value.message == "there is no agent 'critic'"


async def test_an_ambiguous_address_is_refused(idle: Household) -> None:
    """The refusal names the agents; agents that the caller cannot reach do not count."""
    parent, other = await root(idle), await root(idle, agent="critic")
    child, stranger = await spawn(idle, parent), await spawn(idle, other)
    refusal = await idle.refusal_of("agent.close", agent="scout")
    assert isinstance(refusal, NoSuchAgent)
    assert child["path"] in refusal.message
    assert stranger["path"] in refusal.message
    limited = await idle.connect_limited(agents=["critic"])
    assert (await limited.call("agent.get", agent="scout"))["agent_id"] == stranger["agent_id"]
    with idle.state.read() as store:
        for agent_id, session_id in ((child["agent_id"], parent), (stranger["agent_id"], other)):
            assert find_relative(store, store.need(SESSIONS, session_id), "scout").session_id == agent_id


async def test_a_nickname_captures_no_other_address(idle: Household) -> None:
    """A nickname that is a live name or an id gets a number; one that could be a path is refused."""
    parent, other = await root(idle, session_id="boss"), await root(idle)
    child = await spawn(idle, parent, "payroll")
    decoy = await spawn(idle, child["agent_id"], "decoy", nickname="Payroll")
    assert decoy["nickname"] == "Payroll 2"
    assert (await idle.call("agent.get", agent="payroll"))["agent_id"] == child["agent_id"]
    assert (await idle.call("agent.rename", agent=decoy["agent_id"], nickname="boss"))["nickname"] == "boss 2"
    refusal = await idle.refusal_of(
        "agent.spawn", parent=other, name="x", prompt="x", nickname="boss/payroll"
    )
    assert (type(refusal), refusal.field) == (InvalidParams, "$.params.nickname")
    # A nickname that was there first makes the address ambiguous; the agent's own path comes first.
    await spawn(idle, child["agent_id"], "sub", nickname="ledger")
    later = await spawn(idle, parent, "ledger")
    assert isinstance(await idle.refusal_of("agent.get", agent="ledger"), NoSuchAgent)
    with idle.state.read() as store:
        found = find_relative(store, store.need(SESSIONS, parent), "ledger")
        assert found.session_id == later["agent_id"]
        with pytest.raises(NoSuchAgent, match="several"):
            find_relative(store, store.need(SESSIONS, decoy["agent_id"]), "ledger")


async def test_an_agent_reaches_its_own_tree_only(idle: Household) -> None:
    """A path may begin below the agent that names it; an agent of another tree is not found."""
    parent, other = await root(idle), await root(idle)
    child = await spawn(idle, parent)
    inner = await spawn(idle, child["agent_id"], "inner")
    stranger = await spawn(idle, other)
    with idle.state.read() as store:
        session = store.need(SESSIONS, child["agent_id"])
        for address in (inner["path"], "inner", parent):
            assert find_relative(store, session, address).session_id in (inner["agent_id"], parent)
        for address in (stranger["agent_id"], stranger["path"], stranger["nickname"], other, "nobody"):
            with pytest.raises(NoSuchAgent):
                find_relative(store, session, address)


async def test_the_tree_is_that_of_the_sessions(idle: Household) -> None:
    """Paths join the names from the root down; a plain child session is its own path's beginning."""
    parent = await root(idle)
    plain = await root(idle, parent_session_id=parent)
    child = await spawn(idle, plain)
    with idle.state.read() as store:
        assert child["path"] == f"{plain}/scout"
        assert (child["root_id"], child["depth"]) == (parent, 2)
        assert path_of(store, store.need(SESSIONS, plain)) == plain
        assert list(live_children(store, store.need(SESSIONS, plain))) == [child["agent_id"]]
        assert [agent_id for _, agent_id in tree_of(store, plain)] == [child["agent_id"]]
        assert top_id_of(store, store.need(SESSIONS, child["agent_id"])) == plain
    listed = (await idle.call("agent.list", root=plain))["agents"]
    assert [view["agent_id"] for view in listed] == [plain, child["agent_id"]]
