"""The memory context on the wire."""

import msgspec

from protocol.objects.memory_context import METHODS, MemoryContext


def test_an_empty_context_is_short() -> None:
    """Only the fields that a session has are sent."""
    context = MemoryContext(session_id="ses_1", agent="default", permission_mode="plan")
    assert msgspec.to_builtins(context) == {
        "session_id": "ses_1",
        "agent": "default",
        "permission_mode": "plan",
    }


def test_everybody_who_may_read_may_see_it() -> None:
    """The method needs no more than the right to read."""
    assert [(row.name, row.scope) for row in METHODS] == [("session.memory_context", "read")]
