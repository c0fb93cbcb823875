"""Outputs over the socket: listing what runs gave."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.output import Outputs
from protocol.errors.rpc import InvalidParams
from protocol.errors.run import RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.transcript import ToolCall
from tests.support.desk import fails, gives, says
from tests.support.household import Household, household, pages, refused


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """A daemon whose runs may emit outputs."""
    async with household(tmp_path, tcp=True, hooks=CompositeHook((Outputs(),))) as house:
        yield house


def emits(house: Household, *texts: str) -> None:
    """The next run emits these texts, each by a call of its own."""
    calls = [ToolCall(f"call_{number}", "emit_output", {"text": text}) for number, text in enumerate(texts)]
    house.models.parts[:] = [
        lambda request: gives(*calls),
        lambda request: says("done"),
        lambda request: says("no more"),
    ]


async def test_output_list_ok(house: Household) -> None:
    """Of a run: what it emitted, in order, the last one final; or its answer."""
    emits(house, "one", "two")
    sent = await house.ask()
    page = await house.call("output.list", run_id=sent["run_id"])
    given = [(each["text"], each["source_kind"], each.get("final", False)) for each in page["outputs"]]
    assert given == [("one", "emit_output", False), ("two", "emit_output", True)]
    assert page["next"] is None
    answered = await house.ask()
    page = await house.call("output.list", run_id=answered["run_id"])
    assert [(each["text"], each["source_kind"]) for each in page["outputs"]] == [
        ("no more", "assistant_text")
    ]
    view = await house.call("run.get", run_id=sent["run_id"])
    assert (view["output"], view["output_kind"]) == ("two", "emit_output")


async def test_output_list_ok_of_a_session_page_by_page(house: Household) -> None:
    """All runs, in order, those in between that gave nothing passed over, however small the pages are."""
    emits(house, "one", "two", "three")
    sent = await house.ask()
    house.models.to["fail"] = lambda request: fails("unauthorized", retryable=False)
    await house.ask("fail")
    await house.ask()
    session_id = sent["session_id"]
    for limit in (1, 2, 3, 50):
        found = await pages(house.client, "output.list", "outputs", session_id=session_id, limit=limit)
        assert [each["text"] for each in found] == ["one", "two", "three", "no more"]
    await house.ask(sender="somebody else")
    found = await pages(house.client, "output.list", "outputs", session_id=session_id)
    assert len(found) == 4


async def test_output_list_ok_names_either(house: Household) -> None:
    """A run or a session, and a mark that a page gave."""
    sent = await house.ask()
    both = {"run_id": sent["run_id"], "session_id": sent["session_id"]}
    assert isinstance(await house.refused("output.list"), InvalidParams)
    assert isinstance(await house.refused("output.list", **both), InvalidParams)
    refusal = await house.refused("output.list", session_id=sent["session_id"], after="17")
    assert refusal.field == "$.params.after"


async def test_output_list_run_not_found(house: Household) -> None:
    """Nor for a token that does not cover it."""
    sent = await house.ask(sender="bob")
    ann = await house.limited(senders=["ann"])
    for client, run_id in ((house.client, "run_none"), (ann, sent["run_id"])):
        assert isinstance(await refused(client, "output.list", run_id=run_id), RunNotFound)


async def test_output_list_session_not_found(house: Household) -> None:
    """Nor for a token that does not cover it; and of a session no run that it does not cover is shown."""
    sent = await house.ask("bob's", sender="bob")
    await house.call("session.send", session_id=sent["session_id"], sender="ann", content="ann's")
    ann = await house.limited(senders=["ann"])
    bob = await house.limited(senders=["bob"])
    for client, session_id in ((house.client, "ses_none"), (ann, sent["session_id"])):
        refusal = await refused(client, "output.list", session_id=session_id)
        assert isinstance(refusal, SessionNotFound)
    page = await bob.call("output.list", session_id=sent["session_id"])
    assert [each["text"] for each in page["outputs"]] == ["You said: bob's"]
