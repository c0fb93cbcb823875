"""Todos and plan mode: the effects of the tools, their errors, and the prompt sections."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from kheishd.config.sections.permissions import PermissionsSection
from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.plan import IN_PLAN_MODE, MAX_SHOWN_PLAN_BYTES, PLAN_MODE_LEFT, PLAN_MODE_STAYS, Planning
from kheishd.kernel.hook import Invocation, Outcome, SubHook, Tool
from kheishd.objects.talk.plan import plan_of, todos_of
from protocol.events.approval import ApprovalRequested
from protocol.events.call import ToolReturned
from protocol.limits.plan import MAX_PLAN_BYTES, MAX_PLAN_SUMMARY_BYTES, MAX_TODO_BYTES, MAX_TODOS
from protocol.objects.run import SendResult
from protocol.objects.session import Plan, Todo
from protocol.transcript import ToolCall
from tests.support.desk import Desk, Scripted, gives, open_desk, says, working


@pytest.fixture
async def desk(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Desk]:
    """Provide a desk with a worker whose agent may plan."""
    async with open_desk(tmp_path, Scripted(), hooks=CompositeHook((Planning(),))) as desk, working(desk):
        yield desk


def models(desk: Desk) -> Scripted:
    """Return the model of the desk."""
    match = desk.holder.current().models
    assert isinstance(match, Scripted)
    return match


async def call(desk: Desk, tool: str, arguments: dict[str, Any], content: str = "go on") -> SendResult:
    """Send a message upon which the model calls a tool once, then is done."""
    models(desk).answers_to[content] = lambda request: gives(ToolCall("call_1", tool, arguments))
    models(desk).answers[:] = [lambda request: says("done")]
    return await desk.ask(content)


def result(desk: Desk, sent: SendResult) -> ToolReturned:
    """Return the result of the last call."""
    events = [event for _, event in desk.journal(sent.session_id) if isinstance(event, ToolReturned)]
    return events[-1]


def todos(desk: Desk, sent: SendResult) -> list[Todo]:
    """Return the session's todos."""
    with desk.state.read() as store:
        return todos_of(store, desk.session(sent.session_id))


def plan(desk: Desk, sent: SendResult) -> Plan | None:
    """Return the session's plan."""
    with desk.state.read() as store:
        return plan_of(store, desk.session(sent.session_id))


# Todos.


async def test_todos_are_replaced_as_a_whole(desk: Desk) -> None:
    """Todos without an id get one; the status has two notations."""
    first = [{"content": "look\n closely"}, {"content": "say", "id": "s", "status": "in_progress"}]
    sent = await call(desk, "todo_write", {"todos": first})
    assert todos(desk, sent) == [
        Todo(todo_id="todo-1", content="look closely"),
        Todo(todo_id="s", content="say", status="in_progress"),
    ]
    assert result(desk, sent).text == "0 of 2 done."
    sent = await call(desk, "todo_write", {"todos": [{"content": "say", "completed": True}]})
    assert todos(desk, sent) == [Todo(todo_id="todo-1", content="say", status="completed")]


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ([{"content": "a", "id": "x"}, {"content": "b", "id": "x"}], "two todos have the id 'x'"),
        ([{"content": "a", "id": "todo-2"}, {"content": "b"}], "two todos have the id 'todo-2'"),
        ([{"content": ""}], "do not fit todo_write"),
        ([{"content": "x" * (MAX_TODO_BYTES + 1)}], "do not fit todo_write"),
        ([{"content": "a"}] * (MAX_TODOS + 1), "do not fit todo_write"),
        ([{"content": "x" * MAX_TODO_BYTES}] * 40, "the limit is"),
    ],
)
async def test_todos_that_are_not_kept(desk: Desk, outcome: list[dict[str, str]], words: str) -> None:
    """Invalid todos are an error, and the previous ones stay."""
    await call(desk, "todo_write", {"todos": [{"content": "stays"}]})
    sent = await call(desk, "todo_write", {"todos": outcome})
    assert words in result(desk, sent).text
    assert [todo.content for todo in todos(desk, sent)] == ["stays"]


