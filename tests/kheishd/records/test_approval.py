"""Records of approvals and their index rows."""

from kheishd.records.approval import APPROVAL_RECORDS
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed
from tests.support.histories import approval_requested
from tests.support.records import fold_record, index_rows

REQUESTED = approval_requested("apr_1", expires_at_ms=99)
ANSWERED = ApprovalAnswered(approval_id="apr_1", call_id="c0", decision="allow")


def test_it_waits_until_it_is_answered() -> None:
    """An answered approval is final: only the lists of its session and run keep it."""
    lasting = {"records_by_run": [("r", "approval", 1)], "records_by_session": [("s", "approval", 1)]}
    waiting = {"approvals_waiting": [(1,)], "deadlines": [(99, "approval", "apr_1")]}
    assert index_rows(APPROVAL_RECORDS, REQUESTED) == lasting | waiting
    for end in (ANSWERED, ApprovalLapsed(approval_id="apr_1", call_id="c0", how="expired")):
        assert index_rows(APPROVAL_RECORDS, REQUESTED, end) == lasting
        assert APPROVAL_RECORDS.final(fold_record(APPROVAL_RECORDS, REQUESTED, end))
    assert not APPROVAL_RECORDS.final(fold_record(APPROVAL_RECORDS, REQUESTED))


def test_it_has_a_deadline_only_if_it_expires() -> None:
    """An approval that does not expire has no row among the deadlines."""
    assert "deadlines" not in index_rows(APPROVAL_RECORDS, approval_requested("apr_1"))
