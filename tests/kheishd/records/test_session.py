"""Records of sessions and their index rows."""

from kheishd.records.session import EVENTS, SESSION_RECORDS
from protocol.events.session import SessionCreated, SessionEnded
from protocol.journal.envelope import Envelope
from protocol.journal.line import Unknown, decode_envelope, decode_event
from tests.house.sources import ROOT
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


def test_the_other_events_leave_a_session_as_it_is() -> None:
    """The projection folds exactly the events that change a session; the corpus has every type of event."""
    session = fold_record(SESSION_RECORDS, SessionCreated(agent="default"))
    for line in (ROOT / "tests/protocol/corpus/format-2.jsonl").read_bytes().splitlines():
        event = decode_event(line)
        assert not isinstance(event, Unknown)
        if not isinstance(event, EVENTS):
            assert SESSION_RECORDS.evolve(session, decode_envelope(line), event) is session


def test_an_event_concerns_the_session_that_its_envelope_names() -> None:
    """An event without a session id concerns no session."""
    event = SessionEnded()
    assert SESSION_RECORDS.key(Envelope(cursor=1, at_ms=1, session_id="s"), event) == ("s",)
    assert SESSION_RECORDS.key(Envelope(cursor=1, at_ms=1), event) is None
