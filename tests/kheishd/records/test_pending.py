"""Index rows that approvals, questions and calls in doubt share."""

from kheishd.records.pending import pending_rows
from kheishd.store.tables import APPROVALS_WAITING, DEADLINES, RECORDS_BY_RUN, RECORDS_BY_SESSION
from protocol.objects.approval import Approval

APPROVAL = Approval(
    approval_id="apr_1",
    session_id="s",
    run_id="r",
    call_id="c",
    tool="write",
    index=0,
    message_cursor=1,
    status="pending",
    requested_at_ms=1,
    created_cursor=7,
)


def test_a_record_is_listed_by_session_and_run_for_good() -> None:
    """A record stays in the lists of its session and run; it is pending, with a deadline, for a while."""
    lasting = {
        (RECORDS_BY_SESSION, ("s", "approval", 7), "apr_1"),
        (RECORDS_BY_RUN, ("r", "approval", 7), "apr_1"),
    }
    waiting = {(APPROVALS_WAITING, (7,), "apr_1")}
    deadline = {(DEADLINES, (99, "approval", "apr_1"), b"")}
    assert pending_rows("approval", "apr_1", APPROVAL, None, 99) == lasting
    assert pending_rows("approval", "apr_1", APPROVAL, APPROVALS_WAITING) == lasting | waiting
    assert pending_rows("approval", "apr_1", APPROVAL, APPROVALS_WAITING, 99) == lasting | waiting | deadline
