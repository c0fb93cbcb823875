"""The worker of the event bus: delivers published events to their triggers, and events that triggers hold.

Level-triggered: it reads the open events and the triggers that are due. Events are delivered in the order of
their publication, each to all its triggers before the next one, so that every trigger gets them in order.
Deadlines are wall-clock times, and that clock can be set: while a trigger holds events the worker reads the
clock at least every half minute.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec
import trio

from kheishd.objects.wake import event, trigger
from kheishd.store.tables import BUS_FANOUT, TRIGGERS_DUE, TRIGGERS_OF_FILE
from kheishd.workers.wake_files import FileFollower
from kheishd.workers.worker import Worker
from protocol.errors.refusal import Refusal
from protocol.errors.store import StorageFull, StoreDamaged
from protocol.objects.trigger import TriggerTerms
from protocol.text import truncate

if TYPE_CHECKING:
    from kheishd.kernel.services import Services
    from kheishd.kernel.state import Bell

log = logging.getLogger("kheishd.bus")

MAX_SLEEP_SECONDS: Final = 30.0
"""How long to sleep at most while a trigger holds events."""

RETRY_SECONDS: Final = 1.0
"""How long to wait before a transaction is tried again while the disk is full."""

MAX_NOTE_BYTES: Final = 512

APPLIED_AT_ONCE: Final = 8
"""Rows of the file that one transaction stores: at most 10 KiB each, twice."""


class BusWorker(Worker):
    """Delivers events. One that cannot be delivered is given up, with the reason."""

    name: ClassVar[str] = "bus"

    def __init__(self, services: Services) -> None:
        self._state = services.state
        self._runtimes = services.runtimes
        self._is_draining = False
        self._file = FileFollower[TriggerTerms](
            services,
            "subscription",
            trigger.apply_rows,
            lambda store: [key[0] for key, _ in store.scan(TRIGGERS_OF_FILE)],
            APPLIED_AT_ONCE,
        )

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver events until cancelled."""
        task_status.started()
        while not self._is_draining:
            bell = self._state.bell(BUS_FANOUT.name, TRIGGERS_DUE.name)
            changed = self._runtimes.changed
            await self._file.follow(self._runtimes.current().subscriptions)
            has_delivered = await self._deliver()
            sleep_s = await self._deliver_held()
            if not has_delivered and sleep_s > 0:
                with trio.move_on_after(sleep_s):
                    async with trio.open_nursery() as nursery:
                        for event_ in (bell, changed):
                            nursery.start_soon(_end_with, nursery, event_)

    async def drain(self) -> None:
        """Take no further step: the next daemon does."""
        self._is_draining = True

    async def _deliver(self) -> bool:
        """Take the next step of the oldest open event; return whether there was one."""
        runtime = self._runtimes.current()
        step = event.prepare_step(self._state, runtime)
        if step is None:
            return False
        try:
            await self._state.update(partial(event.deliver_step, runtime=runtime, step=step))
        except StorageFull:
            log.warning("the disk is full; an event is delivered later")
            await trio.sleep(RETRY_SECONDS)
        except StoreDamaged:
            raise
        except (AssertionError, msgspec.DecodeError, Refusal) as error:
            event_id = step.publication.event_id
            log.exception("the event %s cannot be delivered; it is given up", event_id)
            note = truncate(f"it could not be delivered: {error}", MAX_NOTE_BYTES)
            await self._state.update(partial(event.withdraw, event_id=event_id, note=note))
        return True

    async def _deliver_held(self) -> float:
        """Deliver the events of the trigger that is due, if any; return the number of seconds to sleep."""
        runtime = self._runtimes.current()
        due = trigger.prepare_due(self._state, runtime)
        if due is None:
            return float("inf")
        if isinstance(due, int):
            return min(max(due - self._state.now_ms(), 1) / 1000, MAX_SLEEP_SECONDS)
        record, plan = due
        try:
            await self._state.update(
                partial(trigger.deliver_held, runtime=runtime, trigger=record, plan=plan)
            )
        except StorageFull:
            log.warning(
                "the disk is full; the events of the trigger %s are delivered later", record.trigger_id
            )
            return RETRY_SECONDS
        except StoreDamaged:
            raise
        except (AssertionError, msgspec.DecodeError, Refusal) as error:
            log.exception("the events of the trigger %s are given up", record.trigger_id)
            note = truncate(f"they could not be delivered: {error}", MAX_NOTE_BYTES)
            await self._state.update(partial(trigger.give_up_held, trigger_id=record.trigger_id, note=note))
        return 0.0


async def _end_with(nursery: trio.Nursery, event_: Bell | trio.Event) -> None:
    """End a nursery once an event has happened."""
    await event_.wait()
    nursery.cancel_scope.cancel()
