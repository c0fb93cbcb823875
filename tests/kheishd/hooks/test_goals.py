"""The tools of goals: what an agent may set and report, and what its prompt says."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.goals import GoalTools
from kheishd.objects.agents import goal as methods
from kheishd.store.tables import GOALS
from protocol.budget import Budget
from protocol.limits.goal import MAX_GOAL_BYTES
from protocol.objects.goal import GoalSetParams
from protocol.transcript import ToolCall, ToolResult
from tests.support.desk import Desk, gives, open_desk, says, working

SET = {"objective": "Count.", "max_continuations": 3}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Provide a desk with the tools of goals, which no person needs to approve."""
    async with (
        open_desk(tmp_path, hooks=CompositeHook((GoalTools(),))) as desk,
        working(desk),
    ):
        yield desk


async def call(desk: Desk, tool: str, arguments: dict[str, Any], **params: Any) -> str:
    """Return the result of a call in a run; an approval is given."""
    use = ToolCall("c1", tool, arguments)
    desk.models.answers = [lambda request: gives(use), lambda request: says("ok")]
    sent = await desk.ask("go", **params)
    if sent.status == "waiting_for_approval":
        await desk.allow(sent.run_id)
    message = desk.models.requests[-1].messages[-1]
    (result,) = message.items
    assert isinstance(result, ToolResult)
    return result.text


async def test_a_person_approves_an_agents_goal(desk: Desk) -> None:
    """By default the tool asks; the goal is the agent's, and no task of an operator."""
    use = ToolCall("c1", "create_goal", SET)
    desk.models.answers = [lambda request: gives(use), lambda request: says("ok")]
    sent = await desk.ask("go")
    assert sent.status == "waiting_for_approval"
    assert desk.count(GOALS) == 0
    await desk.allow(sent.run_id)
    with desk.state.read() as store:
        goal = store.need(GOALS, sent.session_id)
    assert (goal.set_by, goal.objective, goal.max_continuations) == ("agent", "Count.", 3)


async def test_a_goal_has_no_more_than_the_runs_own_budget(desk: Desk) -> None:
    """An agent may set a goal within its own budget only."""
    text = await call(desk, "create_goal", {**SET, "token_budget": 101}, budget=Budget(max_tokens=100))
    assert text == "this run's own budget is 100 tokens; a goal set by it has no more"
    await call(desk, "create_goal", SET, budget=Budget(max_tokens=100, max_work_s=60.0))
    with desk.state.read() as store:
        (goal,) = (goal for _, goal in store.scan(GOALS))
    assert goal.budget == Budget(max_tokens=100, max_work_s=60.0)


async def test_an_agent_does_not_replace_a_standing_goal(desk: Desk) -> None:
    """Only a person replaces a goal that has not ended."""
    assert await call(desk, "create_goal", SET) == "The goal is set; the work continues after this run."
    assert "only a person replaces it" in await call(desk, "create_goal", SET)


async def test_a_goal_that_is_too_long(desk: Desk) -> None:
    """The texts of a goal have a limit."""
    text = await call(desk, "create_goal", {"objective": "x" * MAX_GOAL_BYTES})
    assert "move details to files" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"status": "done"}, "give the evidence"),
        ({"status": "done", "evidence": "x", "wait_s": 5}, "wait_s belongs to the status waiting"),
        ({"status": "done", "evidence": "x" * 5_000}, "shorten it"),
    ],
)
async def test_reports_that_are_refused(desk: Desk, arguments: dict[str, Any], message: str) -> None:
    """A report without evidence, or with contradictions, is an error for the model."""
    await call(desk, "create_goal", SET)
    assert message in await call(desk, "update_goal", arguments)


async def test_a_session_without_a_goal_is_offered_one_tool(desk: Desk) -> None:
    """Only a session with a goal has the tools to read it and to report on it."""
    await desk.ask("hello")
    assert [tool.name for tool in desk.models.requests[-1].tools] == ["create_goal"]
    await call(desk, "create_goal", SET)
    names = [tool.name for tool in desk.models.requests[-1].tools]
    assert names == ["get_goal", "create_goal", "update_goal"]


async def test_a_report_on_a_goal_that_has_ended(desk: Desk) -> None:
    """A goal that is done stays done."""
    await call(desk, "create_goal", SET)
    assert await call(desk, "update_goal", {"status": "done", "evidence": "three"}) == "The goal is done."
    assert "the goal is done already" in await call(desk, "update_goal", {"status": "waiting"})


async def test_the_prompt_names_an_open_goal(desk: Desk) -> None:
    """The goal is in the changing part of the prompt while it is open, and the model can read all of it."""
    sent = await desk.ask("hello")
    params = GoalSetParams(session_id=sent.session_id, objective="Count to three.", done_when="three is said")
    await desk.do(methods.set_, params)
    assert '"objective":"Count to three."' in await call(desk, "get_goal", {})
    assert "Done when: three is said" in desk.models.requests[-1].situation
    await call(desk, "update_goal", {"status": "done", "evidence": "three"})
    await desk.ask("hello")
    assert "Count to three." not in desk.models.requests[-1].situation
