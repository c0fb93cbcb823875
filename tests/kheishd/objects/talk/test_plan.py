"""Todos and plans, read from the journal."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kheishd.objects.talk.plan import plan_of, todos_of
from kheishd.objects.talk.session import view_of
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import JOURNAL
from protocol.events.plan import PlanEntered, PlanExited, TodosWritten
from protocol.events.session import SessionCreated
from protocol.journal.line import JournalEvent
from protocol.objects.session import Plan, Session, Todo
from tests.support.desk import Desk, open_desk
from tests.support.runtimes import make_runtime

RUNTIME = make_runtime()

LOOK = Todo(todo_id="todo-1", content="look")
EXITED = PlanExited(artifact_id="art_1", content="look, then act", created_at_ms=5, summary="look")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Open a desk with a session, without workers."""
    async with open_desk(tmp_path) as desk:

        def create(tx: Transaction) -> None:
            writer = SessionWriter(tx, "ses_1", session=None)
            writer.append(SessionCreated(agent="default"))
            writer.write()

        await desk.state.update(create)
        yield desk


async def append(desk: Desk, *events: JournalEvent) -> Session:
    """Append events and return the session after them."""

    def add(tx: Transaction) -> Session:
        writer = SessionWriter(tx, "ses_1", session=desk.session("ses_1"))
        writer.append_all(list(events))
        writer.write()
        return writer.session

    return await desk.state.update(add)


async def forget(desk: Desk, cursor: int | None) -> None:
    """Prune one entry."""
    assert cursor is not None
    await desk.state.update(lambda tx: tx.delete(JOURNAL, "ses_1", cursor))


async def test_no_todos_and_no_plan(desk: Desk) -> None:
    """Without todos and a plan the view equals the record."""
    with desk.state.read() as store:
        session = desk.session("ses_1")
        view = view_of(store, RUNTIME, session)
    assert (view.todos, view.plan) == ([], None)
    assert all(getattr(view, name) == getattr(session, name) for name in Session.__struct_fields__)


async def test_the_newest_todos_and_plan(desk: Desk) -> None:
    """The newest list of todos and the newest plan are shown."""
    session = await append(desk, TodosWritten(todos=[]), TodosWritten(todos=[LOOK]), PlanEntered(), EXITED)
    with desk.state.read() as store:
        assert todos_of(store, session) == [LOOK]
        assert plan_of(store, session) == Plan(
            artifact_id="art_1",
            content="look, then act",
            created_at_ms=5,
            updated_at_ms=session.updated_at_ms,
            summary="look",
        )
        view = view_of(store, RUNTIME, session)
        assert (view.todos, view.plan) == ([LOOK], plan_of(store, session))


async def test_pruned_todos_and_plans_are_not_shown(desk: Desk) -> None:
    """A record may outlive the entries that it refers to."""
    session = await append(desk, TodosWritten(todos=[LOOK]), EXITED)
    await forget(desk, session.todos_cursor)
    await forget(desk, session.plan_cursor)
    with desk.state.read() as store:
        assert (todos_of(store, session), plan_of(store, session)) == ([], None)
