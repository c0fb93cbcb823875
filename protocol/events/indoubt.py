"""Events of in-doubt calls."""

from typing import Any, Literal

from protocol.ids import Cursor
from protocol.journal.envelope import Event


class CallDoubted(Event, frozen=True, tag="call_doubted"):
    """The daemon died while a call ran, and nobody can tell whether it took effect."""

    indoubt_id: str
    call_id: str
    tool: str
    number: int
    message_cursor: Cursor
    called_at_ms: int
    note: str = ""
    evidence: dict[str, Any] = {}
    agent: str = ""
    sender: str | None = None


class DoubtSettled(Event, frozen=True, tag="doubt_settled"):
    """What became of a call in doubt. ``note`` is what the model is told."""

    indoubt_id: str
    call_id: str
    tool: str
    outcome: Literal["done", "not_done"]
    justification: str = ""
    note: str = ""
