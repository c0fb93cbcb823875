"""What a model is shown, with a checkpoint and without."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.core.context.transcript import CHECKPOINT_EVENTS, Transcript, encode_checkpoint
from kheishd.core.definition import built_in
from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.output import Outputs
from kheishd.objects.talk.lineage import Segment
from kheishd.store.tables import BLOBS, CHECKPOINTS
from kheishd.workers.runs.transcript import (
    MAX_READ_BYTES,
    MAX_READ_EVENTS,
    Checkpoint,
    TranscriptReader,
    newest_checkpoint,
)
from protocol.contract import OutputContract, Requirement
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.limits.store import MAX_CHECKPOINT_BYTES, MAX_SEPARATE_CHECKPOINT_BYTES
from protocol.transcript import Message, Text, ToolCall, text_of
from tests.support.desk import Desk, Scripted, full_disk, gives, open_desk, says, working
from tests.support.toolbox import TOOLS, Toolbox, workbench


async def test_the_model_is_shown_the_conversation_and_what_was_pinned(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Instructions by value, every message so far in order, and the ids of the call."""
    models = Scripted()
    async with open_desk(tmp_path, models) as desk, working(desk):
        await desk.ask("one")
        sent = await desk.ask("two")
        definition = desk.holder.current().definitions["default"]
        asked = models.asked[-1]
        assert asked.instructions == definition.instructions
        assert [text_of(message.items) for message in asked.messages] == ["one", "You said: one", "two"]
        assert (asked.session_id, asked.run_id) == (sent.session_id, sent.run_id)
        with desk.state.read() as store:
            assert store.get(BLOBS, definition.digest, 0) == definition.instructions.encode()


async def test_what_parts_say_is_added_to_the_instructions(tmp_path: Path, autojump_clock: MockClock) -> None:
    """And the tools are offered with it; an agent that may use none is shown neither."""
    async with workbench(tmp_path, Toolbox()) as desk, working(desk):
        await desk.ask("one")
        (asked,) = desk.models.asked
        own = desk.holder.current().definitions["default"].instructions
        assert asked.instructions == f"{own}\n\nNotes are kept in {tmp_path}/work."
        assert [each.name for each in asked.tools] == [each.name for each in TOOLS]
    none = {"default": replace(built_in(), tools=[])}
    async with workbench(tmp_path / "other", Toolbox(), definitions=none) as desk, working(desk):
        await desk.ask("one")
        (asked,) = desk.models.asked
        assert (asked.instructions, list(asked.tools)) == (own, [])


async def talk(desk: Desk, models: Scripted, turns: int) -> list[list[Message]]:
    """Turns in one conversation: what the model was shown in each."""
    for number in range(turns):
        assert (await desk.ask(f"message {number}")).status == "completed"
    return [asked.messages for asked in models.asked]


async def test_a_checkpoint_is_written_and_changes_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Every 64 events one takes the place of the last; with it or without, the model is shown the same."""
    models = Scripted()
    async with open_desk(tmp_path, models) as desk, working(desk):
        shown = await talk(desk, models, 30)
        session_id = (await desk.ask("last")).session_id
        with desk.state.read() as store:
            (key, _), *others = list(store.scan(CHECKPOINTS, session_id))
            assert others == []
            checkpoint = newest_checkpoint(store, [Segment(session_id, None)])
        assert 2 * CHECKPOINT_EVENTS < key[1] == checkpoint.cursor
        assert [len(messages) for messages in shown] == list(range(1, 60, 2))
        with_it = models.asked[-1].messages
        await desk.forget_checkpoints(session_id)
        await desk.ask("again")
        assert models.asked[-1].messages[: len(with_it)] == with_it


async def test_a_checkpoint_that_cannot_be_read_is_passed_over(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The journal has everything."""
    models = Scripted()
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.ask("one")
        await desk.put_checkpoint(sent.session_id, 3, b"\xc1 of another version")
        await desk.ask("two")
        assert [text_of(message.items) for message in models.asked[-1].messages] == [
            "one",
            "You said: one",
            "two",
        ]
    assert "unreadable checkpoint" in caplog.text


