"""The open environment with its tables, snapshots that read it, transactions that write it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast

import lmdb
from msgspec import DecodeError, Raw, field
from msgspec.json import Decoder

from kheishd.store.journal import HASH_BYTES, NO_HASH, Head, Heads
from kheishd.store.pages import PageDamaged, PageFile, get_handles
from kheishd.store.tables import CURSORS, JOURNAL, TABLES
from protocol.errors.daemon import DaemonDraining
from protocol.errors.rpc import InvalidParams
from protocol.errors.store import StorageFailed, StoreDamaged, UpdateTooLarge
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent, Unknown, decode_envelope, decode_event, encode_line
from protocol.limits.store import MAX_UPDATE_BYTES
from protocol.structs import Value

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from kheishd.store.table import Key, KeyPart, Table

V = TypeVar("V")
Scrub = Callable[[bytes], bytes]
"""Redacts secrets in a journal line. Returns the line itself if it holds none."""
Handle = Any
"""LMDB's own handle of a named table."""
DATA = "data.mdb"
"""The name that LMDB gives the data file."""
_decode_raw = Decoder(Raw).decode

CORRUPT: Final = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    # A tree that is deeper than any can be: it leads back to itself.
    lmdb.CursorFullError,
    PageDamaged,
)
"""Errors that say that the file is damaged."""
_UNDECODABLE: Final = (DecodeError, UnicodeDecodeError, ValueError, IndexError)
REPAIR: Final = (
    "Nothing is written any more and no run starts; reads go on. Stop the daemon, and repair the store with "
    "'kheishd doctor --repair', or restore a backup with 'kheishd restore BACKUP'"
)


class Readers:
    """The open snapshots, which delay the closing of the environment.

    Closing an LMDB environment while a thread is inside it can crash the interpreter.
    """

    __slots__ = ("_idle", "_open", "closing")

    def __init__(self) -> None:
        self._open: dict[Snapshot, int] = {}
        self._idle = threading.Event()
        self.closing = False

    def enter(self, snapshot: Snapshot) -> None:
        """Register a snapshot. Errors: DaemonDraining once the store is closing."""
        if self.closing:
            raise DaemonDraining("the store is closed")
        self._open[snapshot] = threading.get_ident()

    def leave(self, snapshot: Snapshot) -> None:
        """Remove a closed snapshot."""
        self._open.pop(snapshot, None)
        if self.closing and not self._open:
            self._idle.set()

    def drain(self, seconds: float) -> bool:
        """Refuse new snapshots, close this thread's, wait for the others; return whether all are closed."""
        self.closing = True
        for snapshot, thread in list(self._open.items()):
            if thread == threading.get_ident():
                snapshot.close()
        return not self._open or self._idle.wait(seconds)


class Health:
    """The first damage that was noticed. From then on the store is read without LMDB, which could crash."""

    __slots__ = ("_data", "damage", "handles", "is_watched", "lock", "on_damage", "pages")

    def __init__(self) -> None:
        self.damage: str | None = None
        self.on_damage: Callable[[str], None] = lambda damage: None
        self.is_watched = False
        """Whether damage becomes a refusal; in maintenance, the error itself is wanted."""
        self.lock = threading.RLock()
        """Held during a commit."""
        self.pages: PageFile | None = None
        self.handles: dict[Table[Any], Handle] = {}

    def note(self, data: Path, damage: str) -> None:
        """Note damage, the first time: nothing is written after it."""
        with self.lock:
            if self.damage is not None:
                return
            self.damage = damage
            try:
                pages = PageFile(data)
            except (PageDamaged, OSError):
                # Not even the list of tables can be read: continue with LMDB.
                pages = None
            if pages is not None:
                self.handles = get_handles(pages, TABLES)
                self.pages = pages
        self.on_damage(damage)

    def close(self) -> None:
        """Close the file."""
        if self.pages is not None:
            self.pages.close()


def refuse_damaged(damage: str) -> StoreDamaged:
    """Return the refusal of a change to a damaged store."""
    return StoreDamaged(f"the store is damaged: {damage}. {REPAIR}")


