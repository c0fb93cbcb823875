"""The expiry worker, which lapses overdue approvals, questions and mail, and the retention of debug captures.

The expiry worker is level-triggered: it reads the list of deadlines, lapses the due objects, and sleeps until
the earliest other deadline or until a commit touches the list. Deadlines are wall-clock times, and that clock
can be set: so while there is a deadline the worker reads the clock at least every half minute. If it was set
back to before the begin of a wait for an event, that wait is over; other deadlines have more time then.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar, Final

import trio

from kheishd.objects.agents import mail
from kheishd.objects.people import approval, question
from kheishd.objects.wake import event
from kheishd.records.approval import APPROVAL
from kheishd.records.event import WAIT
from kheishd.records.mailbox import MAIL_KIND
from kheishd.records.question import QUESTION
from kheishd.store.tables import DEADLINES, EVENT_WAITS
from kheishd.workers.worker import Worker
from protocol.errors.store import StorageFull

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kheishd.kernel.services import Services
    from kheishd.store.environment import Transaction

log = logging.getLogger("kheishd.expiry")

MAX_SLEEP_SECONDS: Final = 30.0
"""How long to sleep at most while there is a deadline."""

RETRY_SECONDS: Final = 1.0
"""How long to wait before a lapse is committed again while the disk is full."""

CAPTURE_CHECK_SECONDS: Final = 3600.0
"""How often old captures are removed: they are kept for days, and a check takes a thread up to a second."""

LAPSES: Final[Mapping[str, Callable[[Transaction, str], None]]] = {
    APPROVAL: approval.expire,
    QUESTION: question.expire,
    MAIL_KIND: mail.expire,
    WAIT: event.expire_wait,
}
"""The transaction function that lapses an object, by its kind."""

_Deadline = tuple[int, str, str]


class ExpiryWorker(Worker):
    """Lapses overdue approvals, questions and messages, one in each transaction.

    A deadline that cannot be lapsed is logged and skipped until the daemon restarts.
    """

    name: ClassVar[str] = "expiry"

    def __init__(self, services: Services) -> None:
        self._state = services.state
        self._skipped: set[_Deadline] = set()
        self._newest_ms: float = float("inf")

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Lapse objects until cancelled."""
        task_status.started()
        while True:
            bell = self._state.bell(DEADLINES.name)
            sleep_s = await self._lapse_due()
            with trio.move_on_after(sleep_s):
                await bell.wait()

    async def _lapse_due(self) -> float:
        """Lapse every due object; return the number of seconds to sleep."""
        now_ms = self._state.now_ms()
        if now_ms < self._newest_ms:
            # At the start, or because the clock was set back.
            with self._state.read() as store:
                waits = [key for key, _ in store.scan(DEADLINES) if key[1] == WAIT]
                over = [key for key in waits if event.is_over(store.need(EVENT_WAITS, key[2]), now_ms)]
            for key in over:
                await self._lapse(key)
        self._newest_ms = now_ms
        while True:
            with self._state.read() as store:
                keys = (key for key, _ in store.scan(DEADLINES))
                deadline: _Deadline | None = next((key for key in keys if key not in self._skipped), None)
            if deadline is None:
                return float("inf")
            remaining_ms = deadline[0] - self._state.now_ms()
            if remaining_ms > 0:
                return min(remaining_ms / 1000, MAX_SLEEP_SECONDS)
            await self._lapse(deadline)

    async def _lapse(self, deadline: _Deadline) -> None:
        at_ms, kind, record_id = deadline
        try:
            lapse = LAPSES[kind]
            await self._state.update(lambda tx: lapse(tx, record_id))
        except StorageFull:
            log.warning("the disk is full; the expiry of %s %s is retried", kind, record_id)
            await trio.sleep(RETRY_SECONDS)
            return
        except Exception:
            log.exception("%s %s could not expire", kind, record_id)
            self._skipped.add(deadline)
            return
        with self._state.read() as store:
            remains = store.get(DEADLINES, *deadline) is not None
        if remains and self._state.now_ms() >= at_ms:
            log.error("%s %s does not expire; check the store", kind, record_id)
            self._skipped.add(deadline)


class RetentionWorker(Worker):
    """Removes debug captures that are too old or too large together, by the limits in force."""

    name: ClassVar[str] = "retention"

    def __init__(self, services: Services) -> None:
        self._services = services

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Remove captures at the start and then every hour, until cancelled."""
        task_status.started()
        while True:
            debug = self._services.runtimes.current().config.debug
            self._services.captures.collect(debug.max_age_s, debug.max_bytes)
            await trio.sleep(CAPTURE_CHECK_SECONDS)
