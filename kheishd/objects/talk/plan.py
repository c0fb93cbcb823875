"""The todos and the plan of a session's agent, read from the journal, where they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.events.plan import PlanExited, TodosWritten
from protocol.journal.line import decode_envelope, decode_event
from protocol.objects.session import Plan, Session, Todo

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot


def todos_of(store: Snapshot, session: Session) -> list[Todo]:
    """Return the newest list of todos; empty if there is none."""
    line = _line(store, session, session.todos_cursor)
    event = decode_event(line) if line is not None else None
    return event.todos if isinstance(event, TodosWritten) else []


def plan_of(store: Snapshot, session: Session) -> Plan | None:
    """Return the newest plan; None if there is none."""
    line = _line(store, session, session.plan_cursor)
    event = decode_event(line) if line is not None else None
    if line is None or not isinstance(event, PlanExited):
        return None
    return Plan(
        artifact_id=event.artifact_id,
        content=event.content,
        created_at_ms=event.created_at_ms,
        updated_at_ms=decode_envelope(line).at_ms,
        summary=event.summary,
    )


def _line(store: Snapshot, session: Session, cursor: int | None) -> bytes | None:
    """Return the journal line at a cursor; None where there is none, or it was pruned."""
    entry = store.entry(session.session_id, cursor) if cursor is not None else None
    return entry[1] if entry is not None else None