async def test_a_long_answer_travels_without_a_checkpoint(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Where both do not fit into one transaction, the answer goes first and the cache follows by itself."""
    models = Scripted()
    models.to["long"] = lambda request: gives(Text("x" * MAX_ANSWER_BYTES))
    models.to["fill"] = lambda request: says("y" * 3_000)
    async with open_desk(tmp_path, models) as desk, working(desk):
        for _ in range(CHECKPOINT_EVENTS // 6):
            session_id = (await desk.ask("fill")).session_id
        assert desk.count(CHECKPOINTS) == 0
        await wait_all_tasks_blocked()
        before = len(desk.groups)
        assert (await desk.ask("long")).status == "completed"
        await wait_all_tasks_blocked()
        assert desk.count(CHECKPOINTS) == 1
        assert len(desk.groups) - before == 4
        assert desk.groups[-1] == frozenset(("checkpoints",))
        assert desk.session(session_id).status == "open"


async def test_a_long_transcript_is_written_down_by_itself(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What no answer has room for has a transaction of its own, once in so many events."""
    models = Scripted()
    models.to["fill"] = lambda request: says("fine")
    async with open_desk(tmp_path, models) as desk, working(desk):
        session_id = (await desk.ask("x" * 2 * MAX_CHECKPOINT_BYTES)).session_id
        for _ in range(CHECKPOINT_EVENTS // 6 + 2):
            await desk.ask("fill")
        await wait_all_tasks_blocked()
        with desk.state.read() as store:
            ((key, content),) = store.scan(CHECKPOINTS, session_id)
        assert MAX_CHECKPOINT_BYTES < len(content) < MAX_SEPARATE_CHECKPOINT_BYTES
        assert [rung for rung in desk.groups if rung == frozenset(("checkpoints",))] == [{"checkpoints"}]
        before = models.asked[-1].messages
        await desk.ask("fill")
        assert models.asked[-1].messages[: len(before)] == before
        assert key[1] < len(desk.journal(session_id))


async def test_a_checkpoint_of_less_takes_no_place(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Two runs may write theirs at the same time; the one that holds more stays."""
    async with open_desk(tmp_path) as desk, working(desk):
        session_id = (await desk.ask("one")).session_id
        await desk.state.update(Checkpoint(session_id, 5, encode_checkpoint(Transcript(5))).write)
        await desk.state.update(Checkpoint(session_id, 4, encode_checkpoint(Transcript(4))).write)
        with desk.state.read() as store:
            assert newest_checkpoint(store, [Segment(session_id, None)]).cursor == 5


async def test_a_full_disk_does_without_a_checkpoint(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It is only a cache."""
    async with open_desk(tmp_path) as desk, working(desk):
        session_id = (await desk.ask("one")).session_id
        reading = TranscriptReader(desk.state, session_id)
        await reading.read()
        reading.note_compaction()
        with full_disk():
            await reading.save_checkpoint()
        assert desk.count(CHECKPOINTS) == 0


async def test_a_long_journal_is_read_a_piece_at_a_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    """However many events there are, the loop is not held up and nothing is read twice."""
    models = Scripted()
    async with open_desk(tmp_path, models) as desk, working(desk):
        session_id = (await desk.ask("one")).session_id
        await desk.rename(session_id, times=2 * MAX_READ_EVENTS)
        await desk.ask("two")
        assert [text_of(message.items) for message in models.asked[-1].messages] == [
            "one",
            "You said: one",
            "two",
        ]


async def test_a_journal_of_long_lines_is_read_a_piece_at_a_time(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred and fifty-six long answers would hold the loop up for a tenth of a second."""
    read_some, reads = TranscriptReader._read_some, []

    def watched(reading: TranscriptReader) -> tuple[Transcript, bool]:
        transcript, whole = read_some(reading)
        reads.append(transcript.cursor)
        return transcript, whole

    monkeypatch.setattr(TranscriptReader, "_read_some", watched)
    models = Scripted()
    async with open_desk(tmp_path, models) as desk, working(desk):
        for _ in range(5):
            await desk.ask("x" * (MAX_READ_BYTES // 10))
        reads.clear()
        await desk.ask("last")
        assert len(models.asked[-1].messages) == 11
        assert len(reads) == 2
        assert reads[0] < reads[1]


async def test_what_a_checkpoint_cannot_hold_is_read_from_the_journal(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A whole number of more than 64 bits, for one: JSON has it, MessagePack has not."""
    models = Scripted()
    models.to["count"] = lambda request: gives(ToolCall("c1", "count", {"to": 10**30}))
    async with open_desk(tmp_path, models) as desk, working(desk):
        await desk.ask("count")
        for _ in range(CHECKPOINT_EVENTS // 6 + 1):
            assert (await desk.ask("more")).status == "completed"
        assert desk.count(CHECKPOINTS) == 0


async def test_a_long_transcript_is_not_written_down_in_vain(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it cannot be a checkpoint is seen without encoding megabytes of it."""
    models = Scripted()
    monkeypatch.setattr("kheishd.workers.runs.transcript.encode_checkpoint", None)
    async with open_desk(tmp_path, models) as desk, working(desk):
        for _ in range(3):
            await desk.ask("x" * (MAX_SEPARATE_CHECKPOINT_BYTES // 3))
        for _ in range(CHECKPOINT_EVENTS // 6 + 1):
            assert (await desk.ask("more")).status == "completed"
        assert desk.count(CHECKPOINTS) == 0


async def test_the_model_is_told_what_it_owes(tmp_path: Path, autojump_clock: MockClock) -> None:
    """From the beginning: the files it is to write and the schema of its answer."""
    models = Scripted([lambda request: says('"yes"')])
    contract = OutputContract(schema={"type": "string"}, max_repairs=0)
    files = [Requirement(type="workspace_file", path="a.md")]
    async with open_desk(tmp_path, models) as desk, working(desk):
        await desk.ask("one", output_contract=contract)
        told = models.asked[-1].instructions
        assert told.endswith('no code fence.\n{"type":"string"}')
        await desk.ask("two", output_contract=contract, completion_requirements=files)
        assert "Before you are done you must write the file 'a.md'.\n\n" in models.asked[-1].instructions
        await desk.ask("three")
        assert models.asked[-1].instructions == desk.holder.current().definitions["default"].instructions


async def test_tools_are_withheld_while_an_answer_is_mended(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """They are there, as the transcript may speak of them, and none may be asked for."""
    models = Scripted([lambda request: says("no"), lambda request: says("null")])
    contract = OutputContract(schema={"type": "null"})
    hooks = CompositeHook((Outputs(),))
    async with open_desk(tmp_path, models, hooks=hooks) as desk, working(desk):
        await desk.ask(output_contract=contract)
        assert [(asked.withheld, len(asked.tools)) for asked in models.asked] == [(False, 1), (True, 1)]
        assert models.asked[-1].messages[-1].role == "user"
