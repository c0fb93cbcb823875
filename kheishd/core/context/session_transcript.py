"""A session's transcript with the values that follow from its messages, each computed once. Pure.

Messages are appended until a compaction replaces them. So the values are kept up to date message by message,
and computed anew after a compaction.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from kheishd.core.context.memory import memory_of, memory_of_message
from kheishd.core.context.tokens import estimate_message
from kheishd.core.context.transcript import FramedMessages, Transcript
from protocol.transcript import InputOrigin, ToolCall

if TYPE_CHECKING:
    from kheishd.core.context.checkpoint import Chunks
    from kheishd.core.context.reduction import TranscriptEntry

MAX_SPEAKERS: Final = 4
"""Agents whose view of the messages is kept: a session's own agent, and a few guests."""

SESSION_BYTES: Final = 1_100
"""The objects of a transcript beside its messages."""


class SessionTranscript:
    """A transcript, and the values that follow from its messages.

    ``call_ids`` are the ids of all tool calls. ``guests`` are the agents who spoke as guests, each once, in
    the order of their first message, and ``origins`` those of the inputs. ``estimates`` are the estimated
    tokens of the first 0, 1, 2 … messages.
    All four are those of the last ``update``, and callers must not change them.

    ``stored`` are the chunks of the checkpoint that the store has of the messages; None if it has none, or of
    other messages. ``unsaved_events`` and ``unsaved_bytes`` measure the events since the last checkpoint.
    """

    def __init__(self, transcript: Transcript | None = None, stored: Chunks | None = None) -> None:
        self.transcript = transcript or Transcript()
        self.unsaved_events = self.unsaved_bytes = 0
        self._start_over()
        self.stored = stored
        self.update()

    def _start_over(self) -> None:
        self._entries: list[TranscriptEntry] = self.transcript.entries
        self.stored = None
        self.call_ids: set[str] = set()
        self.guests: dict[str, None] = {}
        self.origins: dict[InputOrigin, None] = {}
        self.estimates = [0]
        self._views: dict[tuple[str, str], FramedMessages] = {}
        self._measured = 0
        self._message_bytes = 0

    def update(self) -> None:
        """Take in the messages since the last update."""
        if self._entries is not self.transcript.entries:
            self._start_over()
        for entry in self._entries[len(self.estimates) - 1 :]:
            message = entry.message
            self.estimates.append(self.estimates[-1] + estimate_message(message))
            if message.agent:
                self.guests[message.agent] = None
            if message.role == "user":
                self.origins[message.origin] = None
                if message.authority == "agent":
                    self.origins["agent"] = None
            self.call_ids.update(item.call_id for item in message.items if isinstance(item, ToolCall))

    def view(self, *, speaker: str, primary: str) -> FramedMessages:
        """Return the messages of the last update as ``speaker`` reads them, with their encodings."""
        view = self._views.pop((speaker, primary), None) or FramedMessages(speaker=speaker, primary=primary)
        for entry in self._entries[view.count :]:
            view.append(entry.message)
        if len(self._views) == MAX_SPEAKERS:
            del self._views[next(iter(self._views))]
        self._views[speaker, primary] = view
        return view

    def estimate_inherited(self, fork_cursor: int) -> int:
        """Return the estimated tokens of the messages up to a fork point, as of the last update."""
        return self.estimates[bisect_right(self._entries, fork_cursor, key=lambda entry: entry.cursor)]

    @property
    def size_bytes(self) -> int:
        """The memory that the transcript takes, with the encodings."""
        self.update()
        for entry in self._entries[self._measured :]:
            self._message_bytes += memory_of_message(entry.message)
        self._measured = len(self._entries)
        transcript = self.transcript
        waiting = (transcript.inputs, transcript.runs, transcript.calls, transcript.results)
        framed = sum(view.size_bytes for view in self._views.values())
        return (
            SESSION_BYTES + self._message_bytes + framed + memory_of(waiting) + memory_of(transcript.pending)
        )
