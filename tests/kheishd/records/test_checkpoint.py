"""The stored checkpoint: it grows by chunks, and each transaction leaves a valid one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.msgpack import encode

from kheishd.core.context.checkpoint import decode_head, encode_state
from kheishd.core.context.reduction import TranscriptEntry
from kheishd.core.context.session_transcript import SessionTranscript
from kheishd.core.context.transcript import Transcript
from kheishd.records.checkpoint import (
    MAX_DELETED_CHUNKS,
    CheckpointWriter,
    delete_checkpoint,
    is_readable,
    read_checkpoint,
)
from kheishd.store.tables import CHECKPOINT_CHUNKS, CHECKPOINTS, SESSIONS
from protocol.events.context import ContextCompacted
from protocol.journal.envelope import Envelope
from protocol.limits.store import MAX_CHECKPOINT_CHUNK_BYTES
from protocol.objects.session import Session
from protocol.transcript import Message, Text, ToolCall
from tests.support.stores import open_inline, update

if TYPE_CHECKING:
    from kheishd.store.environment import Transaction
    from kheishd.store.table import Key
    from kheishd.store.writer import Store

SESSION = "ses_1"


def make_entries(first: int, count: int, size: int) -> list[TranscriptEntry]:
    """Return messages of ``size`` characters."""
    return [
        TranscriptEntry(cursor, 1, Message("user", [Text(f"{cursor}" * (size // len(str(cursor)) + 1))]))
        for cursor in range(first, first + count)
    ]


def grow(session: SessionTranscript, count: int = 1, size: int = 100) -> None:
    """Add messages to a transcript."""
    transcript = session.transcript
    transcript.entries += make_entries(transcript.cursor + 1, count, size)
    transcript.cursor += count
    session.update()


def compact(session: SessionTranscript) -> None:
    """Replace all messages but the last by a summary."""
    transcript = session.transcript
    event = ContextCompacted(
        upto=transcript.cursor - 1, strategy="summary", trigger="auto", summary="They talked."
    )
    transcript.fold(Envelope(cursor=transcript.cursor + 1, at_ms=1), event)
    session.update()


def begin(store: Store, session: SessionTranscript) -> CheckpointWriter:
    """Begin a checkpoint."""
    with store.read() as snapshot:
        return CheckpointWriter(snapshot, SESSION, session)


def write_chunks(store: Store, writer: CheckpointWriter) -> None:
    """Write a checkpoint up to its last part."""
    while writer.size_bytes > MAX_CHECKPOINT_CHUNK_BYTES:
        chunks = update(store, writer.write_chunk)
        assert chunks is not None
        writer.advance(chunks)


def save(store: Store, session: SessionTranscript) -> None:
    """Write a checkpoint."""
    writer = begin(store, session)
    write_chunks(store, writer)
    writer.finish(update(store, writer.write))
    assert session.stored is not None


def load(store: Store) -> SessionTranscript:
    """Return the transcript of the only checkpoint."""
    with store.read() as snapshot:
        ((_, content),) = snapshot.scan(CHECKPOINTS, SESSION)
        assert is_readable(snapshot, SESSION, content)
        return SessionTranscript(*read_checkpoint(snapshot, SESSION, content))


def rows(store: Store) -> list[tuple[int, int]]:
    """Return the numbers and sizes of the chunks."""
    with store.read() as snapshot:
        return [(key[1], len(chunk)) for key, chunk in snapshot.scan(CHECKPOINT_CHUNKS, SESSION)]


def test_a_checkpoint_writes_only_new_messages(store: Store) -> None:
    """A further checkpoint adds a chunk of the new messages, also after a restart."""
    session = SessionTranscript()
    grow(session, 100, 1_000)
    save(store, session)
    for number in range(2, 6):
        earlier = rows(store)
        grow(session)
        writer = begin(store, session)
        assert writer.size_bytes < 1_000
        writer.finish(update(store, writer.write))
        assert rows(store)[:-1] == earlier
        assert rows(store)[-1][0] == number
        restarted = load(store)
        assert (restarted.transcript, restarted.stored) == (session.transcript, session.stored)
        session = restarted


def test_a_checkpoint_without_new_messages(store: Store) -> None:
    """Without new messages, only the head is written."""
    session = SessionTranscript()
    grow(session)
    save(store, session)
    session.transcript.cursor += 5
    save(store, session)
    assert [number for number, _ in rows(store)] == [1]
    assert load(store).transcript == session.transcript


def test_a_long_checkpoint_has_several_transactions(store: Store) -> None:
    """The old checkpoint is valid until the new head is written; a message may be longer than a chunk."""
    session = SessionTranscript()
    grow(session, 3)
    save(store, session)
    old = load(store).transcript
    grow(session, 1, 5 * MAX_CHECKPOINT_CHUNK_BYTES)
    writer = begin(store, session)
    while writer.size_bytes > MAX_CHECKPOINT_CHUNK_BYTES:
        chunks = update(store, writer.write_chunk)
        assert chunks is not None
        writer.advance(chunks)
        assert load(store).transcript == old
    assert len(rows(store)) == 6
    writer.finish(update(store, writer.write))
    assert load(store).transcript == session.transcript
    assert max(size for _, size in rows(store)) == MAX_CHECKPOINT_CHUNK_BYTES


def test_a_checkpoint_that_was_cut_short_is_begun_behind_its_chunks(store: Store) -> None:
    """After a crash between two chunks, the next checkpoints are written, and outdated chunks deleted."""
    session = SessionTranscript()
    grow(session, 3)
    save(store, session)
    grow(session, 1, 3 * MAX_CHECKPOINT_CHUNK_BYTES)
    write_chunks(store, begin(store, session))
    assert [number for number, _ in rows(store)] == [1, 2, 3, 4]
    restarted = load(store)
    assert len(restarted.transcript.entries) == 3
    grow(restarted)
    writer = begin(store, restarted)
    writer.finish(update(store, writer.write))
    assert restarted.stored is None
    assert len(load(store).transcript.entries) == 3
    save(store, restarted)
    assert load(store).transcript == restarted.transcript
    assert [number for number, _ in rows(store)] == [5]


def test_a_compaction_begins_a_new_sequence(store: Store) -> None:
    """After a compaction the messages are written anew; the chunks of the old ones are deleted."""
    session = SessionTranscript()
    for _ in range(5):
        grow(session)
        save(store, session)
    compact(session)
    grow(session)
    save(store, session)
    assert [number for number, _ in rows(store)] == [6]
    assert load(store).transcript == session.transcript


def test_outdated_chunks_are_deleted_little_by_little(store: Store) -> None:
    """A transaction deletes a limited number of chunks; the next ones delete the rest."""
    session = SessionTranscript()
    for _ in range(MAX_DELETED_CHUNKS + 10):
        grow(session)
        save(store, session)
    compact(session)
    save(store, session)
    assert len(rows(store)) == 11
    grow(session)
    save(store, session)
    assert len(rows(store)) == 2
    assert load(store).transcript == session.transcript


def test_of_two_writers_the_slower_writes_nothing(store: Store) -> None:
    """If another checkpoint was stored meanwhile, nothing is written, and the next one begins anew."""
    session, other = SessionTranscript(), SessionTranscript()
    grow(session, 3)
    grow(other, 5)
    slow, fast = begin(store, session), begin(store, other)
    fast.finish(update(store, fast.write))
    slow.finish(update(store, slow.write))
    assert update(store, slow.write_chunk) is None
    assert load(store).transcript == other.transcript
    grow(session, 4)
    save(store, session)
    assert load(store).transcript == session.transcript
    assert [number for number, _ in rows(store)] == [2]


def test_a_compaction_while_a_checkpoint_is_written(store: Store) -> None:
    """A checkpoint of messages that a compaction has replaced meanwhile is not continued."""
    session = SessionTranscript()
    grow(session, 3)
    writer = begin(store, session)
    compact(session)
    writer.finish(update(store, writer.write))
    assert session.stored is None
    save(store, session)
    assert load(store).transcript == session.transcript


def test_messages_added_meanwhile_come_with_the_next_checkpoint(store: Store) -> None:
    """A checkpoint is of the moment at which it was begun."""
    session = SessionTranscript()
    grow(session, 3)
    writer = begin(store, session)
    state = encode_state(session.transcript)
    grow(session, 2)
    writer.finish(update(store, writer.write))
    assert encode_state(load(store).transcript) == state
    assert len(load(store).transcript.entries) == 3
    save(store, session)
    assert load(store).transcript == session.transcript


def test_damaged_chunks_are_noticed(store: Store) -> None:
    """A checkpoint with a missing or changed chunk, or an unreadable head, is not readable."""
    session = SessionTranscript()
    for _ in range(3):
        grow(session)
        save(store, session)
    with store.read() as snapshot:
        ((_, head),) = snapshot.scan(CHECKPOINTS, SESSION)
        chunks = list(snapshot.scan(CHECKPOINT_CHUNKS, SESSION))
    for key, chunk in chunks:
        update(store, partial(_put_chunk, key, None))
        require_unreadable(store, head)
        update(store, partial(_put_chunk, key, chunk[:-1] + b"!"))
        require_unreadable(store, head)
        update(store, partial(_put_chunk, key, chunk))
    require_unreadable(store, b"\xc1 of another version")
    assert load(store).transcript == session.transcript


def _put_chunk(key: Key, chunk: bytes | None, tx: Transaction) -> None:
    if chunk is None:
        tx.delete(CHECKPOINT_CHUNKS, *key)
    else:
        tx.put(CHECKPOINT_CHUNKS, *key, value=chunk)


def require_unreadable(store: Store, head: bytes) -> None:
    """Require that a checkpoint cannot be read."""
    with store.read() as snapshot:
        assert not is_readable(snapshot, SESSION, head)
        with pytest.raises(ValueError, match=r".*"):
            read_checkpoint(snapshot, SESSION, head)


def test_a_value_that_cannot_be_encoded(store: Store) -> None:
    """An integer of more than 64 bits is valid JSON but not MessagePack: nothing is written."""
    message = Message("assistant", [ToolCall("c", "count", {"to": 10**30})])
    session = SessionTranscript(Transcript(1, [TranscriptEntry(1, 1, message)]))
    with pytest.raises(OverflowError):
        begin(store, session)


def test_a_state_that_is_too_long(store: Store) -> None:
    """The inputs of many queued runs may not fit into a head."""
    session = SessionTranscript()
    grow(session)
    assert begin(store, session).is_possible
    session.transcript.inputs["i"] = Message("user", [Text("x" * MAX_CHECKPOINT_CHUNK_BYTES)])
    assert not begin(store, session).is_possible


def test_an_ended_session_has_no_checkpoint(store: Store) -> None:
    """A transaction deletes the head with some chunks; a checkpoint begun before the end is not written."""
    session = SessionTranscript()
    for _ in range(MAX_DELETED_CHUNKS + 10):
        grow(session)
        save(store, session)
    grow(session)
    late = begin(store, session)
    assert update(store, lambda tx: delete_checkpoint(tx, SESSION))
    with store.read() as snapshot:
        assert snapshot.count(CHECKPOINTS) == 0
    assert len(rows(store)) == 10
    assert not update(store, lambda tx: delete_checkpoint(tx, SESSION))
    assert rows(store) == []
    ended = Session(session_id=SESSION, agent="a", status="ended", created_at_ms=1, updated_at_ms=1)
    update(store, lambda tx: tx.put(SESSIONS, SESSION, value=ended))
    first = begin(store, SessionTranscript(session.transcript))
    for writer in (late, first):
        assert update(store, writer.write_chunk) is None
        assert update(store, writer.write) is None
    assert rows(store) == []


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["grow", "grow", "compact", "save", "crash", "restart"]),
        st.integers(1, 4),
        st.sampled_from([10, 1_000, 150_000, 500_000]),
    ),
    max_size=14,
)


@given(OPERATIONS)
def test_after_any_operations_a_checkpoint_is_a_state_of_the_transcript(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int, int]]
) -> None:
    """Whatever happens, the stored checkpoint is a state that the transcript has had."""
    store = open_inline(tmp_path_factory.mktemp("checkpoints") / "state")
    session, states = SessionTranscript(), {0: encode_state(Transcript())}
    messages: dict[int, list[Message]] = {0: []}
    try:
        for operation, count, size in operations:
            match operation:
                case "grow":
                    grow(session, count, size)
                case "compact" if len(session.transcript.entries) > 1:
                    compact(session)
                case "save":
                    writer = begin(store, session)
                    write_chunks_if_possible(store, writer)
                case "crash":
                    writer = begin(store, session)
                    if writer.size_bytes > MAX_CHECKPOINT_CHUNK_BYTES:
                        update(store, writer.write_chunk)
                    session = load_or_begin(store)
                case "restart":
                    session = load_or_begin(store)
                case _:
                    pass
            states[session.transcript.cursor] = encode_state(session.transcript)
            messages[session.transcript.cursor] = session.transcript.messages
            stored = load_or_begin(store).transcript
            assert encode_state(stored) == states[stored.cursor]
            assert stored.messages == messages[stored.cursor]
    finally:
        store.close()


def write_chunks_if_possible(store: Store, writer: CheckpointWriter) -> None:
    """Write a checkpoint, unless chunks of a killed daemon are in its way."""
    while writer.size_bytes > MAX_CHECKPOINT_CHUNK_BYTES:
        chunks = update(store, writer.write_chunk)
        if chunks is None:
            writer.finish(None)
            return
        writer.advance(chunks)
    writer.finish(update(store, writer.write))


def load_or_begin(store: Store) -> SessionTranscript:
    """Return the transcript of the checkpoint; without one, an empty one."""
    with store.read() as snapshot:
        has_checkpoint = snapshot.count(CHECKPOINTS) > 0
    return load(store) if has_checkpoint else SessionTranscript()


def test_a_checkpoint_of_an_earlier_version_is_replaced(store: Store) -> None:
    """A whole transcript in one row is read, and the next checkpoint replaces it by chunks."""
    transcript = Transcript(3, make_entries(1, 3, 50))
    update(store, lambda tx: tx.put(CHECKPOINTS, SESSION, 3, value=encode([3, transcript])))
    session = load(store)
    assert (session.transcript, session.stored) == (transcript, None)
    grow(session)
    save(store, session)
    assert load(store).transcript == session.transcript
    with store.read() as snapshot:
        ((key, head),) = snapshot.scan(CHECKPOINTS, SESSION)
    assert key == (SESSION, 4)
    assert decode_head(head)[1] == session.stored
