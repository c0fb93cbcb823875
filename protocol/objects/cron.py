"""A cron entry: a schedule on which the daemon wakes a conversation, and the record of its occurrences."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from protocol.errors.conversation import SenderForbidden, SenderInvalid
from protocol.errors.cron import (
    CronChanged,
    CronExists,
    CronForbidden,
    CronFromFile,
    CronInvalid,
    CronLimit,
    CronNotActive,
    CronNotFound,
)
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.session import InputTooLarge, SessionNotFound
from protocol.errors.skill import SkillNotFound
from protocol.errors.store import StorageFull
from protocol.ids import Cursor, Id
from protocol.limits.cron import (
    DEFAULT_GRACE_S,
    DEFAULT_UPCOMING,
    MAX_CRON_NAME_BYTES,
    MAX_EXPLAINED_MS,
    MAX_GRACE_S,
    MAX_SCHEDULE_BYTES,
    MAX_UPCOMING,
    MAX_ZONE_BYTES,
)
from protocol.limits.names import MAX_REASON_BYTES
from protocol.objects.wake import WakeTarget
from protocol.rpc.method import Method, Mutation, Page, Params
from protocol.transcript import Authority, InputOrigin

CronStatus = Literal["active", "paused", "completed", "disabled"]
"""``completed``: it fires no more. ``disabled``: too many failures in a row; a person resumes it."""
CronSource = Literal["client", "file", "agent"]
Misfire = Literal["run_once", "skip"]
Overlap = Literal["skip", "queue_one", "parallel"]
Quiet = Literal["skip", "defer"]
CronOutcome = Literal[
    "running",
    "completed",
    "failed",
    "cancelled",
    "interrupted",
    "skipped",
    "missed",
    "queued",
    "deferred",
    "refused",
]
"""``running`` to ``interrupted``: it fired, and that is the state of its run. ``refused``: the target took no
input. ``queued``: it fires after the run in flight. ``deferred``: it fires after the quiet hours."""


class Occurrence(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One due time of an entry and its outcome, decided at ``at_ms``.

    ``reason`` is stable: ``late``, ``quiet_hours``, ``overlap``, ``queued``, ``manual``, ``restored``, or
    that of a refusal.
    ``missed`` counts the earlier due times since ``since_ms`` that were missed and are not made up for.
    ``manual``: a client fired it, beside the schedule.
    """

    due_ms: int
    at_ms: int
    outcome: CronOutcome
    reason: str = ""
    note: str = ""
    session_id: str | None = None
    run_id: str | None = None
    missed: int = 0
    since_ms: int | None = None
    manual: bool = False


class DueRange(Struct, frozen=True, order=True):
    """A range of due times, both ends included."""

    start_ms: int
    end_ms: int


Schedule = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_SCHEDULE_BYTES,
        description="Five cron fields, six with seconds first, @daily and the like, 'every 15m', or "
        "'at 2027-03-01T09:00'.",
    ),
]
Zone = Annotated[
    str, Meta(min_length=1, max_length=MAX_ZONE_BYTES, description="A name such as Europe/Paris.")
]
Clock = Annotated[str, Meta(max_length=5, description="A local time, HH:MM.")]
CronName = Annotated[str, Meta(max_length=MAX_CRON_NAME_BYTES)]
Grace = Annotated[int, Meta(ge=0, le=MAX_GRACE_S)]
Executions = Annotated[int, Meta(ge=1, le=2**31)]
Count = Annotated[int, Meta(ge=0, le=MAX_UPCOMING, description="How many next firings to show.")]
Note = Annotated[str, Meta(max_length=MAX_REASON_BYTES)]


