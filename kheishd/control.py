"""The daemon as handlers see it: its status, reloads and stopping."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import trio
from msgspec import Struct

from kheishd.config.sections.workspace import WorkspaceSection
from kheishd.kernel.meter import BootClock
from kheishd.kernel.route import keys_of
from kheishd.objects.agents.agent import find_agent_warnings
from kheishd.objects.node.health import (
    find_failed_hooks,
    find_failed_servers,
    find_meter_warnings,
    find_stale_runs,
    find_store_warnings,
    find_undelivered_mail,
    find_waits,
    format_warning,
    split_warning,
    warn,
)
from kheishd.objects.node.names import MAX_NAME_WARNINGS, find_unknown_names
from kheishd.objects.people.audience import find_unanswerable
from kheishd.objects.talk.workspace import find_problem
from kheishd.objects.wake.cron import find_cron_warnings
from kheishd.objects.wake.trigger import find_trigger_warnings
from kheishd.store.epoch import OpenWork, RestoreMark
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
from protocol.errors.store import StoreDamaged
from protocol.objects.daemon import (
    Counts,
    DaemonHealth,
    DaemonStatus,
    Disk,
    HealthWarning,
    RestoreStatus,
    SandboxStatus,
)

if TYPE_CHECKING:
    from kheishd.kernel.services import Services
    from kheishd.signing import SigningKey
    from kheishd.store.environment import Snapshot
    from protocol.export import ExportEnd

EXPORT_KEY = "export.key"
"""The file in the home with the key that signs exports."""

# How long the status reports a crash of the previous daemon.
CRASH_WARNING_SECONDS = 3600

# The number of newest runs searched for parked ones, which takes a tenth of a millisecond.
MAX_PARKED_SEARCH_RUNS = 32


class ServerCounts(Protocol):
    """The server's counts."""

    @property
    def connections(self) -> int:
        """The number of open connections."""
        ...

    @property
    def subscriptions(self) -> int:
        """The number of open subscriptions."""
        ...


class Reloads(Protocol):
    """The daemon's reloads."""

    @property
    def problem(self) -> str | None:
        """The problem of the last reload; None if it succeeded."""
        ...

    async def request(self) -> tuple[int, list[str]]:
        """Build a new runtime; return its generation and warnings. Errors: ConfigInvalid."""
        ...


class Vitals(Struct):
    """The facts of this daemon that ``daemon.status`` reports; starting fills them in."""

    version: str
    home: Path
    schema: int = 0
    started_at_ms: int = 0
    after_crash: bool = False
    starting: bool = True
    restored: RestoreMark | None = None
    listeners: list[str] = []
    collector: str | None = None
    server: ServerCounts | None = None
    active_runs: Callable[[], int] = lambda: 0
    sandbox: Callable[[WorkspaceSection], SandboxStatus | None] = lambda workspace: None


class Stopper:
    """The request to stop, its reason, and the deadline of active runs.

    ``default_drain_s`` returns the time that active runs may take unless the request says otherwise.
    """

    def __init__(self, default_drain_s: Callable[[], float]) -> None:
        self._default_drain_s = default_drain_s
        self._requested = trio.Event()
        # The reason if the daemon ends without a request.
        self.reason = "failure"
        self.scope = trio.CancelScope()

    def request(self, reason: str, drain_s: float | None = None) -> None:
        """Stop in order; a second request ends the waiting for active runs."""
        if self._requested.is_set():
            self.scope.deadline = trio.current_time()
            return
        self.reason = reason
        seconds = self._default_drain_s() if drain_s is None else drain_s
        self.scope.deadline = trio.current_time() + seconds
        self._requested.set()

    async def wait(self) -> None:
        """Wait for the request."""
        await self._requested.wait()

    @property
    def requested(self) -> bool:
        """Whether stopping has been requested."""
        return self._requested.is_set()


