"""Calls in doubt over the socket: shown, resolved once, and reported to the model."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.core.run.commands import (
    AcceptAnswer,
    BeginModelCall,
    CallTools,
    Command,
    Judge,
    Judgement,
    Start,
)
from kheishd.records.writer import SessionWriter
from kheishd.store.environment import Transaction
from kheishd.store.tables import RUNS, SESSIONS
from protocol.errors.indoubt import IndoubtAlreadyResolved, IndoubtNotFound
from protocol.errors.rpc import IdempotencyConflict
from protocol.errors.run import RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.errors.token import ScopeMissing
from protocol.objects.permission import Verdict
from protocol.transcript import ToolCall, Usage
from tests.support.household import Household, household, pages, refusal_of
from tests.support.workshop import Workshop, calls, hooks

SENDING = ToolCall("c1", "send", {"path": "/a", "text": "hello"})


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon that finds the work of a previous one; tokens work."""
    async with household(tmp_path, tcp=True, work=False, hooks=hooks(Workshop())) as house:
        house.models.answers = calls()[1:]
        yield house


async def leave_call_in_doubt(house: Household, sender: str = "user") -> str:
    """Write the run of a daemon that died while a tool ran."""
    sent = await house.send(sender=sender)
    verdict = Verdict(call_id="c1", tool="send", decision="allow", base="allow", why="send's default")
    commands: tuple[Command, ...] = (
        Start(),
        BeginModelCall("itm_1"),
        AcceptAnswer([SENDING], Usage(1, 1), "tool_calls", "scripted"),
        Judge([Judgement(verdict)]),
        CallTools({"c1": {"pid": 7}}),
    )

    def leave(tx: Transaction) -> None:
        run = tx.get(RUNS, sent["run_id"])
        assert run is not None
        writer = SessionWriter(tx, run.session_id, session=tx.get(SESSIONS, run.session_id), run=run)
        for command in commands:
            writer.carry_out(command)
        writer.write()

    await house.state.update(leave)
    return str(sent["run_id"])


async def make_doubt(house: Household, sender: str = "user") -> tuple[str, str]:
    """Return an ended run and its call in doubt."""
    run_id = await leave_call_in_doubt(house, sender)
    async with house.working():
        run = await house.call("run.wait", run_id=run_id)
    assert run["status"] == "completed"
    (doubt,) = (await house.call("indoubt.list", run_id=run_id))["indoubts"]
    return run_id, doubt["indoubt_id"]


# indoubt.get and indoubt.list


async def test_indoubt_get_ok(house: Household) -> None:
    """A call in doubt is shown with its arguments."""
    run_id, indoubt_id = await make_doubt(house)
    view = await house.call("indoubt.get", indoubt_id=indoubt_id)
    assert (view["status"], view["run_id"], view["tool"]) == ("open", run_id, "send")
    assert view["arguments"] == {"path": "/a", "text": "hello"}
    assert (view["note"], view["evidence"]) == ("its file is there", {"pid": 7})
    assert view["called_at_ms"] <= view["found_at_ms"]


async def test_indoubt_get_indoubt_not_found(house: Household) -> None:
    """An unknown id, and one that the token does not cover, are refused alike."""
    _, indoubt_id = await make_doubt(house, sender="bob")
    ann = await house.connect_limited(senders=["ann"])
    for client, name in ((house.client, "dbt_none"), (ann, indoubt_id)):
        refusal = await refusal_of(client, "indoubt.get", indoubt_id=name)
        assert (type(refusal), refusal.field) == (IndoubtNotFound, "$.params.indoubt_id")


async def test_indoubt_list_ok(house: Household) -> None:
    """Open calls in doubt are listed oldest first, of a session or run; resolved ones on request."""
    first, second = await make_doubt(house, sender="ann")
    _, two = await make_doubt(house, sender="bob")
    await house.call("indoubt.resolve", indoubt_id=second, outcome="done")
    _, three = await make_doubt(house, sender="carl")
    session_id = (await house.call("run.get", run_id=first))["session_id"]
    for filters, expected in (
        ({}, [two, three]),
        ({"status": "done"}, [second]),
        ({"status": "any"}, [second, two, three]),
        ({"run_id": first}, []),
        ({"session_id": session_id, "status": "any"}, [second]),
    ):
        rows = await pages(house.client, "indoubt.list", "indoubts", limit=1, **filters)
        assert [row["indoubt_id"] for row in rows] == expected, filters
    bob = await house.connect_limited(senders=["bob"])
    assert [row["indoubt_id"] for row in (await bob.call("indoubt.list"))["indoubts"]] == [two]