class EventFollowers:
    """The patterns of event sources that connections follow, for the writer: replaced as a whole."""

    def __init__(self) -> None:
        self.patterns: tuple[str, ...] = ()

    def add(self, pattern: str) -> None:
        """Add the pattern of one more follower."""
        self.patterns = (*self.patterns, pattern)

    def remove(self, pattern: str) -> None:
        """Remove the pattern of one follower."""
        index = self.patterns.index(pattern)
        self.patterns = (*self.patterns[:index], *self.patterns[index + 1 :])


class Environment(Value, frozen=True):
    """An open LMDB environment, the handles of its tables, and its identity."""

    directory: Path
    lmdb: lmdb.Environment
    handles: dict[Table[Any], Handle]
    identity: str
    readers: Readers = field(default_factory=Readers)
    health: Health = field(default_factory=Health)
    followers: EventFollowers = field(default_factory=EventFollowers)

    @property
    def data(self) -> Path:
        """The data file."""
        return self.directory / DATA

    def explain(self, error: Exception, subject: str) -> Exception:
        """Note that something could not be read; return the refusal. In maintenance, return the error."""
        if not self.health.is_watched:
            return error
        damage = f"{subject} cannot be read ({error})"
        self.health.note(self.data, damage)
        return refuse_damaged(damage)


