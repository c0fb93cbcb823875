"""Records of sessions and their index rows."""

from kheishd.records.session import SESSION_RECORDS
from protocol.events.session import SessionCreated, SessionEnded
from protocol.journal.envelope import Envelope
from tests.support.records import fold_record, index_rows


def test_a_child_is_found_by_its_parent() -> None:
    """A session without a parent has no index row."""
    assert index_rows(SESSION_RECORDS, SessionCreated(agent="default")) == {}
    child = SessionCreated(agent="default", parent_session_id="p")
    assert index_rows(SESSION_RECORDS, child) == {"children": [("p", "s")]}


def test_a_session_is_never_final() -> None:
    """An ended one may be resumed by what still happens to its tasks."""
    record = fold_record(SESSION_RECORDS, SessionCreated(agent="default"), SessionEnded())
    assert not SESSION_RECORDS.final(record)


def test_every_event_of_its_stream_concerns_the_session() -> None:
    """An event without a session concerns none."""
    event = SessionEnded()
    assert SESSION_RECORDS.key(Envelope(cursor=1, at_ms=1, session_id="s"), event) == ("s",)
    assert SESSION_RECORDS.key(Envelope(cursor=1, at_ms=1), event) is None
