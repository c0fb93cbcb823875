"""Calls in doubt over the socket: shown with what is known, settled once, and the model told."""

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
from tests.support.household import Household, household, pages, refused
from tests.support.workshop import Workshop, calls, hooks

SENDING = ToolCall("c1", "send", {"path": "/a", "text": "hello"})


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """A daemon that finds what one before it left, with tokens."""
    async with household(tmp_path, tcp=True, work=False, hooks=hooks(Workshop())) as house:
        house.models.answers = calls()[1:]
        yield house


async def died_in_a_call(house: Household, sender: str = "user") -> str:
    """A run as a daemon leaves it that dies while a tool sends something."""
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
        fold = SessionWriter(tx, run.session_id, session=tx.get(SESSIONS, run.session_id), run=run)
        for command in commands:
            fold.carry_out(command)
        fold.write()

    await house.state.update(leave)
    return str(sent["run_id"])


async def doubted(house: Household, sender: str = "user") -> tuple[str, str]:
    """A run that has ended, and the call in it of which nobody knows."""
    run_id = await died_in_a_call(house, sender)
    async with house.working():
        run = await house.call("run.wait", run_id=run_id)
    assert run["status"] == "completed"
    (found,) = (await house.call("indoubt.list", run_id=run_id))["indoubts"]
    return run_id, found["indoubt_id"]


# indoubt.get and indoubt.list


async def test_indoubt_get_ok(house: Household) -> None:
    """A call in doubt is shown with its arguments."""
    run_id, indoubt_id = await doubted(house)
    shown = await house.call("indoubt.get", indoubt_id=indoubt_id)
    assert (shown["status"], shown["run_id"], shown["tool"]) == ("open", run_id, "send")
    assert shown["arguments"] == {"path": "/a", "text": "hello"}
    assert (shown["note"], shown["evidence"]) == ("its file is there", {"pid": 7})
    assert shown["called_at_ms"] <= shown["found_at_ms"]


async def test_indoubt_get_indoubt_not_found(house: Household) -> None:
    """An unknown id, and one that the token does not cover, are refused alike."""
    _, indoubt_id = await doubted(house, sender="bob")
    ann = await house.limited(senders=["ann"])
    for client, name in ((house.client, "dbt_none"), (ann, indoubt_id)):
        refusal = await refused(client, "indoubt.get", indoubt_id=name)
        assert (type(refusal), refusal.field) == (IndoubtNotFound, "$.params.indoubt_id")


async def test_indoubt_list_ok(house: Household) -> None:
    """Open calls in doubt are listed oldest first, of a session or run; resolved ones on request."""
    first, one = await doubted(house, sender="ann")
    _, two = await doubted(house, sender="bob")
    await house.call("indoubt.resolve", indoubt_id=one, outcome="done")
    _, three = await doubted(house, sender="carl")
    session_id = (await house.call("run.get", run_id=first))["session_id"]
    for asked, expected in (
        ({}, [two, three]),
        ({"status": "done"}, [one]),
        ({"status": "any"}, [one, two, three]),
        ({"run_id": first}, []),
        ({"session_id": session_id, "status": "any"}, [one]),
    ):
        rows = await pages(house.client, "indoubt.list", "indoubts", limit=1, **asked)
        assert [row["indoubt_id"] for row in rows] == expected, asked
    bob = await house.limited(senders=["bob"])
    assert [row["indoubt_id"] for row in (await bob.call("indoubt.list"))["indoubts"]] == [two]


async def test_indoubt_list_session_not_found(house: Household) -> None:
    """The refusal names the field."""
    refusal = await house.refused("indoubt.list", session_id="ses_none")
    assert (type(refusal), refusal.field) == (SessionNotFound, "$.params.session_id")


async def test_indoubt_list_run_not_found(house: Household) -> None:
    """The refusal names the field."""
    refusal = await house.refused("indoubt.list", run_id="run_none")
    assert (type(refusal), refusal.field) == (RunNotFound, "$.params.run_id")


