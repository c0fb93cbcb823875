"""Events on the bus: publish and follow them, and deliver them to their triggers.

A publication that has listeners is *open*: a row of BUS_FANOUT. The worker of the bus delivers the open ones
in their order, in steps of one transaction each (``deliver_step``). A step wakes some targets and states the
position that it reached, so a daemon that dies in between neither loses nor repeats a delivery.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from msgspec import Raw, Struct

from kheishd.core.event import matches, passes, require_publishable
from kheishd.core.run.commands import CallReturn, EndWait, ReturnResult
from kheishd.core.trust import frame_text, join_origins
from kheishd.kernel.call import Call, control, mutation, origin_of, query
from kheishd.objects.node.journal import Selection
from kheishd.objects.pages import cursor_after
from kheishd.objects.storable import require_storable
from kheishd.objects.talk.wake import prepare_wake
from kheishd.objects.wake import trigger as triggers
from kheishd.records.event import find_listeners
from kheishd.records.writer import SessionWriter, StreamWriter
from kheishd.records.writer import publish as publish_event
from kheishd.store.tables import BUS_FANOUT, EVENT_WAITS, PUBLICATIONS, RUNS, SESSIONS, TRIGGERS
from protocol import ids
from protocol.errors.event import EventBusForbidden, EventBusFull, EventNotFound
from protocol.events.event import EventDelivered, EventPublished
from protocol.journal.envelope import BUS_STREAM
from protocol.journal.line import decode_envelope, decode_event
from protocol.limits.event import MAX_EVENT_PAYLOAD_BYTES, MAX_FANOUT_TARGETS, MAX_OPEN_EVENTS
from protocol.limits.page import MAX_PAGE_BYTES, MAX_PAGE_EXAMINED_ROWS
from protocol.objects import event as rows
from protocol.objects.event import (
    EventList,
    EventListParams,
    EventPublish,
    EventRef,
    EventSubscribe,
    Publication,
)
from protocol.objects.journal import JournalUnsubscribe, Subscribed, Unsubscribed
from protocol.structs import Value

if TYPE_CHECKING:
    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.state import State
    from kheishd.objects.talk.wake import WakePlan
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.event import EventWait
    from protocol.objects.trigger import FiringOutcome, Trigger

MAX_EXAMINED_LISTENERS: Final = 500
"""The listeners that one step looks at: each costs a read of some microseconds."""


# Publish.


class _Plan(Struct, frozen=True):
    """A validated event, and the id that it will have."""

    event: EventPublished


def prepare_publish(call: Call, params: EventPublish) -> _Plan:
    """Validate an event. Errors: EventSourceReserved, InputTooLarge, InvalidParams."""
    caller = call.caller
    require_publishable(params.source, None if caller.is_unrestricted else caller.token_id or "")
    require_storable(params.payload, MAX_EVENT_PAYLOAD_BYTES, "payload", "$.params.payload")
    event = EventPublished(
        event_id=call.state.new_id(ids.EVENT),
        source=params.source,
        publisher=caller.principal,
        payload=params.payload,
        origins=[caller.origin] if caller.origin is not None else [],
    )
    return _Plan(event)


@mutation(rows.PUBLISH, prepare=prepare_publish)
def publish(tx: Transaction, call: Call, plan: _Plan) -> Publication:
    """Publish an event. Errors: EventBusFull."""
    require_room(tx)
    return publish_event(tx, plan.event, origin_of(call))


def require_room(tx: Transaction) -> None:
    """Require that the bus takes one more event. Errors: EventBusFull."""
    if tx.count(BUS_FANOUT) >= MAX_OPEN_EVENTS:
        raise EventBusFull(f"{MAX_OPEN_EVENTS} events are not delivered yet; publish again later")


# Show and follow.


@query(rows.GET)
def get(call: Call, params: EventRef) -> Publication:
    """Show an event and its deliveries. Errors: EventBusForbidden, EventNotFound."""
    if not call.caller.is_unrestricted:
        raise EventBusForbidden()
    with call.state.read() as store:
        publication = store.get(PUBLICATIONS, params.event_id)
    if publication is None:
        raise EventNotFound(f"there is no event '{params.event_id}'", field="$.params.event_id")
    return publication


@query(rows.LIST)
def list_(call: Call, params: EventListParams) -> EventList:
    """List events, newest first; a page ends early where few of many events match.

    Errors: EventBusForbidden.
    """
    events: list[Raw] = []
    size = 0
    after = cursor_after(params.after)
    with call.state.read() as store:
        selection = Selection(store, call.caller, params)
        if after == 0:
            return EventList([], None)
        scrub = call.state.store.scrub or bytes
        lines = selection.examine(store, after or 0, newest=True)
        for examined, (cursor, line, length) in enumerate(lines, 1):
            size += length
            if line is not None:
                events.append(Raw(scrub(line)))
            if len(events) >= params.limit or size >= MAX_PAGE_BYTES or examined >= MAX_PAGE_EXAMINED_ROWS:
                return EventList(events, str(cursor))
    return EventList(events, None)


@control(rows.SUBSCRIBE)
def subscribe(call: Call, params: EventSubscribe) -> Subscribed:
    """Follow events on the caller's connection. Errors: EventBusForbidden, SubscriptionExists, Overloaded."""
    return call.connection.subscribe(
        params, params.after, epoch=params.epoch, deltas=False, subscription=params.subscription
    )


