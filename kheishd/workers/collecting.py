"""Removing what was captured of model calls and is not to be kept: at the start, and every hour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from kheishd.kernel.captures import Captures
    from kheishd.kernel.runtime import Runtimes

# What is kept is kept for days, and an hour's looking takes at most a second of a thread.
COLLECT_SECONDS = 3600.0


class Collector:
    """Has captures collected, by what is configured then."""

    def __init__(self, captures: Captures, runtimes: Runtimes) -> None:
        self._captures = captures
        self._runtimes = runtimes

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Collect until cancelled."""
        task_status.started()
        while True:
            debug = self._runtimes.current().config.debug
            self._captures.collect(debug.max_age_s, debug.max_bytes)
            await trio.sleep(COLLECT_SECONDS)
