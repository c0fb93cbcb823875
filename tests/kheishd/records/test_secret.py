"""Records of secret slots."""

from kheishd.records.secret import SECRET_RECORDS
from protocol.events.secret import SecretDeleted, SecretStored
from protocol.journal.envelope import Envelope
from tests.support.records import fold_record


def test_a_record_counts_values() -> None:
    """A record has the kind of the last value and the cursors of the first and the last event."""
    record = fold_record(SECRET_RECORDS, SecretStored(slot_id="a"), SecretStored(slot_id="a", kind="api_key"))
    assert (record.slot_id, record.kind, record.revision) == ("a", "api_key", 2)
    assert (record.created_cursor, record.updated_cursor) == (1, 2)


def test_a_deleted_slot_has_no_record() -> None:
    """A slot that is deleted leaves no record."""
    record = fold_record(SECRET_RECORDS, SecretStored(slot_id="a"))
    assert SECRET_RECORDS.evolve(record, Envelope(cursor=2, at_ms=0), SecretDeleted(slot_id="a")) is None
