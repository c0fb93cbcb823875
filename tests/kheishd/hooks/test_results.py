"""Reading earlier results: complete, in portions, and only the session's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.results import EVENTS_AT_ONCE, MAX_PORTION_BYTES, ReadResult, Results, _decode
from kheishd.hooks.validation import Validator
from kheishd.kernel.hook import Invocation, Outcome, RunContext, SubHook, Tool, ToolError
from kheishd.objects.talk.fork import fork
from kheishd.store.blobs import CHUNK_BYTES
from kheishd.store.tables import BLOBS
from protocol.events.call import ToolReturned
from protocol.events.session import SessionRenamed, TranscriptImported
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.objects.session import Session, SessionFork
from protocol.transcript import Item, Message, Text, ToolCall, ToolResult
from tests.support.desk import Desk, Scripted, gives, open_desk, says, working
from tests.support.machine import PINNED, Machine

# Imported here: a mock clock would jump ahead while a thread imports it.
__import__("jsonschema_rs")

TOOL = Results().read_result
LOOK = Tool("look", "Look around.", {"type": "object", "properties": {}}, "read")


class Eyes(SubHook):
    """A sub-hook whose tool has a given outcome."""

    name = "eyes"
    tools = (LOOK,)

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    async def dispatch(self, use: Invocation) -> Outcome:
        """Return the outcome."""
        return self.outcome


def calls(*params: ToolCall) -> Any:
    """Return a model that calls tools, one after the other, and then is done."""
    items: list[Item] = list(params)
    parts: list[Any] = [lambda request, item=item: gives(item, stop_reason="tool_calls") for item in items]
    return Scripted([*parts, lambda request: says("done")])


def given_to(models: Scripted) -> list[str]:
    """Return the tool results that the model read, in order."""
    items = [item for message in models.requests[-1].messages for item in message.items]
    return [item.text for item in items if isinstance(item, ToolResult)]


@asynccontextmanager
async def seen(
    directory: Path, outcome: Outcome, *then: ToolCall
) -> AsyncIterator[tuple[Desk, Scripted, str]]:
    """Provide a conversation with a tool result under the id 'c1'."""
    models = calls(ToolCall("c1", "look", {}), *then)
    hooks = CompositeHook((Eyes(outcome), Results()))
    async with open_desk(directory, models, hooks=hooks) as desk, working(desk):
        sent = await desk.ask()
        assert sent.status == "completed", sent.error
        yield desk, models, sent.session_id


def context_of(desk: Desk, session: Session) -> RunContext:
    """Return the context of a run of that session."""
    return RunContext(session, Machine().run, PINNED, "/", "auto", desk.state)


async def read(desk: Desk, session_id: str, call_id: str = "c1", **portion: int) -> str:
    """Return the text of the tool's result."""
    arguments = {"call_id": call_id, **portion}
    context = context_of(desk, desk.session(session_id))
    return (
        await Results().dispatch(Invocation(context, "r1", TOOL, Validator().validate(TOOL, arguments)))
    ).text


