"""Stopping the run in flight: every outcome of conversation.cancel and session.interrupt."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.household import (
    Household,
    household,
    require_conversation_not_found,
    require_limited,
    require_sender_invalid,
    require_session_not_found,
)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """A daemon whose worker is at work."""
    async with household(tmp_path) as house:
        yield house


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Household]:
    """A daemon whose runs stay queued, with tokens."""
    async with household(tmp_path, work=False, tcp=True) as house:
        yield house


async def test_conversation_cancel_ok(house: Household) -> None:
    """The run in flight has stopped when it answers; what is queued goes on; the conversation stays."""
    gate = house.gate("slow")
    first, second = await house.send("slow"), await house.send("next")
    await gate.reached.wait()
    answer = await house.call("conversation.cancel", note="enough")
    assert answer == {"cancelled": True, "session_id": first["session_id"], "run_id": first["run_id"]}
    run = await house.call("run.get", run_id=first["run_id"])
    assert (run["status"], run["output"]) == ("cancelled", "so far")
    asked = await house.events(run_id=first["run_id"], types=["cancel_requested"])
    assert asked[0]["note"] == "enough"
    assert (await house.call("run.wait", run_id=second["run_id"]))["status"] == "completed"
    nothing = await house.call("conversation.cancel")
    assert nothing == {"cancelled": False, "session_id": first["session_id"]}


async def test_conversation_cancel_conversation_not_found(idle: Household) -> None:
    """Nobody has spoken there yet."""
    await require_conversation_not_found(idle, "conversation.cancel")


async def test_conversation_cancel_agent_forbidden(idle: Household) -> None:
    """The token covers another agent."""
    await require_limited(idle, "conversation.cancel")


async def test_conversation_cancel_sender_forbidden(idle: Household) -> None:
    """The token covers another sender."""
    await require_limited(idle, "conversation.cancel")


async def test_conversation_cancel_sender_invalid(idle: Household) -> None:
    """No sender is called so."""
    await require_sender_invalid(idle, "conversation.cancel")


async def test_session_interrupt_ok(house: Household) -> None:
    """What is in flight has stopped when it answers; queued runs go on; nothing in flight is no error."""
    gate = house.gate("slow")
    first, second = await house.send("slow"), await house.send("next")
    await gate.reached.wait()
    session_id = first["session_id"]
    answer = await house.call("session.interrupt", session_id=session_id)
    assert answer == {"interrupted": True, "session_id": session_id, "run_id": first["run_id"]}
    assert (await house.call("run.get", run_id=first["run_id"]))["status"] == "interrupted"
    assert (await house.call("run.wait", run_id=second["run_id"]))["status"] == "completed"
    nothing = await house.call("session.interrupt", session_id=session_id)
    assert nothing == {"interrupted": False, "session_id": session_id}


async def test_session_interrupt_session_not_found(idle: Household) -> None:
    """Nor for a token that does not cover it."""
    await require_session_not_found(idle, "session.interrupt")
