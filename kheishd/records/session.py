"""Records of sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.core import session as session_rules
from kheishd.records.projection import IndexRow, Projection, source_in_session
from kheishd.store.tables import CHILDREN, SESSIONS
from protocol.events.session import SessionCreated

if TYPE_CHECKING:
    from protocol.objects.session import Session


def index_rows(session: Session) -> frozenset[IndexRow]:
    """Return the index row by which a parent finds the session, if it has one."""
    if session.parent_session_id is None:
        return frozenset()
    return frozenset((IndexRow(CHILDREN, (session.parent_session_id, session.session_id)),))


SESSION_RECORDS: Final = Projection(
    kind="session",
    table=SESSIONS,
    begins=SessionCreated,
    events=None,
    key=lambda envelope, event: None if envelope.session_id is None else (envelope.session_id,),
    evolve=session_rules.evolve,
    source=source_in_session,
    rows=index_rows,
    indexes=(CHILDREN,),
    constant_rows=True,
    bounded=True,
)