async def test_indoubt_list_session_not_found(house: Household) -> None:
    """The refusal names the field."""
    refusal = await house.refusal_of("indoubt.list", session_id="ses_none")
    assert (type(refusal), refusal.field) == (SessionNotFound, "$.params.session_id")


async def test_indoubt_list_run_not_found(house: Household) -> None:
    """The refusal names the field."""
    refusal = await house.refusal_of("indoubt.list", run_id="run_none")
    assert (type(refusal), refusal.field) == (RunNotFound, "$.params.run_id")


# indoubt.resolve


@pytest.mark.parametrize(
    ("outcome", "says"), [("done", "did take effect"), ("not_done", "did not take effect")]
)
async def test_indoubt_resolve_ok(house: Household, outcome: str, says: str) -> None:
    """The next model call learns the outcome of the call, also when the run has ended."""
    run_id, indoubt_id = await make_doubt(house)
    view = await house.call("indoubt.resolve", indoubt_id=indoubt_id, outcome=outcome, justification="saw it")
    assert (view["status"], view["justification"]) == (outcome, "saw it")
    assert (view["arguments"], view["evidence"]) == ({"path": "/a", "text": "hello"}, {"pid": 7})
    assert view["resolved_by"].startswith("uid:")
    assert (await house.call("run.get", run_id=run_id))["status"] == "completed"
    async with house.working():
        await house.ask("and now?")
    notes = [message for message in house.models.requests[-1].messages if says in str(message)]
    assert len(notes) == 1
    assert 'send {"path": "/a", "text": "hello"}' in str(notes[0])
    assert "saw it" not in str(notes[0])


async def test_indoubt_resolve_ok_while_the_run_goes_on(house: Household) -> None:
    """A run in flight reads the outcome before its next answer."""
    run_id = await leave_call_in_doubt(house)
    gate = house.gate_next()
    async with house.working():
        await gate.reached.wait()
        (doubt,) = (await house.call("indoubt.list", run_id=run_id))["indoubts"]
        await house.call("indoubt.resolve", indoubt_id=doubt["indoubt_id"], outcome="done")
        gate.opened.set()
        assert (await house.call("run.wait", run_id=run_id))["status"] == "completed"
        await house.ask("and now?")
    assert "did take effect" in str(house.models.requests[-1].messages)


async def test_indoubt_resolve_ok_repeated_by_its_key(house: Household) -> None:
    """A repeated request returns the same result; another outcome with the same key conflicts."""
    _, indoubt_id = await make_doubt(house)
    params: dict[str, Any] = {"indoubt_id": indoubt_id, "outcome": "done", "idempotency_key": "k"}
    first = await house.call("indoubt.resolve", **params)
    assert await house.call("indoubt.resolve", **params) == first
    with pytest.raises(IdempotencyConflict):
        await house.call("indoubt.resolve", **(params | {"outcome": "not_done"}))


async def test_indoubt_resolve_indoubt_not_found(house: Household) -> None:
    """An unknown id, and one that the token does not cover, are refused alike."""
    _, indoubt_id = await make_doubt(house, sender="bob")
    ann = await house.connect_limited(senders=["ann"])
    for client, name in ((house.client, "dbt_none"), (ann, indoubt_id)):
        refusal = await refusal_of(client, "indoubt.resolve", indoubt_id=name, outcome="done")
        assert (type(refusal), refusal.field) == (IndoubtNotFound, "$.params.indoubt_id")


async def test_indoubt_resolve_indoubt_already_resolved(house: Household) -> None:
    """A second report learns the first one."""
    _, indoubt_id = await make_doubt(house)
    await house.call("indoubt.resolve", indoubt_id=indoubt_id, outcome="not_done")
    head = house.head()
    refusal = await house.refusal_of("indoubt.resolve", indoubt_id=indoubt_id, outcome="done")
    assert type(refusal) is IndoubtAlreadyResolved
    assert "resolved as not done by uid:" in refusal.message
    assert house.head() == head


async def test_resolving_requires_operate(house: Household) -> None:
    """Reporting an outcome requires the scope ``operate``."""
    _, indoubt_id = await make_doubt(house)
    client = await house.connect_limited(scopes=["read", "converse", "approve"])
    refusal = await refusal_of(client, "indoubt.resolve", indoubt_id=indoubt_id, outcome="done")
    assert type(refusal) is ScopeMissing
