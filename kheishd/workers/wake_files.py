"""Follow the files of cron entries and of triggers: store their rows, delete those that are gone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import trio
from msgspec import Struct

from protocol.errors.store import StorageFull

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kheishd.core.wake_file import WakeFile
    from kheishd.kernel.services import Services
    from kheishd.store.environment import Snapshot, Transaction

P = TypeVar("P", bound=Struct)
log = logging.getLogger("kheishd.files")

RETRY_SECONDS: Final = 1.0
"""How long to wait before a transaction is tried again while the disk is full."""


class FileFollower(Generic[P]):
    """The follower of one file.

    ``apply`` stores rows by id, deletes those without properties, and returns the problems; ``list_stored``
    lists the ids of the objects that the file has declared. ``max_rows`` are stored in one transaction.
    """

    def __init__(
        self,
        services: Services,
        noun: str,
        apply: Callable[[Transaction, Sequence[tuple[str, P | None]]], list[str]],
        list_stored: Callable[[Snapshot], list[str]],
        max_rows: int,
    ) -> None:
        self._state = services.state
        self._noun = noun
        self._apply = apply
        self._list_stored = list_stored
        self._max_rows = max_rows
        self._followed: tuple[WakeFile[P] | None] | None = None

    async def follow(self, file: WakeFile[P] | None) -> None:
        """Store the rows of the current file, once; one that cannot be read changes nothing."""
        if self._followed is not None and self._followed[0] is file:
            return
        self._followed = (file,)
        if file is not None and not file.is_readable:
            return
        rows: dict[str, P | None] = dict(file.rows) if file is not None else {}
        invalid = file.invalid if file is not None else ()
        with self._state.read() as store:
            stored = self._list_stored(store)
        rows |= dict.fromkeys(row_id for row_id in stored if row_id not in rows and row_id not in invalid)
        listed = list(rows.items())
        for first in range(0, len(listed), self._max_rows):
            for problem in await self._store(listed[first : first + self._max_rows]):
                log.warning("the %s of the file is skipped: %s", self._noun, problem)

    async def _store(self, part: Sequence[tuple[str, P | None]]) -> list[str]:
        """Store some rows in one transaction; on a full disk, try it again."""
        while True:
            try:
                return await self._state.update(lambda tx: self._apply(tx, part))
            except StorageFull:
                await trio.sleep(RETRY_SECONDS)
