"""Repair a damaged data file: copy all rows that can be read into a new one, and keep the damaged one.

The new file has new pages and a new list of free pages. The journal must be whole, with its hash chain: only
a backup can restore a lost event. Damaged tables of records are left out, and rebuilt from the journal when
the store is opened. Receipts and blobs are copied as far as they can be read.
"""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from kheishd.store.backup import hold_lock, work_directory
from kheishd.store.environment import DATA, Snapshot
from kheishd.store.guards import MARKER, RESTORE, StoreUnusable, sync_directory, write_marker
from kheishd.store.journal import verify_chain
from kheishd.store.opening import open_for_reading, open_lmdb
from kheishd.store.pages import PageDamaged, PageFile, read_metas
from kheishd.store.tables import CURSORS, JOURNAL, META, TABLES
from kheishd.store.upgrades import IDENTITY_KEY, NOT_RECORDS, REBUILD_KEY, SCHEMA, SCHEMA_KEY
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import lmdb

    from kheishd.store.table import Table

REPAIRING = ".restoring"
"""The directory of the copy: a start removes one that a kill left."""

_BATCH_ROWS = 10_000


class Salvaged(Value, frozen=True):
    """The result of a repair: the path of the damaged data, rebuilt tables, and rows lost by table.

    ``may_be_older``: a meta page was damaged, perhaps that of the newest commit.
    """

    kept: Path
    rebuilt: list[str]
    lost: dict[str, int]
    may_be_older: bool


def salvage(directory: Path) -> Salvaged:
    """Replace the damaged store in ``directory`` by a copy of what can be read.

    Errors: StoreUnusable; the store is unchanged then.
    """
    data = directory / DATA
    with hold_lock(directory), work_directory(directory, REPAIRING) as work:
        try:
            source = PageFile(data)
            try:
                rebuilt, lost = _copy(source, work, data)
                identity = _read_identity(source)
            finally:
                source.close()
        except PageDamaged as error:
            raise StoreUnusable(f"{data} cannot be repaired: {error}. {RESTORE}") from error
        if identity is not None:
            write_marker(work, identity)
        with open_for_reading(work) as environment, Snapshot(environment) as snapshot:
            for damage in verify_chain(snapshot):
                event = f"the event at cursor {damage.cursor} of {damage.stream or 'the journal'}"
                raise StoreUnusable(f"{data} cannot be repaired: {event}: {damage.message}. {RESTORE}")
            identity = environment.identity
        with data.open("rb") as file:
            may_be_older = not all(read_metas(file.fileno()))
        kept = _set_aside(data)
        (work / DATA).replace(data)
        sync_directory(directory)
        if not (directory / MARKER).exists():
            write_marker(directory, identity)
        return Salvaged(kept, rebuilt, lost, may_be_older)


def _read_identity(source: PageFile) -> str | None:
    with suppress(PageDamaged, KeyError):
        identity = source.begin().get(IDENTITY_KEY, None, META.name.encode())
        return None if identity is None else identity.decode(errors="replace")
    return None


def _copy(source: PageFile, work: Path, data: Path) -> tuple[list[str], dict[str, int]]:
    """Copy the readable rows of all tables; return the tables to rebuild, and the numbers of lost rows."""
    lost: dict[str, int] = {}
    rebuilt: list[str] = []
    tables = {table.name: table for table in TABLES}
    schema = source.begin().get(SCHEMA_KEY, None, META.name.encode())
    is_current = schema == str(SCHEMA).encode()
    env = open_lmdb(work)
    try:
        for encoded in source.tables():
            name = encoded.decode(errors="replace")
            table = tables.get(name) if is_current else None
            missing = _count_missing(source, encoded, table)
            if not missing:
                _write_rows(env, encoded, source.rows(encoded))
            elif name == CURSORS.name:
                rebuilt.append(name)
                _write_rows(env, encoded, _make_cursors(source))
            elif table is None or table in (JOURNAL, META):
                raise StoreUnusable(
                    f"{data} cannot be repaired: the table '{name}' has lost rows, and nothing else contains "
                    f"them. {RESTORE}"
                )
            elif table in NOT_RECORDS:
                lost[name] = missing
                _write_rows(env, encoded, _read_rows(source, encoded, table))
            else:
                rebuilt.append(name)
        if any(name != CURSORS.name for name in rebuilt):
            _mark_for_rebuild(env)
        env.sync(True)
    finally:
        env.close()
    return rebuilt, lost


def _read_rows(
    source: PageFile, name: bytes, table: Table[Any] | None
) -> Iterator[tuple[bytes, bytes] | None]:
    """Yield the rows of a table that can be read and decoded, and None for each that cannot."""
    previous = b""
    for row in source.rows(name):
        if row is None or row[0] <= previous:
            yield None
            continue
        previous = row[0]
        if table is not None:
            try:
                table.unpack(row[0])
                table.decode(row[1])
            except (ValueError, IndexError):
                yield None
                continue
        yield row


def _count_missing(source: PageFile, name: bytes, table: Table[Any] | None) -> int:
    """Return the number of rows of a table that cannot be read, as far as it can be known."""
    missing = entries = 0
    for row in _read_rows(source, name, table):
        if row is None:
            missing += 1
        else:
            entries += 1
    return missing or abs(source.tree(name).entries - entries)


def _make_cursors(source: PageFile) -> list[tuple[bytes, bytes]]:
    """Return the rows of the table of cursors, made from the keys of the journal."""
    cursors = []
    for row in source.rows(JOURNAL.name.encode()):
        if row is not None:
            stream, cursor = JOURNAL.unpack(row[0])
            cursors.append((CURSORS.pack((cursor,)), CURSORS.encode(stream)))
    return sorted(cursors)


def _write_rows(env: lmdb.Environment, name: bytes, rows: Iterable[tuple[bytes, bytes] | None]) -> None:
    table = env.open_db(name)
    remaining = iter(rows)
    while batch := list(islice(remaining, _BATCH_ROWS)):
        with env.begin(write=True, db=table) as txn:
            for row in batch:
                if row is not None:
                    txn.put(*row, append=True)


def _mark_for_rebuild(env: lmdb.Environment) -> None:
    """Empty all tables of records: they are folded from the journal when the store is opened."""
    with env.begin(write=True) as txn:
        for table in TABLES:
            if table not in NOT_RECORDS:
                txn.drop(env.open_db(table.name.encode(), txn), delete=False)
        txn.put(REBUILD_KEY, b"0", db=env.open_db(META.name.encode(), txn))


def _set_aside(data: Path) -> Path:
    """Link the damaged data under a second name, which nothing removes; return it."""
    number = 1
    while True:
        link = data.with_name(f"{DATA}.before-repair-{number}")
        with suppress(FileExistsError):
            os.link(data, link)
            return link
        number += 1