async def test_open_todos_are_in_the_situation(desk: Desk) -> None:
    """The model sees the todos while one of them is open, and the instructions do not change."""
    await call(desk, "todo_write", {"todos": [{"content": "look", "completed": True}, {"content": "say"}]})
    assert "[x] look (todo-1)\n[ ] say (todo-2)" in models(desk).requests[-1].situation
    await call(desk, "todo_write", {"todos": [{"content": "look", "completed": True}]})
    assert "[x]" not in models(desk).requests[-1].situation
    assert len({request.instructions for request in models(desk).requests}) == 1


# Plan mode.


async def test_plan_mode_is_entered_and_left_with_a_plan(desk: Desk) -> None:
    """A person sees and approves the whole plan; then the session's previous mode applies."""
    sent = await call(desk, "enter_plan_mode", {"note": "it is large"})
    session = desk.session(sent.session_id)
    assert (session.permission_mode, session.plan_mode) == ("plan", True)
    assert IN_PLAN_MODE in models(desk).requests[-1].situation
    sent = await call(desk, "exit_plan_mode", {"plan": "# Plan\nlook", "summary": "look"})
    assert sent.status == "waiting_for_approval"
    params = next(e for _, e in desk.journal(sent.session_id) if isinstance(e, ApprovalRequested))
    assert params.preview is not None
    assert (params.preview.kind, params.preview.text) == ("text", "# Plan\nlook")
    await desk.allow(sent.run_id)
    assert result(desk, sent).text == PLAN_MODE_LEFT
    session = desk.session(sent.session_id)
    assert (session.permission_mode, session.plan_mode) == (None, False)
    stored = plan(desk, sent)
    assert stored is not None
    assert (stored.content, stored.summary) == ("# Plan\nlook", "look")
    assert "The approved plan:\n# Plan\nlook" in models(desk).requests[-1].situation


async def test_a_person_may_change_the_plan(desk: Desk) -> None:
    """The approved plan is the one that the person edited."""
    await call(desk, "enter_plan_mode", {})
    sent = await call(desk, "exit_plan_mode", {"plan": "look"})
    await desk.allow(sent.run_id, updated_input={"plan": "look twice"})
    stored = plan(desk, sent)
    assert stored is not None
    assert stored.content == "look twice"


async def test_a_later_plan_is_the_same_artifact(desk: Desk) -> None:
    """A later plan keeps the artifact's id and creation time."""
    plans = []
    for content in ("look", "act"):
        await call(desk, "enter_plan_mode", {}, f"plan to {content}")
        sent = await call(desk, "exit_plan_mode", {"plan": content})
        await desk.allow(sent.run_id)
        plans.append(plan(desk, sent))
    first, second = plans
    assert first is not None
    assert second is not None
    assert (first.artifact_id, first.created_at_ms) == (second.artifact_id, second.created_at_ms)
    assert (first.content, second.content) == ("look", "act")
    assert first.updated_at_ms <= second.updated_at_ms


async def test_the_plan_is_shown_while_it_is_carried_out(desk: Desk) -> None:
    """The model sees the plan in its run, and while todos are open; a long one is cut."""
    await call(desk, "enter_plan_mode", {})
    sent = await call(desk, "exit_plan_mode", {"plan": "é" * MAX_SHOWN_PLAN_BYTES})
    await desk.allow(sent.run_id)
    display = models(desk).requests[-1].situation
    assert "é" * (MAX_SHOWN_PLAN_BYTES // 2) + "\n[... the rest is left out here]" in display
    await desk.ask("thanks")
    assert "approved plan" not in models(desk).requests[-1].situation
    await call(desk, "todo_write", {"todos": [{"content": "look"}]})
    assert "approved plan" in models(desk).requests[-1].situation


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"plan": "x" * MAX_PLAN_BYTES}, "takes more than"),
        ({"plan": "x", "summary": "x" * (MAX_PLAN_SUMMARY_BYTES + 1)}, "the summary takes more than"),
        ({"plan": ""}, "do not fit exit_plan_mode"),
    ],
)
async def test_a_plan_that_nobody_is_asked_about(desk: Desk, arguments: dict[str, str], words: str) -> None:
    """An invalid plan is an error before a person sees it."""
    await call(desk, "enter_plan_mode", {}, "plan it")
    sent = await call(desk, "exit_plan_mode", arguments)
    assert sent.status == "completed"
    assert words in result(desk, sent).text
    assert desk.session(sent.session_id).plan_mode


