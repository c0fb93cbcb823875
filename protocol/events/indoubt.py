"""Events of in-doubt calls."""

from typing import Any, Literal

from protocol.ids import Cursor
from protocol.journal.envelope import Event


class IndoubtOpened(Event, frozen=True, tag="indoubt_opened"):
    """The daemon crashed during a call, and its effect is unknown."""

    indoubt_id: str
    call_id: str
    tool: str
    index: int
    message_cursor: Cursor
    called_at_ms: int
    note: str = ""
    evidence: dict[str, Any] = {}
    agent: str = ""
    sender: str | None = None


class IndoubtResolved(Event, frozen=True, tag="indoubt_resolved"):
    """An in-doubt call was resolved. ``note`` is what the model reads."""

    indoubt_id: str
    call_id: str
    tool: str
    outcome: Literal["done", "not_done"]
    justification: str = ""
    note: str = ""