class Snapshot:
    """A consistent view of the store. Keep it short and on one thread; never hold it across an ``await``."""

    __slots__ = ("_environment", "_handles", "_last", "_txn")

    corrupt: ClassVar[tuple[type[Exception], ...]] = (*CORRUPT, lmdb.BadTxnError)
    """Errors of reading that say that the file is damaged: only damage invalidates a snapshot."""
    _unreadable: ClassVar[tuple[type[Exception], ...]] = (*corrupt, *_UNDECODABLE)

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._handles = environment.handles
        self._last: int | None = None
        self._txn: lmdb.Transaction[bytes]

    def __enter__(self) -> Self:
        self._environment.readers.enter(self)
        try:
            health = self._environment.health
            if health.pages is None:
                self._txn = self._environment.lmdb.begin()
            else:
                self._begin_without_lmdb(health.pages)
        except BaseException as error:
            self._environment.readers.leave(self)
            if isinstance(error, lmdb.PanicError):
                # A commit failed on the disk, and the daemon is about to stop.
                raise StorageFailed() from error
            raise
        return self

    def _begin_without_lmdb(self, pages: PageFile) -> None:
        # The same methods, as far as they are used.
        self._txn = cast("lmdb.Transaction[bytes]", pages.begin())
        self._handles = self._environment.health.handles

    def __exit__(self, *exc: object) -> None:
        # As ``close``, without a call: a turn reads a dozen snapshots.
        self._txn.abort()
        # A transaction that has ended keeps its reader's slot until it is freed.
        del self._txn
        self._environment.readers.leave(self)

    def close(self) -> None:
        """Close the snapshot; iterations over it fail from then on."""
        self._txn.abort()
        self._environment.readers.leave(self)

    @property
    def number(self) -> int:
        """The number of the newest LMDB transaction in the snapshot."""
        return self._txn.id()

    @property
    def last_cursor(self) -> int:
        """The newest cursor of the journal; 0 if there is none."""
        if self._last is None:
            try:
                with self._txn.cursor(self._handles[CURSORS]) as cursor:
                    self._last = int.from_bytes(cursor.key(), "big") if cursor.last() else 0
            except self.corrupt as error:
                self._last = self._recover_last_cursor(error)
        return self._last

    def _recover_last_cursor(self, error: Exception) -> int:
        """Return the newest cursor in the journal's keys, because the table of cursors is damaged.

        It is the newest one that can be read. Errors: StoreDamaged unless the store is read without LMDB;
        in maintenance, the error itself.
        """
        refusal = self._environment.explain(error, "the end of the journal")
        pages = self._environment.health.pages
        if pages is None:
            raise refusal from None
        # After the error, LMDB refuses all reads of this snapshot.
        self._begin_without_lmdb(pages)
        newest = 0
        with suppress(PageDamaged), self._txn.cursor(self._handles[JOURNAL]) as cursor:
            # From the last entry of each stream, over the first one, to the previous stream.
            has_entry = cursor.last()
            while has_entry:
                stream, last = cursor.key()[:-8], cursor.key()[-8:]
                newest = max(newest, int.from_bytes(last, "big"))
                has_entry = cursor.set_range(stream) and cursor.prev()
        return newest

    def get(self, table: Table[V], *key: KeyPart) -> V | None:
        """Return the value at ``key``, or None."""
        handle = self._handles.get(table)
        packed = table.pack(key)
        try:
            # In a store that an older version wrote, a newer table is empty.
            stored = None if handle is None else self._txn.get(packed, None, handle)
            return None if stored is None else table.decode(stored)
        except self._unreadable as error:
            raise self._environment.explain(error, f"a row of the table '{table.name}'") from None

    def need(self, table: Table[V], *key: KeyPart) -> V:
        """Return the value at ``key``, which must exist. Errors: AssertionError if it does not."""
        value = self.get(table, *key)
        assert value is not None, f"{table.name} {' '.join(map(str, key))} does not exist"
        return value

    def explain(self, error: Exception, subject: str) -> Exception:
        """Note that stored data is damaged; return the refusal. In maintenance, return the error."""
        return self._environment.explain(error, subject)

    @property
    def followed(self) -> tuple[str, ...]:
        """The patterns of event sources that connections follow now."""
        return self._environment.followers.patterns

    def count(self, table: Table[Any]) -> int:
        """Return the number of rows of a table, without counting them."""
        handle = self._handles.get(table)
        return 0 if handle is None else self._stat(handle)["entries"]

    def count_after(self, table: Table[Any], after: Key, part: str) -> tuple[int, int]:
        """Return the number of rows beyond a whole key, and of those whose second part is a text.

        The first part is an int. No row is decoded, because there may be thousands.
        """
        marker = part.encode() + b"\0"
        rows = self._rows(table, b"", table.pack(after), reverse=False)
        matches = [packed.startswith(marker, 8) for packed, _ in rows]
        return len(matches), sum(matches)

    @property
    def used_bytes(self) -> int:
        """The size of all tables, in whole pages. The file also contains free pages."""
        pages = page_bytes = 0
        for handle in self._handles.values():
            stat = self._stat(handle)
            pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            page_bytes = stat["psize"]
        return pages * page_bytes

    def _stat(self, handle: Handle) -> Mapping[str, int]:
        try:
            return cast("Mapping[str, int]", self._txn.stat(handle))
        except self.corrupt as error:
            raise self._environment.explain(error, "the list of tables") from None

    def scan(
        self, table: Table[V], *prefix: KeyPart, after: Key | None = None, reverse: bool = False
    ) -> Iterator[tuple[Key, V]]:
        """Yield the rows whose keys begin with ``prefix``, in key order.

        ``after`` is a whole key: the scan begins beyond it, in its direction.
        """
        unpack, decode = table.unpack, table.decode
        start = None if after is None else table.pack(after)
        for packed, stored in self._rows(table, table.prefix(prefix), start, reverse):
            try:
                row = unpack(packed), decode(stored)
            except self._unreadable as error:
                raise self._environment.explain(error, f"a row of the table '{table.name}'") from None
            yield row

    def scan_packed(
        self, table: Table[Any], *prefix: KeyPart, after: Key | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield rows as ``scan`` does, with keys and values as they are stored: for long lists of numbers."""
        return self._rows(table, table.prefix(prefix), None if after is None else table.pack(after), reverse)

    def entries(self, stream: str, after: int = 0, *, reverse: bool = False) -> Iterator[tuple[int, bytes]]:
        """Yield the entries of one stream, (cursor, line), oldest first, beyond ``after``.

        With ``reverse``: newest first, before ``after``; 0 begins with the newest.
        """
        prefix = JOURNAL.prefix((stream,))
        start = JOURNAL.pack((stream, after)) if after else None
        size = len(prefix)
        last = after
        for packed, stored in self._rows(JOURNAL, prefix, start, reverse):
            cursor = int.from_bytes(packed[size:], "big")
            if cursor <= last if not reverse else last and cursor >= last:
                error = PageDamaged("its cursors are out of order")
                raise self._environment.explain(error, f"the stream '{stream}'")
            last = cursor
            line = stored[HASH_BYTES:]
            self._require_json(line, cursor)
            yield cursor, line

    def feed(self, after: int = 0, *, reverse: bool = False) -> Iterator[tuple[int, str]]:
        """Yield the cursors of the whole daemon, each with its stream, beyond ``after``; see ``entries``."""
        start = CURSORS.pack((after,)) if after else None
        for packed, stored in self._rows(CURSORS, b"", start, reverse):
            yield int.from_bytes(packed, "big"), stored.decode(errors="replace")

    def entry(self, stream: str, cursor: int) -> tuple[bytes, bytes] | None:
        """Return the hash and the line at one cursor, or None."""
        try:
            stored = self._txn.get(JOURNAL.pack((stream, cursor)), None, self._handles[JOURNAL])
        except self.corrupt as error:
            raise self._environment.explain(error, f"the event at cursor {cursor}") from None
        if stored is None:
            return None
        line = stored[HASH_BYTES:]
        self._require_json(line, cursor)
        return stored[:HASH_BYTES], line

    def _require_json(self, line: bytes, cursor: int) -> None:
        """Require that an event is JSON; in maintenance, damaged ones are examined and left out."""
        if self._environment.health.is_watched:
            self.require_json(line, f"the event at cursor {cursor}")

    def require_json(self, stored: bytes, subject: str) -> None:
        """Require that stored bytes are JSON, because they are sent as they are.

        A kilobyte takes less than a microsecond.
        Errors: StoreDamaged; in maintenance the error itself.
        """
        try:
            _decode_raw(stored)
            if not stored.isascii():
                stored.decode()
        except (DecodeError, UnicodeDecodeError) as error:
            raise self._environment.explain(error, subject) from None
        except RecursionError:
            # Too deep to be checked on this stack, which is no sign of damage.
            return

    def head(self, stream: str) -> tuple[int, bytes]:
        """Return the newest cursor of a stream and the hash there; (0, zeros) if it has no entries."""
        prefix = JOURNAL.prefix((stream,))
        for packed, stored in self._rows(JOURNAL, prefix, None, True):
            return int.from_bytes(packed[len(prefix) :], "big"), stored[:HASH_BYTES]
        return 0, NO_HASH

    def _rows(
        self, table: Table[Any], prefix: bytes, start: bytes | None, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        handle = self._handles.get(table)
        if handle is None:
            return
        try:
            with self._txn.cursor(handle) as cursor:
                if not (_seek_back if reverse else _seek)(cursor, prefix, start):
                    return
                for packed, stored in cursor.iterprev() if reverse else cursor.iternext():
                    if not packed.startswith(prefix):
                        return
                    yield packed, stored
        except self.corrupt as error:
            raise self._environment.explain(error, f"a part of the table '{table.name}'") from None


def _seek(cursor: lmdb.Cursor[bytes], prefix: bytes, start: bytes | None) -> bool:
    if start is None or start < prefix:
        return cursor.set_range(prefix)
    return cursor.set_range(start) and (cursor.key() != start or cursor.next())


def _seek_back(cursor: lmdb.Cursor[bytes], prefix: bytes, start: bytes | None) -> bool:
    end = _successor(prefix)
    if start is None or (end is not None and start >= end):
        start = end
    if start is not None and cursor.set_range(start):
        return cursor.prev()
    return cursor.last()


def _successor(prefix: bytes) -> bytes | None:
    """Return the least key above every key with this prefix; None if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None


class Transaction(Snapshot):
    """The argument of an update function: its reads see its own writes, which are all kept, or none.

    It is the writer's: one may serve several update functions, one after another.
    """

    # An update function that continues after an error of its own, such as a full disk, has an invalid one.
    corrupt = CORRUPT
    _unreadable = (*CORRUPT, *_UNDECODABLE)

    __slots__ = (
        "_bytes",
        "_cursors",
        "_heads",
        "_journal",
        "_max_bytes",
        "_scrub",
        "blobs",
        "events",
        "journal_bytes",
        "now_ms",
        "route",
        "rung",
    )

    def __init__(
        self,
        environment: Environment,
        txn: lmdb.Transaction[bytes],
        heads: Heads,
        scrub: Scrub | None,
        *,
        max_bytes: int = MAX_UPDATE_BYTES,
    ) -> None:
        super().__init__(environment)
        self._txn = txn
        self._heads = heads
        self._scrub = scrub
        self._journal = self._handles[JOURNAL]
        self._cursors = self._handles[CURSORS]
        self._bytes = 0
        self._max_bytes = max_bytes
        self.now_ms = 0
        self.rung: set[str] = set()
        self.events: list[tuple[JournalEvent, str]] = []
        """The events that were appended, each with the route of the run that the update works on."""
        self.journal_bytes = 0
        self.route = ""
        self.blobs: set[tuple[str, int]] = set()
        """The chunks of blobs that exist, as far as the updates have looked them up or written them."""

    def begin_update(self, now_ms: int) -> None:
        """Begin the next update function."""
        self.now_ms = now_ms
        self.route = ""
        self._bytes = 0

    @property
    def has_written(self) -> bool:
        """Whether the current update function has written anything."""
        return self._bytes > 0

    @property
    def free_bytes(self) -> int:
        """The number of bytes that the current update function may still write."""
        return self._max_bytes - self._bytes

    @property
    def last_cursor(self) -> int:
        """The newest cursor of the journal, this transaction's own included; 0 if there is none."""
        newest = self._heads.last
        if newest is None:
            self._last = None
            newest = self._heads.last = super().last_cursor
        return newest

    def _recover_last_cursor(self, error: Exception) -> int:
        """Raise the refusal: nothing is appended to a damaged journal."""
        raise self._environment.explain(error, "the end of the journal") from None

    def put(self, table: Table[V], *key: KeyPart, value: V) -> None:
        """Write a row. Errors: UpdateTooLarge beyond 256 KiB per update."""
        packed = table.pack(key)
        stored = table.encode(value)
        self._bytes += len(packed) + len(stored)
        if self._bytes > self._max_bytes:
            raise UpdateTooLarge()
        self._txn.put(packed, stored, True, True, False, self._handles[table])
        self.rung.add(table.name)

    def delete(self, table: Table[Any], *key: KeyPart) -> bool:
        """Delete a row; return whether there was one."""
        packed = table.pack(key)
        self._bytes += len(packed)
        self.rung.add(table.name)
        return self._txn.delete(packed, b"", self._handles[table])

    def append(
        self,
        stream: str,
        event: JournalEvent,
        *,
        session_id: str | None = None,
        run_id: str | None = None,
        actor: str = "daemon",
        on_behalf_of: str | None = None,
        request_id: str | int | None = None,
        cause: int | None = None,
    ) -> tuple[Envelope, JournalEvent]:
        """Append an event to a stream; return its envelope, with its cursor, and the event as stored.

        Fold records from these two, because secrets were redacted from them.
        Errors: UpdateTooLarge beyond 256 KiB per update; InvalidParams if an id contains a secret.
        """
        envelope = Envelope(
            cursor=self.last_cursor + 1,
            at_ms=self.now_ms,
            session_id=session_id,
            run_id=run_id,
            actor=actor,
            on_behalf_of=on_behalf_of,
            request_id=request_id,
            cause=cause,
        )
        line = encode_line(envelope, event)
        self.events.append((event, self.route))
        if self._scrub is None:
            self._append(stream, envelope.cursor, line)
            return envelope, event
        redacted = self._scrub(line)
        if redacted == line:
            self._append(stream, envelope.cursor, line)
            return envelope, event
        stored, stored_envelope = decode_event(redacted), decode_envelope(redacted)
        assert not isinstance(stored, Unknown), "redaction leaves an event its type"
        if (stored_envelope.session_id, stored_envelope.run_id) != (session_id, run_id):
            raise InvalidParams("an id must not contain a credential of the daemon")
        self._append(stream, envelope.cursor, redacted)
        return stored_envelope, stored

    def _append(self, stream: str, cursor: int, line: bytes) -> None:
        """Append a line; the only function that extends the journal."""
        heads = self._heads
        head = heads.streams.get(stream)
        if head is None:
            head = heads.streams[stream] = Head(stream, *self.head(stream))
        assert cursor > head.cursor, "the journal's cursor must rise"
        digest = sha256(head.digest + line).digest()
        number = cursor.to_bytes(8, "big")
        entry = digest + line
        self._bytes += len(entry) + 64
        self.journal_bytes += len(line)
        if self._bytes > self._max_bytes:
            raise UpdateTooLarge()
        is_new_entry = self._txn.put(head.prefix + number, entry, True, False, False, self._journal)
        is_new_cursor = self._txn.put(number, head.name, True, False, True, self._cursors)
        assert is_new_entry, "an entry is written once"
        assert is_new_cursor, "a cursor is given once"
        head.cursor = heads.last = cursor
        head.digest = digest
        if head.bell not in self.rung:
            self.rung.update((JOURNAL.name, CURSORS.name, head.bell))
