"""The rounds of the event loop in which mutations are prepared.

If a hundred clients send at once, all of their mutations are due in one round of the loop, and a client that
only reads would wait for the end of it. So a round prepares a few mutations, and the next ones the rest.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import trio
from trio.lowlevel import Abort, current_task, reschedule, wait_task_rescheduled

if TYPE_CHECKING:
    from trio.lowlevel import Task

MAX_ROUND_MUTATIONS: Final = 32
"""The mutations of one round: a millisecond or two, while a round itself takes some twenty microseconds."""


class MutationRounds:
    """The mutations of all connections, in portions; those that wait come in the order of their arrival."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._begun = 0
        self._waiting: deque[Task] = deque()

    def begin(self) -> bool:
        """Count a mutation of this round; return false, and count none, if it has enough of them."""
        if self._begun == MAX_ROUND_MUTATIONS:
            return False
        self._begun += 1
        if self._begun == MAX_ROUND_MUTATIONS:
            self._token.run_sync_soon(self._begin_next)
        return True

    async def wait(self) -> None:
        """Wait for a round with room for a mutation, which counts already when this returns."""
        task = current_task()
        self._waiting.append(task)

        def abort(_: Any) -> Abort:
            self._waiting.remove(task)
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)

    def _begin_next(self) -> None:
        """Begin the next round with the mutations that wait, as far as it has room."""
        self._begun = min(len(self._waiting), MAX_ROUND_MUTATIONS)
        for _ in range(self._begun):
            reschedule(self._waiting.popleft())
        if self._begun == MAX_ROUND_MUTATIONS:
            self._token.run_sync_soon(self._begin_next)
