"""Records of messages between agents, and of the mailboxes that hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.core import mailbox as rules
from kheishd.records.projection import IndexRow, Projection
from kheishd.store.tables import DEADLINES, MAIL, MAIL_BY_STATE, MAILBOXES, MAILBOXES_DUE
from protocol.events.mailbox import (
    MailAcknowledged,
    MailDeadLettered,
    MailDelivered,
    MailPosted,
    MailRequeued,
)
from protocol.events.session import SessionEnded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kheishd.store.table import Key
    from protocol.journal.envelope import Envelope
    from protocol.objects.mailbox import Mail, Mailbox

MAIL_KIND: Final = "mail"

EVENTS: Final = (MailPosted, MailDelivered, MailAcknowledged, MailRequeued, MailDeadLettered)


def mail_key(agent_id: str, message_id: str) -> str:
    """Return the key of a message: a message id is unique in its mailbox only, and holds no slash."""
    return f"{agent_id}/{message_id}"


def keys_of(
    envelope: Envelope, event: MailPosted | MailDelivered | MailAcknowledged | MailRequeued | MailDeadLettered
) -> Sequence[Key]:
    """Return the keys of the messages that an event changes."""
    message_ids = (event.message_id,) if isinstance(event, MailPosted) else event.message_ids
    return [(mail_key(envelope.session_id or "", message_id),) for message_id in message_ids]


def index_rows(mail: Mail) -> frozenset[IndexRow]:
    """Return the index rows of a message: by its state, and its deadline while it waits for a run."""
    key = mail_key(mail.agent_id, mail.message_id)
    by_state = IndexRow(MAIL_BY_STATE, (mail.agent_id, mail.state, mail.created_cursor), key)
    if mail.state != "pending" or mail.expires_at_ms is None:
        return frozenset((by_state,))
    return frozenset((by_state, IndexRow(DEADLINES, (mail.expires_at_ms, MAIL_KIND, key))))


def mailbox_rows(mailbox: Mailbox) -> frozenset[IndexRow]:
    """Return the index row of a mailbox with pending messages; it changes when the mailbox is closed."""
    if not mailbox.pending:
        return frozenset()
    return frozenset((IndexRow(MAILBOXES_DUE, (mailbox.agent_id, int(mailbox.closed)), mailbox.agent_id),))


MAIL_RECORDS: Final = Projection(
    kind=MAIL_KIND,
    table=MAIL,
    begins=MailPosted,
    events=EVENTS,
    key=lambda envelope, event: (mail_key(envelope.session_id or "", event.message_id),),
    keys=keys_of,
    evolve=rules.evolve,
    source=lambda store, key, mail: (mail.agent_id, mail.created_cursor),
    final=lambda mail: mail.state in ("done", "dead_letter"),
    rows=index_rows,
    indexes=(MAIL_BY_STATE, DEADLINES),
    # A mailbox limits its pending messages.
    bounded=True,
)

MAILBOX_RECORDS: Final = Projection(
    kind="mailbox",
    table=MAILBOXES,
    begins=MailPosted,
    events=(*EVENTS, SessionEnded),
    key=lambda envelope, event: (envelope.session_id,),
    evolve=rules.evolve_mailbox,
    source=lambda store, key, mailbox: (mailbox.agent_id, mailbox.created_cursor),
    rows=mailbox_rows,
    indexes=(MAILBOXES_DUE,),
    # One record in a stream. A session without a mailbox ends, too.
    bounded=True,
    strays=True,
)
