"""Records of conversations: the session that an agent and a sender are bound to.

The events of one conversation stand in the streams of all sessions that it was ever bound to. The newest
binding wins, so one stream alone does not tell what the record must be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.records.projection import Projection
from kheishd.store.records import Binding
from kheishd.store.tables import CONVERSATIONS, SESSIONS
from protocol.events.conversation import ConversationBound, ConversationUnbound

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot
    from protocol.journal.envelope import Envelope


def evolve(
    binding: Binding | None, envelope: Envelope, event: ConversationBound | ConversationUnbound
) -> Binding | None:
    """Return the binding of a conversation after an event: of its session, or of an earlier one."""
    assert envelope.session_id is not None, "a conversation is bound to a session"
    if isinstance(event, ConversationBound):
        return Binding(
            session_id=envelope.session_id, bound_at_ms=envelope.at_ms, bound_cursor=envelope.cursor
        )
    return None if binding is None or binding.session_id == envelope.session_id else binding


def is_superseded(store: Snapshot, stream: str, stored: Binding | None, replayed: Binding | None) -> bool:
    """Whether a later session may have changed the binding that one stream gives."""
    if stored is None:
        # The next message to an ended session binds the conversation to a new one, which may have been
        # unbound since.
        session = store.get(SESSIONS, stream)
        return session is not None and session.status == "ended"
    return stored.session_id != stream and (replayed is None or stored.bound_cursor > replayed.bound_cursor)


CONVERSATION_RECORDS: Final = Projection(
    kind="conversation",
    table=CONVERSATIONS,
    begins=ConversationBound,
    events=(ConversationBound, ConversationUnbound),
    key=lambda envelope, event: (event.agent, event.sender),
    evolve=evolve,
    source=lambda store, key, binding: (binding.session_id, binding.bound_cursor),
    bounded=True,
    superseded=is_superseded,
)
