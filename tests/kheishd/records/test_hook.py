"""Records of hooks' failures."""

import pytest

from kheishd.records.hook import HOOK_RECORDS
from protocol.events.hook import HookFailed, HookFailureResolved
from protocol.journal.envelope import Envelope
from tests.support.records import fold_record, index_rows

FAILED = HookFailed(
    dead_letter_id="hkf_2",
    hook="guard",
    event="pre_tool_use",
    subject="bash",
    invocation_key="k",
    policy="closed",
    problem="it hung",
    attempts=1,
    payload="{}",
    dropped=["hkf_1"],
)
RESOLVED = HookFailureResolved(dead_letter_id="hkf_2", note="mended")


def test_a_failure_is_open_until_it_is_resolved() -> None:
    """The record says who resolved it, and its row stays."""
    assert fold_record(HOOK_RECORDS, FAILED).state == "open"
    record = fold_record(HOOK_RECORDS, FAILED, RESOLVED)
    assert (record.state, record.note, record.resolved_by) == ("resolved", "mended", "daemon")
    assert (record.failed_at_ms, record.resolved_at_ms) == (1000, 2000)
    assert index_rows(HOOK_RECORDS, FAILED, RESOLVED) == {"hook_dead_letters_by_age": [(1,)]}


def test_a_later_failure_drops_the_oldest() -> None:
    """The event names them, so a replay drops the same ones."""
    envelope = Envelope(cursor=2, at_ms=1)
    assert HOOK_RECORDS.keys_of(envelope, FAILED) == [("hkf_2",), ("hkf_1",)]
    assert HOOK_RECORDS.evolve(fold_record(HOOK_RECORDS, FAILED), envelope, FAILED) is None


def test_a_failure_begins_before_it_is_resolved() -> None:
    """Resolving a failure that never began is damage."""
    with pytest.raises(AssertionError, match="begins before"):
        fold_record(HOOK_RECORDS, RESOLVED)
