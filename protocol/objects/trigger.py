"""A trigger: events of some sources wake a conversation or a session.

It is *active* or *paused*. A paused trigger gets no event, nor those that were published meanwhile.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocol.errors.conversation import SenderInvalid
from protocol.errors.definition import AgentNotFound
from protocol.errors.event import (
    EventBusForbidden,
    TriggerLimit,
    TriggerNotFound,
    TriggerReadOnly,
)
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge, SessionNotFound
from protocol.errors.skill import SkillNotFound
from protocol.errors.store import StorageFull
from protocol.ids import Cursor, Id
from protocol.limits.event import (
    MAX_COALESCE_SECONDS,
    MAX_EVENT_HOPS,
    MAX_TRIGGER_FILTER_FIELDS,
    MAX_TRIGGER_NAME_BYTES,
)
from protocol.objects.event import EventPattern
from protocol.objects.wake import WakeTarget
from protocol.rpc.method import Method, Mutation, Page, Params
from protocol.transcript import Authority, InputOrigin

TriggerStatus = Literal["active", "paused"]
TriggerAuthor = Literal["request", "file", "agent"]
"""The author of a trigger: a client, ``events/subscriptions.toml``, or an agent, for its own session."""
FiringOutcome = Literal["delivered", "held", "refused", "stopped"]

Scalar = str | int | float | bool | None
Hops = Annotated[int, Meta(ge=1, le=MAX_EVENT_HOPS)]
CoalesceSeconds = Annotated[int, Meta(ge=0, le=MAX_COALESCE_SECONDS)]
PayloadFilter = Annotated[dict[str, Scalar], Meta(max_length=MAX_TRIGGER_FILTER_FIELDS)]


class TriggerTerms(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The terms of a trigger.

    It gets the events whose source matches ``source`` and whose payload is an object with these values in
    the fields of ``filter``. Its target gets its task with the authority of its author, and the event as
    data. ``once``: it is deleted with its first delivery. With
    ``coalesce_s``, the events of so many seconds are delivered together. It gets no event after more than
    ``max_hops`` others of the same chain.
    """

    source: EventPattern
    target: WakeTarget
    filter: PayloadFilter = {}
    once: bool = False
    coalesce_s: CoalesceSeconds = 0
    max_hops: Hops = MAX_EVENT_HOPS
    name: Annotated[str, Meta(max_length=MAX_TRIGGER_NAME_BYTES)] = ""


class HeldEvents(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Events that a trigger delivers together at ``due_at_ms``: the newest, and the number of all.

    ``attempt`` counts the deliveries that the target could not take.
    """

    event_id: Id
    event_cursor: Cursor
    first_cursor: Cursor
    count: int
    due_at_ms: int
    attempt: int = 0


class Trigger(TriggerTerms, frozen=True, kw_only=True, omit_defaults=True):
    """A trigger, as the fold of its events.

    ``owner_session`` is the session whose agent made it. ``authority`` and ``origins`` are those of its task.
    It gets events after ``active_since``.
    ``delivered``, ``refused`` and ``stopped`` count its firings; ``failures`` those refused in a row.
    ``problem`` is the last refusal or stop since a delivery.
    """

    trigger_id: Id
    status: TriggerStatus
    author: TriggerAuthor
    created_by: str
    created_at_ms: int
    updated_at_ms: int
    created_cursor: Cursor
    updated_cursor: Cursor
    active_since: Cursor
    owner_session: str | None = None
    authority: Authority | None = None
    origins: list[InputOrigin] = []
    delivered: int = 0
    refused: int = 0
    failures: int = 0
    stopped: int = 0
    fired_at_ms: int | None = None
    last_event_id: str | None = None
    last_session_id: str | None = None
    last_run_id: str | None = None
    problem: str = ""
    held: HeldEvents | None = None


class TriggerCreate(Mutation, frozen=True, kw_only=True):
    """Params of ``trigger.create``; see the terms of a trigger."""

    source: EventPattern
    target: WakeTarget
    filter: PayloadFilter = {}
    once: bool = False
    coalesce_s: CoalesceSeconds = 0
    max_hops: Hops = MAX_EVENT_HOPS
    name: Annotated[str, Meta(max_length=MAX_TRIGGER_NAME_BYTES)] = ""


class CreatedTrigger(Trigger, frozen=True, kw_only=True, omit_defaults=True):
    """A new trigger. ``warnings``: why no event that can be published today reaches it."""

    warnings: list[str] = []


class TriggerRef(Params, frozen=True, kw_only=True):
    """Params of ``trigger.get``."""

    trigger_id: Id


class TriggerListParams(Page, frozen=True, kw_only=True):
    """Params of ``trigger.list``. ``session_id``: only those that the agent of this session made."""

    session_id: Id | None = None


class TriggerList(Struct, frozen=True):
    """A page of triggers, by id."""

    triggers: list[Trigger]
    next: str | None


class TriggerChange(Mutation, frozen=True, kw_only=True):
    """Params of ``trigger.pause``, ``trigger.resume`` and ``trigger.delete``."""

    trigger_id: Id


class DeletedTrigger(Struct, frozen=True):
    """A trigger that was deleted."""

    trigger_id: str


_TARGET = (
    InvalidParams,
    SenderInvalid,
    AgentNotFound,
    SessionNotFound,
    SkillNotFound,
    InputTooLarge,
)
_CHANGE = (EventBusForbidden, TriggerNotFound, StorageFull)

CREATE = Method(
    "trigger.create",
    "mutation",
    TriggerCreate,
    CreatedTrigger,
    "Let the events of some sources wake a conversation or a session.",
    scope="operate",
    errors=(EventBusForbidden, *_TARGET, TriggerLimit, StorageFull),
)
GET = Method("trigger.get", "query", TriggerRef, Trigger, "Show a trigger.", errors=(TriggerNotFound,))
LIST = Method(
    "trigger.list",
    "query",
    TriggerListParams,
    TriggerList,
    "List triggers, by id.",
    errors=(SessionNotFound,),
)
PAUSE = Method(
    "trigger.pause",
    "mutation",
    TriggerChange,
    Trigger,
    "Pause a trigger: events do not reach it until it is resumed.",
    scope="operate",
    errors=_CHANGE,
)
RESUME = Method(
    "trigger.resume",
    "mutation",
    TriggerChange,
    Trigger,
    "Resume a trigger and forget its last problem.",
    scope="operate",
    errors=_CHANGE,
)
DELETE = Method(
    "trigger.delete",
    "mutation",
    TriggerChange,
    DeletedTrigger,
    "Delete a trigger; events that it held are not delivered.",
    scope="operate",
    errors=(*_CHANGE, TriggerReadOnly),
)

METHODS = (CREATE, GET, LIST, PAUSE, RESUME, DELETE)
