"""The tree of agents: addresses, and agents as shown."""

import pytest

from kheishd.objects.agents.tree import (
    find_agent_id,
    find_relative,
    live_children,
    path_of,
    top_id_of,
    tree_of,
)
from kheishd.store.tables import SESSIONS
from protocol.errors.agent import NoSuchAgent
from tests.support.families import root, spawn
from tests.support.household import Household


async def test_an_agent_has_four_addresses(idle: Household) -> None:
    """An id, a path, a nickname and a name, unless two agents have it; other texts name no agent."""
    parent = await root(idle)
    child = await spawn(idle, parent, nickname="Big Hawk")
    with idle.state.read() as store:
        for address in (child["agent_id"], child["path"], "big hawk", "BIG  HAWK", "scout"):
            assert find_agent_id(store, address) == child["agent_id"]
        for address in ("", "a\0b", parent + "/", "../scout", "ü" * 300):
            assert find_agent_id(store, address) is None
    await spawn(idle, await root(idle))
    with idle.state.read() as store:
        assert find_agent_id(store, "scout") is None


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
