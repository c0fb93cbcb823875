"""Records of approvals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.core import approval
from kheishd.records.pending import pending_rows
from kheishd.records.projection import Projection, key_in, source_in_session
from kheishd.store.tables import APPROVALS, APPROVALS_WAITING, DEADLINES, RECORDS_BY_RUN, RECORDS_BY_SESSION
from protocol.events.approval import ApprovalAnswered, ApprovalLapsed, ApprovalRequested, ApprovalVoted

if TYPE_CHECKING:
    from kheishd.records.projection import IndexRow
    from protocol.objects.approval import Approval

APPROVAL: Final = "approval"


def is_final(record: Approval) -> bool:
    """Whether no event changes the approval any more."""
    return record.status != "pending"


def index_rows(record: Approval) -> frozenset[IndexRow]:
    """Return the index rows of an approval."""
    pending = None if is_final(record) else APPROVALS_WAITING
    return pending_rows(APPROVAL, record.approval_id, record, pending, record.expires_at_ms)


APPROVAL_RECORDS: Final = Projection(
    kind=APPROVAL,
    table=APPROVALS,
    begins=ApprovalRequested,
    events=(ApprovalRequested, ApprovalVoted, ApprovalAnswered, ApprovalLapsed),
    key=key_in("approval_id"),
    evolve=approval.evolve,
    source=source_in_session,
    final=is_final,
    rows=index_rows,
    indexes=(RECORDS_BY_SESSION, RECORDS_BY_RUN, APPROVALS_WAITING, DEADLINES),
)
