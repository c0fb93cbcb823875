"""Triggers: the record over its events, and the time of another attempt."""

from typing import Any

from kheishd.core.trigger import retry_at_ms
from kheishd.records.event import TRIGGER_RECORDS
from protocol.events.trigger import TriggerChanged, TriggerCreated, TriggerDeleted, TriggerFired
from protocol.journal.envelope import Envelope
from protocol.limits.event import MAX_EVENT_ATTEMPTS
from protocol.objects.trigger import HeldEvents
from protocol.objects.wake import WakeTarget
from tests.support.records import fold_record

CREATED = TriggerCreated(
    trigger_id="t",
    author="request",
    source="s*",
    target=WakeTarget(agent="a", sender="u", prompt="p"),
)


def fired(outcome: Any, cursor: int = 9, **fields: Any) -> TriggerFired:
    """Return the event of a firing by the event at a cursor."""
    return TriggerFired(trigger_id="t", event_id=f"e{cursor}", event_cursor=cursor, outcome=outcome, **fields)


def test_a_delivery_forgets_problems() -> None:
    """Refusals in a row and the last problem are forgotten with a delivery; the totals stay."""
    refused = fired("refused", note="no route")
    trigger = fold_record(TRIGGER_RECORDS, CREATED, refused, refused)
    assert (trigger.refused, trigger.failures, trigger.problem) == (2, 2, "no route")
    delivered = fired("delivered", woken_session="ses", woken_run="run")
    trigger = fold_record(TRIGGER_RECORDS, CREATED, refused, fired("stopped", note="loop"), delivered)
    assert (trigger.refused, trigger.failures, trigger.stopped, trigger.problem) == (1, 0, 1, "")
    assert (trigger.delivered, trigger.last_run_id, trigger.last_event_id) == (1, "run", "e9")


def test_held_events_are_counted_once() -> None:
    """Each event counts, another attempt with the same one does not, and a delivery releases all."""
    held = [
        fired("held", 9, due_at_ms=50),
        fired("held", 11, due_at_ms=50),
        fired("held", 11, due_at_ms=90, attempt=1, note="full"),
    ]
    trigger = fold_record(TRIGGER_RECORDS, CREATED, *held)
    assert trigger.held == HeldEvents(
        event_id="e11", event_cursor=11, first_cursor=9, count=2, due_at_ms=90, attempt=1
    )
    assert trigger.problem == "full"
    assert fold_record(TRIGGER_RECORDS, CREATED, *held, fired("delivered", 11)).held is None
    assert fold_record(TRIGGER_RECORDS, CREATED, *held, fired("refused", 11)).held is None


def test_a_pause_gives_up_held_events() -> None:
    """A resumed trigger gets only later events."""
    pause = TriggerChanged(trigger_id="t", status="paused")
    resume = TriggerChanged(trigger_id="t", status="active")
    trigger = fold_record(TRIGGER_RECORDS, CREATED, fired("held", due_at_ms=5), pause, resume)
    assert (trigger.status, trigger.held, trigger.active_since) == ("active", None, 4)
    trigger = fold_record(TRIGGER_RECORDS, CREATED, fired("refused", note="no"), resume)
    assert (trigger.problem, trigger.failures, trigger.active_since) == ("", 0, 1)


def test_a_changed_file_keeps_the_state() -> None:
    """New terms from its file change neither the numbers nor a pause."""
    pause = TriggerChanged(trigger_id="t", status="paused")
    changed = TriggerCreated(trigger_id="t", author="file", source="other", target=CREATED.target)
    trigger = fold_record(TRIGGER_RECORDS, CREATED, fired("delivered"), pause, changed)
    assert (trigger.source, trigger.status, trigger.delivered) == ("other", "paused", 1)
    assert (trigger.created_cursor, trigger.updated_cursor) == (1, 4)


def test_a_deletion_deletes() -> None:
    """A deleted trigger has no record."""
    trigger = fold_record(TRIGGER_RECORDS, CREATED)
    deleted = TriggerDeleted(trigger_id="t", why="once")
    assert TRIGGER_RECORDS.evolve(trigger, Envelope(cursor=9, at_ms=1), deleted) is None


def test_attempts() -> None:
    """A target that is busy is tried again, each time after twice as long, up to a limit."""
    times = [retry_at_ms("queue_full", attempt, 0) for attempt in range(1, MAX_EVENT_ATTEMPTS + 1)]
    assert times == [5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 320_000, None]
    assert retry_at_ms("session_not_found", 1, 0) is None
