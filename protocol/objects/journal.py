"""The journal for clients: pages of events, subscriptions and their notifications."""

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

from protocol.errors.journal import CursorPruned, CursorUnknown, SubscriptionExists, SubscriptionNotFound
from protocol.errors.rpc import Overloaded
from protocol.errors.run import RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.ids import Cursor, Epoch, Id
from protocol.limits.page import DEFAULT_PAGE_ROWS, MAX_PAGE_ROWS
from protocol.limits.rpc import MAX_ID_BYTES
from protocol.rpc.method import Method, Params


class Filter(Params, frozen=True, kw_only=True):
    """A filter of events: one session (with ``subtree``, its descendants too), one run, some types.

    Without ``session_id`` and ``run_id``: everything the caller may read, including the daemon's own events
    and those of the event bus.
    """

    session_id: Id | None = None
    run_id: Id | None = None
    subtree: bool = False
    types: Annotated[list[str], Meta(max_length=64)] | None = None


class JournalRead(Filter, frozen=True, kw_only=True):
    """Params of ``journal.read``. ``after`` is a cursor; with order newest, the page precedes it.

    A cursor beyond the end is refused with order oldest; with its ``epoch``, one of another history is.
    ``request_id`` selects the events of a request, named by its JSON-RPC id, and those of the runs that it
    led to: the runs that it began, and those of the agents that they spawned. Ids are compared as text.
    """

    after: Cursor | None = None
    epoch: Epoch | None = None
    request_id: Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES)] | int | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_ROWS)] = DEFAULT_PAGE_ROWS
    order: Literal["oldest", "newest"] = "oldest"


class JournalPage(Struct, frozen=True):
    """A page of events, each as its stored bytes; ``next`` is the cursor of the next page, or null.

    ``epoch`` is the id of the line of history that the cursors belong to.
    """

    events: list[Raw]
    next: Cursor | None
    epoch: str = ""


class JournalSubscribe(Filter, frozen=True, kw_only=True):
    """Params of ``journal.subscribe``: from ``after`` (default: now) to the present, then live.

    ``epoch`` is that of ``after``: if the cursor is of another line of history, such as the one before a
    backup was restored, the subscription begins with ``journal.gap``. So it does for a cursor beyond the end.
    ``deltas`` adds text while it is written and the output of running tools. The caller may choose the id
    ``subscription``.
    """

    after: Cursor | None = None
    epoch: Epoch | None = None
    deltas: bool = False
    subscription: Id | None = None


class Subscribed(Struct, frozen=True):
    """A subscription and the cursor after which it starts, in the line of history ``epoch``."""

    subscription: str
    cursor: Cursor
    epoch: str = ""


class JournalUnsubscribe(Params, frozen=True, kw_only=True):
    """Params of ``journal.unsubscribe``."""

    subscription: Id


class Unsubscribed(Struct, frozen=True):
    """A closed subscription; no notification of it follows this answer."""

    subscription: str


# Notifications.


class EventNotification(Struct, frozen=True):
    """Params of ``journal.event``."""

    subscription: str
    cursor: Cursor
    event: Raw


class SyncedNotification(Struct, frozen=True):
    """Params of ``journal.synced``: everything up to ``cursor`` was sent; later events are live."""

    subscription: str
    cursor: Cursor
    epoch: str


class DeltaNotification(Struct, frozen=True):
    """Params of ``journal.delta``: text in progress, of a model or (kind ``output``) of a running tool.

    ``item_id`` is the id of the message or of the call; several calls of a run may write at once. ``offset``
    counts the characters (Unicode code points) of the item's text of that kind before this piece. A higher
    ``attempt`` replaces a lower one. The durable event of the item, a message or a call's result, ends it.

    Only the newest 64 Ki characters of a tool's output are kept for late or slow clients: an ``offset``
    beyond the client's text is a gap, and the new text replaces the client's.
    """

    subscription: str
    run_id: str
    item_id: str
    attempt: int
    offset: int
    kind: Literal["text", "thinking", "output"]
    text: str


GapReason = Literal["pruned", "restored", "beyond_end"]


class GapNotification(Struct, frozen=True, rename={"from_": "from"}):
    """Params of ``journal.gap``: the subscription continues at ``to`` instead of ``from``.

    ``pruned``: the events after ``from`` up to ``to`` were pruned. ``restored``: a backup was restored, and
    the subscriber's cursor is of another line of history than this one, ``epoch``. Both share the events up
    to ``to``; those that the subscriber had after it do not exist here, and others follow. ``beyond_end``:
    the journal ends at ``to``, so the subscriber's cursor cannot be of this line of history.
    """

    subscription: str
    from_: Cursor
    to: Cursor
    epoch: str
    reason: GapReason


class EndNotification(Struct, frozen=True):
    """Params of ``journal.end``: the subscription ended for ``reason``.

    ``failed``: the daemon could not continue it, and its log says why. Subscribe again after the
    last cursor.
    """

    subscription: str
    reason: Literal["settled", "unsubscribed", "shutdown", "revoked", "failed"]


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
    errors=(SessionNotFound, RunNotFound, CursorPruned, CursorUnknown),
)
SUBSCRIBE = Method(
    "journal.subscribe",
    "control",
    JournalSubscribe,
    Subscribed,
    "Follow events from a cursor to the present, then live; a slow client is never disconnected.",
    errors=(SessionNotFound, RunNotFound, SubscriptionExists, Overloaded),
)
UNSUBSCRIBE = Method(
    "journal.unsubscribe",
    "control",
    JournalUnsubscribe,
    Unsubscribed,
    "Close a subscription.",
    errors=(SubscriptionNotFound,),
)

METHODS = (READ, SUBSCRIBE, UNSUBSCRIBE)
