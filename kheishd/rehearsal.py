"""The rehearsal of an upgrade: perform it on a copy of the store, and compare the copy before and after.

The daemon of the older version may run meanwhile: LMDB copies one consistent state beside its writer. Every
stream must end at the same cursor and hash, every record must mean the same, and the upgraded copy must pass
the doctor. The copy is removed.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from kheishd.records.doctor import examine_whole
from kheishd.records.rebuild import find_unreadable, rebuild_some
from kheishd.store.checkup import check_data, describe_problems
from kheishd.store.environment import DATA, Environment, Snapshot
from kheishd.store.guards import (
    MARKER,
    StoreUnusable,
    data_bytes,
    lock_directory,
    make_directory,
    sync_directory,
)
from kheishd.store.opening import open_beside, open_for_reading, read_info
from kheishd.store.tables import (
    APPROVALS,
    BLOBS,
    CONVERSATIONS,
    CURSORS,
    INDOUBTS,
    JOURNAL,
    QUESTIONS,
    RUNS,
    SESSIONS,
    TASKS,
    TOKENS,
)
from kheishd.store.upgrades import SCHEMA, UpgradePlan
from kheishd.store.writer import Store
from protocol.limits.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kheishd.store.table import Table

WORK: Final = "rehearsal"
"""The directory in the home that holds the copy while the rehearsal runs."""

STATE: Final = "state"

COMPARED: Final[tuple[Table[Any], ...]] = (
    SESSIONS,
    CONVERSATIONS,
    RUNS,
    APPROVALS,
    QUESTIONS,
    INDOUBTS,
    TASKS,
    TOKENS,
)
"""The tables whose records are compared by meaning."""

UNCHANGED: Final[tuple[Table[Any], ...]] = (JOURNAL, CURSORS, BLOBS)
"""The tables that an upgrade may not touch: their rows are counted."""

MAX_DIFFERENCES: Final = 100

RENAMED: Final[dict[str, str]] = {
    "by": "resolved_by",
    "changed_at_ms": "updated_at_ms",
    "closed_at_ms": "resolved_at_ms",
    "denial": "denial_note",
    "first_cursor": "created_cursor",
    "number": "index",
    "outputs": "output_cursors",
    "parts": "partial_cursors",
    "sent_back": "follow_up",
    "settled_at_ms": "resolved_at_ms",
    "steers": "pending_steers",
    "step": "turn",
}
"""Names of record fields before schema 5, and since."""


class Rehearsal(Struct, frozen=True, kw_only=True):
    """The result of a rehearsal. No differences means that the upgrade works and loses nothing.

    ``counts`` are the rows of each table before and after; ``heads`` the number of streams that end alike.
    """

    from_version: str
    from_schema: int
    to_schema: int
    cursor: int
    took_ms: int
    copied_bytes: int
    counts: dict[str, tuple[int, int]]
    heads: int
    records: int
    differences: list[str]


class _State(Struct, frozen=True):
    """The contents of a store: numbers of rows, the end of each stream, and records as plain values."""

    counts: dict[str, int]
    heads: dict[str, tuple[int, bytes]]
    records: dict[str, dict[str, dict[str, Any]]]
    cursor: int


def rehearse(state: Path, home: Path, version: str) -> Rehearsal:
    """Upgrade a copy of the store in ``state``; the store itself is only read.

    Errors: StoreUnusable, also if the upgrade would be refused.
    """
    started = time.monotonic()
    with _work_directory(home / WORK) as work:
        _copy(state, work)
        copied_bytes = data_bytes(work)
        with open_for_reading(work) as environment:
            info = read_info(environment.lmdb, work)
            assert info is not None, "the copy was opened"
            before = _read(environment)
        Store.open(
            work,
            on_group=lambda group: None,
            threaded=False,
            version=version,
            rebuild=rebuild_some,
            plan=UpgradePlan(check=find_unreadable),
        ).close()
        with open_for_reading(work, current=True) as environment:
            after = _read(environment)
            diagnosis = examine_whole(lambda: Snapshot(environment), deep=True)
    differences = list(_compare(before, after))
    differences += [f"doctor: {finding.stream}: {finding.message}" for finding in diagnosis.findings]
    names = before.counts.keys() | after.counts.keys()
    return Rehearsal(
        from_version=info.version,
        from_schema=info.schema,
        to_schema=SCHEMA,
        cursor=before.cursor,
        took_ms=round((time.monotonic() - started) * 1000),
        copied_bytes=copied_bytes,
        counts={name: (before.counts.get(name, 0), after.counts.get(name, 0)) for name in sorted(names)},
        heads=sum(after.heads.get(stream) == head for stream, head in before.heads.items()),
        records=sum(map(len, before.records.values())),
        differences=differences[:MAX_DIFFERENCES],
    )


@contextmanager
def _work_directory(work: Path) -> Iterator[Path]:
    """Provide an empty directory that no other rehearsal uses, and remove it at the end."""
    make_directory(work)
    lock = lock_directory(work)
    try:
        # The rest of a rehearsal that was killed.
        shutil.rmtree(work / STATE, ignore_errors=True)
        yield work / STATE
    finally:
        shutil.rmtree(work / STATE, ignore_errors=True)
        with suppress(OSError):
            work.rmdir()
        os.close(lock)


def _copy(state: Path, work: Path) -> None:
    """Copy a store, which a daemon may have open. Errors: StoreUnusable."""
    data = state / DATA
    if data_bytes(state) == 0:
        raise StoreUnusable(f"{state} holds no store of kheish: there is no {DATA} in it.")
    work.mkdir(mode=0o700)
    file_system = os.statvfs(work)
    free_bytes = file_system.f_bavail * file_system.f_frsize
    # The copy without free pages, and the records again.
    needed_bytes = 2 * data.stat().st_blocks * 512
    if free_bytes < needed_bytes:
        raise StoreUnusable(
            f"A rehearsal needs {needed_bytes // MIB + 1} MiB for a copy, and the disk of {work.parent} has "
            f"{free_bytes // MIB} MiB. Nothing was changed."
        )
    checkup = check_data(data, quick=True)
    if checkup.problems and not _is_open(state):
        raise StoreUnusable(f"{data} is damaged: {describe_problems(checkup.problems)}. Nothing was changed.")
    with open_beside(state) as env, (work / DATA).open("xb") as target:
        env.copyfd(target.fileno(), compact=True)
        os.fsync(target.fileno())
    shutil.copyfile(state / MARKER, work / MARKER)
    sync_directory(work)


def _is_open(state: Path) -> bool:
    """Whether a daemon uses the store, so that its file may change while it is checked."""
    try:
        os.close(lock_directory(state))
    except StoreUnusable:
        return True
    return False


def _read(environment: Environment) -> _State:
    with Snapshot(environment) as snapshot:
        heads: dict[str, tuple[int, bytes]] = {}
        for _, stream in snapshot.feed():
            if stream not in heads:
                heads[stream] = snapshot.head(stream)
        return _State(
            {table.name: snapshot.count(table) for table in environment.handles},
            heads,
            {table.name: dict(_read_records(environment, table)) for table in COMPARED},
            snapshot.last_cursor,
        )


def _read_records(environment: Environment, table: Table[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the records of a table as plain values, whatever version wrote them."""
    handle = environment.handles.get(table)
    if handle is None:
        return
    with environment.lmdb.begin(db=handle) as txn, txn.cursor() as cursor:
        for key, value in cursor:
            record = msgspec.msgpack.decode(value)
            yield " ".join(map(str, table.unpack(key))), record if isinstance(record, dict) else {}