@control(rows.UNSUBSCRIBE)
def unsubscribe(call: Call, params: JournalUnsubscribe) -> Unsubscribed:
    """End a subscription. Errors: SubscriptionNotFound."""
    call.connection.unsubscribe(params.subscription)
    return Unsubscribed(params.subscription)


# Deliver.


class Step(Value, frozen=True):
    """The next step of an open event: its listeners, and the ids for the targets that it may wake."""

    publication: Publication
    listeners: list[tuple[str, str, str]]
    plans: dict[str, WakePlan]
    is_last: bool


def prepare_step(state: State, runtime: Runtime) -> Step | None:
    """Return the next step of the oldest open event; None if there is none. It runs on the event loop."""
    with state.read() as store:
        event_id = next((event_id for _, event_id in store.scan(BUS_FANOUT)), None)
        if event_id is None:
            return None
        publication = store.need(PUBLICATIONS, event_id)
        found = find_listeners(store, publication.source, publication.position)
        listeners = list(islice(found, MAX_EXAMINED_LISTENERS + 1))
        concerned: list[Trigger] = []
        for index, key in enumerate(listeners):
            trigger = store.get(TRIGGERS, key[2])
            if trigger is not None and trigger.active_since < publication.created_cursor:
                concerned.append(trigger)
            if len(concerned) == MAX_FANOUT_TARGETS:
                del listeners[index + 1 :]
                break
        else:
            is_last = len(listeners) <= MAX_EXAMINED_LISTENERS
            del listeners[MAX_EXAMINED_LISTENERS:]
            plans = {
                trigger.trigger_id: prepare_wake(state, runtime, trigger.target) for trigger in concerned
            }
            return Step(publication, listeners, plans, is_last)
    plans = {trigger.trigger_id: prepare_wake(state, runtime, trigger.target) for trigger in concerned}
    return Step(publication, listeners, plans, is_last=False)


