"""Approvals: a record as the projection of its events, and the results of denied calls. Pure.

The first answer counts: an event about an approval that is no longer pending does not change it. Where
several people must agree, the votes come first, and the answer follows the vote that decides.
"""

from typing import Final, Literal

from msgspec.structs import replace

from protocol.audience import Vote
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed, ApprovalRequested, ApprovalVoted
from protocol.journal.envelope import Envelope
from protocol.objects.approval import Approval, ApprovalStatus

ApprovalEvent = ApprovalRequested | ApprovalVoted | ApprovalAnswered | ApprovalLapsed

_ANSWERED: Final[dict[str, ApprovalStatus]] = {"allow": "allowed", "deny": "denied"}

DENIED: Final = (
    "This was not run: a person denied it without a reason. Do not try the same again; continue without it "
    "or ask for an alternative."
)
EXPIRED: Final = (
    "This was not run: it needs a person's approval, and nobody answered in time. Continue without it, or "
    "say that it still needs approval."
)


def evolve(approval: Approval | None, envelope: Envelope, event: ApprovalEvent) -> Approval:
    """Return the approval after one of its events.

    Errors: AssertionError for a first event that is not ``ApprovalRequested``: the journal is damaged.
    """
    if isinstance(event, ApprovalRequested):
        if approval is not None:
            return approval
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
            facts=event.preview.facts if event.preview is not None else None,
            expires_at_ms=event.expires_at_ms,
            audience=event.audience,
            input_cursor=event.input_cursor,
        )
    assert approval is not None, "an approval's first event is its request"
    if approval.status != "pending":
        return approval
    if isinstance(event, ApprovalVoted):
        vote = Vote(person=event.person, choice=event.decision, remember=event.remember, uses=event.uses)
        return replace(approval, votes=[*approval.votes, vote])
    resolved = replace(approval, resolved_at_ms=envelope.at_ms, resolved_cursor=envelope.cursor)
    if isinstance(event, ApprovalLapsed):
        return replace(resolved, status="expired" if event.how == "expired" else "withdrawn")
    voters = ", ".join(vote.person for vote in approval.votes if vote.choice == event.decision)
    return replace(
        resolved,
        status=_ANSWERED[event.decision],
        resolved_by=voters or envelope.on_behalf_of or envelope.actor,
        remember=event.remember,
        justification=event.justification,
        denial_note=event.note if event.decision == "deny" else "",
    )


def format_denial(how: Literal["denied", "expired"], note: str = "") -> str:
    """Format the result of a call that a person denied, with the person's note, or that nobody approved."""
    if how == "expired":
        return EXPIRED
    return f"This was not run: a person denied it. Their reason: {note}" if note else DENIED