def _compare(before: _State, after: _State) -> Iterator[str]:
    """Yield each difference in meaning."""
    if before.cursor != after.cursor:
        yield f"the journal ended at cursor {before.cursor}, and ends at {after.cursor}"
    for stream in sorted(before.heads.keys() | after.heads.keys()):
        if before.heads.get(stream) != after.heads.get(stream):
            yield f"the stream {stream} has another end"
    for table in UNCHANGED:
        counts = [state.counts.get(table.name, 0) for state in (before, after)]
        if counts[0] != counts[1]:
            yield f"the table {table.name} had {counts[0]} rows, and has {counts[1]}"
    for table in COMPARED:
        old, new = before.records[table.name], after.records[table.name]
        for key in sorted(old.keys() | new.keys()):
            if key not in old or key not in new:
                yield f"{table.name} {key}: " + ("is missing" if key in old else "is new")
                continue
            yield from (
                f"{table.name} {key}: {name} was {value!r}, and is {new[key].get(name)!r}"
                for name, value in _rename(old[key], new[key]).items()
                if value != new[key].get(name)
            )


def _rename(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the plain fields of an older record by their present names, as far as the new one has them."""
    names = {name: name if name in new else RENAMED.get(name, name) for name in old}
    return {
        names[name]: value
        for name, value in old.items()
        if names[name] in new and not isinstance(value, dict | list)
    }
