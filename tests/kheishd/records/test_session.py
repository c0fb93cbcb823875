"""Records of sessions and their index rows."""

from kheishd.records.session import SESSION_RECORDS
from protocol.events.session import SessionCreated, SessionEnded
from protocol.journal.envelope import Envelope
from tests.support.records import fold_record, index_rows


def test_a_child_is_found_by_its_parent() -> None:
    """Only a session with a parent has an index row."""
    assert index_rows(SESSION_RECORDS, SessionCreated(agent="default")) == {}
    child = SessionCreated(agent="default", parent_session_id="p")
    assert index_rows(SESSION_RECORDS, child) == {"children": [("p", "s")]}


def test_a_session_is_never_final() -> None:
    """Events may still change an ended session, for example those of its tasks."""
    record = fold_record(SESSION_RECORDS, SessionCreated(agent="default"), SessionEnded())
    assert not SESSION_RECORDS.final(record)


def test_every_event_of_its_stream_concerns_the_session() -> None:
    """Every event with a session id concerns that session."""
    event = SessionEnded()
    assert SESSION_RECORDS.key(Envelope(cursor=1, at_ms=1, session_id="s"), event) == ("s",)
    assert SESSION_RECORDS.key(Envelope(cursor=1, at_ms=1), event) is None
