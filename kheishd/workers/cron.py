"""The cron worker: fires the entries that are due, and records the ends of their runs.

Level-triggered: it reads the earliest due time, waits for it by one timer, and decides every entry that is
due by then, in one transaction each. So ten thousand entries cost no memory while they wait, and a daemon
that dies in between neither loses nor repeats a firing.
"""

from __future__ import annotations

import logging
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

import trio

from kheishd.kernel.wall_clock import KernelClock
from kheishd.objects.talk.wake import prepare_wake
from kheishd.objects.wake import cron
from kheishd.records.cron import FILE_AUTHOR
from kheishd.store.tables import CRONS, CRONS_BY_AUTHOR, CRONS_DUE, CRONS_LIVE, RUNS
from kheishd.workers.wake_files import FileFollower
from kheishd.workers.worker import Worker
from protocol.errors.store import StorageFull, StoreDamaged
from protocol.objects.cron import CronProperties

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kheishd.kernel.services import Services
    from kheishd.kernel.wall_clock import WallClock
    from kheishd.objects.talk.wake import WakePlan
    from kheishd.store.table import Table

V = TypeVar("V")
log = logging.getLogger("kheishd.cron")

MAX_AT_ONCE: Final = 64
"""Entries that are decided together: one commit has all of them."""

RETRY_SECONDS: Final = 1.0
"""How long to wait before a transaction is tried again while the disk is full."""

SET_BACK_MS: Final = 1_000
"""The clock was set back if it shows so much less than before; smaller steps are corrections."""

APPLIED_AT_ONCE: Final = 16
"""Rows of the file that one transaction stores: at most 10 KiB each, twice."""

REPLANNED_AT_ONCE: Final = 200
"""Entries whose due times are computed anew in one transaction, some 100 µs each."""


