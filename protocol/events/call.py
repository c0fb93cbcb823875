"""Events of tool calls."""

from typing import Any

from protocol.journal.envelope import Event
from protocol.objects.permission import Verdict
from protocol.objects.run import CallOutcome
from protocol.transcript import InputOrigin


class CallsJudged(Event, frozen=True, tag="calls_judged"):
    """Calls of the newest message were judged, before any of them ran. The permission audit reads these."""

    item_id: str
    verdicts: list[Verdict]


class ToolCalled(Event, frozen=True, tag="tool_called"):
    """A call started; committed before it has any effect. ``evidence`` helps to find out later if it had."""

    call_id: str
    tool: str
    attempt: int = 1
    evidence: dict[str, Any] = {}


class ToolObserved(Event, frozen=True, tag="tool_observed"):
    """More evidence about a running call, such as its process id."""

    call_id: str
    evidence: dict[str, Any]


class ToolReturned(Event, frozen=True, tag="tool_returned"):
    """A call has its only result. ``text`` is the model's input; ``blob`` names the complete output.

    ``how``: ``returned``, ``failed``, ``denied`` (it never ran), ``in_doubt``, ``stopped`` or ``answered``
    (by a person). ``origins`` are those of the texts of other agents that it holds. ``hops``: the number of
    events in a chain on the bus, the last of which it holds.
    """

    call_id: str
    tool: str
    how: CallOutcome
    text: str
    is_error: bool = False
    blob: str | None = None
    bytes: int | None = None
    took_ms: int | None = None
    origins: list[InputOrigin] = []
    hops: int = 0


class CallProbed(Event, frozen=True, tag="call_probed"):
    """After a crash of the daemon, the tool's probe found that the call had no effect: it runs again."""

    call_id: str
    tool: str
    note: str = ""
    evidence: dict[str, Any] = {}
