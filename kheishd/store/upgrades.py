"""What was ever changed in how the store is laid out, in order; each once, each in one transaction.

An upgrade may add tables and rewrite records and indexes. It never rewrites journal lines: those are read
in every shape they ever had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import lmdb

from kheishd.store.tables import (
    APPROVALS,
    APPROVALS_WAITING,
    DEADLINES,
    INDOUBTS,
    INDOUBTS_OPEN,
    META,
    PERMISSIONS,
    QUESTIONS,
    QUESTIONS_WAITING,
    RECORDS_BY_RUN,
    RECORDS_BY_SESSION,
    SHELLS_LIVE,
    SHELLS_STOPPING,
    TABLES,
    TASKS,
    TASKS_OPEN,
    TASKS_WAITING,
)

Upgrade = Callable[[lmdb.Environment, "lmdb.Transaction[bytes]"], None]

SCHEMA_KEY = META.pack(("schema",))
VERSION_KEY = META.pack(("version",))
IDENTITY_KEY = META.pack(("identity",))


def u001_first_tables(env: lmdb.Environment, txn: lmdb.Transaction[bytes]) -> None:
    """The tables of the first version."""
    for table in TABLES:
        env.open_db(table.name.encode(), txn)


def u002_permissions(env: lmdb.Environment, txn: lmdb.Transaction[bytes]) -> None:
    """A table for the permission rules of the whole daemon."""
    env.open_db(PERMISSIONS.name.encode(), txn)


def u003_people_in_the_loop(env: lmdb.Environment, txn: lmdb.Transaction[bytes]) -> None:
    """Tables for approvals, questions and calls in doubt."""
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
    """Tables for tasks, and for shells in the background."""
    for table in (TASKS, TASKS_OPEN, TASKS_WAITING, SHELLS_LIVE, SHELLS_STOPPING):
        env.open_db(table.name.encode(), txn)


UPGRADES: Final[tuple[Upgrade, ...]] = (
    u001_first_tables,
    u002_permissions,
    u003_people_in_the_loop,
    u004_tasks,
)
SCHEMA: Final = len(UPGRADES)
"""The schema that this version reads and writes."""


def upgrade(env: lmdb.Environment, schema: int, version: str, steps: Sequence[Upgrade] = UPGRADES) -> None:
    """Bring a store from ``schema`` (0: nothing is there yet) to the present one, a step at a time.

    Each step is committed with its number: where it ends early, the next start goes on from there.
    Errors: lmdb.Error.
    """
    for number, step in enumerate(steps[schema:], schema + 1):
        with env.begin(write=True) as txn:
            step(env, txn)
            meta = env.open_db(META.name.encode(), txn)
            txn.put(SCHEMA_KEY, str(number).encode(), db=meta)
            txn.put(VERSION_KEY, version.encode(), db=meta)
