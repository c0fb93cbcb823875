"""The transcript of a session, read from its newest checkpoint and the events after it.

A fork begins with its parent's transcript up to the fork point, and with a checkpoint of the parent from
before that point. It has one of its own once its own messages are as long as those of a long parent.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

import trio

from kheishd.core.context.checkpoint import CHECKPOINT_BYTES, CHECKPOINT_EVENTS
from kheishd.core.context.session_transcript import SessionTranscript
from kheishd.core.context.tokens import estimate_bytes
from kheishd.core.context.transcript import Transcript
from kheishd.kernel.transcripts import TranscriptCache
from kheishd.objects.talk.lineage import Segment, entries_of, lineage
from kheishd.records.checkpoint import CheckpointWriter, read_checkpoint
from kheishd.store.tables import CHECKPOINTS, SESSIONS
from protocol.errors.store import StorageFull
from protocol.journal.line import decode_envelope, decode_event
from protocol.limits.store import MAX_CHECKPOINT_BYTES, MAX_SEPARATE_CHECKPOINT_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from kheishd.core.context.checkpoint import Chunks
    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot

log = logging.getLogger("kheishd.runs")

MAX_READ_EVENTS = 256
"""Events read before other tasks get the loop: about a millisecond."""

MAX_READ_BYTES = 1024 * 1024
"""The same in bytes, because a line may have 200 KiB: about two milliseconds.

A checkpoint is decoded at once, whatever its size.
"""

MAX_COPIED_TOKENS = estimate_bytes(MAX_SEPARATE_CHECKPOINT_BYTES)
"""The inherited messages that a fork's checkpoint copies at any time: as many as one transaction writes."""


class TranscriptReader:
    """A reader of one session's transcript for one run, which reads each event once.

    It takes the transcript out of the cache; ``close`` returns it.
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
                session = SessionTranscript(*newest_checkpoint(store, self._segments))
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
        session.unsaved_bytes += size
        # Only now: a transcript in which an event was folded halfway is read again.
        self._transcript = session
        return events < MAX_READ_EVENTS and size < MAX_READ_BYTES

    # Checkpoints.

    def note_compaction(self) -> None:
        """Make the next checkpoint worth its bytes: the transcript is much shorter than the journal now."""
        if self._transcript is not None:
            self._transcript.unsaved_events = max(self._transcript.unsaved_events, CHECKPOINT_EVENTS)

    def begin_checkpoint(self) -> CheckpointWriter | None:
        """Return a checkpoint to be written, if one is due and possible."""
        session = self._transcript
        if session is None:
            return None
        fits_beside = CHECKPOINT_BYTES <= session.unsaved_bytes < MAX_CHECKPOINT_BYTES
        if session.unsaved_events < CHECKPOINT_EVENTS and not fits_beside:
            return None
        session.unsaved_events = session.unsaved_bytes = 0
        session.update()
        if len(self._segments) > 1 and session.stored is None:
            # A fork's first checkpoint copies its parent's messages. A long copy must be worth its bytes.
            inherited, total = (
                session.estimate_inherited(self._segments[-2].last_cursor or 0),
                session.estimates[-1],
            )
            if inherited > MAX_COPIED_TOKENS and 2 * inherited > total:
                return None
        try:
            with self._state.read() as store:
                checkpoint = CheckpointWriter(store, self._session_id, session)
        except (OverflowError, RecursionError):
            # A transcript that cannot be encoded is read from the journal each time that it is not cached.
            return None
        return checkpoint if checkpoint.is_possible else None

    async def save_checkpoint(self, checkpoint: CheckpointWriter) -> None:
        """Commit a checkpoint by itself. On a full disk, do without: it is only a cache."""
        saved = None
        with suppress(StorageFull):
            while checkpoint.size_bytes > MAX_SEPARATE_CHECKPOINT_BYTES:
                chunks = await self._state.update(checkpoint.write_chunk)
                if chunks is None:
                    break
                checkpoint.advance(chunks)
            else:
                saved = await self._state.update(checkpoint.write)
        checkpoint.finish(saved)


def newest_checkpoint(store: Snapshot, segments: Sequence[Segment]) -> tuple[Transcript, Chunks | None]:
    """Return the transcript of a lineage's newest readable checkpoint; without any, an empty one.

    The chunks are None for a checkpoint that the lineage's last session cannot continue.
    """
    for session_id, upto in reversed(segments):
        for key, content in store.scan(CHECKPOINTS, session_id, reverse=True):
            if upto is not None and key[1] > upto:
                continue
            try:
                transcript, chunks = read_checkpoint(store, session_id, content)
            except ValueError:
                log.warning("an unreadable checkpoint is ignored", extra={"session_id": session_id})
            else:
                return transcript, chunks if session_id == segments[-1].session_id else None
    return Transcript(), None
