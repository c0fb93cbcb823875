"""A mailbox: the messages of other agents to an agent, delivered by runs of its session.

Each message is delivered at least once: it is done when a run that has read it completes.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from protocol.errors.agent import AgentAlreadyClosed, NoSuchAgent
from protocol.errors.mailbox import MailboxFull, MailConflict, MailNotFound
from protocol.errors.session import InputTooLarge
from protocol.errors.store import StorageFull
from protocol.ids import PLAIN_TEXT, Cursor, Id
from protocol.limits.mailbox import MAX_MAIL_SUBJECT_BYTES, MAX_MAIL_TTL_MS
from protocol.objects.agent import AgentAddress
from protocol.rpc.method import Method, Mutation, Page, Params
from protocol.transcript import InputOrigin

MailState = Literal["pending", "delivering", "done", "dead_letter"]
"""``pending``: waits for a run. ``delivering``: in the input of a run. ``done``: acknowledged.
``dead_letter``: will not be delivered."""

MailOutcome = Literal[
    "delivered", "waited", "answered", "removed", "expired", "attempts", "closed", "restored"
]
"""How a message was acknowledged, or why it is a dead letter."""


class Mail(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message as stored. Its content is in the event that posted it, at ``created_cursor``.

    ``agent_id`` is the recipient. ``run_id`` is the newest run whose input it is in. ``last_error`` is the
    failure of the last run that did not complete. ``origin`` is the one that the token
    of the client that posted it has.
    """

    agent_id: str
    message_id: str
    from_agent: str
    subject: str
    digest: str
    state: MailState
    created_at_ms: int
    updated_at_ms: int
    created_cursor: Cursor
    updated_cursor: Cursor
    expires_at_ms: int | None = None
    delivery_attempts: int = 0
    last_error: str | None = None
    run_id: str | None = None
    outcome: MailOutcome | None = None
    question_id: str | None = None
    origin: InputOrigin | None = None


class Mailbox(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The mailbox of a session's agent: numbers of its messages, by state.

    ``posted`` counts all of them. ``closed``: the session has ended.
    """

    agent_id: str
    created_cursor: Cursor
    pending: int = 0
    delivering: int = 0
    dead_letters: int = 0
    posted: int = 0
    closed: bool = False


class MailView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message with its envelope and its payload, whose ``type`` is the payload's own field of that name."""

    schema_version: int
    id: str
    state: MailState
    created_at_ms: int
    updated_at_ms: int
    delivery_attempts: int
    from_agent: str = field(name="from")
    to_agent: str = field(name="to")
    subject: str
    type: str
    payload: Any
    expires_at_ms: int | None = None
    last_error: str | None = None
    run_id: str | None = None
    outcome: MailOutcome | None = None
    question_id: str | None = None
    origin: InputOrigin | None = None


class MailPage(Struct, frozen=True):
    """A page of messages."""

    messages: list[MailView]
    next: str | None


class PostedMail(Struct, frozen=True, kw_only=True):
    """The result of a post. ``duplicate``: the mailbox had this message already, and nothing was added."""

    accepted: bool
    message_id: str
    duplicate: bool


class RemovedMail(Struct, frozen=True, kw_only=True):
    """Whether a pending message was removed; one that is in the input of a run, or done, is not."""

    message_id: str
    acknowledged: bool


class MailboxPost(Mutation, frozen=True, kw_only=True):
    """Params of ``mailbox.post``. The same ``message_id`` to one agent is delivered once.

    ``payload`` is any JSON; the field ``type`` of an object names its kind.
    """

    from_agent: AgentAddress = field(name="from")
    to_agent: AgentAddress = field(name="to")
    subject: Annotated[str, Meta(min_length=1, max_length=MAX_MAIL_SUBJECT_BYTES, extra=PLAIN_TEXT)]
    payload: Any
    ttl_ms: Annotated[int, Meta(gt=0, le=MAX_MAIL_TTL_MS)] | None = None
    message_id: Id | None = None


class MailboxListParams(Page, frozen=True, kw_only=True):
    """Params of ``mailbox.list``: oldest first, by default the messages that are not done."""

    agent: AgentAddress
    state: MailState | Literal["open", "any"] = "open"


class DeadLetterParams(Page, frozen=True, kw_only=True):
    """Params of ``mailbox.dead_letters``: oldest first."""

    agent: AgentAddress


class MailRef(Params, frozen=True, kw_only=True):
    """Params that name a message."""

    agent: AgentAddress
    message_id: Id


class MailboxAck(Mutation, frozen=True, kw_only=True):
    """Params of ``mailbox.ack``."""

    agent: AgentAddress
    message_id: Id


POST = Method(
    "mailbox.post",
    "mutation",
    MailboxPost,
    PostedMail,
    "Post a message of one agent to another one. A run of its session reads it.",
    scope="converse",
    errors=(NoSuchAgent, AgentAlreadyClosed, MailConflict, MailboxFull, InputTooLarge, StorageFull),
)
LIST = Method(
    "mailbox.list",
    "query",
    MailboxListParams,
    MailPage,
    "List the messages to an agent, oldest first. Reading takes none out.",
    errors=(NoSuchAgent,),
)
DEAD_LETTERS = Method(
    "mailbox.dead_letters",
    "query",
    DeadLetterParams,
    MailPage,
    "List the messages to an agent that could not be delivered, oldest first.",
    errors=(NoSuchAgent,),
)
GET = Method("mailbox.get", "query", MailRef, MailView, "Show a message.", errors=(NoSuchAgent, MailNotFound))
ACK = Method(
    "mailbox.ack",
    "mutation",
    MailboxAck,
    RemovedMail,
    "Remove a pending message, so that no run reads it.",
    scope="converse",
    errors=(NoSuchAgent, MailNotFound, StorageFull),
    while_draining=True,
)

METHODS = (POST, LIST, DEAD_LETTERS, GET, ACK)
