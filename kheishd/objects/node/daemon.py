"""The daemon: its status and configuration, and the actions of an operator."""

import os
import time
from pathlib import Path

import trio
from msgspec import to_builtins
from msgspec.structs import replace

from kheishd.kernel.call import Call, control, query
from kheishd.objects.node.metrics import collect_metrics
from kheishd.store.checkup import SMALL_BYTES, describe_problems
from kheishd.store.tables import SECRET_VALUES
from protocol.errors.daemon import PathRefused
from protocol.errors.refusal import Refusal
from protocol.objects import daemon as rows
from protocol.objects.daemon import (
    BackupResult,
    DaemonBackup,
    DaemonConfig,
    DaemonMetrics,
    DaemonShutdown,
    DaemonStatus,
    Diagnosis,
    DoctorParams,
    Finding,
    Reloaded,
    ShutdownStarted,
)
from protocol.rpc.method import NoParams


@query(rows.STATUS)
def status(call: Call, params: NoParams) -> DaemonStatus:
    """Return the status of the daemon."""
    return call.control.status()


@query(rows.METRICS)
def metrics(call: Call, params: NoParams) -> DaemonMetrics:
    """Return the metrics of the daemon."""
    return collect_metrics(call.services, call.control.status())


@control(rows.RELOAD)
async def reload(call: Call, params: NoParams) -> Reloaded:
    """Reload the configuration and the agents. Errors: ConfigInvalid, which changes nothing."""
    generation, warnings = await call.control.reload()
    return Reloaded(generation=generation, warnings=warnings)


@control(rows.SHUTDOWN)
def shutdown(call: Call, params: DaemonShutdown) -> ShutdownStarted:
    """Begin to stop. A second request stops at once."""
    call.control.shutdown(params.drain_s)
    return ShutdownStarted(os.getpid())


@query(rows.CONFIG)
def config(call: Call, params: NoParams) -> DaemonConfig:
    """Return the configuration in force. It refers to credentials by name, so it holds no secret."""
    runtime = call.runtime
    return DaemonConfig(
        config=to_builtins(runtime.config), generation=runtime.generation, path=call.control.config_path()
    )


@control(rows.BACKUP)
async def backup(call: Call, params: DaemonBackup) -> BackupResult:
    """Write a consistent copy of the store, in a thread of its own.

    Errors: PathRefused, StorageFull, which leave nothing at the path.
    """
    path = backup_path(params.path, call.state.store.directory)
    started = time.monotonic()
    try:
        cursor = await call.state.backup(path)
    except Refusal as refusal:
        call.state.meter.failed_backup = refusal.message
        raise
    call.state.meter.failed_backup = None
    return BackupResult(
        path=str(path),
        bytes=sum(file.stat().st_size for file in path.iterdir()),
        cursor=cursor,
        took_ms=round((time.monotonic() - started) * 1000),
        epoch=call.state.epoch,
        sealed_slots=call.services.secrets.count,
    )


def backup_path(text: str, state: Path) -> Path:
    """Return the path of a backup: absolute, new, in an existing directory outside of the store's own.

    Errors: PathRefused.
    """
    path = Path(text)
    if not path.is_absolute() or "\0" in text:
        raise PathRefused(f"'{text}' is not an absolute path", field="$.params.path")
    if os.path.lexists(path):
        raise PathRefused(
            f"{path} exists already, and a backup never overwrites; choose a new directory",
            field="$.params.path",
        )
    if not path.parent.is_dir():
        raise PathRefused(f"{path.parent} is not a directory; create it first", field="$.params.path")
    if path.parent.resolve().is_relative_to(state.resolve()):
        raise PathRefused(f"{path} is inside the store's own directory", field="$.params.path")
    return path


@control(rows.DOCTOR)
async def doctor(call: Call, params: DoctorParams) -> Diagnosis:
    """Examine the pages of the store in a child process, then its content in slices, between other work.

    A damaged store becomes read-only.
    """
    # Imported on first use, because few daemons run it.
    from kheishd.records.doctor import diagnose_pages, examine

    store = call.state.store
    are_pages_checked = False
    if params.deep or store.file_bytes <= SMALL_BYTES:
        checkup = await trio.to_thread.run_sync(store.check_structure)
        if checkup.problems:
            store.note_damage(describe_problems(checkup.problems))
            return diagnose_pages(checkup.problems)
        are_pages_checked = not checkup.obstacle
    diagnosis = await examine(call.state.read, deep=params.deep)
    with call.state.read() as snapshot:
        unreadable = [
            Finding(
                kind="unreadable",
                message=f"the value of the secret slot '{slot_id}' {problem}",
                remedy="follow the message, or store the value again",
            )
            for slot_id, problem in call.services.secrets.unreadable().items()
            if snapshot.get(SECRET_VALUES, slot_id) is not None
        ]
    diagnosis = replace(diagnosis, findings=[*diagnosis.findings, *unreadable])
    if not are_pages_checked:
        diagnosis = replace(diagnosis, complete=False)
    for finding in diagnosis.findings:
        if finding.kind == "damaged":
            store.note_damage(finding.message)
            break
    return diagnosis


HANDLERS = (status, metrics, reload, shutdown, config, backup, doctor)
