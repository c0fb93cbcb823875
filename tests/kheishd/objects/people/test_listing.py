"""Lookup and lists of approvals, questions and in-doubt calls."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.kernel.call import Caller
from kheishd.objects.people.approval import PENDING
from kheishd.objects.people.listing import EventReader, find_record, list_records, writer_of
from kheishd.records.approval import APPROVAL_RECORDS
from kheishd.records.indoubt import INDOUBT_RECORDS
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import RUNS, SESSIONS
from protocol.errors.rpc import InvalidParams
from protocol.events.run import MessageAppended, RunEnded
from protocol.objects.approval import Approval, ApprovalListParams
from protocol.transcript import Item, Message, Text, ToolCall
from tests.support.desk import OPERATOR, Desk, open_desk
from tests.support.histories import approval_requested, indoubt_opened

ANN = Caller("token:t", frozenset(), senders=frozenset({"ann"}))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Open a store without workers."""
    async with open_desk(tmp_path) as desk:
        yield desk


async def add(desk: Desk, run_id: str, *events: Any) -> list[int]:
    """Append events of a run. Returns their cursors."""

    def append(tx: Transaction) -> list[int]:
        run = tx.get(RUNS, run_id)
        assert run is not None
        writer = SessionWriter(tx, run.session_id, session=tx.get(SESSIONS, run.session_id), run=run)
        cursors = [writer.append(event).cursor for event in events]
        writer.write()
        return cursors

    return await desk.state.update(append)


def list_approvals(
    desk: Desk, caller: Caller = OPERATOR, **filters: Any
) -> tuple[list[Approval], str | None]:
    """Return a page of stored approvals."""
    params = ApprovalListParams(**filters)
    with desk.state.read() as store:
        return list_records(
            store,
            desk.call(caller),
            APPROVAL_RECORDS,
            params,
            pending=PENDING,
            view_of=lambda record: record,
        )


async def test_find_record_requires_a_covered_run(desk: Desk) -> None:
    """A record is found only if the caller's token covers its run, whatever its type."""
    sent = await desk.send(sender="bob")
    await add(desk, sent.run_id, approval_requested("apr_1"), indoubt_opened("dbt_1"))
    with desk.state.read() as store:
        for caller, readable in ((OPERATOR, True), (ANN, False)):
            call = desk.call(caller)
            assert (find_record(store, call, APPROVAL_RECORDS, "apr_1") is not None) is readable
            assert (find_record(store, call, INDOUBT_RECORDS, "dbt_1") is not None) is readable
        assert find_record(store, desk.call(), APPROVAL_RECORDS, "dbt_1") is None


async def test_lists_are_in_the_order_of_the_journal(desk: Desk) -> None:
    """Lists follow the journal's order, not the ids, of which several are made in one millisecond."""
    sent = await desk.send()
    names = [f"apr_{name}" for name in ("z", "m", "a")]
    await add(desk, sent.run_id, *map(approval_requested, names))
    ways: list[dict[str, Any]] = [
        {},
        {"run_id": sent.run_id},
        {"session_id": sent.session_id, "status": "any"},
    ]
    for filters in ways:
        rows, following = list_approvals(desk, **filters)
        assert ([row.approval_id for row in rows], following) == (names, None)
        rows, following = list_approvals(desk, limit=1, **filters)
        assert [row.approval_id for row in rows] == names[:1]
        rows, _ = list_approvals(desk, after=following, **filters)
        assert [row.approval_id for row in rows] == names[1:]


async def test_pending_records_of_a_session_are_found_by_its_open_run(desk: Desk) -> None:
    """Only the open run is searched; a session without one has nothing pending."""
    sent = await desk.send(sender="ann")
    await add(desk, sent.run_id, approval_requested("apr_1"))
    assert [row.approval_id for row in list_approvals(desk, session_id=sent.session_id)[0]] == ["apr_1"]
    await add(desk, sent.run_id, RunEnded(outcome="cancelled"))
    assert list_approvals(desk, session_id=sent.session_id) == ([], None)
    assert list_approvals(desk, ANN, session_id=sent.session_id, status="pending") == ([], None)


@pytest.mark.parametrize("token", ["apr_1", "-1", ""])
async def test_a_page_begins_only_where_one_ended(desk: Desk, token: str) -> None:
    """Only the ``next`` of a page is a page token."""
    with pytest.raises(InvalidParams):
        list_approvals(desk, after=token)


async def test_arguments_are_read_from_the_message(desk: Desk) -> None:
    """Arguments are read by message and index; a missing call has none."""
    sent = await desk.send()
    items: list[Item] = [
        Text("I will."),
        ToolCall("c1", "write", {"path": "/a"}),
        ToolCall("c2", "write", {"path": "/b"}),
    ]
    message = MessageAppended(item_id="itm_1", message=Message("assistant", items))
    cursor, request_cursor = await add(desk, sent.run_id, message, approval_requested("apr_1"))
    with desk.state.read() as store:
        reader = EventReader(store)
        session_id = sent.session_id
        assert [reader.arguments(session_id, cursor, number) for number in (0, 1, 2)] == [
            {"path": "/a"},
            {"path": "/b"},
            {},
        ]
        assert reader.arguments(session_id, request_cursor, 0) == {}
        assert reader.arguments(session_id, 10**6, 0) == {}
        assert reader.event(session_id, 10**6) is None


async def test_writer_of_a_caller(desk: Desk) -> None:
    """The writer for a caller has the run, its session, and the caller as the actor of every event."""
    sent = await desk.send()
    run = desk.run(sent.run_id)

    def change(tx: Transaction) -> str:
        writer = writer_of(tx, desk.call(), run)
        assert (writer.run, writer.session.session_id) == (run, sent.session_id)
        return writer.append(approval_requested("apr_1")).actor

    assert await desk.state.update(change) == OPERATOR.principal