async def test_plan_mode_is_not_left_where_it_is_not_on(desk: Desk) -> None:
    """Without plan mode, leaving it is an error and no person is asked."""
    sent = await call(desk, "exit_plan_mode", {"plan": "look"})
    assert (sent.status, plan(desk, sent)) == ("completed", None)
    assert "plan mode is not on" in result(desk, sent).text


async def test_plan_mode_is_not_entered_twice(desk: Desk) -> None:
    """Entering plan mode again changes nothing."""
    await call(desk, "enter_plan_mode", {})
    sent = await call(desk, "enter_plan_mode", {}, "again")
    assert result(desk, sent).text == "Plan mode is on already."
    assert desk.kinds(sent.session_id).count("plan_entered") == 1


async def test_nobody_leaves_the_plan_mode_that_somebody_else_set(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A plan mode that was set from outside stays on, and the plan is stored."""
    hooks = CompositeHook((Planning(),))
    async with (
        open_desk(tmp_path, Scripted(), hooks=hooks, permissions=PermissionsSection(mode="plan")) as desk,
        working(desk),
    ):
        sent = await call(desk, "exit_plan_mode", {"plan": "look"})
        await desk.allow(sent.run_id)
        assert result(desk, sent).text == PLAN_MODE_STAYS
        assert plan(desk, sent) is not None
        assert desk.pinned(sent.run_id).permission_mode == "plan"
        assert IN_PLAN_MODE in models(desk).requests[-1].situation


async def test_a_run_that_begins_in_plan_mode_may_do_what_it_may_afterwards(desk: Desk) -> None:
    """After plan mode the run's pinned mode applies."""
    sent = await call(desk, "enter_plan_mode", {})
    later = await desk.ask("and now?")
    assert later.session_id == sent.session_id
    assert desk.pinned(later.run_id).permission_mode == "default"


class Pen(SubHook):
    """A sub-hook with a tool that writes, and one that reads."""

    name = "pen"
    tools = (
        Tool("scribble", "Write.", {"type": "object"}, "edit"),
        Tool("peek", "Look.", {"type": "object"}, "read", in_plan=True),
    )

    async def dispatch(self, use: Invocation) -> Outcome:
        """Return success."""
        return Outcome("done")


async def test_in_plan_mode_nothing_is_changed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Reading is allowed and writing is denied, already in the message that enters plan mode."""
    hooks = CompositeHook((Planning(), Pen()))
    async with open_desk(tmp_path, Scripted(), hooks=hooks) as desk, working(desk):
        batch = [ToolCall(f"call_{name}", name, {}) for name in ("enter_plan_mode", "scribble", "peek")]
        models(desk).answers[:] = [lambda request: gives(*batch), lambda request: says("done")]
        first = await desk.ask()
        results = [e for _, e in desk.journal(first.session_id) if isinstance(e, ToolReturned)]
        assert {e.tool: e.how for e in results} == {
            "enter_plan_mode": "returned",
            "scribble": "denied",
            "peek": "returned",
        }
        assert "plan mode only reads and asks" in results[1].text
        sent = await call(desk, "scribble", {}, "write")
        assert result(desk, sent).how == "denied"
        sent = await call(desk, "exit_plan_mode", {"plan": "write"}, "propose")
        await desk.allow(sent.run_id)
        sent = await call(desk, "scribble", {}, "write now")
        assert result(desk, sent).how == "returned"


async def test_a_plan_is_carried_out_in_the_run_that_proposed_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The mode from before plan mode applies again at once."""
    hooks = CompositeHook((Planning(), Pen()))
    async with open_desk(tmp_path, Scripted(), hooks=hooks) as desk, working(desk):
        await call(desk, "enter_plan_mode", {}, "think first")
        leave = ToolCall("call_1", "exit_plan_mode", {"plan": "write"})
        models(desk).answers_to["propose"] = lambda request: gives(leave)
        models(desk).answers[:] = [
            lambda request: gives(ToolCall("call_2", "scribble", {})),
            lambda request: says("done"),
        ]
        sent = await desk.ask("propose")
        await desk.allow(sent.run_id)
        assert (result(desk, sent).tool, result(desk, sent).how) == ("scribble", "returned")
