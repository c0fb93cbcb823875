"""Outputs over the socket: listing what runs gave."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.output import Outputs
from kheishd.objects.talk.output import output_of, outputs_of
from kheishd.store.tables import JOURNAL
from protocol.contract import OutputContract
from protocol.errors.rpc import InvalidParams
from protocol.errors.run import RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.objects.output import Output
from protocol.transcript import Text, ToolCall
from tests.support.desk import Desk, Gate, ModelPart, Scripted, fails, gives, open_desk, says, working
from tests.support.household import Household, household, pages, refused


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """A daemon whose runs may emit outputs."""
    async with household(tmp_path, tcp=True, hooks=CompositeHook((Outputs(),))) as house:
        yield house


def emits(house: Household, *texts: str) -> None:
    """The next run emits these texts, each by a call of its own."""
    calls = [ToolCall(f"call_{number}", "emit_output", {"text": text}) for number, text in enumerate(texts)]
    house.models.answers[:] = [
        lambda request: gives(*calls),
        lambda request: says("done"),
        lambda request: says("no more"),
    ]


async def test_output_list_ok(house: Household) -> None:
    """A run lists its emitted outputs in order, the last one final, or else its answer."""
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
    """The runs of a session are listed in order, whatever the page size; runs without output are skipped."""
    emits(house, "one", "two", "three")
    sent = await house.ask()
    house.models.answers_to["fail"] = lambda request: fails("unauthorized", retryable=False)
    await house.ask("fail")
    await house.ask()
    session_id = sent["session_id"]
    for limit in (1, 2, 3, 50):
        found = await pages(house.client, "output.list", "outputs", session_id=session_id, limit=limit)
        assert [each["text"] for each in found] == ["one", "two", "three", "no more"]
    await house.ask(sender="somebody else")
    found = await pages(house.client, "output.list", "outputs", session_id=session_id)
    assert len(found) == 4


async def test_output_list_requires_one_address(house: Household) -> None:
    """Either a run or a session is named, and only the ``next`` of a page is a page token."""
    sent = await house.ask()
    both = {"run_id": sent["run_id"], "session_id": sent["session_id"]}
    assert isinstance(await house.refused("output.list"), InvalidParams)
    assert isinstance(await house.refused("output.list", **both), InvalidParams)
    refusal = await house.refused("output.list", session_id=sent["session_id"], after="17")
    assert refusal.field == "$.params.after"


async def test_output_list_run_not_found(house: Household) -> None:
    """An unknown run, and one that the token does not cover, are refused alike."""
    sent = await house.ask(sender="bob")
    ann = await house.limited(senders=["ann"])
    for client, run_id in ((house.client, "run_none"), (ann, sent["run_id"])):
        assert isinstance(await refused(client, "output.list", run_id=run_id), RunNotFound)


async def test_output_list_session_not_found(house: Household) -> None:
    """An uncovered session is refused, and uncovered runs of a covered one are left out."""
    sent = await house.ask("bob's", sender="bob")
    await house.call("session.send", session_id=sent["session_id"], sender="ann", content="ann's")
    ann = await house.limited(senders=["ann"])
    bob = await house.limited(senders=["bob"])
    for client, session_id in ((house.client, "ses_none"), (ann, sent["session_id"])):
        refusal = await refused(client, "output.list", session_id=session_id)
        assert isinstance(refusal, SessionNotFound)
    page = await bob.call("output.list", session_id=sent["session_id"])
    assert [each["text"] for each in page["outputs"]] == ["You said: bob's"]


EMIT = ToolCall("call_1", "emit_output", {"text": "first"})


AGAIN = ToolCall("call_2", "emit_output", {"value": 2})


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk with a worker; its runs may emit outputs."""
    async with open_desk(tmp_path, Scripted(), hooks=CompositeHook((Outputs(),))) as desk, working(desk):
        yield desk


def answers(desk: Desk, *parts: ModelPart) -> None:
    """What the model says next, in order."""
    models = desk.holder.current().models
    assert isinstance(models, Scripted)
    models.answers[:] = parts


def read(desk: Desk, run_id: str) -> tuple[Output | None, list[Output]]:
    """The run's last output, and all that it gave."""
    with desk.state.read() as store:
        run = desk.run(run_id)
        return output_of(store, run), list(outputs_of(store, run))


