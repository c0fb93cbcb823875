"""Stopping the run in flight: every outcome of conversation.cancel and session.interrupt."""

from tests.support.household import (
    Household,
    require_conversation_not_found,
    require_limited,
    require_sender_invalid,
    require_session_not_found,
)


async def test_conversation_cancel_ok(house: Household) -> None:
    """The run in flight has stopped when the answer comes; queued runs and the conversation continue."""
    gate = house.gate("slow")
    first, second = await house.send("slow"), await house.send("next")
    await gate.reached.wait()
    answer = await house.call("conversation.cancel", note="enough")
    assert answer == {"cancelled": True, "session_id": first["session_id"], "run_id": first["run_id"]}
    run = await house.call("run.get", run_id=first["run_id"])
    assert (run["status"], run["output"]) == ("cancelled", "so far")
    events = await house.events(run_id=first["run_id"], types=["cancel_requested"])
    assert events[0]["note"] == "enough"
    assert (await house.call("run.wait", run_id=second["run_id"]))["status"] == "completed"
    nothing = await house.call("conversation.cancel")
    assert nothing == {"cancelled": False, "session_id": first["session_id"]}


async def test_conversation_cancel_conversation_not_found(idle: Household) -> None:
    """An address without a conversation is refused."""
    await require_conversation_not_found(idle, "conversation.cancel")


async def test_conversation_cancel_agent_forbidden(idle: Household) -> None:
    """The caller's token does not cover the agent."""
    await require_limited(idle, "conversation.cancel")


async def test_conversation_cancel_sender_forbidden(idle: Household) -> None:
    """The caller's token does not cover the sender."""
    await require_limited(idle, "conversation.cancel")


async def test_conversation_cancel_sender_invalid(idle: Household) -> None:
    """An impossible sender is refused."""
    await require_sender_invalid(idle, "conversation.cancel")


async def test_session_interrupt_ok(house: Household) -> None:
    """The run in flight has stopped when the answer comes; without one the answer is false."""
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
    """An unknown session, and one that the token does not cover, are refused alike."""
    await require_session_not_found(idle, "session.interrupt")
