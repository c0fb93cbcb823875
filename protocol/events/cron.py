"""Events of cron entries, in a stream of each (``cron/<id>``); ``CronReported`` is in a session's stream."""

from protocol.journal.envelope import Event
from protocol.objects.cron import CronOutcome, CronProperties, CronSource, CronStatus, Occurrence
from protocol.transcript import Authority, InputOrigin


class CronCreated(CronProperties, Event, frozen=True, tag="cron_created"):
    """A cron entry was created. ``next_due_ms`` is its first due time.

    ``owner_session_id`` is the session of the agent that created it, and ``root_session_id`` that of its
    tree. ``authority`` is the author of the task, who had read inputs of the ``origins``. ``hops`` is the
    number of events on the bus that led to it, plus one for the entry of an agent.
    """

    cron_id: str
    next_due_ms: int | None
    source: CronSource = "client"
    owner_session_id: str | None = None
    root_session_id: str | None = None
    authority: Authority | None = None
    origins: list[InputOrigin] = []
    hops: int = 0


class CronUpdated(CronProperties, Event, frozen=True, tag="cron_updated"):
    """A cron entry has these properties from now on, with this author. Its history remains."""

    cron_id: str
    next_due_ms: int | None
    authority: Authority | None = None
    origins: list[InputOrigin] = []


class CronPaused(Event, frozen=True, tag="cron_paused"):
    """A cron entry was paused: it does not fire. What it had queued or deferred is dropped."""

    cron_id: str
    note: str = ""


class CronResumed(Event, frozen=True, tag="cron_resumed"):
    """A cron entry is active again; its failures are counted from zero."""

    cron_id: str
    next_due_ms: int | None
    note: str = ""


class CronOccurred(Event, frozen=True, tag="cron_occurred"):
    """A due time was decided: it fired, together with the acceptance of its run, or it did not, and why.

    ``next_due_ms`` is the next due time; null: none. ``deferred_until_ms``: the occurrence is tried again
    then. ``status`` and ``note``: the entry changed with it.
    """

    cron_id: str
    occurrence: Occurrence
    next_due_ms: int | None
    deferred_until_ms: int | None = None
    status: CronStatus | None = None
    note: str = ""


class CronSettled(Event, frozen=True, tag="cron_settled"):
    """The run of an occurrence has ended with this outcome. ``manual``: its failure does not count."""

    cron_id: str
    ended_run_id: str
    outcome: CronOutcome
    status: CronStatus | None = None
    note: str = ""
    manual: bool = False


class CronPlanned(Event, frozen=True, tag="cron_planned"):
    """The due times of a cron entry were computed anew, because the clock was set back.

    ``drops``: after a restore, what it had queued or deferred is dropped. ``anchor_ms``: intervals count
    from this time on, because the former one is still to come.
    """

    cron_id: str
    next_due_ms: int | None
    deferred_until_ms: int | None = None
    note: str = ""
    drops: bool = False
    anchor_ms: int | None = None


class CronDeleted(Event, frozen=True, tag="cron_deleted"):
    """A cron entry was deleted."""

    cron_id: str


class CronReported(Event, frozen=True, tag="cron_reported"):
    """A firing failed whose target is this session; the entry may be disabled by that."""

    cron_id: str
    due_ms: int
    reason: str
    note: str
    name: str = ""
    disabled: bool = False


CronEvent = (
    CronCreated
    | CronUpdated
    | CronPaused
    | CronResumed
    | CronOccurred
    | CronSettled
    | CronPlanned
    | CronDeleted
)
"""The events in the stream of a cron entry."""
