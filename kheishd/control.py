"""What handlers may ask of the running daemon: reload, shut down, say how it is."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import trio
from msgspec import Struct

from kheishd.store.commit import GONE
from kheishd.store.tables import (
    APPROVALS_WAITING,
    CONVERSATIONS,
    INDOUBTS_OPEN,
    QUESTIONS_WAITING,
    RUNS,
    RUNS_READY,
    SESSIONS,
    TOKENS,
)
from protocol.limits.units import MIB
from protocol.objects.daemon import Counts, DaemonStatus, Disk

if TYPE_CHECKING:
    from kheishd.kernel.services import Services
    from kheishd.reloading import Coalesced

log = logging.getLogger(__name__)

# Below this a few hours of work may fill the disk: a text turn writes some 300 KiB, so 256 MiB are
# less than a thousand of them.
DISK_FREE_BYTES_LOW = 256 * MIB

# How long a start after a crash is worth a warning.
CRASH_REMEMBERED_S = 3600


# How many of the newest runs are looked through for one that was parked: a tenth of a millisecond.
PARKED_LOOK_RUNS = 32


class Serving(Protocol):
    """What the server says of itself."""

    @property
    def connections(self) -> int:
        """How many there are."""
        ...

    @property
    def subscriptions(self) -> int:
        """How many there are."""
        ...


class Vitals(Struct):
    """What start-up learns about this daemon, for ``daemon.status``."""

    version: str
    home: Path
    schema: int
    started_at_ms: int
    after_crash: bool = False
    listeners: list[str] = []
    server: Serving | None = None
    runs_active: Callable[[], int] = lambda: 0
    reload_problem: str | None = None


class Stopper:
    """The wish to stop: who wishes it, and how long runs in flight may take."""

    def __init__(self, drain_s: Callable[[], float]) -> None:
        self._default = drain_s
        self._wish = trio.Event()
        # What it is called when nobody asked: something failed.
        self.reason = "failure"
        self.scope = trio.CancelScope()

    def ask(self, reason: str, drain_s: float | None = None) -> None:
        """Stop in an orderly way; asked again, stop at once."""
        if self._wish.is_set():
            self.scope.deadline = trio.current_time()
            return
        self.reason = reason
        self.scope.deadline = trio.current_time() + (self._default() if drain_s is None else drain_s)
        self._wish.set()

    async def wait(self) -> None:
        """Until somebody wishes it."""
        await self._wish.wait()

    @property
    def asked(self) -> bool:
        """Whether somebody did."""
        return self._wish.is_set()


class DaemonControl:
    """``kernel.call.Control`` for the real daemon."""

    def __init__(
        self,
        services: Services,
        vitals: Vitals,
        stopper: Stopper,
        reloads: Coalesced[tuple[int, list[str]]],
        config_path: Callable[[], Path | None],
    ) -> None:
        self._vitals = vitals
        self._state = services.state
        self._runtimes = services.runtimes
        self._stopper = stopper
        self._reloads = reloads
        self._config_path = config_path
        self._started = time.monotonic()

    async def reload(self) -> tuple[int, list[str]]:
        """Build a new runtime: generation and warnings, routes not ready too. Errors: ConfigInvalid."""
        generation, warnings = await self._reloads.request()
        return generation, [*warnings, *self._not_ready()]

    def shutdown(self, drain_s: float | None) -> None:
        """Begin to stop."""
        self._stopper.ask("daemon.shutdown", drain_s)

    def draining(self) -> bool:
        """Whether the daemon is stopping."""
        return self._stopper.asked

    def config_path(self) -> str | None:
        """The configuration file read, if there is one."""
        path = self._config_path()
        return None if path is None else str(path)

    def status(self) -> DaemonStatus:
        """How the daemon is; costs the same whatever the store holds."""
        vitals, runtime = self._vitals, self._runtimes.current()
        uptime_s = time.monotonic() - self._started
        disk = self._disk()
        with self._state.read() as store:
            cursor = store.last_cursor
        return DaemonStatus(
            version=vitals.version,
            pid=os.getpid(),
            uptime_s=round(uptime_s, 3),
            started_at_ms=vitals.started_at_ms,
            schema=vitals.schema,
            generation=runtime.generation,
            home=str(vitals.home),
            listeners=vitals.listeners,
            counts=self._counts(),
            disk=disk,
            cursor=cursor,
            memory_bytes=memory_bytes(),
            warnings=list(self._warnings(disk, uptime_s)),
            draining=self._stopper.asked,
            default_agent=runtime.config.default_agent,
            default_route=runtime.config.default_route,
        )

    def _counts(self) -> Counts:
        server = self._vitals.server
        with self._state.read() as store:
            return Counts(
                sessions=store.count(SESSIONS),
                conversations=store.count(CONVERSATIONS),
                runs=store.count(RUNS),
                runs_active=self._vitals.runs_active(),
                runs_ready=store.count(RUNS_READY),
                tokens=store.count(TOKENS),
                connections=server.connections if server else 0,
                subscriptions=server.subscriptions if server else 0,
                approvals=store.count(APPROVALS_WAITING),
                questions=store.count(QUESTIONS_WAITING),
                indoubts=store.count(INDOUBTS_OPEN),
            )

    def _disk(self) -> Disk:
        path = self._state.store.directory
        with self._state.read() as store:
            used_bytes = store.used_bytes
        # Where the directory is gone, its place in the home's file system has to do.
        room = os.statvfs(path if path.exists() else self._vitals.home.anchor)
        return Disk(
            path=str(path),
            used_bytes=used_bytes,
            file_bytes=self._state.store.file_bytes,
            free_bytes=room.f_bavail * room.f_frsize,
            map_bytes=self._state.store.map_bytes,
        )

    def _warnings(self, disk: Disk, uptime_s: float) -> Iterator[str]:
        vitals, runtime = self._vitals, self._runtimes.current()
        if not self._state.store.in_place:
            yield GONE
        if disk.free_bytes < DISK_FREE_BYTES_LOW:
            yield (
                f"the disk of {disk.path} is nearly full ({disk.free_bytes // MIB} MiB free); "
                "make room, or everything that writes will be refused"
            )
        if vitals.reload_problem is not None:
            yield f"the last reload was refused and changed nothing: {vitals.reload_problem}"
        yield from runtime.warnings
        yield from self._not_ready()
        for run_id in self._parked():
            yield (
                f"the run {run_id} was parked: each time it was taken up, the daemon ended; "
                f"see 'kheishctl run get {run_id}'"
            )
        if vitals.after_crash and uptime_s < CRASH_REMEMBERED_S:
            yield "the daemon before this one ended without stopping; what it had begun was taken up again"

    def _not_ready(self) -> Iterator[str]:
        runtime = self._runtimes.current()
        for spec in runtime.routes.values():
            problem = runtime.models.problem(spec)
            if problem is not None:
                yield f"the route '{spec.route_id}' is not ready: {problem}"

    def _parked(self) -> list[str]:
        """Of the newest runs, those that were given up as they brought the daemon down."""
        with self._state.read() as store:
            newest = islice(store.scan(RUNS, reverse=True), PARKED_LOOK_RUNS)
            return [run.run_id for _, run in newest if run.error and run.error.reason == "parked"]


def memory_bytes() -> int:
    """The memory of this process that the kernel cannot take back; 0 where the kernel does not say.

    Resident pages of files are left out: of the store's, it keeps as many as there is room for.
    """
    try:
        with open("/proc/self/statm", "rb") as file:
            _, resident, shared, *_ = file.read().split()
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
