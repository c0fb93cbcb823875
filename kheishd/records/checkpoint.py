"""The stored checkpoint of a session's transcript: its head, and the chunks with the messages.

An open session has one checkpoint, which grows by chunks (``core/context/checkpoint.py``). Each transaction
leaves a valid one: the old head with its chunks until the new head is written, and the new one from then on.
A session that has ended has none: it has no further runs, and its forks read the journal.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from kheishd.core.context.checkpoint import (
    Chunks,
    decode_entries,
    decode_head,
    encode_entry,
    encode_head,
    encode_state,
    require_content,
)
from kheishd.store.tables import CHECKPOINT_CHUNKS, CHECKPOINTS, SESSIONS
from protocol.limits.store import MAX_CHECKPOINT_CHUNK_BYTES

if TYPE_CHECKING:
    from kheishd.core.context.session_transcript import SessionTranscript
    from kheishd.core.context.transcript import Transcript
    from kheishd.store.environment import Snapshot, Transaction

MAX_DELETED_CHUNKS: Final = 64
"""Chunks that one transaction deletes; the next ones delete the rest."""

_HEAD_BYTES: Final = 256
"""A head beside its state, and the keys of the rows."""


def read_checkpoint(store: Snapshot, session_id: str, content: bytes) -> tuple[Transcript, Chunks | None]:
    """Return the transcript of a checkpoint, and its chunks; None for one of an earlier version.

    Errors: ValueError if it cannot be read, or a chunk is missing or damaged.
    """
    transcript, chunks = decode_head(content)
    if chunks is not None:
        transcript.entries = decode_entries(chunks, _read_chunks(store, session_id, chunks))
    return transcript, chunks


def is_readable(store: Snapshot, session_id: str, content: bytes) -> bool:
    """Whether a checkpoint has all of its chunks, unchanged."""
    try:
        _, chunks = decode_head(content)
        if chunks is not None:
            require_content(chunks, _read_chunks(store, session_id, chunks))
    except ValueError:
        return False
    return True


def _read_chunks(store: Snapshot, session_id: str, chunks: Chunks) -> bytes:
    rows = store.scan(CHECKPOINT_CHUNKS, session_id, after=(session_id, chunks.first - 1))
    return b"".join(chunk for _, chunk in islice(rows, chunks.last - chunks.first + 1))


class CheckpointWriter:
    """A checkpoint of a transcript in its current state, to be written in one transaction or in several.

    Only new messages are written, unless a compaction has changed the old ones. The transcript may grow
    meanwhile. If another writer has stored a checkpoint since this one's base, nothing is written.
    """

    def __init__(self, store: Snapshot, session_id: str, session: SessionTranscript) -> None:
        """Encode a checkpoint. Errors: OverflowError, RecursionError; see ``encode_entry``."""
        transcript = session.transcript
        self._session_id = session_id
        self._session = session
        self._base = session.stored
        self._entries = transcript.entries
        self._cursor, self._count = transcript.cursor, len(transcript.entries)
        self._chunks = session.stored or _begin_chunks(store, session_id)
        self._state = encode_state(transcript)
        self._rest = b"".join(map(encode_entry, transcript.entries[self._chunks.entries :]))

    @property
    def size_bytes(self) -> int:
        """The size of the rest, which is not written yet."""
        return len(self._rest) + len(self._state) + _HEAD_BYTES

    @property
    def is_possible(self) -> bool:
        """Whether the head fits into a transaction: the inputs of many queued runs may be too long."""
        return len(self._state) + _HEAD_BYTES <= MAX_CHECKPOINT_CHUNK_BYTES

    def write(self, tx: Transaction) -> Chunks | None:
        """Write the whole rest; return the chunks for ``finish``. None if another writer was faster."""
        chunks = self._append(tx, self._rest)
        if chunks is None:
            return None
        for key, _ in list(islice(tx.scan(CHECKPOINT_CHUNKS, self._session_id), MAX_DELETED_CHUNKS)):
            if key[1] < chunks.first:
                tx.delete(CHECKPOINT_CHUNKS, *key)
        for key, _ in list(tx.scan(CHECKPOINTS, self._session_id)):
            tx.delete(CHECKPOINTS, *key)
        chunks = replace(chunks, cursor=self._cursor, entries=self._count)
        head = encode_head(chunks, self._state)
        tx.put(CHECKPOINTS, self._session_id, self._cursor, value=head)
        return chunks

    def write_chunk(self, tx: Transaction) -> Chunks | None:
        """Write a part of the rest; return the chunks for ``advance``. None if another writer was faster."""
        return self._append(tx, self._rest[:MAX_CHECKPOINT_CHUNK_BYTES])

    def advance(self, chunks: Chunks) -> None:
        """Note that a part of the rest is on the disk."""
        self._chunks = chunks
        self._rest = self._rest[MAX_CHECKPOINT_CHUNK_BYTES:]

    def finish(self, chunks: Chunks | None) -> None:
        """Note the outcome: the next checkpoint continues this one, or begins anew."""
        # Another reader of the transcript may have stored a checkpoint, or folded a compaction.
        if self._session.stored is self._base and self._session.transcript.entries is self._entries:
            self._session.stored = chunks

    def _append(self, tx: Transaction, chunk: bytes) -> Chunks | None:
        if _head_cursor(tx, self._session_id) != self._chunks.cursor:
            return None
        session = tx.get(SESSIONS, self._session_id)
        if session is not None and session.status != "open":
            # It ended after its last answer, and its checkpoint was deleted.
            return None
        if not chunk:
            return self._chunks
        chunks = self._chunks.extend(chunk)
        if tx.get(CHECKPOINT_CHUNKS, self._session_id, chunks.last) is not None:
            # Of a daemon that was killed before it wrote the head.
            return None
        tx.put(CHECKPOINT_CHUNKS, self._session_id, chunks.last, value=chunk)
        return chunks


def delete_checkpoint(tx: Transaction, session_id: str) -> bool:
    """Delete a session's checkpoint with a limited number of its chunks; return whether chunks remain."""
    for key, _ in list(tx.scan(CHECKPOINTS, session_id)):
        tx.delete(CHECKPOINTS, *key)
    rows = tx.scan(CHECKPOINT_CHUNKS, session_id)
    keys = [key for key, _ in islice(rows, MAX_DELETED_CHUNKS + 1)]
    for key in keys[:MAX_DELETED_CHUNKS]:
        tx.delete(CHECKPOINT_CHUNKS, *key)
    return len(keys) > MAX_DELETED_CHUNKS


def _begin_chunks(store: Snapshot, session_id: str) -> Chunks:
    """Return an empty range of chunks behind all chunks of a session."""
    last = next((key[1] for key, _ in store.scan(CHECKPOINT_CHUNKS, session_id, reverse=True)), 0)
    return Chunks(_head_cursor(store, session_id), last + 1, last)


def _head_cursor(store: Snapshot, session_id: str) -> int:
    """Return the cursor of a session's checkpoint; 0 without one."""
    return next((key[1] for key, _ in store.scan(CHECKPOINTS, session_id, reverse=True)), 0)
