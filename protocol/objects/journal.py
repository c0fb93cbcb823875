"""The journal as clients read it: pages of events, subscriptions, and the notifications they bring."""

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

from protocol.errors.journal import CursorPruned, SubscriptionExists, SubscriptionNotFound
from protocol.errors.rpc import Overloaded
from protocol.errors.run import RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.ids import Cursor, Id
from protocol.limits.page import DEFAULT_PAGE_ROWS, MAX_PAGE_ROWS
from protocol.rpc.method import Method, Params


class Filter(Params, frozen=True, kw_only=True):
    """Which events: of one session (with ``subtree``, of its descendants too), of one run, of some types.

    Without ``session_id`` and ``run_id``: everything the caller may read, the daemon's own included.
    """

    session_id: Id | None = None
    run_id: Id | None = None
    subtree: bool = False
    types: Annotated[list[str], Meta(max_length=64)] | None = None


class JournalRead(Filter, frozen=True, kw_only=True):
    """Params of ``journal.read``. ``after`` is a cursor: with ``order`` newest, the events before it."""

    after: Cursor | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_ROWS)] = DEFAULT_PAGE_ROWS
    order: Literal["oldest", "newest"] = "oldest"


class JournalPage(Struct, frozen=True):
    """A page of events, each the journal's own bytes; ``next`` is the cursor to go on after, or null."""

    events: list[Raw]
    next: Cursor | None


class JournalSubscribe(Filter, frozen=True, kw_only=True):
    """Params of ``journal.subscribe``: from ``after`` (default: now) to the present, then on.

    ``deltas`` also follows text while it is written, and the output of tools while they run.
    ``subscription`` may be chosen by the caller.
    """

    after: Cursor | None = None
    deltas: bool = False
    subscription: Id | None = None


class Subscribed(Struct, frozen=True):
    """A subscription and the cursor it starts after."""

    subscription: str
    cursor: Cursor


class JournalUnsubscribe(Params, frozen=True, kw_only=True):
    """Params of ``journal.unsubscribe``."""

    subscription: Id


class Unsubscribed(Struct, frozen=True):
    """The subscription that ended; nothing of it is sent after this answer."""

    subscription: str


# Notifications.


class EventNotification(Struct, frozen=True):
    """Params of ``journal.event``."""

    subscription: str
    cursor: Cursor
    event: Raw


class SyncedNotification(Struct, frozen=True):
    """Params of ``journal.synced``: everything up to ``cursor`` was sent; what follows is new."""

    subscription: str
    cursor: Cursor


class DeltaNotification(Struct, frozen=True):
    """Params of ``journal.delta``: text being written, by a model or (kind ``output``) by a tool that runs.

    ``item_id`` is that of the message, or of the call; several calls of a run may write at once. ``offset``
    counts characters (Unicode code points) of the item's text of that kind before this piece. A higher
    ``attempt`` replaces the lower. The durable event of the item, a message or a call's result, ends it.

    Of a tool's output only the newest 64 Ki characters are kept for who comes late or falls behind: an
    ``offset`` beyond what a client has is a gap; what the client has is not continued but replaced.
    """

    subscription: str
    run_id: str
    item_id: str
    attempt: int
    offset: int
    kind: Literal["text", "thinking", "output"]
    text: str


class GapNotification(Struct, frozen=True, rename={"from_": "from"}):
    """Params of ``journal.gap``: the events after ``from`` up to ``to`` were pruned."""

    subscription: str
    from_: Cursor
    to: Cursor


class EndNotification(Struct, frozen=True):
    """Params of ``journal.end``: ``settled``, ``unsubscribed``, ``shutdown`` or ``revoked``."""

    subscription: str
    reason: Literal["settled", "unsubscribed", "shutdown", "revoked"]


NOTIFICATIONS: dict[str, type[Struct]] = {
    "journal.event": EventNotification,
    "journal.synced": SyncedNotification,
    "journal.delta": DeltaNotification,
    "journal.gap": GapNotification,
    "journal.end": EndNotification,
}

READ = Method(
    "journal.read",
    "query",
    JournalRead,
    JournalPage,
    "Read events, oldest or newest first.",
    errors=(SessionNotFound, RunNotFound, CursorPruned),
)
SUBSCRIBE = Method(
    "journal.subscribe",
    "control",
    JournalSubscribe,
    Subscribed,
    "Follow events from a cursor to the present and on; a slow reader is never cut off.",
    errors=(SessionNotFound, RunNotFound, SubscriptionExists, Overloaded),
)
UNSUBSCRIBE = Method(
    "journal.unsubscribe",
    "control",
    JournalUnsubscribe,
    Unsubscribed,
    "Stop following.",
    errors=(SubscriptionNotFound,),
)

METHODS = (READ, SUBSCRIBE, UNSUBSCRIBE)
