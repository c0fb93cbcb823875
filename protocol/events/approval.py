"""Events of approvals."""

from typing import Any, Literal

from protocol.audience import Audience
from protocol.ids import Cursor
from protocol.journal.envelope import Event
from protocol.objects.approval import Preview, Remember
from protocol.objects.permission import Grant


class ApprovalRequested(Event, frozen=True, tag="approval_requested"):
    """A call needs approval. ``index`` is its position in its message, from 0.

    ``audience`` are the people who may answer; null: anyone with the right. ``input_cursor`` is the cursor of
    an earlier approval of the call that changed its arguments.
    """

    approval_id: str
    call_id: str
    tool: str
    index: int
    message_cursor: Cursor
    subject: str = ""
    note: str = ""
    preview: Preview | None = None
    expires_at_ms: int | None = None
    agent: str = ""
    sender: str | None = None
    audience: Audience | None = None
    input_cursor: Cursor | None = None


class ApprovalVoted(Event, frozen=True, tag="approval_voted"):
    """A person of the audience voted; ``approval_answered`` follows the vote that decides."""

    approval_id: str
    call_id: str
    person: str
    decision: Literal["allow", "deny"]
    note: str = ""
    justification: str = ""
    remember: Remember = "once"
    uses: int | None = None


class ApprovalAnswered(Event, frozen=True, tag="approval_answered"):
    """An approval was answered. ``grant`` is the remembered approval, of the run or its session."""

    approval_id: str
    call_id: str
    decision: Literal["allow", "deny"]
    updated_input: dict[str, Any] | None = None
    note: str = ""
    justification: str = ""
    remember: Remember = "once"
    grant: Grant | None = None


class ApprovalLapsed(Event, frozen=True, tag="approval_lapsed"):
    """An approval is no longer pending. ``withdrawn``: the run ended; ``renewed``: it is requested again."""

    approval_id: str
    call_id: str
    how: Literal["expired", "withdrawn", "renewed"]
