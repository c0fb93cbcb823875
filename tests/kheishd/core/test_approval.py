"""Approvals: the first answer counts, and the model reads why a call was denied."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.approval import DENIED, EXPIRED, evolve, format_denial
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed, ApprovalRequested
from protocol.journal.envelope import Envelope
from protocol.objects.approval import Approval, Preview
from tests.support.histories import approval_requested

ANSWERS = (
    ApprovalAnswered(approval_id="apr_1", call_id="c0", decision="allow", remember="run"),
    ApprovalAnswered(
        approval_id="apr_1", call_id="c0", decision="deny", note="not there", justification="policy 7"
    ),
    ApprovalLapsed(approval_id="apr_1", call_id="c0", how="expired"),
    ApprovalLapsed(approval_id="apr_1", call_id="c0", how="withdrawn"),
    ApprovalLapsed(approval_id="apr_1", call_id="c0", how="renewed"),
)


def envelope(cursor: int, actor: str = "daemon") -> Envelope:
    """Make the envelope of an event."""
    return Envelope(cursor=cursor, at_ms=cursor * 10, session_id="ses_1", run_id="run_1", actor=actor)


def pending_approval() -> Approval:
    """Return a pending approval."""
    preview = Preview(kind="diff", text="+x", binding="digest")
    event = approval_requested("apr_1", preview=preview, subject="/a", sender="ann", expires_at_ms=99)
    return evolve(None, envelope(1), event)


def test_a_request() -> None:
    """A requested approval is pending and keeps its origin, binding and expiry."""
    approval = pending_approval()
    assert (approval.status, approval.created_cursor, approval.requested_at_ms) == ("pending", 1, 10)
    assert (approval.session_id, approval.run_id, approval.sender) == ("ses_1", "run_1", "ann")
    assert (approval.subject, approval.binding, approval.expires_at_ms) == ("/a", "digest", 99)
    assert evolve(None, envelope(1), approval_requested("apr_1")).binding is None


@pytest.mark.parametrize(
    ("event", "status", "resolved_by", "denial_note"),
    [
        (ANSWERS[0], "allowed", "uid:7", ""),
        (ANSWERS[1], "denied", "uid:7", "not there"),
        (ANSWERS[2], "expired", None, ""),
        (ANSWERS[3], "withdrawn", None, ""),
        (ANSWERS[4], "withdrawn", None, ""),
    ],
)
def test_resolutions(
    event: ApprovalAnswered | ApprovalLapsed, status: str, resolved_by: str | None, denial_note: str
) -> None:
    """A resolution keeps its outcome, its resolver and its time."""
    approval = evolve(pending_approval(), envelope(5, "uid:7"), event)
    assert (approval.status, approval.resolved_by, approval.denial_note) == (status, resolved_by, denial_note)
    assert (approval.resolved_cursor, approval.resolved_at_ms) == (5, 50)
    assert approval.remember == ("run" if status == "allowed" else "once")
    assert approval.justification == ("policy 7" if status == "denied" else "")


@given(st.lists(st.sampled_from((*ANSWERS, approval_requested("apr_1"))), min_size=1))
def test_the_first_answer_counts(events: list[ApprovalRequested | ApprovalAnswered | ApprovalLapsed]) -> None:
    """Later events about a resolved approval never change it."""
    approval = pending_approval()
    first = next((event for event in events if not isinstance(event, ApprovalRequested)), None)
    resolved = approval if first is None else evolve(approval, envelope(events.index(first) + 2, "a"), first)
    for cursor, event in enumerate(events, 2):
        approval = evolve(approval, envelope(cursor, "a"), event)
    assert approval == resolved


@pytest.mark.parametrize("event", ANSWERS)
def test_an_answer_without_a_request_is_damage(event: ApprovalAnswered | ApprovalLapsed) -> None:
    """A journal with an answer before the request is damaged."""
    with pytest.raises(AssertionError, match="first event"):
        evolve(None, envelope(1), event)


def test_format_denial() -> None:
    """The result names the person's reason, or that there is none, or that nobody answered."""
    assert "wrong file" in format_denial("denied", "wrong file")
    assert format_denial("denied") == DENIED
    assert format_denial("expired") == EXPIRED