def deliver_step(tx: Transaction, runtime: Runtime, step: Step) -> None:
    """Deliver an event to the listeners of a step, as far as the transaction has room."""
    publication = tx.need(PUBLICATIONS, step.publication.event_id)
    if publication != step.publication:
        return
    event = triggers.read_event(tx, publication.created_cursor)
    outcomes: list[FiringOutcome] = []
    position, is_done = publication.position, step.is_last
    for key in step.listeners:
        if event is not None and (wait := tx.get(EVENT_WAITS, key[2])) is not None:
            if outcomes and not triggers.has_room(tx, event):
                is_done = False
                break
            if wait.is_pending and wait.after < publication.created_cursor:
                cursor = publication.created_cursor
                end_wait(tx, wait, "delivered", make_result(event, cursor), event, cursor)
                outcomes.append("delivered")
            position = list(key)
            continue
        plan, trigger = step.plans.get(key[2]), tx.get(TRIGGERS, key[2])
        if (
            event is not None
            and plan is not None
            and trigger is not None
            and trigger.status == "active"
            and trigger.active_since < publication.created_cursor
            and trigger.target == plan.target
            and passes(trigger.filter, event.payload)
        ):
            if outcomes and not triggers.has_room(tx, event):
                is_done = False
                break
            outcomes.append(triggers.fire(tx, runtime, trigger, event, publication.created_cursor, plan))
        position = list(key)
    delivered = EventDelivered(
        event_id=publication.event_id,
        position=[] if is_done else position,
        done=is_done,
        delivered=outcomes.count("delivered"),
        held=outcomes.count("held"),
        refused=outcomes.count("refused"),
        stopped=outcomes.count("stopped"),
    )
    writer = StreamWriter(tx, BUS_STREAM)
    writer.append(delivered)
    writer.write()


def make_result(event: EventPublished, cursor: int) -> str:
    """Return an event as the result of the call that waited for it: as data, with its cursor."""
    data = msgspec.json.encode({"source": event.source, "event_id": event.event_id, "payload": event.payload})
    text = frame_text(data.decode(), "event", event.source)
    return f"This event is at cursor {cursor}. To miss no later one, wait again with after={cursor}.\n{text}"


def end_wait(
    tx: Transaction,
    wait: EventWait,
    how: Literal["delivered", "expired"],
    text: str,
    event: EventPublished | None = None,
    cursor: int | None = None,
) -> None:
    """End the wait of a call: its result is the text, and its run resumes."""
    run = tx.need(RUNS, wait.run_id)
    writer = SessionWriter(tx, run.session_id, session=tx.need(SESSIONS, run.session_id), run=run)
    origins = join_origins(["event"], event.origins) if event is not None else []
    writer.carry_out(
        EndWait(
            ReturnResult(wait.call_id, CallReturn("returned", text, origins=origins)),
            how,
            event.event_id if event is not None else None,
            cursor,
            event.hops if event is not None else 0,
            wait.source if event is not None else "",
        )
    )
    writer.write()


def is_over(wait: EventWait, now_ms: int) -> bool:
    """Whether the time of a wait is over, or not to be told: the clock was set back to before its begin."""
    return now_ms >= wait.expires_at_ms or now_ms < wait.created_at_ms - SET_BACK_MS


SET_BACK_MS: Final = 1_000
"""The clock was set back if it shows so much less than before; smaller steps are corrections."""


def expire_wait(tx: Transaction, wait_id: str) -> None:
    """End a wait whose time is over. Leave others alone."""
    wait = tx.get(EVENT_WAITS, wait_id)
    if wait is None or not wait.is_pending or not is_over(wait, tx.now_ms):
        return
    text = (
        f"No event of '{wait.source}' came in time. To miss no later one, wait again with after={wait.after}."
    )
    end_wait(tx, wait, "expired", text)


def find_event(store: Snapshot, pattern: str, after: int, limit: int) -> tuple[EventPublished | None, int]:
    """Return the first event after a cursor that matches, if any, and the last cursor that was examined.

    At most ``limit`` entries of the bus are examined.
    """
    for _, line in islice(store.entries(BUS_STREAM, after), limit):
        event, after = decode_event(line), decode_envelope(line).cursor
        if isinstance(event, EventPublished) and matches(pattern, event.source):
            return event, after
    return None, after


def withdraw(tx: Transaction, event_id: str, note: str) -> None:
    """Give up an open event, without any further delivery."""
    writer = StreamWriter(tx, BUS_STREAM)
    writer.append(EventDelivered(event_id=event_id, done=True, note=note))
    writer.write()


HANDLERS = (publish, get, list_, subscribe, unsubscribe)
