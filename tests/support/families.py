"""Agents and their children over the socket."""

from typing import Any

from tests.support.household import Household


async def root(house: Household, **params: Any) -> str:
    """Create a session; return the id of its agent."""
    session: dict[str, Any] = await house.call("session.create", **params)
    return str(session["session_id"])


async def spawn(house: Household, parent: str, name: str = "scout", **params: Any) -> Any:
    """Spawn an agent."""
    return await house.call("agent.spawn", **({"parent": parent, "name": name, "prompt": "look"} | params))


async def until(house: Household, agent: str, *statuses: str) -> Any:
    """Wait until an agent has one of these statuses; return its snapshot."""
    while True:
        bell = house.state.bell("journal")
        snapshot = await house.call("agent.get", agent=agent)
        if snapshot["status"] in statuses:
            return snapshot
        await bell.wait()


async def until_closed(house: Household, agent: str) -> Any:
    """Wait until an agent is closed; return its snapshot."""
    while True:
        bell = house.state.bell("journal")
        snapshot = await house.call("agent.get", agent=agent)
        if snapshot["state"] == "closed":
            return snapshot
        await bell.wait()
