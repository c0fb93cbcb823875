"""An event on the bus: a message from a program, an agent or the daemon that triggers and runs react to.

Its ``source`` names its author and topic. An event is *open* until each matching trigger has it, then *done*.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from protocol.errors.event import EventBusForbidden, EventBusFull, EventNotFound, EventSourceReserved
from protocol.errors.journal import SubscriptionExists, SubscriptionNotFound
from protocol.errors.rpc import Overloaded
from protocol.errors.session import InputTooLarge
from protocol.errors.store import StorageFull
from protocol.ids import Cursor, Epoch, Id
from protocol.limits.event import MAX_EVENT_SOURCE_BYTES
from protocol.objects.journal import JournalUnsubscribe, Subscribed, Unsubscribed
from protocol.rpc.method import Method, Mutation, Page, Params

# The lookahead, as "$" alone also matches before a newline at the end.
_CHARACTERS = r"[A-Za-z0-9._:/-]"
SOURCE_SHAPE = "1-256 characters of A-Z a-z 0-9 . _ : / -"
"""The pattern of sources in words."""
EventSource = Annotated[
    str,
    Meta(
        max_length=MAX_EVENT_SOURCE_BYTES,
        pattern=rf"^{_CHARACTERS}+$(?!\n)",
        description=SOURCE_SHAPE,
    ),
]
EventPattern = Annotated[
    str,
    Meta(
        max_length=MAX_EVENT_SOURCE_BYTES,
        pattern=rf"^({_CHARACTERS}+|{_CHARACTERS}*\*)$(?!\n)",
        description="A source, or the beginning of sources and '*'.",
    ),
]

AGENT_PREFIX = "agent:"
"""The beginning of the sources of agents: ``agent:<name>:<topic>``."""
TOKEN_PREFIX = "token:"
"""The beginning of the sources of tokens that are limited to agents or senders: ``token:<id>:<topic>``."""
DONE_TOPIC = "done"
"""The topic of the events that the daemon publishes when a run ends."""

PublicationStatus = Literal["open", "done"]


class Publication(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event, without its payload, and its deliveries, as the fold of their events.

    ``publisher`` is the caller, or the session of the agent. ``hops`` counts the events of its chain before
    it. ``delivered`` counts the runs that it woke or joined, ``held`` the triggers that deliver it later,
    ``refused`` the targets that did not take it, and ``stopped`` the triggers whose limit of hops it reached.
    ``position`` is the last trigger that has it, while it is open. ``note``: why it was given up.
    """

    event_id: Id
    source: str
    status: PublicationStatus
    publisher: str
    published_at_ms: int
    created_cursor: Cursor
    updated_cursor: Cursor
    hops: int = 0
    delivered: int = 0
    held: int = 0
    refused: int = 0
    stopped: int = 0
    position: list[str] = []
    note: str = ""


class EventWait(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call that waits for an event after the cursor ``after``, as the fold of its events."""

    wait_id: Id
    session_id: Id
    run_id: Id
    call_id: str
    source: str
    after: Cursor
    expires_at_ms: int
    created_cursor: Cursor
    created_at_ms: int = 0
    is_pending: bool = True


class EventPublish(Mutation, frozen=True, kw_only=True):
    """Params of ``event.publish``. With an ``idempotency_key`` a repetition publishes nothing."""

    source: EventSource
    payload: Any = None


class EventRef(Params, frozen=True, kw_only=True):
    """Params of ``event.get``."""

    event_id: Id


class EventListParams(Page, frozen=True, kw_only=True):
    """Params of ``event.list``."""

    source: EventPattern = "*"


class EventList(Struct, frozen=True):
    """A page of events, newest first, each as its line of the journal."""

    events: list[Raw]
    next: str | None


class EventSubscribe(Params, frozen=True, kw_only=True):
    """Params of ``event.subscribe``: from ``after`` (default: now) to the present, then live.

    The notifications are those of ``journal.subscribe``, and so is the meaning of ``epoch`` and of a
    ``subscription`` that the caller chooses.
    """

    source: EventPattern = "*"
    after: Cursor | None = None
    epoch: Epoch | None = None
    subscription: Id | None = None


PUBLISH = Method(
    "event.publish",
    "mutation",
    EventPublish,
    Publication,
    "Publish an event on the bus; its triggers get it after the answer.",
    scope="converse",
    errors=(EventSourceReserved, EventBusFull, InputTooLarge, StorageFull),
)
GET = Method(
    "event.get",
    "query",
    EventRef,
    Publication,
    "Show an event and its deliveries.",
    errors=(EventBusForbidden, EventNotFound),
)
LIST = Method(
    "event.list",
    "query",
    EventListParams,
    EventList,
    "List events by their source, newest first.",
    errors=(EventBusForbidden,),
)
SUBSCRIBE = Method(
    "event.subscribe",
    "control",
    EventSubscribe,
    Subscribed,
    "Follow the events of some sources from a cursor to the present, then live.",
    errors=(EventBusForbidden, SubscriptionExists, Overloaded),
)
UNSUBSCRIBE = Method(
    "event.unsubscribe",
    "control",
    JournalUnsubscribe,
    Unsubscribed,
    "Close a subscription.",
    errors=(SubscriptionNotFound,),
)

METHODS = (PUBLISH, GET, LIST, SUBSCRIBE, UNSUBSCRIBE)
