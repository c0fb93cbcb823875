"""Saving what a run did: on a full disk it is kept in memory and tried again until there is room.

What has happened cannot be taken back, so nothing but an orderly stop of the daemon ends the trying; and
as nobody goes on before it is saved, nothing new is begun meanwhile.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from protocol.errors.store import StorageFull

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kheishd.kernel.live import Live
    from kheishd.kernel.state import State
    from kheishd.store.environment import Transaction

log = logging.getLogger("kheishd.runs")

T = TypeVar("T")

SAVE_AGAIN_SECONDS = 1.0
"""How long to wait before an outcome is saved again while the disk is full."""


class DurableCommit:
    """Saves for one run. Once it is not ``patient``, a full disk is told at once."""

    def __init__(self, state: State, live: Live, run_id: str) -> None:
        self.patient = True
        self._state = state
        self._live = live
        self._run_id = run_id

    async def update(self, fn: Callable[[Transaction], T]) -> T:
        """Commit. Errors: as ``State.update``; StorageFull only where there is no patience."""
        return await self._saved(partial(self._state.update, fn))

    async def put_blob(self, content: bytes) -> tuple[str, int]:
        """Keep a large value without the secrets in it; its name and size. Errors: as ``update``."""
        kept = self._live.scrubber.scrub_bytes(content)
        return await self._saved(partial(self._state.put_blob, kept)), len(kept)

    async def _saved(self, save: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                with trio.CancelScope(shield=True):
                    return await save()
            except StorageFull:
                if not self.patient:
                    raise
                log.warning("the disk is full; a run waits to be saved", extra={"run_id": self._run_id})
                await trio.sleep(SAVE_AGAIN_SECONDS)
