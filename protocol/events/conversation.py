"""Events of a conversation: which session an address resolves to."""

from protocol.journal.envelope import Event


class ConversationBound(Event, frozen=True, tag="conversation_bound"):
    """From here on (agent, sender) means this session."""

    agent: str
    sender: str


class ConversationUnbound(Event, frozen=True, tag="conversation_unbound"):
    """(agent, sender) no longer means this session; the next send starts a new one."""

    agent: str
    sender: str
