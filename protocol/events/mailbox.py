"""Events of a mailbox. All stand in the stream of the recipient's session."""

from typing import Any, Literal

from protocol.journal.envelope import Event
from protocol.transcript import InputOrigin


class MailPosted(Event, frozen=True, tag="mail_posted"):
    """A message was posted to the session's agent.

    ``from_agent`` is the sender's id. ``digest`` is the SHA-256 (hex) of sender, subject and payload.
    ``question_id`` is the question of a child that the message asks. ``origin`` is the one that the token of
    the client that posted it has.
    """

    message_id: str
    from_agent: str
    subject: str
    payload: Any
    digest: str
    expires_at_ms: int | None = None
    question_id: str | None = None
    origin: InputOrigin | None = None


class MailDelivered(Event, frozen=True, tag="mail_delivered"):
    """The messages are in the input of the event's run."""

    message_ids: list[str]


class MailAcknowledged(Event, frozen=True, tag="mail_acknowledged"):
    """The messages are done.

    ``how``: ``delivered`` by the event's run, which completed; ``waited``: the recipient got the content as
    the result of a wait; ``answered``: the question that the message asks has its answer; ``removed`` by a
    client.
    """

    message_ids: list[str]
    how: Literal["delivered", "waited", "answered", "removed"]


class MailRequeued(Event, frozen=True, tag="mail_requeued"):
    """The event's run did not complete, so the messages are pending again. ``note`` is its failure."""

    message_ids: list[str]
    note: str = ""


class MailDeadLettered(Event, frozen=True, tag="mail_dead_lettered"):
    """The messages are not delivered any more.

    ``reason``: ``expired``, ``attempts`` (too many runs with it did not complete), ``closed`` (the
    recipient's session has ended) or ``restored`` (it was open in the backup that was restored).
    """

    message_ids: list[str]
    reason: Literal["expired", "attempts", "closed", "restored"]
    note: str = ""
