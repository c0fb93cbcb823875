"""Mailboxes: the shapes of params and messages."""

import pytest

from protocol.limits.mailbox import MAX_MAIL_SUBJECT_BYTES, MAX_MAIL_TTL_MS
from protocol.objects.mailbox import MailboxAck, MailboxListParams, MailboxPost, MailView
from tests.support.samples import refuse, take

POST = {"from": "a", "to": "b", "subject": "s", "payload": None}


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (MailboxPost, {"to": "b", "subject": "s", "payload": 1}, "$.params.from"),
        (MailboxPost, {"from": "a", "to": "b", "subject": "s"}, "$.params.payload"),
        (MailboxPost, POST | {"to": ""}, "$.params.to"),
        (MailboxPost, POST | {"message_id": "a/b"}, "$.params.message_id"),
        (MailboxPost, POST | {"subject": "x" * (MAX_MAIL_SUBJECT_BYTES + 1)}, "$.params.subject"),
        (MailboxPost, POST | {"ttl_ms": MAX_MAIL_TTL_MS + 1}, "$.params.ttl_ms"),
        (MailboxListParams, {"agent": "b", "state": "gone"}, "$.params.state"),
        (MailboxAck, {"agent": "b"}, "$.params.message_id"),
    ],
)
def test_refused(kind: type, params: dict[str, object], field: str) -> None:
    """A value of the wrong shape is refused, and the refusal names its path."""
    assert refuse(kind, params) == field


def test_a_message_has_an_envelope() -> None:
    """A post names both agents, and a message is shown with the fields of its envelope."""
    assert take(MailboxPost, POST).from_agent == "a"
    names = {"schema_version", "id", "state", "created_at_ms", "expires_at_ms", "delivery_attempts"}
    names |= {"last_error", "from", "to", "subject", "type", "payload"}
    assert names <= set(MailView.__struct_encode_fields__)