class CronWorker(Worker):
    """Fires cron entries. One that cannot be decided is logged and skipped until the daemon restarts."""

    name: ClassVar[str] = "cron"

    def __init__(
        self, services: Services, make_clock: Callable[[Callable[[], int]], WallClock] = KernelClock
    ) -> None:
        self._services = services
        self._state = services.state
        self._make_clock = make_clock
        self._skipped: set[str] = set()
        self._settling: set[tuple[str, str]] = set()
        self._draining = False
        self._newest_ms = 0
        self._file = FileFollower[CronProperties](
            services,
            "cron entry",
            cron.apply_rows,
            lambda store: [key[1] for key, _ in store.scan(CRONS_BY_AUTHOR, FILE_AUTHOR)],
            APPLIED_AT_ONCE,
        )

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fire entries until cancelled."""
        task_status.started()
        clock: WallClock | None = None
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    bell = self._state.bell(CRONS_DUE.name, CRONS_LIVE.name)
                    changed = self._services.runtimes.changed
                    await self._file.follow(self._services.runtimes.current().crons)
                    self._settle_ended(nursery)
                    at_ms = await self._work_off()
                    waits = [bell.wait, changed.wait]
                    if at_ms is not None or self._has_entries():
                        # Without entries, there is no timer either.
                        clock = clock or self._make_clock(self._state.now_ms)
                        waits.append(partial(clock.wait_until, at_ms))
                    async with trio.open_nursery() as waiting:
                        for wait in waits:
                            waiting.start_soon(_end_with, waiting, wait)
        finally:
            if clock is not None:
                clock.close()

    async def drain(self) -> None:
        """Fire nothing more: the next daemon does."""
        self._draining = True

    def _has_entries(self) -> bool:
        with self._state.read() as store:
            return bool(store.count(CRONS))

    async def _work_off(self) -> int | None:
        """Decide every entry that is due; return the time at which the next one is."""
        await self._notice_set_clock()
        while True:
            now_ms = self._state.now_ms()
            with self._state.read() as store:
                rows = ((key[0], key[1]) for key, _ in store.scan(CRONS_DUE) if key[1] not in self._skipped)
                earliest = list(islice(rows, MAX_AT_ONCE))
                due = [cron_id for at_ms, cron_id in earliest if at_ms <= now_ms]
                targets = [(cron_id, store.need(CRONS, cron_id).target) for cron_id in due]
            if not due or self._draining:
                return earliest[0][0] if earliest and not self._draining else None
            runtime = self._services.runtimes.current()
            async with trio.open_nursery() as nursery:
                for cron_id, target in targets:
                    plan = prepare_wake(self._state, runtime, target)
                    nursery.start_soon(self._fire, cron_id, plan)

    async def _fire(self, cron_id: str, plan: WakePlan) -> None:
        """Decide one entry."""
        try:
            runtime = self._services.runtimes.current()
            await self._state.update(partial(cron.fire_due, runtime=runtime, cron_id=cron_id, plan=plan))
        except StoreDamaged:
            raise
        except StorageFull:
            log.warning("the disk is full; the cron entry %s is tried again", cron_id)
            await trio.sleep(RETRY_SECONDS)
        except Exception:
            log.exception("the cron entry %s cannot be decided before a restart", cron_id)
            self._skipped.add(cron_id)

    async def _notice_set_clock(self) -> None:
        """Compute due times anew after the clock was set back, also while no daemon ran."""
        now_ms = self._state.now_ms()
        if self._newest_ms - SET_BACK_MS <= now_ms and self._newest_ms:
            self._newest_ms = max(self._newest_ms, now_ms)
            return
        self._newest_ms = now_ms
        after: tuple[str, ...] | None = None
        while True:
            with self._state.read() as store:
                page = list(islice(store.scan(CRONS, after=after), REPLANNED_AT_ONCE))
            ahead = [record.cron_id for _, record in page if record.planned_at_ms > now_ms + SET_BACK_MS]
            if ahead:
                log.warning(
                    "the clock was set back; the due times of %d cron entries are computed", len(ahead)
                )
                await self._state.update(partial(cron.replan, cron_ids=ahead, note="the clock was set back"))
            if len(page) < REPLANNED_AT_ONCE:
                return
            after = page[-1][0]
            await trio.lowlevel.checkpoint()

    def _settle_ended(self, nursery: trio.Nursery) -> None:
        """Start a task for each occurrence whose run has not been seen to end."""
        with self._state.read() as store:
            live = [key for key, _ in store.scan(CRONS_LIVE)]
        for run_id, cron_id in live:
            if (run_id, cron_id) not in self._settling:
                self._settling.add((run_id, cron_id))
                nursery.start_soon(self._settle, run_id, cron_id)

    def _read(self, table: Table[V], key: str) -> V | None:
        """Return a record. A task that waits must keep no snapshot, as there are only so many readers."""
        with self._state.read() as store:
            return store.get(table, key)

    async def _settle(self, run_id: str, cron_id: str) -> None:
        """Wait for the end of an occurrence's run, and record it."""
        run = self._read(RUNS, run_id)
        while run is not None and run.ended_at_ms is None:
            bell = self._state.bell(f"stream:{run.session_id}")
            run = self._read(RUNS, run_id)
            if run is not None and run.ended_at_ms is None:
                await bell.wait()
                run = self._read(RUNS, run_id)
        while not self._draining:
            try:
                record = self._read(CRONS, cron_id)
                runtime = self._services.runtimes.current()
                plan = prepare_wake(self._state, runtime, record.target) if record is not None else None
                settle = partial(cron.settle, runtime=runtime, cron_id=cron_id, run_id=run_id, plan=plan)
                await self._state.update(settle)
            except StorageFull:
                await trio.sleep(RETRY_SECONDS)
                continue
            except StoreDamaged:
                raise
            except Exception:
                log.exception("the end of %s cannot be recorded in the cron entry %s", run_id, cron_id)
                return
            self._settling.discard((run_id, cron_id))
            return


async def _end_with(nursery: trio.Nursery, wait: Callable[[], Awaitable[None]]) -> None:
    """Wait for one thing, and stop waiting for the others."""
    await wait()
    nursery.cancel_scope.cancel()
