"""The daemon's own events: its start, its reloads and its stop."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from kheishd import __version__
from kheishd.store.epoch import read_restore_mark
from kheishd.store.tables import META
from protocol.errors.store import StorageFailed, StorageFull, StoreDamaged
from protocol.events.daemon import DaemonReloaded, DaemonStarted, DaemonStopped
from protocol.journal.envelope import DAEMON_STREAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.state import State
    from kheishd.store.environment import Transaction

log = logging.getLogger("kheishd.daemon")

CLEAN: Final = "clean"
"""The META row that an orderly stop writes and a start deletes."""


async def commit_start(state: State) -> bool:
    """Commit that the daemon started; return whether the previous daemon crashed.

    A restored store has no previous daemon: its backup was made while one ran.
    """
    with state.read() as store:
        mark = read_restore_mark(store)
        is_restored = mark is not None and mark.pending
        after_crash = store.last_cursor > 0 and store.get(META, CLEAN) is None and not is_restored
    schema = state.store.schema
    event = DaemonStarted(version=__version__, pid=os.getpid(), schema=schema, after_crash=after_crash)

    def start(tx: Transaction) -> None:
        tx.delete(META, CLEAN)
        tx.append(DAEMON_STREAM, event)

    await _commit(state, start)
    return after_crash


async def commit_reload(state: State, runtime: Runtime) -> None:
    """Commit that a runtime replaces the current one."""
    event = DaemonReloaded(generation=runtime.generation, warnings=list(runtime.warnings))
    await _commit(state, lambda tx: tx.append(DAEMON_STREAM, event))


async def commit_stop(state: State, reason: str) -> None:
    """Commit an orderly stop. If even that fails, the next start assumes a crash, which does no harm."""

    def stop(tx: Transaction) -> None:
        tx.append(DAEMON_STREAM, DaemonStopped(note=reason))
        tx.put(META, CLEAN, value=b"1")

    with suppress(StorageFailed):
        await _commit(state, stop)


async def _commit(state: State, change: Callable[[Transaction], object]) -> None:
    """Commit an event of the daemon; on a full disk or a damaged store, the daemon continues without it."""
    try:
        await state.update(change)
    except (StorageFull, StoreDamaged) as refusal:
        log.error("an event of the daemon could not be stored: %s", refusal)
