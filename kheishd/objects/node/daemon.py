"""The daemon's own methods: how it is, its configuration, and an operator's levers."""

import os
import time
from pathlib import Path

from msgspec import to_builtins

from kheishd.kernel.call import Call, control, query
from protocol.errors.daemon import PathRefused
from protocol.objects import daemon as rows
from protocol.objects.daemon import (
    BackupResult,
    DaemonBackup,
    DaemonConfig,
    DaemonShutdown,
    DaemonStatus,
    Diagnosis,
    DoctorParams,
    Reloaded,
    ShutdownStarted,
)
from protocol.rpc.method import NoParams


@query(rows.STATUS)
def status(call: Call, params: NoParams) -> DaemonStatus:
    """How the daemon is."""
    return call.control.status()


@control(rows.RELOAD)
async def reload(call: Call, params: NoParams) -> Reloaded:
    """Read the configuration and agents again. Errors: ConfigInvalid; then nothing was changed."""
    generation, warnings = await call.control.reload()
    return Reloaded(generation=generation, warnings=warnings)


@control(rows.SHUTDOWN)
def shutdown(call: Call, params: DaemonShutdown) -> ShutdownStarted:
    """Begin to stop; asked again, stop at once."""
    call.control.shutdown(params.drain_s)
    return ShutdownStarted(os.getpid())


@query(rows.CONFIG)
def config(call: Call, params: NoParams) -> DaemonConfig:
    """The configuration in force. It names credentials by reference only, so it is shown whole."""
    runtime = call.runtime
    return DaemonConfig(
        config=to_builtins(runtime.config), generation=runtime.generation, path=call.control.config_path()
    )


@control(rows.BACKUP)
async def backup(call: Call, params: DaemonBackup) -> BackupResult:
    """Write a consistent copy of the store, in a thread of its own.

    Errors: PathRefused, StorageFull; then nothing is left at the path.
    """
    path = backup_path(params.path, call.state.store.directory)
    started = time.monotonic()
    cursor = await call.state.backup(path)
    return BackupResult(
        path=str(path),
        bytes=sum(file.stat().st_size for file in path.iterdir()),
        cursor=cursor,
        took_ms=round((time.monotonic() - started) * 1000),
    )


def backup_path(text: str, state: Path) -> Path:
    """Where a backup may be written: absolute, new, in a directory that exists, not the store's own.

    Errors: PathRefused, saying which of these it is not.
    """
    path = Path(text)
    if not path.is_absolute() or "\0" in text:
        raise PathRefused(f"'{text}' is not an absolute path", field="$.params.path")
    if os.path.lexists(path):
        raise PathRefused(f"{path} exists already; a backup never overwrites", field="$.params.path")
    if not path.parent.is_dir():
        raise PathRefused(f"{path.parent} is not a directory; make it first", field="$.params.path")
    if path.parent.resolve().is_relative_to(state.resolve()):
        raise PathRefused(f"{path} is inside the store's own directory", field="$.params.path")
    return path


@control(rows.DOCTOR)
async def doctor(call: Call, params: DoctorParams) -> Diagnosis:
    """Examine the store in slices, between everything else that the daemon does."""
    # Imported here: a daemon that nobody asks this starts without it.
    from kheishd.records.doctor import examine

    return await examine(call.state.read, deep=params.deep)


HANDLERS = (status, reload, shutdown, config, backup, doctor)
