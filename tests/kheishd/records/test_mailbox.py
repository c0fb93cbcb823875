"""Records of mail and mailboxes, and their index rows."""

from kheishd.records.mailbox import MAIL_RECORDS, MAILBOX_RECORDS
from protocol.events.mailbox import MailAcknowledged, MailDelivered
from protocol.events.session import SessionEnded
from protocol.journal.envelope import Envelope
from tests.support.histories import mail_posted
from tests.support.records import fold_record, index_rows

POSTED = mail_posted("m1", expires_at_ms=99)
DELIVERED = MailDelivered(message_ids=["m1"])
DONE = MailAcknowledged(message_ids=["m1"], how="delivered")


def test_a_message_is_found_by_its_state() -> None:
    """Only a pending message has a deadline; one that is done is final."""
    assert index_rows(MAIL_RECORDS, POSTED) == {
        "deadlines": [(99, "mail", "s/m1")],
        "mail_by_state": [("s", "pending", 1)],
    }
    assert index_rows(MAIL_RECORDS, POSTED, DELIVERED) == {"mail_by_state": [("s", "delivering", 1)]}
    assert index_rows(MAIL_RECORDS, POSTED, DELIVERED, DONE) == {"mail_by_state": [("s", "done", 1)]}
    assert MAIL_RECORDS.final(fold_record(MAIL_RECORDS, POSTED, DELIVERED, DONE))
    assert not MAIL_RECORDS.final(fold_record(MAIL_RECORDS, POSTED, DELIVERED))


def test_an_event_changes_every_message_that_it_names() -> None:
    """The keys of a message are unique in its mailbox only."""
    envelope = Envelope(cursor=1, at_ms=1, session_id="s")
    assert MAIL_RECORDS.keys_of(envelope, MailDelivered(message_ids=["a", "b"])) == [("s/a",), ("s/b",)]
    assert MAIL_RECORDS.keys_of(envelope, POSTED) == [("s/m1",)]


def test_a_mailbox_is_due_while_a_message_is_pending() -> None:
    """The row changes when the mailbox is closed, and is gone when nothing is pending."""
    assert index_rows(MAILBOX_RECORDS, POSTED) == {"mailboxes_due": [("s", 0)]}
    assert index_rows(MAILBOX_RECORDS, POSTED, SessionEnded()) == {"mailboxes_due": [("s", 1)]}
    assert index_rows(MAILBOX_RECORDS, POSTED, DELIVERED) == {}
