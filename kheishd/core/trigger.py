"""Triggers: a record as the fold of its events, and the time of the next delivery. Pure.

A trigger that holds events delivers the newest of them, with the number of all, when they are due: at the end
of its window, or when its target is tried again.
"""

from typing import Any

from msgspec.structs import replace

from protocol.events.trigger import TriggerChanged, TriggerCreated, TriggerDeleted, TriggerFired
from protocol.journal.envelope import Envelope
from protocol.limits.event import EVENT_RETRY_MS, MAX_EVENT_ATTEMPTS
from protocol.objects.trigger import HeldEvents, Trigger, TriggerTerms
from protocol.structs import fields_of

TEMPORARY = frozenset(("queue_full", "session_busy", "route_not_ready", "budget_exhausted"))
"""The reasons of refusals for which a target is tried again."""


MAX_RETRY_MS = EVENT_RETRY_MS << (MAX_EVENT_ATTEMPTS - 2)
"""The longest time before another attempt."""


def retry_at_ms(reason: str, attempt: int, now_ms: int) -> int | None:
    """Return the time at which a target that refused an event is tried again; None if it is not."""
    if reason not in TEMPORARY or attempt >= MAX_EVENT_ATTEMPTS:
        return None
    return now_ms + (EVENT_RETRY_MS << (attempt - 1))


def evolve(trigger: Trigger | None, envelope: Envelope, event: Any) -> Trigger | None:
    """Return the trigger after one of its events; None once it is deleted.

    Errors: AssertionError for a first event that is not ``TriggerCreated``: the journal is damaged.
    """
    if isinstance(event, TriggerCreated):
        terms = fields_of(TriggerTerms, event)
        if trigger is not None:
            # Its file has changed.
            return replace(
                trigger,
                **terms,
                updated_cursor=envelope.cursor,
                updated_at_ms=envelope.at_ms,
                problem="",
                failures=0,
            )
        return Trigger(
            **terms,
            trigger_id=event.trigger_id,
            status="active",
            author=event.author,
            created_by=envelope.actor,
            created_at_ms=envelope.at_ms,
            updated_at_ms=envelope.at_ms,
            created_cursor=envelope.cursor,
            updated_cursor=envelope.cursor,
            active_since=envelope.cursor,
            owner_session=event.owner_session,
            authority=event.authority,
            origins=event.origins,
        )
    if isinstance(event, TriggerDeleted):
        return None
    assert trigger is not None, "the first event of a trigger is its creation"
    trigger = replace(trigger, updated_cursor=envelope.cursor, updated_at_ms=envelope.at_ms)
    if isinstance(event, TriggerChanged):
        # A pause gives up the events that are held.
        held = trigger.held if event.status == "active" else None
        since = envelope.cursor if event.status != trigger.status else trigger.active_since
        return replace(trigger, status=event.status, held=held, active_since=since, problem="", failures=0)
    assert isinstance(event, TriggerFired)
    return _evolve_firing(trigger, envelope, event)


def _evolve_firing(trigger: Trigger, envelope: Envelope, event: TriggerFired) -> Trigger:
    match event.outcome:
        case "held":
            assert event.due_at_ms is not None, "held events are due at a time"
            held = trigger.held or HeldEvents(
                event_id=event.event_id,
                event_cursor=event.event_cursor,
                first_cursor=event.event_cursor,
                count=0,
                due_at_ms=event.due_at_ms,
            )
            # A delivery that the target could not take adds no event.
            is_new = held.count == 0 or event.event_cursor > held.event_cursor
            held = replace(
                held,
                event_id=event.event_id,
                event_cursor=event.event_cursor,
                count=held.count + is_new,
                due_at_ms=event.due_at_ms,
                attempt=event.attempt,
            )
            return replace(trigger, held=held, problem=event.note or trigger.problem)
        case "stopped":
            return replace(trigger, stopped=trigger.stopped + 1, problem=event.note)
        case "refused":
            return replace(
                trigger,
                fired_at_ms=envelope.at_ms,
                last_event_id=event.event_id,
                held=None,
                refused=trigger.refused + 1,
                failures=trigger.failures + 1,
                problem=event.note or "refused",
            )
        case "delivered":
            return replace(
                trigger,
                fired_at_ms=envelope.at_ms,
                last_event_id=event.event_id,
                held=None,
                delivered=trigger.delivered + 1,
                failures=0,
                problem="",
                last_session_id=event.woken_session,
                last_run_id=event.woken_run,
            )
