"""The cache of transcripts between the runs of their sessions, bounded in bytes.

This process is the only writer of the journal, which only grows. So a transcript never becomes invalid: it is
as of its cursor, and its reader folds the later events into it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.limits.model import MAX_CACHED_TRANSCRIPT_BYTES, MAX_TRANSCRIPT_CACHE_BYTES

if TYPE_CHECKING:
    from kheishd.core.context.session_transcript import SessionTranscript


class TranscriptCache:
    """Transcripts of sessions without an active run; the least recently used ones make room.

    A transcript is either here or with its one reader, who changes it.
    """

    def __init__(self, max_bytes: int = MAX_TRANSCRIPT_CACHE_BYTES) -> None:
        self.size_bytes = 0
        """The memory of all transcripts in the cache."""
        self._max_bytes = max_bytes
        self._transcripts: dict[str, tuple[SessionTranscript, int]] = {}

    def __len__(self) -> int:
        """Return the number of transcripts in the cache."""
        return len(self._transcripts)

    def take(self, session_id: str) -> SessionTranscript | None:
        """Remove a session's transcript and return it; None if it is not cached."""
        transcript, size_bytes = self._transcripts.pop(session_id, (None, 0))
        self.size_bytes -= size_bytes
        return transcript

    def put(self, session_id: str, transcript: SessionTranscript) -> None:
        """Keep a session's transcript, unless it is too long or a newer one is here."""
        existing = self.take(session_id)
        if existing is not None and existing.transcript.cursor > transcript.transcript.cursor:
            transcript = existing
        size_bytes = transcript.size_bytes
        if size_bytes > MAX_CACHED_TRANSCRIPT_BYTES:
            return
        self._transcripts[session_id] = transcript, size_bytes
        self.size_bytes += size_bytes
        while self.size_bytes > self._max_bytes:
            self.take(next(iter(self._transcripts)))
