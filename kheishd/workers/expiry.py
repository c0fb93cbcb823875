"""The expiry worker: what nobody answered in its time is asked for no longer.

Level-triggered: it looks at the list of deadlines, lapses what is due, and sleeps until the earliest of the
others or until a commit touches the list. Deadlines are times of the wall clock, and that clock may be set:
so it never sleeps longer than half a minute while there is a deadline, and asks the clock anew each time.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from kheishd.objects.people import approval, question
from kheishd.records.approval import APPROVAL
from kheishd.records.question import QUESTION
from kheishd.store.tables import DEADLINES
from protocol.errors.store import StorageFull

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kheishd.kernel.state import State
    from kheishd.store.environment import Transaction

log = logging.getLogger("kheishd.expiry")

LOOK_SECONDS: Final = 30.0
"""How long to sleep at most while something is to expire."""

AGAIN_SECONDS: Final = 1.0
"""How long to wait before a lapse is written again while the disk is full."""

LAPSES: Final[Mapping[str, Callable[[Transaction, str], None]]] = {
    APPROVAL: approval.lapse,
    QUESTION: question.lapse,
}
"""What is done with an object of each kind once its time is over."""

_Deadline = tuple[int, str, str]


class ExpiryWorker:
    """Lapses what is due, one object a transaction."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._given_up: set[_Deadline] = set()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Lapse what is due until cancelled."""
        task_status.started()
        while True:
            bell = self._state.bell(DEADLINES.name)
            seconds = await self._lapse_due()
            with trio.move_on_after(seconds):
                await bell.wait()

    async def _lapse_due(self) -> float:
        """Lapse everything that is due; how long to sleep then, in seconds."""
        while (deadline := self._earliest()) is not None:
            left_ms = deadline[0] - self._state.now_ms()
            if left_ms > 0:
                return min(left_ms / 1000, LOOK_SECONDS)
            await self._lapse(deadline)
        return float("inf")

    def _earliest(self) -> _Deadline | None:
        with self._state.read() as store:
            for (at_ms, kind, record_id), _ in store.scan(DEADLINES):
                if (at_ms, kind, record_id) not in self._given_up:
                    return at_ms, kind, record_id
        return None

    async def _lapse(self, deadline: _Deadline) -> None:
        """Errors: none; what cannot be lapsed is logged and left until the daemon starts again."""
        at_ms, kind, record_id = deadline
        try:
            lapse = LAPSES[kind]
            await self._state.update(lambda tx: lapse(tx, record_id))
        except StorageFull:
            log.warning("the disk is full; %s %s waits to expire", kind, record_id)
            await trio.sleep(AGAIN_SECONDS)
            return
        except Exception:
            log.exception("%s %s could not expire", kind, record_id)
            self._given_up.add(deadline)
            return
        with self._state.read() as store:
            still_there = store.get(DEADLINES, *deadline) is not None
        if still_there and self._state.now_ms() >= at_ms:
            log.error("%s %s does not expire; see 'kheishctl daemon doctor'", kind, record_id)
            self._given_up.add(deadline)
