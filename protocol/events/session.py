"""Events of a session."""

from typing import Any

from msgspec import Struct

from protocol.budget import Cost
from protocol.ids import Cursor
from protocol.journal.envelope import Event
from protocol.objects.session import ForkOf, PersonaBinding, SessionProperties
from protocol.transcript import InputOrigin, Message, Usage


class SessionCreated(SessionProperties, Event, frozen=True, tag="session_created"):
    """A session was created. ``fork_of`` is its fork point: the history up to there is shared.

    ``origins`` are the origins of the texts that a fork inherits.
    """

    agent: str
    sender: str | None = None
    parent_session_id: str | None = None
    root_session_id: str | None = None
    fork_of: ForkOf | None = None
    persona: PersonaBinding | None = None
    origins: list[InputOrigin] = []


class SessionUpdated(Event, frozen=True, tag="session_updated"):
    """Properties of a session changed. ``changes`` holds the new values by name; null unsets one."""

    changes: dict[str, Any]


class SessionRenamed(Event, frozen=True, tag="session_renamed"):
    """A session has a new title; null: none. ``usage`` is that of the model call that chose it, if any."""

    title: str | None
    usage: Usage = Usage()
    cost: Cost | None = None


class SessionEnded(Event, frozen=True, tag="session_ended"):
    """A session ended and accepts no more input."""

    note: str = ""


class PendingMessage(Struct, frozen=True, omit_defaults=True):
    """A message of an import that is not in its place yet: the input of a run, or a note (no run)."""

    message: Message
    source_cursor: Cursor
    run_id: str | None = None


class SessionImported(Event, frozen=True, tag="session_imported"):
    """A part of an export was imported into the session; the events before restore its messages.

    ``source_lines`` and ``source_cursor`` are the number of lines so far and the cursor of the last one.
    ``pending`` are inputs and notes of this and earlier parts that a later part puts into their place.
    ``signed_by`` is the key that signed the export, in its last part. ``origins`` are those of the messages.
    """

    source_session_id: str
    source_head: str
    source_events: int
    source_lines: int = 0
    source_cursor: Cursor = 0
    pending: list[PendingMessage] = []
    signed_by: str | None = None
    origins: list[InputOrigin] = []


class TranscriptImported(Event, frozen=True, tag="transcript_imported"):
    """One message of an imported session."""

    message: Message
    source_cursor: Cursor