async def test_a_model_reads_the_rest_of_a_long_result(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A shortened result names its id, under which it is read in portions."""
    text = "".join(f"line {number}\n" for number in range(6_000))
    reads = [
        ToolCall(f"r{n}", "read_result", {"call_id": "c1", "offset": n * MAX_PORTION_BYTES}) for n in range(3)
    ]
    async with seen(tmp_path, Outcome(text), *reads) as (_, models, _):
        preview, *portions = given_to(models)
    assert len(preview.encode()) <= MAX_TOOL_TEXT_BYTES + 100
    assert preview.endswith(
        f'[All {len(text)} bytes are stored: read_result with the call_id "c1" reads them.]'
    )
    bodies = [portion.split("\n", 1)[1].rsplit("\n[There is more: offset ", 1)[0] for portion in portions]
    assert "".join(bodies) == text
    assert portions[0].startswith(
        f"[Bytes 0 to {MAX_PORTION_BYTES} of {len(text)} of the result of look, c1.]"
    )
    assert portions[0].endswith(f"[There is more: offset {MAX_PORTION_BYTES}.]")
    assert not portions[2].endswith("]")


async def test_what_was_kept_beside_the_text_is_read(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The full output of a tool that shortens its own text is read across chunks."""
    whole = bytes(range(32, 127)) * 5_000
    outcome = Outcome("{}", full_output=whole)
    async with seen(tmp_path, outcome) as (desk, models, session_id):
        assert f"[All {len(whole)} bytes are stored" in given_to(models)[0]
        answer = await read(desk, session_id, offset=CHUNK_BYTES - 10, limit=20)
        assert answer.split("\n", 1)[1].startswith(whole[CHUNK_BYTES - 10 : CHUNK_BYTES + 10].decode())
        last = await read(desk, session_id, offset=len(whole) - 5)
        assert last.endswith(whole[-5:].decode())


async def test_a_short_result_is_read_from_the_journal(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A short result gets no note, and can still be read."""
    async with seen(tmp_path, Outcome("It is green.")) as (desk, models, session_id):
        assert given_to(models) == ["It is green."]
        answer = await read(desk, session_id)
        assert answer == "[Bytes 0 to 12 of 12 of the result of look, c1.]\nIt is green."
        assert (await read(desk, session_id, offset=6, limit=5)).split("\n")[1] == "green"


async def test_an_empty_result_is_read(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An empty result can be read."""
    async with seen(tmp_path, Outcome("")) as (desk, _, session_id):
        assert await read(desk, session_id) == "[Bytes 0 to 0 of 0 of the result of look, c1.]\n"


async def test_nobody_reads_what_another_session_was_given(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Other sessions' results, unknown ids and offsets beyond the end are errors."""
    async with seen(tmp_path, Outcome("It is green.")) as (desk, models, session_id):
        models.answers = [lambda request: says("hello")]
        second = (await desk.ask(sender="other")).session_id
        for reader_id, call_id, offset in ((second, "c1", 0), (session_id, "c2", 0), (session_id, "c1", 12)):
            with pytest.raises(ToolError):
                await read(desk, reader_id, call_id, offset=offset)


async def test_a_branch_reads_what_was_given_before_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A fork reads the results from before the fork, and no later ones."""
    async with seen(tmp_path, Outcome("It is green.")) as (desk, _, session_id):
        (returned,) = [e.cursor for e, event in desk.journal(session_id) if isinstance(event, ToolReturned)]
        late = await desk.do(fork, SessionFork(session_id=session_id, at=returned))
        early = await desk.do(fork, SessionFork(session_id=session_id, at=returned - 1))
        assert "It is green." in await read(desk, late.session_id)
        with pytest.raises(ToolError):
            await read(desk, early.session_id)


async def test_the_newest_of_several_and_what_was_imported(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The newest of several results is read, also an imported one, in a long journal."""
    async with seen(tmp_path, Outcome("It is green.")) as (desk, _, session_id):
        result = ToolResult("old", "dig", "It is deep.")

        def tell(tx: Any) -> None:
            for event in (
                TranscriptImported(message=Message("tool", [result]), source_cursor=1),
                TranscriptImported(message=Message("user", [Text('"call_id":"old"')]), source_cursor=2),
                ToolReturned(call_id="c1", tool="look", how="returned", text="It is red."),
                *(SessionRenamed(title=None) for _ in range(EVENTS_AT_ONCE)),
            ):
                tx.append(session_id, event, session_id=session_id)

        await desk.state.update(tell)
        assert (await read(desk, session_id)).endswith("It is red.")
        assert (await read(desk, session_id, "old")).endswith("the result of dig, old.]\nIt is deep.")
        with pytest.raises(ToolError):
            await read(desk, session_id, "never")


async def test_a_blob_that_is_gone_is_said_to_be(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A deleted blob is an error that says so."""
    async with seen(tmp_path, Outcome("x" * 50_000)) as (desk, _, session_id):

        def lose(tx: Any) -> None:
            for key, _ in list(tx.scan(BLOBS)):
                tx.delete(BLOBS, *key)

        await desk.state.update(lose)
        with pytest.raises(ToolError, match="no longer stored"):
            await read(desk, session_id)


async def test_who_may_not_read_is_not_told_to() -> None:
    """There is no note for a run that may not use the tool, nor in the tool's own results."""
    machine = Machine(tools=["look"])
    use = Invocation(RunContext(None, machine.run, machine.pinned, "/", "auto", None), "c1", LOOK, {})  # type: ignore[arg-type]
    long = Outcome("x" * 50_000)
    assert await Results().after_call(use, long) == long
    context = RunContext(None, Machine().run, PINNED, "/", "auto", None)  # type: ignore[arg-type]
    own = Invocation(context, "c1", TOOL, ReadResult(call_id="c"))
    assert await Results().after_call(own, long) == long


def test_the_tool() -> None:
    """The tool only reads: it runs in parallel, again, and in plan mode; its subject is the call."""
    assert (TOOL.kind, TOOL.default) == ("read", "allow")
    assert TOOL.repeatable
    assert TOOL.parallel
    assert TOOL.in_plan
    use = Invocation(RunContext(None, None, PINNED, "/", "auto", None), "r", TOOL, ReadResult(call_id="c1"))  # type: ignore[arg-type]
    assert Results().subject(use) == "c1"
    checked = CompositeHook((Results(),)).validate
    assert checked(TOOL, {"call_id": "c1", "offset": "3"}) == ReadResult(call_id="c1", offset=3)
    for wrong in ({}, {"call_id": ""}, {"call_id": "c", "limit": 0}, {"call_id": "c", "limit": 10**9}):
        with pytest.raises(ToolError):
            checked(TOOL, wrong)


@given(st.text(), st.lists(st.integers(1, 9), min_size=1))
def test_portions_join_without_cutting_a_character(text: str, sizes: list[int]) -> None:
    """Portions of any size join to the text, each from the end of the previous one."""
    whole = text.encode()
    joined, offset, number = "", 0, 0
    while offset < len(whole):
        limit = sizes[number % len(sizes)] + 3
        piece, begin, end = _decode(whole[offset : offset + limit], offset, len(whole))
        assert begin == offset
        assert end > offset
        joined, offset, number = joined + piece, end, number + 1
    assert joined == text


@given(st.binary(max_size=60), st.integers(0, 60))
def test_bytes_that_are_no_text_are_shown_as_well_as_can_be(data: bytes, offset: int) -> None:
    """Invalid bytes are replaced at any offset."""
    text, begin, end = _decode(data, offset, offset + len(data))
    assert offset <= begin <= offset + 3
    assert end == offset + len(data)
    assert len(text) <= len(data)
