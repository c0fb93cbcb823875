"""Records of the definitions in the store."""

from kheishd.core.definition import parse
from kheishd.records.definition import DEFINITION_RECORDS
from protocol.events.definition import DefinitionDeleted, DefinitionStored
from protocol.journal.envelope import Envelope
from tests.support.records import fold_record

FIRST, SECOND = parse("a", b"First.", None), parse("a", b"Second.", None)


def test_the_last_definition_counts() -> None:
    """A record holds the last definition, and the cursors of its first and last event."""
    record = fold_record(
        DEFINITION_RECORDS, DefinitionStored(definition=FIRST), DefinitionStored(definition=SECOND)
    )
    assert (record.definition, record.created_cursor, record.updated_cursor) == (SECOND, 1, 2)


def test_a_deleted_definition_has_no_record() -> None:
    """A definition that is deleted leaves no record."""
    record = fold_record(DEFINITION_RECORDS, DefinitionStored(definition=FIRST))
    envelope = Envelope(cursor=2, at_ms=0)
    assert DEFINITION_RECORDS.evolve(record, envelope, DefinitionDeleted(name="a")) is None
