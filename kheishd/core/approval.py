"""An approval's record as the fold of its events, and what the model reads of a call not allowed. Pure.

The first answer counts: an event about an approval that no longer waits leaves it as it is.
"""

from typing import Final, Literal

from msgspec.structs import replace

from protocol.events.approval import ApprovalAnswered, ApprovalLapsed, ApprovalRequested
from protocol.events.call import ToolReturned
from protocol.journal.envelope import Envelope
from protocol.objects.approval import Approval, ApprovalStatus

ApprovalEvent = ApprovalRequested | ApprovalAnswered | ApprovalLapsed

_ANSWERED: Final[dict[str, ApprovalStatus]] = {"allow": "allowed", "deny": "denied"}

DENIED: Final = (
    "This was not run: a person denied it and gave no reason. Do not try the same again; go on without it "
    "or ask what is wanted instead."
)
EXPIRED: Final = (
    "This was not run: it needs a person's approval, and nobody answered in time. Go on without it, or say "
    "that it still needs to be approved."
)


def evolve(approval: Approval | None, envelope: Envelope, event: ApprovalEvent) -> Approval:
    """The approval after an event about it.

    Errors: AssertionError for a first event that is not ``ApprovalRequested``: the journal is damaged.
    """
    if isinstance(event, ApprovalRequested):
        return approval or _requested(envelope, event)
    assert approval is not None, "an approval's first event is its request"
    if approval.status != "pending":
        return approval
    closed = replace(approval, resolved_at_ms=envelope.at_ms, resolved_cursor=envelope.cursor)
    if isinstance(event, ApprovalLapsed):
        return replace(closed, status="expired" if event.how == "expired" else "withdrawn")
    return replace(
        closed,
        status=_ANSWERED[event.decision],
        resolved_by=envelope.actor,
        remember=event.remember,
        justification=event.justification,
        denial_note=event.note if event.decision == "deny" else "",
    )


def _requested(envelope: Envelope, event: ApprovalRequested) -> Approval:
    assert envelope.session_id is not None
    assert envelope.run_id is not None
    return Approval(
        approval_id=event.approval_id,
        session_id=envelope.session_id,
        run_id=envelope.run_id,
        call_id=event.call_id,
        tool=event.tool,
        index=event.index,
        status="pending",
        requested_at_ms=envelope.at_ms,
        created_cursor=envelope.cursor,
        message_cursor=event.message_cursor,
        agent=event.agent,
        sender=event.sender,
        subject=event.subject,
        binding=event.preview.binding if event.preview is not None else None,
        expires_at_ms=event.expires_at_ms,
    )


def refused(approval: Approval, how: Literal["denied", "expired"], reason: str = "") -> ToolReturned:
    """The result of a call that a person denied, or that nobody answered for; ``reason`` is the person's."""
    said = f"This was not run: a person denied it. Their reason: {reason}" if reason else DENIED
    return ToolReturned(
        call_id=approval.call_id,
        tool=approval.tool,
        how="denied",
        text=said if how == "denied" else EXPIRED,
        is_error=True,
    )
