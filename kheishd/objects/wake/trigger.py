"""Triggers: create and change them, and let events wake their targets.

A trigger's task is its author's instruction; the event comes after it, as data. An event that a target cannot
take now is held, and delivered with those that follow until then.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from kheishd.core import trigger as rules
from kheishd.core.event import find_dead_pattern
from kheishd.core.trust import join_origins
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.objects.pages import PageTokens, page_of
from kheishd.objects.storable import require_storable
from kheishd.objects.talk.address import find_session
from kheishd.objects.talk.wake import Woken, authority_of, prepare_wake, require_valid_target, wake
from kheishd.records.event import TRIGGER
from kheishd.records.writer import BY_DAEMON, StreamWriter
from kheishd.store.tables import RECORDS_BY_SESSION, SESSIONS, TRIGGERS, TRIGGERS_DUE, TRIGGERS_TROUBLED
from protocol import ids
from protocol.errors.event import (
    EventBusForbidden,
    TriggerLimit,
    TriggerNotFound,
    TriggerReadOnly,
)
from protocol.events.event import EventPublished
from protocol.events.trigger import TriggerChanged, TriggerCreated, TriggerDeleted, TriggerFired
from protocol.journal.envelope import BUS_STREAM
from protocol.journal.line import decode_event
from protocol.limits.event import MAX_TRIGGER_FILTER_BYTES, MAX_TRIGGER_NOTE_BYTES, MAX_TRIGGERS
from protocol.limits.units import KIB
from protocol.objects import trigger as rows
from protocol.objects.trigger import (
    CreatedTrigger,
    DeletedTrigger,
    FiringOutcome,
    Trigger,
    TriggerChange,
    TriggerCreate,
    TriggerList,
    TriggerListParams,
    TriggerRef,
    TriggerStatus,
    TriggerTerms,
)
from protocol.structs import fields_of
from protocol.text import truncate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.state import State
    from kheishd.objects.talk.wake import WakePlan
    from kheishd.records.writer import Origin
    from kheishd.store.environment import Snapshot, Transaction

MAX_WARNED = 5
"""The triggers with a problem that a status names."""

TARGET_BYTES = 48 * KIB
"""The room that a target may take besides the event: its instructions the first time, and its records."""


# Change.


def prepare_create(call: Call, params: TriggerCreate) -> TriggerCreated:
    """Return the creation of a valid trigger.

    Errors: EventBusForbidden; those of ``require_valid_target``; InputTooLarge.
    """
    _require_unrestricted(call)
    require_storable(params.filter, MAX_TRIGGER_FILTER_BYTES, "filter", "$.params.filter")
    terms = fields_of(TriggerTerms, params)
    terms["target"] = require_valid_target(call, params.target)
    authority, origins = authority_of(call.caller)
    return TriggerCreated(
        **terms,
        trigger_id=call.state.new_id(ids.TRIGGER),
        author="request",
        authority=authority,
        origins=origins,
    )


def _require_unrestricted(call: Call) -> None:
    """Require a caller that may read every event: a trigger shows them to its target."""
    if not call.caller.is_unrestricted:
        raise EventBusForbidden()


@mutation(rows.CREATE, prepare=prepare_create)
def create(tx: Transaction, call: Call, created: TriggerCreated) -> CreatedTrigger:
    """Create a trigger. Errors: TriggerLimit."""
    if tx.count(TRIGGERS) >= MAX_TRIGGERS:
        raise TriggerLimit(f"there are {MAX_TRIGGERS} triggers, the maximum; delete some")
    _append(tx, created, origin_of(call))
    warning = find_dead_pattern(created.source, created.filter, call.runtime.definitions)
    trigger = tx.need(TRIGGERS, created.trigger_id)
    return CreatedTrigger(**fields_of(Trigger, trigger), warnings=[warning] if warning else [])


def _append(tx: Transaction, event: Any, origin: Origin = BY_DAEMON) -> None:
    """Append an event of a trigger."""
    writer = StreamWriter(tx, BUS_STREAM, origin=origin)
    writer.append(event)
    writer.write()


def _change(tx: Transaction, call: Call, params: TriggerChange, status: TriggerStatus) -> Trigger:
    trigger = _find_changeable(tx, call, params.trigger_id)
    if trigger.status != status or (status == "active" and trigger.problem):
        _append(tx, TriggerChanged(trigger_id=trigger.trigger_id, status=status), origin_of(call))
    return tx.need(TRIGGERS, trigger.trigger_id)


@mutation(rows.PAUSE)
def pause(tx: Transaction, call: Call, params: TriggerChange) -> Trigger:
    """Pause a trigger; the events that it holds are given up. Errors: EventBusForbidden, TriggerNotFound."""
    return _change(tx, call, params, "paused")


@mutation(rows.RESUME)
def resume(tx: Transaction, call: Call, params: TriggerChange) -> Trigger:
    """Resume a trigger, and forget its last problem. Errors: EventBusForbidden, TriggerNotFound."""
    return _change(tx, call, params, "active")


@mutation(rows.DELETE)
def delete(tx: Transaction, call: Call, params: TriggerChange) -> DeletedTrigger:
    """Delete a trigger. Errors: EventBusForbidden, TriggerNotFound, TriggerReadOnly."""
    trigger = _find_changeable(tx, call, params.trigger_id)
    if trigger.author == "file":
        text = f"events/subscriptions.toml defines '{trigger.trigger_id}'; remove it there and reload"
        raise TriggerReadOnly(text, field="$.params.trigger_id")
    _append(tx, TriggerDeleted(trigger_id=trigger.trigger_id, why="request"), origin_of(call))
    return DeletedTrigger(trigger.trigger_id)


# Show.


def _may_read(store: Snapshot, call: Call, trigger: Trigger) -> bool:
    """Whether the caller may read the conversation that a trigger wakes."""
    target = trigger.target
    if call.caller.is_unrestricted or target.session_id is None:
        return call.caller.may_read(target.agent or "", target.sender)
    session = store.get(SESSIONS, target.session_id)
    return session is not None and call.caller.may_read(session.agent, session.sender)


def _find(store: Snapshot, call: Call, trigger_id: str) -> Trigger:
    """Return a trigger that the caller may read. Errors: TriggerNotFound."""
    trigger = store.get(TRIGGERS, trigger_id)
    if trigger is None or not _may_read(store, call, trigger):
        raise TriggerNotFound(f"there is no trigger '{trigger_id}'", field="$.params.trigger_id")
    return trigger


def _find_changeable(tx: Transaction, call: Call, trigger_id: str) -> Trigger:
    """Return a trigger that the caller may change. Errors: EventBusForbidden, TriggerNotFound."""
    _require_unrestricted(call)
    trigger = _find(tx, call, trigger_id)
    if trigger.authority == "operator" and authority_of(call.caller)[0] is None:
        text = "the trigger is an operator's; a token whose inputs are data changes only others"
        raise EventBusForbidden(text, field="$.params.trigger_id")
    return trigger


@query(rows.GET)
def get(call: Call, params: TriggerRef) -> Trigger:
    """Show a trigger. Errors: TriggerNotFound."""
    with call.state.read() as store:
        return _find(store, call, params.trigger_id)


@query(rows.LIST)
def list_(call: Call, params: TriggerListParams) -> TriggerList:
    """List triggers, by id. Errors: SessionNotFound."""
    tokens = PageTokens(call)
    after = tokens.id_of(params.after)
    with call.state.read() as store:
        found: Iterator[tuple[tuple[Any, ...], Trigger]]
        if params.session_id is not None:
            find_session(store, call, params.session_id)
            found = (
                ((trigger.trigger_id,), trigger)
                for trigger in triggers_of(store, params.session_id)
                if after is None or trigger.trigger_id > after
            )
        else:
            found = store.scan(TRIGGERS, after=None if after is None else (after,))
        page, following = page_of(
            found, params.limit, lambda trigger: _may_read(store, call, trigger), tokens.token_of
        )
    return TriggerList(page, following)


def triggers_of(store: Snapshot, session_id: str) -> list[Trigger]:
    """Return the triggers that the agent of a session made, by id."""
    found = [
        store.need(TRIGGERS, trigger_id)
        for _, trigger_id in store.scan(RECORDS_BY_SESSION, session_id, TRIGGER)
    ]
    return sorted(found, key=lambda trigger: trigger.trigger_id)


# Fire.


def read_event(store: Snapshot, cursor: int) -> EventPublished | None:
    """Return the event at a cursor of the bus; None if it is no longer in the journal."""
    entry = store.entry(BUS_STREAM, cursor)
    event = decode_event(entry[1]) if entry is not None else None
    return event if isinstance(event, EventPublished) else None


def has_room(tx: Transaction, event: EventPublished) -> bool:
    """Whether the transaction has room for one more target."""
    return tx.free_bytes > 3 * len(msgspec.json.encode(event)) + TARGET_BYTES


def fire(
    tx: Transaction,
    runtime: Runtime,
    trigger: Trigger,
    event: EventPublished,
    cursor: int,
    plan: WakePlan,
) -> FiringOutcome:
    """Let an event that matches reach a trigger: stop it, hold it, or wake the target; return which."""
    fired = TriggerFired(
        trigger_id=trigger.trigger_id,
        event_id=event.event_id,
        event_cursor=cursor,
        outcome="held",
        hops=event.hops,
    )
    if event.hops >= trigger.max_hops:
        note = f"the chain of events that ends with {event.event_id} has {event.hops} events before it"
        fired = replace(fired, outcome="stopped", note=f"{note}; the limit is {trigger.max_hops}")
    elif trigger.held is not None:
        fired = replace(fired, due_at_ms=trigger.held.due_at_ms, attempt=trigger.held.attempt)
    elif trigger.coalesce_s:
        fired = replace(fired, due_at_ms=tx.now_ms + trigger.coalesce_s * 1_000)
    else:
        return _wake(tx, runtime, trigger, fired, event, plan)
    _append(tx, fired)
    return fired.outcome


def _wake(
    tx: Transaction,
    runtime: Runtime,
    trigger: Trigger,
    fired: TriggerFired,
    event: EventPublished,
    plan: WakePlan,
    count: int = 1,
) -> FiringOutcome:
    """Wake the target of a trigger with an event, the newest of ``count``; hold it if that fails for now."""
    attempt = trigger.held.attempt + 1 if trigger.held is not None else 1
    data: dict[str, Any] = {"source": event.source, "event_id": event.event_id, "payload": event.payload}
    if count > 1:
        data["events"] = count
    woken = wake(
        tx,
        runtime,
        plan,
        origin="event",
        source=event.source,
        authority=trigger.authority,
        data=msgspec.json.encode(data).decode(),
        origins=join_origins(event.origins, trigger.origins),
        hops=event.hops + 1,
    )
    writer = StreamWriter(tx, BUS_STREAM)
    if isinstance(woken, Woken):
        fired = replace(
            fired, outcome="delivered", woken_session=woken.session_id, woken_run=woken.run_id, attempt=0
        )
    else:
        due_at_ms = rules.retry_at_ms(woken.reason, attempt, tx.now_ms)
        fired = replace(
            fired,
            outcome="refused" if due_at_ms is None else "held",
            due_at_ms=due_at_ms,
            attempt=attempt,
            reason=woken.reason,
            note=truncate(woken.message, MAX_TRIGGER_NOTE_BYTES),
        )
    writer.append(fired)
    if fired.outcome == "delivered" and trigger.once and trigger.author == "file":
        # Without a record, the next start would create it again.
        writer.append(TriggerChanged(trigger_id=trigger.trigger_id, status="paused"))
    elif fired.outcome == "delivered" and trigger.once:
        writer.append(TriggerDeleted(trigger_id=trigger.trigger_id, why="once"))
    if fired.reason == "session_already_ended" and trigger.author == "agent":
        writer.append(TriggerDeleted(trigger_id=trigger.trigger_id, why="session_ended"))
    writer.write()
    return fired.outcome


# The file.


def apply_rows(tx: Transaction, rows: Sequence[tuple[str, TriggerTerms | None]]) -> list[str]:
    """Store rows of the file by id; without terms, delete the trigger. Return the problems.

    A pause and the numbers of a trigger stay; so one that fires once, and is paused then, stays paused. The
    events that it holds are given up if they were not for the new source, filter or target.
    """
    problems = []
    for trigger_id, terms in rows:
        trigger = tx.get(TRIGGERS, trigger_id)
        if trigger is not None and trigger.author != "file":
            if terms is not None:
                problems.append(f"{trigger_id}: a trigger of another author has this id; choose another one")
        elif terms is None:
            if trigger is not None:
                _append(tx, TriggerDeleted(trigger_id=trigger_id, why="file"))
        elif trigger is None and tx.count(TRIGGERS) >= MAX_TRIGGERS:
            problems.append(f"{trigger_id}: there are {MAX_TRIGGERS} triggers, the maximum")
        elif trigger is None or fields_of(TriggerTerms, trigger) != fields_of(TriggerTerms, terms):
            created = TriggerCreated(
                **fields_of(TriggerTerms, terms), trigger_id=trigger_id, author="file", authority="operator"
            )
            if trigger is not None and any(
                getattr(trigger, name) != getattr(terms, name) for name in ("source", "filter", "target")
            ):
                give_up_held(tx, trigger_id, "the subscription was changed")
            _append(tx, created)
    return problems


def find_trigger_warnings(store: Snapshot) -> Iterator[str]:
    """Yield a sentence about each trigger whose last event was refused or stopped, with the remedy."""
    for (trigger_id,), _ in islice(store.scan(TRIGGERS_TROUBLED), MAX_WARNED):
        problem = store.need(TRIGGERS, trigger_id).problem
        yield f"the trigger '{trigger_id}' has a problem: {problem}; see trigger.get, and resume or delete it"
    more = store.count(TRIGGERS_TROUBLED) - MAX_WARNED
    if more > 0:
        yield f"{more} more triggers have a problem; see trigger.list"


# Held events.


def prepare_due(state: State, runtime: Runtime) -> tuple[Trigger, WakePlan] | int | None:
    """Return the trigger whose held events are due, else the time of the next one; None without any."""
    now_ms = state.now_ms()
    with state.read() as store:
        earliest = next((key for key, _ in store.scan(TRIGGERS_DUE)), None)
        if earliest is None:
            return None
        due_at_ms, trigger_id = next(key for key, _ in store.scan(TRIGGERS_DUE, reverse=True))
        trigger = store.need(TRIGGERS, trigger_id)
        # A time that is further away than any wait is from before the clock was set back: it is due now.
        if due_at_ms - now_ms <= max(trigger.coalesce_s * 1_000, rules.MAX_RETRY_MS):
            if earliest[0] > now_ms:
                return int(earliest[0])
            trigger = store.need(TRIGGERS, earliest[1])
    return trigger, prepare_wake(state, runtime, trigger.target)


def deliver_held(tx: Transaction, runtime: Runtime, trigger: Trigger, plan: WakePlan) -> None:
    """Deliver the events that a trigger holds, if it is unchanged since the plan was made."""
    if tx.get(TRIGGERS, trigger.trigger_id) != trigger or trigger.held is None:
        return
    held = trigger.held
    event = read_event(tx, held.event_cursor)
    if event is None:
        give_up_held(tx, trigger.trigger_id, "the event is no longer in the journal")
        return
    fired = TriggerFired(
        trigger_id=trigger.trigger_id,
        event_id=held.event_id,
        event_cursor=held.event_cursor,
        outcome="held",
        hops=event.hops,
    )
    _wake(tx, runtime, trigger, fired, event, plan, held.count)


def give_up_held(tx: Transaction, trigger_id: str, note: str) -> None:
    """Give up the events that a trigger holds."""
    held = tx.need(TRIGGERS, trigger_id).held
    if held is None:
        return
    fired = TriggerFired(
        trigger_id=trigger_id,
        event_id=held.event_id,
        event_cursor=held.event_cursor,
        outcome="refused",
        reason="given_up",
        note=note,
    )
    _append(tx, fired)


HANDLERS = (create, get, list_, pause, resume, delete)
