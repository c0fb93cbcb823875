"""The interface of all workers: tasks that run from the daemon's start to its stop."""

from __future__ import annotations

from typing import ClassVar, Protocol

import trio


class Worker(Protocol):
    """A background task of the daemon. ``name`` names its trio task and is unique among the workers."""

    name: ClassVar[str]

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled. Call ``task_status.started()`` once the next worker may start."""
        ...

    async def drain(self) -> None:
        """Take up nothing new, and return when the work in flight has finished.

        A worker whose work may be cut short at any point keeps this default, which returns at once.
        """
        return

    @property
    def max_stop_s(self) -> float:
        """The time that ``serve`` may take to return once it is cancelled; 0.0 where it returns at once."""
        return 0.0
