"""The transcript of a session, with and without a checkpoint."""

import random
from functools import partial
from pathlib import Path

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.core.context.checkpoint import CHECKPOINT_BYTES, CHECKPOINT_EVENTS
from kheishd.core.context.session_transcript import SessionTranscript
from kheishd.core.context.transcript import Transcript, frame_messages
from kheishd.objects.talk.lineage import Segment, entries_of, lineage
from kheishd.store.tables import CHECKPOINT_CHUNKS, CHECKPOINTS, SESSIONS
from kheishd.workers.runs.transcript import (
    MAX_READ_BYTES,
    MAX_READ_EVENTS,
    TranscriptReader,
    newest_checkpoint,
)
from protocol.journal.envelope import Envelope
from protocol.journal.line import decode_envelope, decode_event
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.limits.store import MAX_CHECKPOINT_BYTES, MAX_SEPARATE_CHECKPOINT_BYTES
from protocol.transcript import Item, Message, Text, ToolCall, text_of
from tests.support.desk import Desk, Scripted, full_disk, gives, open_desk, says, working
from tests.support.household import Household, household, pages

CHECKPOINT = frozenset(("checkpoints", "checkpoint_chunks"))
"""The bells of the commit of a checkpoint."""


async def talk(desk: Desk, models: Scripted, turns: int) -> list[list[Message]]:
    """Send messages in one conversation; return the messages of each request."""
    for number in range(turns):
        assert (await desk.ask(f"message {number}")).status == "completed"
    return [request.messages for request in models.requests]


