"""Outputs of runs, read and listed."""

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
from tests.support.household import Household, household, pages, refusal_of


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Household]:
    """Serve a daemon whose runs may emit outputs."""
    async with household(tmp_path, tcp=True, hooks=CompositeHook((Outputs(),))) as house:
        yield house


def emit(house: Household, *texts: str) -> None:
    """Let the next run emit these texts, each by a call of its own."""
    calls = [ToolCall(f"call_{number}", "emit_output", {"text": text}) for number, text in enumerate(texts)]
    house.models.answers[:] = [
        lambda request: gives(*calls),
        lambda request: says("done"),
        lambda request: says("no more"),
    ]


async def test_output_list_ok(house: Household) -> None:
    """A run lists its emitted outputs in order, the last one final, or else its answer."""
    emit(house, "one", "two")
    sent = await house.ask()
    page = await house.call("output.list", run_id=sent["run_id"])
    listed = [(row["text"], row["source_kind"], row.get("final", False)) for row in page["outputs"]]
    assert listed == [("one", "emit_output", False), ("two", "emit_output", True)]
    assert page["next"] is None
    answered = await house.ask()
    page = await house.call("output.list", run_id=answered["run_id"])
    assert [(row["text"], row["source_kind"]) for row in page["outputs"]] == [("no more", "assistant_text")]
    view = await house.call("run.get", run_id=sent["run_id"])
    assert (view["output"], view["output_kind"]) == ("two", "emit_output")


async def test_output_list_ok_of_a_session_page_by_page(house: Household) -> None:
    """The runs of a session are listed in order, whatever the page size; runs without output are skipped."""
    emit(house, "one", "two", "three")
    sent = await house.ask()
    house.models.answers_to["fail"] = lambda request: fails("unauthorized", retryable=False)
    await house.ask("fail")
    await house.ask()
    session_id = sent["session_id"]
    for limit in (1, 2, 3, 50):
        outputs = await pages(house.client, "output.list", "outputs", session_id=session_id, limit=limit)
        assert [row["text"] for row in outputs] == ["one", "two", "three", "no more"]
    await house.ask(sender="somebody else")
    outputs = await pages(house.client, "output.list", "outputs", session_id=session_id)
    assert len(outputs) == 4


async def test_output_list_requires_one_address(house: Household) -> None:
    """Either a run or a session is named, and only the ``next`` of a page is a page token."""
    sent = await house.ask()
    both = {"run_id": sent["run_id"], "session_id": sent["session_id"]}
    assert isinstance(await house.refusal_of("output.list"), InvalidParams)
    assert isinstance(await house.refusal_of("output.list", **both), InvalidParams)
    refusal = await house.refusal_of("output.list", session_id=sent["session_id"], after="17")
    assert refusal.field == "$.params.after"


async def test_output_list_run_not_found(house: Household) -> None:
    """An unknown run, and one that the token does not cover, are refused alike."""
    sent = await house.ask(sender="bob")
    ann = await house.connect_limited(senders=["ann"])
    for client, run_id in ((house.client, "run_none"), (ann, sent["run_id"])):
        assert isinstance(await refusal_of(client, "output.list", run_id=run_id), RunNotFound)


async def test_output_list_session_not_found(house: Household) -> None:
    """An uncovered session is refused, and uncovered runs of a covered one are left out."""
    sent = await house.ask("bob's", sender="bob")
    await house.call("session.send", session_id=sent["session_id"], sender="ann", content="ann's")
    ann = await house.connect_limited(senders=["ann"])
    bob = await house.connect_limited(senders=["bob"])
    for client, session_id in ((house.client, "ses_none"), (ann, sent["session_id"])):
        refusal = await refusal_of(client, "output.list", session_id=session_id)
        assert isinstance(refusal, SessionNotFound)
    page = await bob.call("output.list", session_id=sent["session_id"])
    assert [row["text"] for row in page["outputs"]] == ["You said: bob's"]


EMIT = ToolCall("call_1", "emit_output", {"text": "first"})


AGAIN = ToolCall("call_2", "emit_output", {"value": 2})


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Open a desk with a run worker, whose runs may emit outputs."""
    async with open_desk(tmp_path, Scripted(), hooks=CompositeHook((Outputs(),))) as desk, working(desk):
        yield desk


def set_answers(desk: Desk, *parts: ModelPart) -> None:
    """Set the next answers of the model, in order."""
    models = desk.holder.current().models
    assert isinstance(models, Scripted)
    models.answers[:] = parts


def read_outputs(desk: Desk, run_id: str) -> tuple[Output | None, list[Output]]:
    """Return the run's newest output and all of its outputs."""
    with desk.state.read() as store:
        run = desk.run(run_id)
        return output_of(store, run), list(outputs_of(store, run))