# indoubt.resolve


@pytest.mark.parametrize(
    ("outcome", "says"), [("done", "did take effect"), ("not_done", "did not take effect")]
)
async def test_indoubt_resolve_ok(house: Household, outcome: str, says: str) -> None:
    """The next model call learns the outcome of the call, also when the run has ended."""
    run_id, indoubt_id = await doubted(house)
    shown = await house.call(
        "indoubt.resolve", indoubt_id=indoubt_id, outcome=outcome, justification="saw it"
    )
    assert (shown["status"], shown["justification"]) == (outcome, "saw it")
    assert (shown["arguments"], shown["evidence"]) == ({"path": "/a", "text": "hello"}, {"pid": 7})
    assert shown["resolved_by"].startswith("uid:")
    assert (await house.call("run.get", run_id=run_id))["status"] == "completed"
    async with house.working():
        await house.ask("and now?")
    told = [message for message in house.models.requests[-1].messages if says in str(message)]
    assert len(told) == 1
    assert 'send {"path": "/a", "text": "hello"}' in str(told[0])
    assert "saw it" not in str(told[0])


async def test_indoubt_resolve_ok_while_the_run_goes_on(house: Household) -> None:
    """A run in flight reads the outcome before its next answer."""
    run_id = await died_in_a_call(house)
    gate = house.gate_next()
    async with house.working():
        await gate.reached.wait()
        (found,) = (await house.call("indoubt.list", run_id=run_id))["indoubts"]
        await house.call("indoubt.resolve", indoubt_id=found["indoubt_id"], outcome="done")
        gate.opened.set()
        assert (await house.call("run.wait", run_id=run_id))["status"] == "completed"
        await house.ask("and now?")
    assert "did take effect" in str(house.models.requests[-1].messages)


async def test_indoubt_resolve_ok_repeated_by_its_key(house: Household) -> None:
    """A repeated request returns the same result; another outcome with the same key conflicts."""
    _, indoubt_id = await doubted(house)
    params: dict[str, Any] = {"indoubt_id": indoubt_id, "outcome": "done", "idempotency_key": "k"}
    first = await house.call("indoubt.resolve", **params)
    assert await house.call("indoubt.resolve", **params) == first
    with pytest.raises(IdempotencyConflict):
        await house.call("indoubt.resolve", **(params | {"outcome": "not_done"}))


async def test_indoubt_resolve_indoubt_not_found(house: Household) -> None:
    """An unknown id, and one that the token does not cover, are refused alike."""
    _, indoubt_id = await doubted(house, sender="bob")
    ann = await house.limited(senders=["ann"])
    for client, name in ((house.client, "dbt_none"), (ann, indoubt_id)):
        refusal = await refused(client, "indoubt.resolve", indoubt_id=name, outcome="done")
        assert (type(refusal), refusal.field) == (IndoubtNotFound, "$.params.indoubt_id")


async def test_indoubt_resolve_indoubt_already_resolved(house: Household) -> None:
    """A second report learns the first one."""
    _, indoubt_id = await doubted(house)
    await house.call("indoubt.resolve", indoubt_id=indoubt_id, outcome="not_done")
    head = house.head()
    refusal = await house.refused("indoubt.resolve", indoubt_id=indoubt_id, outcome="done")
    assert type(refusal) is IndoubtAlreadyResolved
    assert "resolved as not done by uid:" in refusal.message
    assert house.head() == head


async def test_resolving_requires_operate(house: Household) -> None:
    """Reporting an outcome requires the scope ``operate``."""
    _, indoubt_id = await doubted(house)
    client = await house.limited(scopes=["read", "converse", "approve"])
    refusal = await refused(client, "indoubt.resolve", indoubt_id=indoubt_id, outcome="done")
    assert type(refusal) is ScopeMissing
