"""Upgrades of the store's layout, in order; each runs once, in one transaction.

An upgrade may add tables and drop records. It never rewrites journal lines, because readers decode every
format that lines ever had. Records are projections of the journal: where their stored form changes, an
upgrade drops all of them and marks the store, and opening it rebuilds them from the journal.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import lmdb
import msgspec

from kheishd.store.environment import DATA, Snapshot, Transaction
from kheishd.store.guards import (
    MARKER,
    StoreUnusable,
    data_bytes,
    newest_meta,
    read_marker,
    sync_directory,
)
from kheishd.store.journal import Heads
from kheishd.store.pages import PageDamaged, PageFile
from kheishd.store.tables import (
    APPROVALS,
    APPROVALS_WAITING,
    BLOBS,
    CHECKPOINT_CHUNKS,
    CURSORS,
    DEADLINES,
    FILE_CONTENT_TOTALS,
    FILE_CONTENTS,
    INDOUBTS,
    INDOUBTS_OPEN,
    JOURNAL,
    META,
    PERMISSIONS,
    QUESTIONS,
    QUESTIONS_WAITING,
    RECEIPTS,
    RECEIPTS_BY_AGE,
    RECORDS_BY_RUN,
    RECORDS_BY_SESSION,
    SECRET_VALUES,
    SHELLS_LIVE,
    SHELLS_STOPPING,
    TABLES,
    TASKS,
    TASKS_OPEN,
    TASKS_WAITING,
)
from protocol.limits.units import MIB
from protocol.structs import Value

if TYPE_CHECKING:
    from pathlib import Path

    from kheishd.store.environment import Environment
    from kheishd.store.table import Table

log = logging.getLogger("kheishd.store")

Upgrade = Callable[[lmdb.Environment, "lmdb.Transaction[bytes]"], None]

SCHEMA_KEY = META.pack(("schema",))
VERSION_KEY = META.pack(("version",))
IDENTITY_KEY = META.pack(("identity",))
REBUILD_KEY = META.pack(("rebuild",))
"""Present while the records are incomplete: the cursor up to which the journal is folded into them again."""


def u001_first_tables(env: lmdb.Environment, txn: lmdb.Transaction[bytes]) -> None:
    """Add the tables that are missing; the others stay as they are."""
    for table in TABLES:
        env.open_db(table.name.encode(), txn)


def u002_permissions(env: lmdb.Environment, txn: lmdb.Transaction[bytes]) -> None:
    """Add a table for the permission rules of the whole daemon."""
    env.open_db(PERMISSIONS.name.encode(), txn)


def u003_people_in_the_loop(env: lmdb.Environment, txn: lmdb.Transaction[bytes]) -> None:
    """Add tables for approvals, questions and calls in doubt."""
    for table in (
        APPROVALS,
        APPROVALS_WAITING,
        QUESTIONS,
        QUESTIONS_WAITING,
        INDOUBTS,
        INDOUBTS_OPEN,
        RECORDS_BY_SESSION,
        RECORDS_BY_RUN,
        DEADLINES,
    ):
        env.open_db(table.name.encode(), txn)


def u004_tasks(env: lmdb.Environment, txn: lmdb.Transaction[bytes]) -> None:
    """Add tables for tasks and background shells."""
    for table in (TASKS, TASKS_OPEN, TASKS_WAITING, SHELLS_LIVE, SHELLS_STOPPING):
        env.open_db(table.name.encode(), txn)


def u005_fields_renamed(env: lmdb.Environment, txn: lmdb.Transaction[bytes]) -> None:
    """Rebuild the records, whose fields have other names since.

    A repeated request is answered from its receipt. Where the answer continues with the record in it, the old
    one cannot be read: without its receipt, the repeated request is refused because it was done already.
    """
    drop_records(env, txn)
    for table, index in ((RECEIPTS, 1), (RECEIPTS_BY_AGE, 2)):
        with txn.cursor(env.open_db(table.name.encode(), txn)) as cursor:
            cursor.first()
            while key := cursor.key():
                if table.unpack(key)[index] in ("approval.resolve", "run.cancel", "task.stop"):
                    cursor.delete()
                elif not cursor.next():
                    break


def u006_checkpoint_chunks(env: lmdb.Environment, txn: lmdb.Transaction[bytes]) -> None:
    """Add a table for the messages of checkpoints. Older checkpoints stay until new ones replace them."""
    env.open_db(CHECKPOINT_CHUNKS.name.encode(), txn)


def u007_agents(env: lmdb.Environment, txn: lmdb.Transaction[bytes]) -> None:
    """Add the tables of agents, mail, goals, personas, stored definitions and trusted roots."""
    u001_first_tables(env, txn)


def u008_services(env: lmdb.Environment, txn: lmdb.Transaction[bytes]) -> None:
    """Add the tables of secrets, MCP servers, notes, schedules, the event bus, hooks and stored routes."""
    u001_first_tables(env, txn)


def u009_file_checkpoints(env: lmdb.Environment, txn: lmdb.Transaction[bytes]) -> None:
    """Add the tables of checkpoints of workspace files."""
    u001_first_tables(env, txn)


UPGRADES: Final[tuple[Upgrade, ...]] = (
    u001_first_tables,
    u002_permissions,
    u003_people_in_the_loop,
    u004_tasks,
    u005_fields_renamed,
    u006_checkpoint_chunks,
    u007_agents,
    u008_services,
    u009_file_checkpoints,
)
SCHEMA: Final = len(UPGRADES)
"""The schema that this version reads and writes."""

NOT_RECORDS: Final[frozenset[Table[Any]]] = frozenset(
    (
        *(JOURNAL, CURSORS, RECEIPTS, RECEIPTS_BY_AGE, BLOBS, SECRET_VALUES),
        *(FILE_CONTENTS, FILE_CONTENT_TOTALS, META),
    )
)
"""The tables that no rebuild can restore. All others are projections of the journal, or caches of it."""


def drop_records(env: lmdb.Environment, txn: lmdb.Transaction[bytes]) -> None:
    """Empty the tables of records, indexes and checkpoints, and have them rebuilt when the store is opened.

    The schema rises in the same transaction: an older version refuses the store from then on.
    """
    for table in TABLES:
        if table not in NOT_RECORDS:
            txn.drop(env.open_db(table.name.encode(), txn), delete=False)
    if txn.stat(env.open_db(JOURNAL.name.encode(), txn))["entries"]:
        txn.put(REBUILD_KEY, b"0", db=env.open_db(META.name.encode(), txn))


def upgrade(env: lmdb.Environment, schema: int, version: str, steps: Sequence[Upgrade] = UPGRADES) -> None:
    """Bring a store from ``schema`` (0: an empty store) to the current one, one step at a time.

    Each step is committed with its number, so after a crash the next start continues with the next step.
    Errors: lmdb.Error.
    """
    for number, step in enumerate(steps[schema:], schema + 1):
        with env.begin(write=True) as txn:
            step(env, txn)
            meta = env.open_db(META.name.encode(), txn)
            txn.put(SCHEMA_KEY, str(number).encode(), db=meta)
            txn.put(VERSION_KEY, version.encode(), db=meta)


UPGRADE_BYTES_PER_SECOND: Final = 500_000
"""A slow machine reads and folds a few hundred events a second, twice; an event takes about a kilobyte."""


def expect_upgrade(data: Path) -> float | None:
    """Return the time that an upgrade may take; None if none is due. The file is read without LMDB."""
    try:
        pages = PageFile(data)
    except (OSError, PageDamaged):
        return None
    try:
        schema = pages.begin().get(SCHEMA_KEY, None, META.name.encode())
    except (PageDamaged, KeyError):
        schema = None
    finally:
        pages.close()
    if schema is None or not schema.isdigit() or int(schema) >= SCHEMA:
        return None
    return 60.0 + data.stat().st_size / UPGRADE_BYTES_PER_SECOND


class UnreadableEvent(Value, frozen=True):
    """An event of a journal that this version cannot take over, and why."""

    stream: str
    cursor: int
    message: str


Check = Callable[[Snapshot], "UnreadableEvent | None"]
"""Reads and folds every event of a store, and writes nothing. Returns the first that cannot be taken over."""


class UpgradePlan(Value, frozen=True):
    """What happens before a store of an older version is upgraded.

    ``check`` reads everything that will be migrated, before the first write. ``keep``: a copy is kept beside
    the store's directory, for the way back.
    """

    check: Check | None = None
    keep: bool = False


class Upgraded(Value, frozen=True):
    """An upgrade: the version and schema before it, and the directory of the copy that was kept."""

    version: str
    schema: int
    kept: Path | None


def prepare_upgrade(environment: Environment, schema: int, version: str, plan: UpgradePlan) -> Upgraded:
    """Check everything that an upgrade will migrate, then keep a copy; the store is not changed.

    Errors: StoreUnusable, naming the row and the remedy.
    """
    with Snapshot(environment) as snapshot:
        if plan.check is not None:
            _require_readable(snapshot, version, plan.check)
        records_bytes = snapshot.used_bytes
    kept = _keep_copy(environment.directory, version, records_bytes) if plan.keep else None
    return Upgraded(version, schema, kept)


def _require_readable(snapshot: Snapshot, version: str, check: Check) -> None:
    """Require that this version can read everything that no rebuild can restore."""
    remedy = (
        f"Nothing was changed, and kheish {version} still opens the store. Restore a backup from before the "
        "damage, or upgrade without what cannot be read: 'kheishd upgrade --force'."
    )
    unreadable = check(snapshot)
    if unreadable is not None:
        raise StoreUnusable(
            f"The store cannot be upgraded: the event {unreadable.cursor} of {unreadable.stream}: "
            f"{unreadable.message}. {remedy}"
        )
    for table in NOT_RECORDS:
        row = "its first row"
        try:
            for key, _ in snapshot.scan(table):
                row = f"the row after {' '.join(map(str, key))}"
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            raise StoreUnusable(
                f"The store cannot be upgraded: in the table {table.name}, {row} cannot be read: {error}. "
                f"{remedy}"
            ) from error


def _keep_copy(directory: Path, version: str, records_bytes: int) -> Path:
    """Copy a store that nobody writes to a directory beside its own; return that.

    A copy of the same transaction, from an interrupted upgrade, is used again. Errors: StoreUnusable.
    """
    data = directory / DATA
    transaction = newest_meta(data).transaction
    name = f"before-upgrade-from-{re.sub('[^A-Za-z0-9._-]', '_', version)}"
    for number in range(1, 1_000):
        target = directory.with_name(name if number == 1 else f"{name}-{number}")
        if not target.exists():
            break
        with suppress(StoreUnusable, OSError):
            if (
                newest_meta(target / DATA).transaction == transaction
                and data_bytes(target) == data_bytes(directory)
                and read_marker(target) == read_marker(directory)
            ):
                return target
    file_system = os.statvfs(directory)
    free_bytes = file_system.f_bavail * file_system.f_frsize
    needed_bytes = data.stat().st_blocks * 512 + records_bytes
    if free_bytes < needed_bytes:
        raise StoreUnusable(
            f"The store has to be upgraded from kheish {version}. The upgrade and a copy for the way back "
            f"need {needed_bytes // MIB + 1} MiB; the disk of {directory} has {free_bytes // MIB} MiB. "
            "Nothing was changed. Free some space, or upgrade without the copy: 'kheishd upgrade "
            "--no-backup'."
        )
    partial = directory.with_name(f".{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    try:
        with data.open("rb") as source, (partial / DATA).open("xb") as copy:
            os.fchmod(copy.fileno(), 0o600)
            while os.sendfile(copy.fileno(), source.fileno(), None, 1 << 30):
                pass
            os.fsync(copy.fileno())
        with suppress(FileNotFoundError):
            shutil.copyfile(directory / MARKER, partial / MARKER)
        sync_directory(partial)
        partial.rename(target)
        sync_directory(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


Rebuild = Callable[[Transaction, int], "int | None"]
"""Folds some events after a cursor into the records, in one transaction. Returns the cursor it reached; None
at the end of the journal.
"""


def needs_rebuild(env: lmdb.Environment) -> bool:
    """Whether an upgrade dropped the records and they are not complete again."""
    with env.begin(db=env.open_db(META.name.encode())) as txn:
        return txn.get(REBUILD_KEY) is not None


def rebuild_records(environment: Environment, rebuild: Rebuild) -> None:
    """Rebuild the records, transaction by transaction; after a crash the next start continues.

    Errors: lmdb.Error.
    """
    meta = environment.handles[META]
    log.info("rebuilding the records from the journal, as this version stores them differently")
    more = True
    while more:
        with environment.lmdb.begin(write=True) as txn:
            done = int(txn.get(REBUILD_KEY, b"0", db=meta))
            reached = rebuild(Transaction(environment, txn, Heads(), None, max_bytes=sys.maxsize), done)
            more = reached is not None
            if more:
                txn.put(REBUILD_KEY, str(reached).encode(), db=meta)
            else:
                txn.delete(REBUILD_KEY, db=meta)
    log.info("the records are rebuilt")


def describe_upgrade(upgraded: Upgraded) -> str:
    """Describe an upgrade and the way back."""
    back = "no copy was kept for the way back"
    if upgraded.kept is not None:
        back = (
            f"to go back, stop the daemon, install kheish {upgraded.version}, and let it restore the copy "
            f"from before: kheishd restore {upgraded.kept}; remove the copy when you no longer need it"
        )
    return f"upgraded the store from kheish {upgraded.version} (schema {upgraded.schema}); {back}"