async def test_the_output_of_a_completed_run_is_its_last_answer(desk: Desk) -> None:
    """The output has an id derived from the message's, and its cursor and time."""
    sent = await desk.ask("hello")
    last, outputs = read_outputs(desk, sent.run_id)
    assert outputs == [last]
    assert last is not None
    assert (last.text, last.source_kind, last.final) == ("You said: hello", "assistant_text", True)
    item_id = desk.run(sent.run_id).output_item_id
    assert item_id is not None
    assert last.output_id.removeprefix("out_") == item_id.removeprefix("itm_")
    envelope = next(
        entry for entry, _ in desk.journal(sent.session_id) if entry.cursor == last.created_cursor
    )
    assert (last.run_id, last.at_ms) == (sent.run_id, envelope.at_ms)


async def test_emitted_outputs_replace_the_answer(desk: Desk) -> None:
    """All emitted outputs are listed, and only the last is final."""
    set_answers(desk, lambda r: gives(EMIT), lambda r: gives(AGAIN), lambda r: says("that is all"))
    sent = await desk.ask()
    last, outputs = read_outputs(desk, sent.run_id)
    assert [(output.text, output.value, output.final) for output in outputs] == [
        ("first", None, False),
        ("2", 2, True),
    ]
    assert last == outputs[-1]
    assert {output.source_kind for output in outputs} == {"emit_output"}
    assert (sent.output, sent.value, sent.output_kind) == ("2", 2, "emit_output")


async def test_a_failed_run_has_no_final_output(desk: Desk) -> None:
    """Emitted outputs are listed; text on the way is no output."""
    set_answers(desk, lambda r: gives(EMIT), lambda r: fails("unauthorized", retryable=False))
    sent = await desk.ask()
    last, outputs = read_outputs(desk, sent.run_id)
    assert sent.status == "failed"
    assert [(output.text, output.final) for output in outputs] == [("first", False)]
    set_answers(
        desk,
        lambda r: gives(Text("I look"), ToolCall("c", "none", {})),
        lambda r: fails("unauthorized", retryable=False),
    )
    sent = await desk.ask()
    last, outputs = read_outputs(desk, sent.run_id)
    assert outputs == []
    assert last is not None
    assert (last.text, last.final) == ("I look", False)


async def test_no_output_before_an_answer(desk: Desk) -> None:
    """A run without an answer, or with an empty one, has no output."""
    gate = Gate()
    set_answers(desk, gate)
    sent = await desk.send()
    await gate.reached.wait()
    assert read_outputs(desk, sent.run_id) == (None, [])
    gate.opened.set()
    set_answers(desk, lambda r: gives())
    empty = await desk.ask()
    last, outputs = read_outputs(desk, empty.run_id)
    assert (empty.status, outputs) == ("completed", [])
    assert last is not None
    assert last.text == ""


async def test_pruned_outputs_are_skipped(desk: Desk) -> None:
    """A record may outlive the entries that it refers to."""
    sent = await desk.ask()
    cursor = desk.run(sent.run_id).output_cursor
    assert cursor is not None
    await desk.state.update(lambda tx: tx.delete(JOURNAL, sent.session_id, cursor))
    assert read_outputs(desk, sent.run_id) == (None, [])


SCHEMA: dict[str, Any] = {"type": "array", "items": {"type": "integer"}}


CONTRACT = OutputContract(schema=SCHEMA, max_repairs=1)


async def test_an_answer_with_a_contract_is_json(desk: Desk) -> None:
    """A matching answer is canonical JSON with its value, also after repairs."""
    set_answers(desk, lambda r: says("well"), lambda r: says("```json\n[1,\n 2]\n```"))
    sent = await desk.ask(output_contract=CONTRACT)
    last, outputs = read_outputs(desk, sent.run_id)
    assert outputs == [last]
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
    set_answers(desk, lambda r: says("well"))
    sent = await desk.ask(output_contract=CONTRACT)
    last, outputs = read_outputs(desk, sent.run_id)
    assert (sent.status, outputs) == ("failed", [])
    assert sent.error is not None
    assert sent.error.reason == "output_contract_violated"
    assert last is not None
    assert (last.source_kind, last.text, last.final) == ("assistant_text", "well", False)


async def test_a_continued_answer_is_one_output(desk: Desk) -> None:
    """The parts of a truncated answer are joined, and the contract binds the whole."""
    cut: ModelPart = lambda r: gives(Text("[1,"), stop_reason="length")  # noqa: E731
    set_answers(desk, cut, lambda r: says("2]"))
    sent = await desk.ask()
    assert (sent.output, sent.output_kind) == ("[1,2]", "assistant_text")
    set_answers(desk, cut, lambda r: says(" 2]"))
    bound = await desk.ask(output_contract=CONTRACT)
    assert (bound.output, bound.output_kind) == ("[1,2]", "structured_output")