async def test_a_checkpoint_does_not_change_the_prompt(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A checkpoint replaces the last one every 64 events, and the model is shown the same messages."""
    models = Scripted()
    async with open_desk(tmp_path, models) as desk, working(desk):
        requests = await talk(desk, models, 30)
        session_id = (await desk.ask("last")).session_id
        with desk.state.read() as store:
            (key, _), *others = list(store.scan(CHECKPOINTS, session_id))
            assert others == []
            checkpoint, _ = newest_checkpoint(store, [Segment(session_id, None)])
        assert 2 * CHECKPOINT_EVENTS < key[1] == checkpoint.cursor
        assert [len(messages) for messages in requests] == list(range(1, 60, 2))
        with_it = models.requests[-1].messages
        await desk.delete_checkpoints(session_id)
        await desk.ask("again")
        assert models.requests[-1].messages[: len(with_it)] == with_it


async def test_an_unreadable_checkpoint_is_ignored(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The transcript is then read from the journal."""
    models = Scripted()
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.ask("one")
        await desk.put_checkpoint(sent.session_id, 3, b"\xc1 of another version")
        await desk.ask("two")
        assert [text_of(message.items) for message in models.requests[-1].messages] == [
            "one",
            "You said: one",
            "two",
        ]
    assert "unreadable checkpoint" in caplog.text


async def test_a_long_answer_is_committed_without_a_checkpoint(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """If both do not fit into one transaction, the checkpoint is committed after the answer."""
    models = Scripted()
    models.answers_to["long"] = lambda request: gives(Text("x" * MAX_ANSWER_BYTES))
    models.answers_to["fill"] = lambda request: says("y")
    async with open_desk(tmp_path, models) as desk, working(desk):
        for _ in range(CHECKPOINT_EVENTS // 6):
            session_id = (await desk.ask("fill")).session_id
        assert desk.count(CHECKPOINTS) == 0
        await wait_all_tasks_blocked()
        commits = len(desk.groups)
        assert (await desk.ask("long")).status == "completed"
        await wait_all_tasks_blocked()
        assert desk.count(CHECKPOINTS) == 1
        assert len(desk.groups) - commits == 3
        assert desk.groups[-1] == CHECKPOINT
        assert desk.session(session_id).status == "open"


async def test_a_long_checkpoint_has_its_own_transaction(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A checkpoint that fits beside no answer is committed by itself, once in so many events."""
    models = Scripted()
    models.answers_to["fill"] = lambda request: says("fine")
    async with open_desk(tmp_path, models) as desk, working(desk):
        session_id = (await desk.ask("x" * 2 * MAX_CHECKPOINT_BYTES)).session_id
        for _ in range(CHECKPOINT_EVENTS // 6 + 2):
            await desk.ask("fill")
        await wait_all_tasks_blocked()
        with desk.state.read() as store:
            ((key, _),) = store.scan(CHECKPOINTS, session_id)
            sizes = [len(chunk) for _, chunk in store.scan(CHECKPOINT_CHUNKS, session_id)]
        assert MAX_CHECKPOINT_BYTES < sizes[0] < MAX_SEPARATE_CHECKPOINT_BYTES
        assert [rung for rung in desk.groups if rung == CHECKPOINT] == [CHECKPOINT]
        messages = models.requests[-1].messages
        await desk.ask("fill")
        assert models.requests[-1].messages[: len(messages)] == messages
        assert key[1] < len(desk.journal(session_id))


async def test_the_newer_of_two_checkpoints_stays(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Of two checkpoints that are begun at the same time, the first one is stored."""
    async with open_desk(tmp_path) as desk, working(desk):
        session_id = (await desk.ask("one")).session_id
        readers = [TranscriptReader(desk.state, session_id) for _ in range(2)]
        checkpoints = []
        for reader in readers:
            await reader.read()
            reader.note_compaction()
            checkpoints.append(reader.begin_checkpoint())
            await desk.rename(session_id, times=1)
        for reader, checkpoint in zip(readers[::-1], checkpoints[::-1], strict=True):
            assert checkpoint is not None
            await reader.save_checkpoint(checkpoint)
        head = len(desk.journal(session_id))
        with desk.state.read() as store:
            assert newest_checkpoint(store, [Segment(session_id, None)])[0].cursor == head - 1


async def test_a_full_disk_does_without_a_checkpoint(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A checkpoint is only a cache, so a full disk is no error."""
    async with open_desk(tmp_path) as desk, working(desk):
        session_id = (await desk.ask("one")).session_id
        reading = TranscriptReader(desk.state, session_id)
        await reading.read()
        reading.note_compaction()
        checkpoint = reading.begin_checkpoint()
        assert checkpoint is not None
        with full_disk():
            await reading.save_checkpoint(checkpoint)
        assert desk.count(CHECKPOINTS) == 0


async def test_a_long_journal_is_read_in_pieces(tmp_path: Path, autojump_clock: MockClock) -> None:
    """However many events there are, the loop is not blocked and no event is read twice."""
    models = Scripted()
    async with open_desk(tmp_path, models) as desk, working(desk):
        session_id = (await desk.ask("one")).session_id
        await desk.rename(session_id, times=2 * MAX_READ_EVENTS)
        await desk.ask("two")
        assert [text_of(message.items) for message in models.requests[-1].messages] == [
            "one",
            "You said: one",
            "two",
        ]


async def test_long_lines_are_read_in_smaller_pieces(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piece of the journal is limited in bytes, too."""
    read_some, reads = TranscriptReader._read_some, []

    def watched(reading: TranscriptReader) -> bool:
        whole = read_some(reading)
        assert reading._transcript is not None
        reads.append(reading._transcript.transcript.cursor)
        return whole

    monkeypatch.setattr(TranscriptReader, "_read_some", watched)
    models = Scripted()
    async with open_desk(tmp_path, models) as desk, working(desk):
        for _ in range(5):
            session_id = (await desk.ask("x" * (MAX_READ_BYTES // 10))).session_id
        await desk.forget_transcript(session_id)
        reads.clear()
        await desk.ask("last")
        assert len(models.requests[-1].messages) == 11
        assert len(reads) == 2
        assert reads[0] < reads[1]


async def test_a_transcript_that_cannot_be_encoded_has_no_checkpoint(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An integer of more than 64 bits is valid JSON but not MessagePack."""
    models = Scripted()
    models.answers_to["count"] = lambda request: gives(ToolCall("c1", "count", {"to": 10**30}))
    async with open_desk(tmp_path, models) as desk, working(desk):
        await desk.ask("count")
        for _ in range(CHECKPOINT_EVENTS // 6 + 1):
            assert (await desk.ask("more")).status == "completed"
        assert desk.count(CHECKPOINTS) == 0


async def test_a_checkpoint_of_any_length_is_written_in_chunks(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A long transcript is written chunk by chunk, then only its new messages."""
    models = Scripted()
    models.answers_to["fill"] = lambda request: says("fine")
    async with open_desk(tmp_path, models) as desk, working(desk):
        for _ in range(5):
            session_id = (await desk.ask("x" * (MAX_SEPARATE_CHECKPOINT_BYTES // 2))).session_id
        assert desk.count(CHECKPOINTS) == 0
        for _ in range(CHECKPOINT_EVENTS // 6 - 4):
            await desk.ask("fill")
        await wait_all_tasks_blocked()
        long_chunks = desk.count(CHECKPOINT_CHUNKS)
        assert long_chunks > 5
        for _ in range(CHECKPOINT_EVENTS // 6 + 1):
            await desk.ask("fill")
        await wait_all_tasks_blocked()
        assert desk.count(CHECKPOINT_CHUNKS) == long_chunks + 1
        with desk.state.read() as store:
            *_, (_, last) = store.scan(CHECKPOINT_CHUNKS, session_id)
        assert len(last) < 5_000
        messages = models.requests[-1].messages
        await desk.forget_transcript(session_id)
        await desk.ask("fill")
        assert models.requests[-1].messages[: len(messages)] == messages


async def test_a_missing_chunk_is_read_from_the_journal(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The model is shown the same messages; the next checkpoint is whole again."""
    models = Scripted()
    async with open_desk(tmp_path, models) as desk, working(desk):
        session_id = (await desk.ask("x" * CHECKPOINT_BYTES)).session_id
        assert desk.count(CHECKPOINTS) == 1
        await desk.ask("y" * CHECKPOINT_BYTES)
        messages = models.requests[-1].messages
        await desk.forget_transcript(session_id)
        await desk.state.update(lambda tx: tx.delete(CHECKPOINT_CHUNKS, session_id, 1))
        await desk.rename(session_id, times=CHECKPOINT_EVENTS)
        await desk.ask("z")
        assert "unreadable checkpoint" in caplog.text
        assert models.requests[-1].messages[: len(messages)] == messages
        await wait_all_tasks_blocked()
        with desk.state.read() as store:
            checkpoint, _ = newest_checkpoint(store, [Segment(session_id, None)])
        assert len(checkpoint.messages) > len(messages)


async def test_a_fork_does_not_copy_a_long_parent(tmp_path: Path) -> None:
    """A fork of a long session has a checkpoint only once its own messages are as long as the parent's."""
    async with household(tmp_path) as house:
        for _ in range(4):
            parent_id = (await house.ask("x" * (MAX_SEPARATE_CHECKPOINT_BYTES // 3)))["session_id"]
        fork_id = (await house.call("session.fork", session_id=parent_id))["session_id"]
        talk = partial(house.call, "session.send", session_id=fork_id, wait="settled")
        with house.state.read() as store:
            before = store.count(CHECKPOINT_CHUNKS)
        for _ in range(CHECKPOINT_EVENTS // 6 + 2):
            await talk(content="short")
        with house.state.read() as store:
            assert not list(store.scan(CHECKPOINTS, fork_id))
            assert store.count(CHECKPOINT_CHUNKS) == before
        for number in range(6 + CHECKPOINT_EVENTS // 6):
            await talk(content=("y" * (MAX_SEPARATE_CHECKPOINT_BYTES // 3)) if number < 6 else "short")
        with house.state.read() as store:
            assert list(store.scan(CHECKPOINTS, fork_id))
        await require_equal_to_the_journal(house, fork_id)


# Between the runs.


async def require_equal_to_the_journal(house: Household, session_id: str) -> None:
    """Require that a session's kept transcript equals one that is read anew, with and without checkpoints."""
    cache = house.server.services.transcripts
    reader = TranscriptReader(house.state, session_id, cache)
    kept = await reader.read()
    fresh = await TranscriptReader(house.state, session_id).read()
    with house.state.read() as store:
        segments = lineage(store, store.need(SESSIONS, session_id))
        replayed = Transcript()
        for _, _, line in entries_of(store, segments):
            replayed.fold(decode_envelope(line), decode_event(line))
    assert kept.transcript == fresh.transcript == replayed
    for session in (fresh, SessionTranscript(replayed)):
        assert (kept.call_ids, list(kept.guests)) == (session.call_ids, list(session.guests))
        assert kept.estimates == session.estimates
    for speaker in ("default", "critic"):
        framed = frame_messages(replayed.messages, speaker=speaker, primary="default")
        assert kept.view(speaker=speaker, primary="default").messages == framed
    reader.close()
    assert cache.size_bytes > 0


OPERATIONS = ("ask", "ask", "look", "guest", "long", "fork", "compact", "import", "cancel")


@pytest.mark.parametrize("seed", range(6))
async def test_a_kept_transcript_equals_the_journal(tmp_path: Path, seed: int) -> None:
    """After any operation, the transcript that is kept between runs equals one that is read anew."""
    choose = random.Random(seed)
    calls: list[Item] = [ToolCall("a", "look", {"at": [1, None]}), ToolCall("b", "look", {})]
    async with household(tmp_path) as house:
        house.models.answers_to["look"] = lambda request: gives(*calls, stop_reason="tool_calls")
        sessions = [(await house.ask("first"))["session_id"]]
        for number in range(20):
            session_id = choose.choice(sessions)
            talk = partial(house.call, "session.send", session_id=session_id)
            match choose.choice(
                ("ask", "look", "ask", "guest", "long", "fork", "compact", "import", "cancel")
            ):
                case "look":
                    await talk(content="look", wait="settled")
                case "guest":
                    await house.ask(f"guest {number}", guest="critic")
                case "long":
                    await talk(content="x" * 30_000, wait="settled")
                case "fork":
                    sessions.append((await house.call("session.fork", session_id=session_id))["session_id"])
                case "compact":
                    await house.call("session.compact", session_id=session_id, wait="settled")
                case "import":
                    lines = await pages(house.client, "session.export", "lines", session_id=session_id)
                    sessions.append((await house.call("session.import", lines=lines))["session_id"])
                case "cancel":
                    gate = house.gate(f"gate {number}")
                    sent = await talk(content=f"gate {number}")
                    await gate.reached.wait()
                    queued = await talk(content="queued")
                    await house.call("session.steer", session_id=session_id, content="by the way")
                    await house.call("run.cancel", run_id=queued["run_id"])
                    await house.call("run.cancel", run_id=sent["run_id"])
                case _:
                    await talk(content=f"message {number}", wait="settled")
            await require_equal_to_the_journal(house, session_id)
        for session_id in sessions:
            await require_equal_to_the_journal(house, session_id)


async def test_a_run_decodes_only_new_events(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run continues from the transcript of the last one: with the same messages and encodings."""
    models, decoded = Scripted(), []

    def decode(line: bytes) -> Envelope:
        decoded.append(line)
        return decode_envelope(line)

    monkeypatch.setattr("kheishd.workers.runs.transcript.decode_envelope", decode)
    async with open_desk(tmp_path, models) as desk, working(desk):
        session_id = (await desk.ask("one")).session_id
        for _ in range(3):
            decoded.clear()
            events = len(desk.journal(session_id))
            await desk.ask("next")
            assert len(decoded) == len(desk.journal(session_id)) - events
        assert models.requests[-1].encodings is models.requests[0].encodings
        first, last = models.requests[0].messages, models.requests[-1].messages
        assert all(old is new for old, new in zip(first, last, strict=False))
        assert (len(first), len(last)) == (1, 7)


async def test_a_session_that_ends_gives_its_memory_back(tmp_path: Path) -> None:
    """The transcript of a session that has ended is not kept, also if a run returns it late."""
    async with household(tmp_path) as house:
        cache = house.server.services.transcripts
        session_id = (await house.ask("x" * 10_000))["session_id"]
        await house.ask("short", sender="other")
        assert (len(cache), cache.size_bytes > 10_000) == (2, True)
        reader = TranscriptReader(house.state, session_id)
        reader._cache = cache
        await reader.read()
        await house.call("session.end", session_id=session_id)
        assert (len(cache), cache.size_bytes < 10_000) == (1, True)
        reader.close()
        assert len(cache) == 1


async def test_a_transcript_that_fails_to_fold_is_read_again(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure within an event, the next read begins with the store."""
    async with open_desk(tmp_path) as desk, working(desk):
        session_id = (await desk.ask("one")).session_id
        reader = TranscriptReader(desk.state, session_id, desk.services.transcripts)
        await desk.rename(session_id, times=1)
        with monkeypatch.context() as context:
            context.setattr(Transcript, "fold", lambda *event: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                await reader.read()
        reader.close()
        assert len(desk.services.transcripts) == 0
        assert [text_of(message.items) for message in (await reader.read()).transcript.messages] == [
            "one",
            "You said: one",
        ]
