"""Events of a conversation: its binding to a session."""

from protocol.journal.envelope import Event


class ConversationBound(Event, frozen=True, tag="conversation_bound"):
    """(agent, sender) resolves to this session from now on."""

    agent: str
    sender: str


class ConversationUnbound(Event, frozen=True, tag="conversation_unbound"):
    """(agent, sender) no longer resolves to this session; the next send creates a new one.

    ``moved``: it is bound to another session in the same transaction.
    """

    agent: str
    sender: str
    moved: bool = False
