"""What an agent means to do, read from the journal: its todos and its plan stand there and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.objects.talk.contract import schema_shown
from protocol.events.plan import PlanExited, TodosWritten
from protocol.journal.line import decode_envelope, decode_event
from protocol.objects.session import Plan, Session, SessionView, Todo

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot


def todos_of(store: Snapshot, session: Session) -> list[Todo]:
    """What the session's agent wrote down last; nothing if it never did."""
    line = _line(store, session, session.todos_cursor)
    event = decode_event(line) if line is not None else None
    return event.todos if isinstance(event, TodosWritten) else []


def plan_of(store: Snapshot, session: Session) -> Plan | None:
    """The plan that the session's agent proposed last; None if it never did."""
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


def view_of(store: Snapshot, session: Session) -> SessionView:
    """A session as it is shown."""
    fields = {name: getattr(session, name) for name in Session.__struct_fields__}
    promised = session.output_contract
    return SessionView(
        **fields,
        todos=todos_of(store, session),
        plan=plan_of(store, session),
        input_schema=schema_shown(store, session.input_contract),
        output_schema=schema_shown(store, promised.digest if promised is not None else None),
    )


def _line(store: Snapshot, session: Session, cursor: int | None) -> bytes | None:
    """What stands at a cursor; None where nothing does, or nothing any more."""
    found = store.entry(session.session_id, cursor) if cursor is not None else None
    return found[1] if found is not None else None
