"""The methods of goals over a socket: every outcome."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import SESSIONS
from protocol.errors.goal import GoalAlreadyEnded, GoalNotFound
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded
from protocol.events.goal import GoalUpdated
from tests.support.household import Household, household, require_session_not_found


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon without a goal worker; tokens work."""
    async with household(tmp_path, tcp=True) as house:
        yield house


async def begin(house: Household, **terms: Any) -> str:
    """Return a session with a goal."""
    sent = await house.ask("hello")
    await house.call("goal.set", session_id=sent["session_id"], objective="Count.", **terms)
    session_id: str = sent["session_id"]
    return session_id


async def test_goal_set_ok(house: Household) -> None:
    """A goal has its terms and is active; another one replaces it; a check sets none."""
    session_id = await begin(house, done_when="three", constraints=["a"], stop_when=["b"], judge=False)
    goal = await house.call("goal.get", session_id=session_id)
    assert (goal["status"], goal["done_when"], goal["judge"]) == ("active", "three", False)
    checked = await house.call("goal.set", session_id=session_id, objective="Other.", check=True)
    assert checked["goal_id"] != goal["goal_id"]
    assert (await house.call("goal.get", session_id=session_id))["goal_id"] == goal["goal_id"]
    other = await house.call("goal.set", session_id=session_id, objective="Other.")
    session = await house.call("session.get", session_id=session_id)
    assert (session["goal_id"], session["goal"]["objective"]) == (other["goal_id"], "Other.")


async def test_goal_set_session_not_found(house: Household) -> None:
    """An unknown session and an uncovered one are refused alike."""
    await require_session_not_found(house, "goal.set", objective="x")


async def test_goal_set_session_already_ended(house: Household) -> None:
    """A session that was ended gets no goal."""
    sent = await house.ask("hello")
    await house.call("session.end", session_id=sent["session_id"])
    refusal = await house.refusal_of("goal.set", session_id=sent["session_id"], objective="x")
    assert isinstance(refusal, SessionAlreadyEnded)


async def test_goal_set_input_too_large(house: Household) -> None:
    """The texts of a goal together have a limit."""
    sent = await house.ask("hello")
    terms = {"objective": "x" * 5_000, "done_when": "y" * 5_000}
    assert isinstance(
        await house.refusal_of("goal.set", session_id=sent["session_id"], **terms), InputTooLarge
    )


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"objective": " "}, "objective"),
        ({"objective": "x", "max_continuations": 0}, "max_continuations"),
        ({"objective": "x", "max_continuations": 1_001}, "max_continuations"),
        ({"objective": "x", "constraints": ["y"] * 17}, "constraints"),
        ({"objective": "x", "budget": {"max_cost": 1.0}}, "budget.max_cost"),
    ],
)
async def test_goal_set_invalid_params(house: Household, terms: dict[str, Any], field: str) -> None:
    """A refusal names the field; the cost of a route without prices cannot be limited."""
    sent = await house.ask("hello")
    refusal = await house.refusal_of("goal.set", session_id=sent["session_id"], **terms)
    assert (type(refusal), refusal.field) == (InvalidParams, f"$.params.{field}")


async def test_goal_get_ok(house: Household) -> None:
    """A goal is shown with the run in flight and what it waits for."""
    session_id = await begin(house)
    assert "in_flight" not in await house.call("goal.get", session_id=session_id)
    gate = house.gate("slow")
    sent = await house.send("slow")
    await gate.reached.wait()
    assert (await house.call("goal.get", session_id=session_id))["in_flight"] == sent["run_id"]
    gate.opened.set()


async def require_goal_not_found(house: Household, method: str) -> None:
    """Require that a session without a goal is refused."""
    sent = await house.ask("hello")
    assert isinstance(await house.refusal_of(method, session_id=sent["session_id"]), GoalNotFound)


async def test_goal_get_goal_not_found(house: Household) -> None:
    """A session without a goal shows none."""
    await require_goal_not_found(house, "goal.get")


async def test_goal_clear_goal_not_found(house: Household) -> None:
    """A session without a goal has none to remove."""
    await require_goal_not_found(house, "goal.clear")


async def test_goal_pause_goal_not_found(house: Household) -> None:
    """A session without a goal has none to pause."""
    await require_goal_not_found(house, "goal.pause")


async def test_goal_resume_goal_not_found(house: Household) -> None:
    """A session without a goal has none to resume."""
    await require_goal_not_found(house, "goal.resume")


async def test_goal_get_session_not_found(house: Household) -> None:
    """An unknown session and an uncovered one are refused alike."""
    await require_session_not_found(house, "goal.get")


async def test_goal_clear_session_not_found(house: Household) -> None:
    """An unknown session and an uncovered one are refused alike."""
    await require_session_not_found(house, "goal.clear")


async def test_goal_pause_session_not_found(house: Household) -> None:
    """An unknown session and an uncovered one are refused alike."""
    await require_session_not_found(house, "goal.pause")


async def test_goal_resume_session_not_found(house: Household) -> None:
    """An unknown session and an uncovered one are refused alike."""
    await require_session_not_found(house, "goal.resume")


async def test_goal_clear_ok(house: Household) -> None:
    """A goal that was removed is shown no more."""
    session_id = await begin(house)
    assert (await house.call("goal.clear", session_id=session_id))["status"] == "active"
    assert isinstance(await house.refusal_of("goal.get", session_id=session_id), GoalNotFound)
    assert "goal_id" not in await house.call("session.get", session_id=session_id)


async def test_goal_pause_ok(house: Household) -> None:
    """A goal is paused once, with the note."""
    session_id = await begin(house)
    paused = await house.call("goal.pause", session_id=session_id, note="later")
    assert (paused["status"], paused["note"]) == ("paused", "later")
    assert await house.call("goal.pause", session_id=session_id) == paused


async def test_goal_resume_ok(house: Household) -> None:
    """A paused goal is active again; an active one stays as it is."""
    session_id = await begin(house)
    active = await house.call("goal.resume", session_id=session_id)
    await house.call("goal.pause", session_id=session_id)
    resumed = await house.call("goal.resume", session_id=session_id)
    assert (active["status"], resumed["status"], resumed["note"]) == (
        "active",
        "active",
        "a person resumed it",
    )


async def test_goal_resume_session_already_ended(house: Household) -> None:
    """The goal of a session that was ended is not resumed."""
    session_id = await begin(house)
    await house.call("session.end", session_id=session_id)
    assert isinstance(await house.refusal_of("goal.resume", session_id=session_id), SessionAlreadyEnded)


async def test_goal_pause_goal_already_ended(house: Household) -> None:
    """A goal that has ended is final."""
    session_id = await begin(house)
    await house.call("session.end", session_id=session_id)
    assert isinstance(await house.refusal_of("goal.pause", session_id=session_id), GoalAlreadyEnded)


async def test_goal_resume_goal_already_ended(house: Household) -> None:
    """A goal that is done is not resumed."""
    session_id = await begin(house)
    goal = (await house.call("goal.get", session_id=session_id))["goal_id"]

    def finish(tx: Transaction) -> None:
        writer = SessionWriter(tx, session_id, session=tx.get(SESSIONS, session_id))
        writer.append(GoalUpdated(goal_id=goal, status="done", evidence="three"))
        writer.write()

    await house.state.update(finish)
    assert isinstance(await house.refusal_of("goal.resume", session_id=session_id), GoalAlreadyEnded)