class DaemonControl:
    """The ``kernel.call.Control`` of the real daemon."""

    def __init__(
        self,
        services: Services,
        vitals: Vitals,
        stopper: Stopper,
        reloads: Reloads,
        config_path: Callable[[], Path | None],
    ) -> None:
        self._vitals = vitals
        self._state = services.state
        self._secrets = services.secrets
        self._mcp = services.mcp
        self._clock = BootClock()
        self._runtimes = services.runtimes
        self._stopper = stopper
        self._reloads = reloads
        self._config_path = config_path
        self._started = time.monotonic()

    async def reload(self) -> tuple[int, list[str]]:
        """Build a new runtime; return its generation and all warnings. Errors: ConfigInvalid."""
        generation, warnings = await self._reloads.request()
        return generation, [*warnings, *self._find_missing_workspaces(), *self._find_unready_routes()]

    def sign_export(self, end: ExportEnd) -> ExportEnd:
        """Sign the end of an export by the key of the home. Errors: ExportKeyUnusable."""
        return self._open_key().sign(end)

    def export_key(self) -> str:
        """Return the public key of the home. Errors: ExportKeyUnusable."""
        return self._open_key().public()

    def _open_key(self) -> SigningKey:
        from kheishd.signing import SigningKey

        return SigningKey(self._vitals.home / EXPORT_KEY)

    def shutdown(self, drain_s: float | None) -> None:
        """Request a stop."""
        self._stopper.request("daemon.shutdown", drain_s)

    def draining(self) -> bool:
        """Whether the daemon is stopping."""
        return self._stopper.requested

    def config_path(self) -> str | None:
        """Return the path of the configuration file; None if there is none."""
        path = self._config_path()
        return None if path is None else str(path)

    def status(self) -> DaemonStatus:
        """Return the daemon's status; the cost does not depend on the size of the store."""
        try:
            return self._make_status()
        except StoreDamaged:
            # The damage was just met; from now on, the store is read without LMDB.
            return self._make_status()

    def _make_status(self) -> DaemonStatus:
        vitals, runtime = self._vitals, self._runtimes.current()
        uptime_s = time.monotonic() - self._started
        disk = self._read_disk()
        cursor = 0
        with suppress(StoreDamaged), self._state.read() as store:
            cursor = store.last_cursor
        warnings = list(self._find_warnings(disk, uptime_s))
        is_ok = all(warning.severity == "info" for warning in warnings)
        return DaemonStatus(
            version=vitals.version,
            pid=os.getpid(),
            uptime_s=round(uptime_s, 3),
            started_at_ms=vitals.started_at_ms,
            schema=vitals.schema,
            generation=runtime.generation,
            home=str(vitals.home),
            listeners=vitals.listeners,
            counts=self._count_objects(),
            disk=disk,
            cursor=cursor,
            epoch=self._state.epoch,
            restored=_describe_restore(vitals.restored),
            memory_bytes=memory_bytes(),
            warnings=[format_warning(warning) for warning in warnings],
            health=DaemonHealth(ok=is_ok, warnings=warnings),
            draining=self._stopper.requested,
            starting=vitals.starting,
            default_agent=runtime.config.default_agent,
            default_route=runtime.default_route,
            damage=self._state.store.damage,
            sandbox=vitals.sandbox(runtime.config.workspace),
        )

    def _count_objects(self) -> Counts:
        server = self._vitals.server
        with self._state.read() as store:
            return Counts(
                sessions=store.count(SESSIONS),
                conversations=store.count(CONVERSATIONS),
                runs=store.count(RUNS),
                runs_active=self._vitals.active_runs(),
                runs_ready=store.count(RUNS_READY),
                tokens=store.count(TOKENS),
                connections=server.connections if server else 0,
                subscriptions=server.subscriptions if server else 0,
                approvals=store.count(APPROVALS_WAITING),
                questions=store.count(QUESTIONS_WAITING),
                indoubts=store.count(INDOUBTS_OPEN),
            )

    def _read_disk(self) -> Disk:
        path = self._state.store.directory
        with self._state.read() as store:
            used_bytes = store.used_bytes
        # If the directory has been deleted, report the file system in which the home was.
        file_system = os.statvfs(path if path.exists() else self._vitals.home.anchor)
        return Disk(
            path=str(path),
            used_bytes=used_bytes,
            file_bytes=self._state.store.file_bytes,
            free_bytes=file_system.f_bavail * file_system.f_frsize,
            map_bytes=self._state.store.map_bytes,
        )

    def _find_warnings(self, disk: Disk, uptime_s: float) -> Iterator[HealthWarning]:
        runtime = self._runtimes.current()
        yield from find_store_warnings(self._state.store, disk)
        if self._reloads.problem is not None:
            yield warn(
                "reload_refused",
                f"the last reload was refused and changed nothing: {self._reloads.problem}",
                "correct the file and reload again",
            )
        for sentence in runtime.warnings:
            yield split_warning("configuration", sentence, "correct it and reload")
        for sentence in runtime.skills.warnings:
            yield split_warning("skill", sentence, "correct the file and reload the skills")
        for sentence in self.find_sandbox_warnings():
            yield split_warning("sandbox", sentence, "repair the sandbox")
        for sentence in self._secrets.warnings():
            yield split_warning("secret_unreadable", sentence, "store the value again")
        for sentence in self._find_missing_workspaces():
            yield split_warning("workspace_missing", sentence, "create it")
        for sentence in self._find_unready_routes():
            yield split_warning("route_not_ready", sentence, "correct the route and reload")
        yield from find_failed_servers(self._mcp)
        # The status of a damaged store is reported without its rows that cannot be read.
        with suppress(StoreDamaged), self._state.read() as store:
            yield from self._find_stored_warnings(store)
        yield from find_meter_warnings(self._state.meter, self._clock.jump_s())
        if self._vitals.after_crash and uptime_s < CRASH_WARNING_SECONDS:
            yield warn(
                "after_crash",
                "the previous daemon did not shut down cleanly; its unfinished work was resumed",
                "read its log if this happens again",
            )

    def _find_stored_warnings(self, store: Snapshot) -> list[HealthWarning]:
        """Return the warnings that a snapshot shows. Errors: StoreDamaged."""
        runtime, now_ms = self._runtimes.current(), self._state.now_ms()
        unanswerable = find_unanswerable(store, now_ms, runtime.config.listen.shared)
        named = find_unknown_names(store, runtime, runtime.definitions.values())
        unknown = islice(chain.from_iterable(warnings for _, warnings in named), MAX_NAME_WARNINGS)
        newest = islice(store.scan(RUNS, reverse=True), MAX_PARKED_SEARCH_RUNS)
        return [
            *(split_warning("unanswerable", sentence, "cancel the run") for sentence in unanswerable),
            *(split_warning("unknown_name", sentence, "correct the definition") for sentence in unknown),
            *find_waits(store, now_ms),
            *find_stale_runs(store, now_ms),
            *find_failed_hooks(store, {hook.name for hook in runtime.lifecycle}),
            *find_undelivered_mail(store, now_ms),
            *(
                split_warning("trigger_troubled", sentence, "correct its target, or pause it")
                for sentence in find_trigger_warnings(store)
            ),
            *(
                split_warning("cron_failing", sentence, "correct it")
                for sentence in find_cron_warnings(store)
            ),
            *(
                split_warning("close_stuck", sentence, "read the daemon's log")
                for sentence in find_agent_warnings(store, now_ms)
            ),
            *(
                warn(
                    "run_parked",
                    f"the run {run.run_id} was parked, because the daemon crashed each time it "
                    "executed the run",
                    "read the daemon's log, and send the message again once the cause is repaired",
                    related_id=run.run_id,
                )
                for _, run in newest
                if run.error and run.error.reason == "parked"
            ),
        ]

    def find_sandbox_warnings(self) -> Iterator[str]:
        """Yield the warnings about the sandbox of commands."""
        sandbox = self._vitals.sandbox(self._runtimes.current().config.workspace)
        if sandbox is None or not sandbox.problem:
            return
        if sandbox.state == "required":
            yield (
                f"no command runs, because the sandbox does not work: {sandbox.problem}; repair or install "
                'bubblewrap, or set workspace.sandbox = "off" and approve each command'
            )
        elif sandbox.state == "off":
            yield (
                f"workspace.sandbox is off: {sandbox.problem}; switch the sandbox on, or accept this with "
                'workspace.unsandboxed = "allow"'
            )

    def _find_missing_workspaces(self) -> Iterator[str]:
        runtime = self._runtimes.current()
        agents = {agent.workspace for agent in runtime.definitions.values() if agent.workspace is not None}
        for path in sorted({runtime.workspace_root} | agents):
            problem = find_problem(path)
            if problem is not None:
                yield f"the workspace {path} {problem}"

    def _find_unready_routes(self) -> Iterator[str]:
        runtime = self._runtimes.current()
        for spec in runtime.routes.values():
            problem = runtime.models.problem(spec)
            if problem is not None:
                yield f"the route '{spec.route_id}' is not ready: {problem}"
                continue
            for key in keys_of(spec) if spec.auth_refs else ():
                if (problem := runtime.models.problem(key)) is not None:
                    yield f"a key of the route '{spec.route_id}' is not ready: {problem}"


def _describe_restore(mark: RestoreMark | None) -> RestoreStatus | None:
    if mark is None:
        return None
    work = mark.open_work or OpenWork()
    return RestoreStatus(
        backup_at_ms=mark.backup_at_ms,
        restored_at_ms=mark.restored_at_ms,
        cursor=mark.cursor,
        runs=work.running + work.queued + work.waiting,
        indoubts=work.indoubts,
    )


def memory_bytes() -> int:
    """Return the memory that only this process uses; 0 if the kernel does not say.

    Resident pages of files do not count: the kernel keeps as many of the store's as it has room for.
    """
    try:
        with open("/proc/self/statm", "rb") as file:
            _, resident, shared, *_ = file.read().split()
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
