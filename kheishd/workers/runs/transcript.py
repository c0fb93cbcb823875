"""The transcript of a session, read from its newest checkpoint and the events after it.

A fork begins with its parent's transcript up to the fork point, and with a checkpoint of the parent from
before that point.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

import trio

from kheishd.core.context.session_transcript import SessionTranscript
from kheishd.core.context.transcript import (
    CHECKPOINT_EVENTS,
    Transcript,
    decode_checkpoint,
    encode_checkpoint,
)
from kheishd.core.run.answers import measure_items
from kheishd.kernel.transcripts import TranscriptCache
from kheishd.objects.talk.lineage import Segment, entries_of, lineage
from kheishd.store.tables import CHECKPOINTS, SESSIONS
from protocol.errors.store import StorageFull
from protocol.journal.line import decode_envelope, decode_event
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.limits.store import MAX_CHECKPOINT_BYTES, MAX_SEPARATE_CHECKPOINT_BYTES
from protocol.structs import Value
from protocol.transcript import text_of

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.transcript import Item

log = logging.getLogger("kheishd.runs")

MAX_READ_EVENTS = 256
"""Events read before other tasks get the loop: about a millisecond."""

MAX_READ_BYTES = 1024 * 1024
"""The same in bytes, because a line may have 200 KiB: about two milliseconds."""


class Checkpoint(Value, frozen=True):
    """An encoded transcript up to a cursor, which replaces the session's earlier checkpoint."""

    session_id: str
    cursor: int
    content: bytes

    def write(self, tx: Transaction) -> None:
        """Store the checkpoint, unless a later run of the session has stored a newer one."""
        keys = [key for key, _ in tx.scan(CHECKPOINTS, self.session_id)]
        if any(key[1] > self.cursor for key in keys):
            return
        for key in keys:
            tx.delete(CHECKPOINTS, *key)
        tx.put(CHECKPOINTS, self.session_id, self.cursor, value=self.content)


class TranscriptReader:
    """A reader of one session's transcript for one run, which reads each event once.

    It takes the transcript out of the cache and returns it at the end of the run.
    """

    def __init__(self, state: State, session_id: str, cache: TranscriptCache | None = None) -> None:
        self._state = state
        self._session_id = session_id
        self._cache = cache if cache is not None else TranscriptCache()
        self._segments: list[Segment] = []
        self._transcript: SessionTranscript | None = None

    def call_ids(self) -> Set[str]:
        """Return the ids of all tool calls in the transcript as of the last read."""
        return self._transcript.call_ids if self._transcript is not None else frozenset()

    def close(self) -> None:
        """Keep the transcript for the session's next run, unless the session has ended."""
        transcript, self._transcript = self._transcript, None
        if transcript is None:
            return
        with self._state.read() as store:
            session = store.get(SESSIONS, self._session_id)
        if session is not None and session.status == "open":
            self._cache.put(self._session_id, transcript)

    async def read(self) -> SessionTranscript:
        """Read the events since the last read; return the current transcript. Callers must not change it."""
        while not self._read_some():
            await trio.lowlevel.checkpoint()
        assert self._transcript is not None, "it was just read"
        self._transcript.update()
        return self._transcript

    def _read_some(self) -> bool:
        """Fold the next events of the session; return whether none are left."""
        with self._state.read() as store:
            if not self._segments:
                self._segments = lineage(store, store.need(SESSIONS, self._session_id))
            session, self._transcript = self._transcript or self._cache.take(self._session_id), None
            if session is None:
                session = SessionTranscript(newest_checkpoint(store, self._segments))
            transcript = session.transcript
            events = size = 0
            entries = entries_of(store, self._segments, transcript.cursor)
            for _, _, line in islice(entries, MAX_READ_EVENTS):
                transcript.fold(decode_envelope(line), decode_event(line))
                events += 1
                size += len(line)
                if size >= MAX_READ_BYTES:
                    break
        session.unsaved_events += events
        # Only now: a transcript in which an event was folded halfway is read again.
        self._transcript = session
        return events < MAX_READ_EVENTS and size < MAX_READ_BYTES

    # Checkpoints.

    def note_compaction(self) -> None:
        """Make the next checkpoint worth its bytes: the transcript is much shorter than the journal now."""
        if self._transcript is not None:
            self._transcript.unsaved_events = max(self._transcript.unsaved_events, CHECKPOINT_EVENTS)

    def checkpoint_beside(self, answer: list[Item], max_bytes: int = MAX_ANSWER_BYTES) -> Checkpoint | None:
        """Return a checkpoint to commit with an answer; None if it is not due or does not fit beside it."""
        return self._checkpoint(min(MAX_CHECKPOINT_BYTES, max_bytes - measure_items(answer)))

    async def save_checkpoint(self) -> None:
        """Commit a checkpoint of its own, if one is due. On a full disk, do without: it is only a cache."""
        checkpoint = self._checkpoint(MAX_SEPARATE_CHECKPOINT_BYTES)
        if checkpoint is not None:
            with suppress(StorageFull):
                await self._state.update(checkpoint.write)

    def _checkpoint(self, max_bytes: int) -> Checkpoint | None:
        session = self._transcript
        if session is None or session.unsaved_events < CHECKPOINT_EVENTS:
            return None
        # A cheap check first: most transcripts that do not fit are much too long.
        if sum(len(text_of(message.items)) for message in session.transcript.messages) > max_bytes:
            return None
        try:
            content = encode_checkpoint(session.transcript)
        except (OverflowError, RecursionError):
            # A transcript that cannot be encoded is read from the journal each time.
            return None
        if len(content) > max_bytes:
            return None
        session.unsaved_events = 0
        return Checkpoint(self._session_id, session.transcript.cursor, content)


def newest_checkpoint(store: Snapshot, segments: Sequence[Segment]) -> Transcript:
    """Return the transcript of a lineage's newest readable checkpoint; without any, an empty one."""
    for session_id, upto in reversed(segments):
        for key, checkpoint in store.scan(CHECKPOINTS, session_id, reverse=True):
            if upto is not None and key[1] > upto:
                continue
            try:
                return decode_checkpoint(checkpoint)
            except ValueError:
                log.warning("an unreadable checkpoint is ignored", extra={"session_id": session_id})
    return Transcript()
