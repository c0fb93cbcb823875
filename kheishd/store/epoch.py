"""The epoch of a store: the id of its line of history, and the mark that a store is from a backup.

A cursor is a position in one line of history. A backup ends one line for the store that is made of it: what
happened after the backup is not in it, and its cursors are given again, to other events. So a restored store
has a new epoch, and a cursor counts only together with its epoch. The store knows the lines that its own line
has left, each with the last cursor that both share.

A backup carries a mark. A store that is opened with the mark in it is a restored one, even if its files
were copied by hand. Until the daemon has marked the work that was open, the mark is pending.
"""

from __future__ import annotations

import os
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from kheishd.store.tables import META
from protocol.lazy import LazyDecoder
from protocol.objects.permission import Rule, RuleRef

if TYPE_CHECKING:
    import lmdb

    from kheishd.store.environment import Snapshot, Transaction

EPOCH: Final = "epoch"
EPOCHS: Final = "epochs"
BACKUP: Final = "backup"
RESTORED: Final = "restored"

# Each restore adds one line and perhaps those of the replaced store; a line takes about 40 bytes.
MAX_EPOCHS: Final = 256


class BackupMark(Struct, frozen=True):
    """The mark in a backup: when it was made, and its newest cursor."""

    at_ms: int
    cursor: int


class OpenWork(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Numbers of things that were open when a backup was made; ``indoubts`` are calls that were running."""

    running: int = 0
    queued: int = 0
    waiting: int = 0
    indoubts: int = 0
    shells: int = 0


class Withdrawal(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The rights that a session, or the daemon (None), lost after the backup: rules, grants, properties.

    ``properties`` are those that were narrowed, as in ``session_updated``. ``is_ended``: the session was
    ended. ``untrust`` are the roots that the daemon no longer trusts.
    """

    session_id: str | None
    add: list[Rule] = []
    remove: list[RuleRef] = []
    revoke: list[str] = []
    properties: dict[str, Any] = {}
    is_ended: bool = False
    untrust: list[str] = []


class Withdrawn(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The rights that were withdrawn in the replaced store after the backup.

    ``created_tokens`` counts the tokens that the replaced store had and the backup does not know. ``changes``
    is None if the rights of sessions and of the daemon could not be compared. ``is_complete``: the replaced
    store was read, and with one that was restored and never started, the store that was in use before it.
    """

    tokens: list[str] = []
    changes: list[Withdrawal] | None = None
    created_tokens: int = 0
    is_complete: bool = True


class RestoreMark(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The mark in a restored store.

    ``withdrawn`` is None if the replaced store could not be read, or there was none. ``open_work`` is None
    until it was counted. ``pending``: the daemon has not marked the open work yet.
    """

    backup_at_ms: int
    cursor: int
    restored_at_ms: int
    withdrawn: Withdrawn | None = None
    open_work: OpenWork | None = None
    pending: bool = True


class Line(Struct, frozen=True):
    """A line of history: its epoch, its newest cursor, and the last cursor shared with each other line."""

    epoch: str
    last_cursor: int
    shared: dict[str, int]


_backup_mark: LazyDecoder[BackupMark] = LazyDecoder(BackupMark)
_restore_mark: LazyDecoder[RestoreMark] = LazyDecoder(RestoreMark)
_shared: LazyDecoder[dict[str, int]] = LazyDecoder(dict[str, int])
_encode = msgspec.json.encode


def read_epoch(store: Snapshot) -> str:
    """Return the epoch of a store."""
    return _name_epoch(store.get(META, EPOCH), store.get(META, "identity"))


def read_line(store: Snapshot) -> Line:
    """Return the line of history of a store."""
    shared = store.get(META, EPOCHS)
    return Line(read_epoch(store), store.last_cursor, {} if shared is None else _shared.decode(shared))


def find_shared_cursor(store: Snapshot, epoch: str) -> int | None:
    """Return the last cursor that a line shares with the store's own; None for an unknown line."""
    line = read_line(store)
    return line.last_cursor if epoch == line.epoch else line.shared.get(epoch)


def read_backup_mark(store: Snapshot) -> BackupMark | None:
    """Return the mark of a backup; None in a store that is none."""
    stored = store.get(META, BACKUP)
    return None if stored is None else _backup_mark.decode(stored)


def read_restore_mark(store: Snapshot) -> RestoreMark | None:
    """Return the mark of the newest restore; None in a store that was never restored."""
    stored = store.get(META, RESTORED)
    return None if stored is None else _restore_mark.decode(stored)


def put_restore_mark(tx: Transaction, mark: RestoreMark) -> None:
    """Store the mark of a restore."""
    tx.put(META, RESTORED, value=_encode(mark))


def mark_backup(env: lmdb.Environment, mark: BackupMark) -> None:
    """Mark the copy in an environment as a backup. Errors: lmdb.Error."""
    _put(env, {BACKUP: _encode(mark)})


def mark_restored(env: lmdb.Environment, line: Line, mark: RestoreMark, replaced: Line | None) -> None:
    """Begin a new line of history in a store made of a backup. ``line`` is that of the backup.

    Errors: lmdb.Error.
    """
    shared = {epoch: min(cursor, line.last_cursor) for epoch, cursor in line.shared.items()}
    shared[line.epoch] = line.last_cursor
    if replaced is not None:
        shared = _add_replaced(shared, replaced)
    newest = dict(list(shared.items())[-MAX_EPOCHS:])
    values = {EPOCH: os.urandom(16).hex().encode(), EPOCHS: _encode(newest), RESTORED: _encode(mark)}
    _put(env, values, remove=BACKUP)


def adopt_backup(env: lmdb.Environment) -> None:
    """Begin a new line of history if the store is a backup that was put here by hand. Errors: lmdb.Error."""
    with env.begin(db=env.open_db(META.name.encode())) as txn:
        stored = {name: txn.get(META.pack((name,))) for name in (BACKUP, EPOCH, EPOCHS, "identity")}
    if stored[BACKUP] is None:
        return
    backup = _backup_mark.decode(stored[BACKUP])
    epoch = _name_epoch(stored[EPOCH], stored["identity"])
    line = Line(epoch, backup.cursor, _shared.decode(stored[EPOCHS] or b"{}"))
    now_ms = time.time_ns() // 1_000_000
    mark = RestoreMark(backup_at_ms=backup.at_ms, cursor=backup.cursor, restored_at_ms=now_ms)
    mark_restored(env, line, mark, None)


def _name_epoch(stored: bytes | None, identity: bytes | None) -> str:
    """Return the name of an epoch; the first one has no row, and its name follows from the identity.

    The identity itself is secret, because page tokens are encrypted with it.
    """
    return sha256(b"epoch " + (identity or b"")).hexdigest()[:32] if stored is None else stored.decode()


def _add_replaced(shared: dict[str, int], replaced: Line) -> dict[str, int]:
    """Return the shared cursors with those of the replaced store's lines, as far as they can be known."""
    lines = {**replaced.shared, replaced.epoch: replaced.last_cursor}
    common = [min(cursor, shared[epoch]) for epoch, cursor in lines.items() if epoch in shared]
    if not common:
        return shared
    return {epoch: min(cursor, max(common)) for epoch, cursor in lines.items()} | shared


def _put(env: lmdb.Environment, values: dict[str, bytes], remove: str | None = None) -> None:
    with env.begin(write=True, db=env.open_db(META.name.encode())) as txn:
        for name, value in values.items():
            txn.put(META.pack((name,)), value)
        if remove is not None:
            txn.delete(META.pack((remove,)))
