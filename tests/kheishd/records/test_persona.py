"""Records of personas."""

from kheishd.records.persona import PERSONA_RECORDS
from protocol.events.persona import PersonaCreated, PersonaUpdated
from tests.support.records import fold_record

CREATED = PersonaCreated(persona_id="p", display_name="One", soul_sha256="a")


def test_a_record_is_the_fold_of_its_events() -> None:
    """The record has the newest properties and the cursor of its first event, and no index row."""
    updated = PersonaUpdated(persona_id="p", display_name="Two", soul_sha256="a")
    record = fold_record(PERSONA_RECORDS, CREATED, updated)
    assert (record.display_name, record.version, record.created_cursor) == ("Two", 2, 1)
    assert PERSONA_RECORDS.rows(record) == frozenset()