async def test_the_output_of_a_completed_run_is_its_last_answer(desk: Desk) -> None:
    """The output has an id derived from the message's, and its cursor and time."""
    sent = await desk.ask("hello")
    last, given = read(desk, sent.run_id)
    assert given == [last]
    assert last is not None
    assert (last.text, last.source_kind, last.final) == ("You said: hello", "assistant_text", True)
    item_id = desk.run(sent.run_id).output_item_id
    assert item_id is not None
    assert last.output_id.removeprefix("out_") == item_id.removeprefix("itm_")
    envelope = next(each for each, _ in desk.journal(sent.session_id) if each.cursor == last.created_cursor)
    assert (last.run_id, last.at_ms) == (sent.run_id, envelope.at_ms)


async def test_emitted_outputs_replace_the_answer(desk: Desk) -> None:
    """All emitted outputs are listed, and only the last is final."""
    answers(desk, lambda r: gives(EMIT), lambda r: gives(AGAIN), lambda r: says("that is all"))
    sent = await desk.ask()
    last, given = read(desk, sent.run_id)
    assert [(each.text, each.value, each.final) for each in given] == [("first", None, False), ("2", 2, True)]
    assert last == given[-1]
    assert {each.source_kind for each in given} == {"emit_output"}
    assert (sent.output, sent.value, sent.output_kind) == ("2", 2, "emit_output")


async def test_a_failed_run_has_no_final_output(desk: Desk) -> None:
    """Emitted outputs are listed; text on the way is no output."""
    answers(desk, lambda r: gives(EMIT), lambda r: fails("unauthorized", retryable=False))
    sent = await desk.ask()
    last, given = read(desk, sent.run_id)
    assert sent.status == "failed"
    assert [(each.text, each.final) for each in given] == [("first", False)]
    answers(
        desk,
        lambda r: gives(Text("I look"), ToolCall("c", "none", {})),
        lambda r: fails("unauthorized", retryable=False),
    )
    sent = await desk.ask()
    last, given = read(desk, sent.run_id)
    assert given == []
    assert last is not None
    assert (last.text, last.final) == ("I look", False)


async def test_no_output_before_an_answer(desk: Desk) -> None:
    """A run without an answer, or with an empty one, has no output."""
    gate = Gate()
    answers(desk, gate)
    sent = await desk.send()
    await gate.reached.wait()
    assert read(desk, sent.run_id) == (None, [])
    gate.opened.set()
    answers(desk, lambda r: gives())
    empty = await desk.ask()
    last, given = read(desk, empty.run_id)
    assert (empty.status, given) == ("completed", [])
    assert last is not None
    assert last.text == ""


async def test_pruned_outputs_are_skipped(desk: Desk) -> None:
    """A record may outlive the entries that it refers to."""
    sent = await desk.ask()
    cursor = desk.run(sent.run_id).output_cursor
    assert cursor is not None
    await desk.state.update(lambda tx: tx.delete(JOURNAL, sent.session_id, cursor))
    assert read(desk, sent.run_id) == (None, [])


SCHEMA: dict[str, Any] = {"type": "array", "items": {"type": "integer"}}


CONTRACT = OutputContract(schema=SCHEMA, max_repairs=1)


async def test_an_answer_with_a_contract_is_json(desk: Desk) -> None:
    """A matching answer is canonical JSON with its value, also after repairs."""
    answers(desk, lambda r: says("well"), lambda r: says("```json\n[1,\n 2]\n```"))
    sent = await desk.ask(output_contract=CONTRACT)
    last, given = read(desk, sent.run_id)
    assert given == [last]
    assert last is not None
    assert (last.source_kind, last.text, last.value, last.final) == (
        "structured_output",
        "[1,2]",
        [1, 2],
        True,
    )
    assert (sent.output, sent.value, sent.output_kind) == ("[1,2]", [1, 2], "structured_output")


async def test_an_answer_that_violates_its_contract_is_text(desk: Desk) -> None:
    """The last text of a failed run is shown, and is none of its outputs."""
    answers(desk, lambda r: says("well"))
    sent = await desk.ask(output_contract=CONTRACT)
    last, given = read(desk, sent.run_id)
    assert (sent.status, given) == ("failed", [])
    assert sent.error is not None
    assert sent.error.reason == "output_contract_violated"
    assert last is not None
    assert (last.source_kind, last.text, last.final) == ("assistant_text", "well", False)


async def test_a_continued_answer_is_one_output(desk: Desk) -> None:
    """The parts of a truncated answer are joined, and the contract binds the whole."""
    cut: ModelPart = lambda r: gives(Text("[1,"), stop_reason="length")  # noqa: E731
    answers(desk, cut, lambda r: says("2]"))
    sent = await desk.ask()
    assert (sent.output, sent.output_kind) == ("[1,2]", "assistant_text")
    answers(desk, cut, lambda r: says(" 2]"))
    bound = await desk.ask(output_contract=CONTRACT)
    assert (bound.output, bound.output_kind) == ("[1,2]", "structured_output")
