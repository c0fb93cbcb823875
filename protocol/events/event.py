"""Events on the bus and their deliveries. They stand in the stream of the bus."""

from typing import Any, Literal

from protocol.journal.envelope import Event
from protocol.transcript import InputOrigin


class EventPublished(Event, frozen=True, tag="event_published"):
    """An event was published. ``matched``: a trigger or a waiting run may want it, so it is delivered.

    ``publisher`` is the caller, or the id of the session whose run ``by_run`` published it. ``origins`` are
    those of everything that this run had read, ``hops`` the number of events that led to it.
    """

    event_id: str
    source: str
    publisher: str
    payload: Any = None
    hops: int = 0
    by_run: str | None = None
    origins: list[InputOrigin] = []
    matched: bool = False


class EventDelivered(Event, frozen=True, tag="event_delivered"):
    """An event was delivered to some of its triggers, up to ``position``; ``done``: to all of them.

    The numbers are those of this step. ``note``: why the rest was given up.
    """

    event_id: str
    position: list[str] = []
    done: bool = False
    delivered: int = 0
    held: int = 0
    refused: int = 0
    stopped: int = 0
    note: str = ""


class EventAwaited(Event, frozen=True, tag="event_awaited"):
    """A call waits for an event whose source matches ``source``, and that is published after ``after``.

    It stands in the stream of the session. ``listens``: until it ends, the run misses no event of the source
    between two waits.
    """

    wait_id: str
    call_id: str
    source: str
    after: int
    expires_at_ms: int
    listens: bool = False


class EventReturned(Event, frozen=True, tag="event_returned"):
    """A call that waits for the events of ``source`` returned one that had been published before it."""

    call_id: str
    source: str
    event_id: str
    event_cursor: int


class EventWaitEnded(Event, frozen=True, tag="event_wait_ended"):
    """A call no longer waits for an event; it has its result.

    ``delivered``: an event of a chain of ``hops`` others came, for the pattern ``source``. ``expired``: none
    came in time. ``interrupted``: a message came first. ``withdrawn``: the run has ended.
    """

    wait_id: str
    call_id: str
    how: Literal["delivered", "expired", "interrupted", "withdrawn"]
    event_id: str | None = None
    event_cursor: int | None = None
    hops: int = 0
    source: str = ""
