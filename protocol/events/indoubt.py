"""Events of in-doubt calls."""

from typing import Any, Literal

from protocol.ids import Cursor
from protocol.journal.envelope import Event


class IndoubtOpened(Event, frozen=True, tag="indoubt_opened"):
    """The daemon died while a call ran, and nobody can tell whether it took effect."""

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
    """What became of a call in doubt. ``note`` is what the model is told."""

    indoubt_id: str
    call_id: str
    tool: str
    outcome: Literal["done", "not_done"]
    justification: str = ""
    note: str = ""
