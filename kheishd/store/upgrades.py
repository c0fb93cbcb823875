"""Upgrades of the store's layout, in order; each runs once, in one transaction.

An upgrade may add tables and drop records. It never rewrites journal lines, because readers decode every
format that lines ever had. Records are projections of the journal: where their stored form changes, an
upgrade drops all of them and marks the store, and opening it rebuilds them from the journal.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import lmdb

from kheishd.store.environment import Transaction
from kheishd.store.journal import Heads
from kheishd.store.tables import (
    APPROVALS,
    APPROVALS_WAITING,
    BLOBS,
    CURSORS,
    DEADLINES,
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
    SHELLS_LIVE,
    SHELLS_STOPPING,
    TABLES,
    TASKS,
    TASKS_OPEN,
    TASKS_WAITING,
)

if TYPE_CHECKING:
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
    """Add the tables of the first version."""
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


UPGRADES: Final[tuple[Upgrade, ...]] = (
    u001_first_tables,
    u002_permissions,
    u003_people_in_the_loop,
    u004_tasks,
    u005_fields_renamed,
)
SCHEMA: Final = len(UPGRADES)
"""The schema that this version reads and writes."""

NOT_RECORDS: Final[frozenset[Table[Any]]] = frozenset(
    (JOURNAL, CURSORS, RECEIPTS, RECEIPTS_BY_AGE, BLOBS, META)
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