class CronProperties(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The properties of an entry: params of its creation, its row in the file, its record and events.

    ``quiet_start`` (included) and ``quiet_end`` (excluded) are local times. ``once``: it fires once and is
    completed then. ``grace_s``: a firing that is later than this is a misfire.
    """

    schedule: Schedule
    target: WakeTarget
    name: CronName = ""
    timezone: Zone = "UTC"
    quiet_start: Clock | None = None
    quiet_end: Clock | None = None
    quiet: Quiet = "skip"
    once: bool = False
    misfire: Misfire = "run_once"
    grace_s: Grace = DEFAULT_GRACE_S
    overlap: Overlap = "skip"
    max_executions: Executions | None = None


class Cron(CronProperties, frozen=True, kw_only=True, omit_defaults=True):
    """An entry, as stored. The record is the fold of its events; ``revision`` counts changes by clients.

    ``next_due_ms`` is the next due time. ``deferred_due_ms`` is the occurrence that is tried again at
    ``deferred_until_ms``, ``queued_due_ms`` that which waits for the run in flight. ``executions`` counts
    the firings by the schedule, ``failures`` the failed ones since the last success. ``recent`` are the
    newest occurrences, the oldest first; the journal has all. ``anchor_ms`` is the time from which
    intervals count. ``covered`` are ranges of due times that were decided, so that none fires again after
    the clock was set back; they were ``planned_at_ms``. ``source``, ``owner_session_id``,
    ``root_session_id``, ``authority`` and ``origins`` are about the author, and so is ``hops``: the depth
    of the chain of events to which its runs belong.
    """

    cron_id: str
    status: CronStatus
    note: str = ""
    source: CronSource = "client"
    owner_session_id: str | None = None
    root_session_id: str | None = None
    authority: Authority | None = None
    origins: list[InputOrigin] = []
    hops: int = 0
    next_due_ms: int | None = None
    deferred_due_ms: int | None = None
    deferred_until_ms: int | None = None
    queued_due_ms: int | None = None
    executions: int = 0
    failures: int = 0
    recent: list[Occurrence] = []
    covered: list[DueRange] = []
    anchor_ms: int = 0
    planned_at_ms: int = 0
    revision: int = 1
    created_at_ms: int = 0
    updated_at_ms: int = 0
    created_cursor: Cursor = 0
    updated_cursor: Cursor = 0


class Firing(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A due time to come, in the entry's zone. ``note`` tells of a change of the clocks or of quiet hours."""

    due_ms: int
    local: str
    note: str = ""


class CronView(Cron, frozen=True, kw_only=True, omit_defaults=True):
    """An entry with its next firings."""

    upcoming: list[Firing] = []


class CronList(Struct, frozen=True):
    """A page of entries, by id."""

    crons: list[Cron]
    next: str | None


class CronExplanation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why an entry fired or did not: the verdict in sentences, the occurrences that it rests on, the next."""

    cron_id: str
    lines: list[str]
    occurrences: list[Occurrence]
    upcoming: list[Firing]


class CronExport(Struct, frozen=True, kw_only=True):
    """Entries in the format of ``cron/crons.toml``."""

    toml: str
    crons: int


class CronCreate(Mutation, frozen=True, kw_only=True):
    """Params of ``cron.create``."""

    schedule: Schedule
    target: WakeTarget
    cron_id: Id | None = None
    name: CronName = ""
    timezone: Zone = "UTC"
    quiet_start: Clock | None = None
    quiet_end: Clock | None = None
    quiet: Quiet = "skip"
    once: bool = False
    misfire: Misfire = "run_once"
    grace_s: Grace = DEFAULT_GRACE_S
    overlap: Overlap = "skip"
    max_executions: Executions | None = None


class CronUpdate(Mutation, frozen=True, kw_only=True):
    """Params of ``cron.update``. An absent param leaves its property unchanged.

    ``revision``: refuse the change if the entry has another one.
    """

    cron_id: Id
    revision: Annotated[int, Meta(ge=1)] | None = None
    schedule: Schedule | UnsetType = UNSET
    target: WakeTarget | UnsetType = UNSET
    name: CronName | UnsetType = UNSET
    timezone: Zone | UnsetType = UNSET
    quiet_start: Clock | None | UnsetType = UNSET
    quiet_end: Clock | None | UnsetType = UNSET
    quiet: Quiet | UnsetType = UNSET
    once: bool | UnsetType = UNSET
    misfire: Misfire | UnsetType = UNSET
    grace_s: Grace | UnsetType = UNSET
    overlap: Overlap | UnsetType = UNSET
    max_executions: Executions | None | UnsetType = UNSET


class CronRef(Params, frozen=True, kw_only=True):
    """Params of ``cron.get``."""

    cron_id: Id
    count: Count = DEFAULT_UPCOMING


class CronExplain(Params, frozen=True, kw_only=True):
    """Params of ``cron.explain``. ``at_ms`` is the time to explain; null: the newest occurrences."""

    cron_id: Id
    at_ms: Annotated[int, Meta(ge=0, le=MAX_EXPLAINED_MS)] | None = None
    count: Count = DEFAULT_UPCOMING


class CronListParams(Page, frozen=True, kw_only=True):
    """Params of ``cron.list``; ``query`` is a part of the id, the name or the target."""

    query: Annotated[str, Meta(max_length=256)] = ""
    status: CronStatus | None = None
    source: CronSource | None = None


class CronExportParams(Params, frozen=True, kw_only=True):
    """Params of ``cron.export``."""


class CronChange(Mutation, frozen=True, kw_only=True):
    """Params of ``cron.pause``, ``cron.resume`` and ``cron.delete``."""

    cron_id: Id
    note: Note = ""


class CronFire(Mutation, frozen=True, kw_only=True):
    """Params of ``cron.fire``: the entry fires now, also in quiet hours; its overlap policy applies."""

    cron_id: Id


_TARGET = (
    AgentForbidden,
    AgentNotFound,
    SenderForbidden,
    SenderInvalid,
    SessionNotFound,
    SkillNotFound,
    InputTooLarge,
)

CREATE = Method(
    "cron.create",
    "mutation",
    CronCreate,
    CronView,
    "Create a cron entry: a schedule on which a conversation or a session is woken.",
    scope="operate",
    errors=(CronExists, CronInvalid, CronLimit, *_TARGET, StorageFull),
)
GET = Method("cron.get", "query", CronRef, CronView, "Show a cron entry.", errors=(CronNotFound,))
LIST = Method("cron.list", "query", CronListParams, CronList, "List cron entries, by id.")
UPDATE = Method(
    "cron.update",
    "mutation",
    CronUpdate,
    CronView,
    "Change a cron entry; its history remains.",
    scope="operate",
    errors=(CronNotFound, CronForbidden, CronChanged, CronFromFile, CronInvalid, *_TARGET, StorageFull),
)
PAUSE = Method(
    "cron.pause",
    "mutation",
    CronChange,
    Cron,
    "Pause a cron entry.",
    scope="operate",
    errors=(CronNotFound, CronForbidden, CronNotActive, StorageFull),
)
RESUME = Method(
    "cron.resume",
    "mutation",
    CronChange,
    CronView,
    "Resume a cron entry that is paused, disabled or completed.",
    scope="operate",
    errors=(CronNotFound, CronForbidden, CronNotActive, StorageFull),
)
FIRE = Method(
    "cron.fire",
    "mutation",
    CronFire,
    Occurrence,
    "Fire a cron entry now, beside its schedule.",
    scope="operate",
    errors=(CronNotFound, CronForbidden, StorageFull),
)
DELETE = Method(
    "cron.delete",
    "mutation",
    CronChange,
    Cron,
    "Delete a cron entry; the answer is the entry as it was.",
    scope="operate",
    errors=(CronNotFound, CronForbidden, CronFromFile, StorageFull),
)
EXPLAIN = Method(
    "cron.explain",
    "query",
    CronExplain,
    CronExplanation,
    "Explain why a cron entry did or did not fire, and show its next firings.",
    errors=(CronNotFound,),
)
EXPORT = Method(
    "cron.export",
    "query",
    CronExportParams,
    CronExport,
    "Write the entries that the caller may read in the format of cron/crons.toml.",
    errors=(InputTooLarge,),
)

METHODS = (CREATE, GET, LIST, UPDATE, PAUSE, RESUME, FIRE, DELETE, EXPLAIN, EXPORT)
