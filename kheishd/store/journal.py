"""The rules of the journal: one increasing cursor for the daemon, one hash chain for each stream.

An entry is stored as its hash, 32 bytes, and its line. The hash is SHA-256 of the previous entry's hash and
the bytes of the line; before the first entry stand 32 zero bytes. Stored bytes are never rewritten, so the
newest hash of a stream proves that nothing before it was changed.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from kheishd.store.tables import CURSORS, JOURNAL
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.store.table import Key, KeyPart, Table

V = TypeVar("V")
HASH_BYTES = 32
NO_HASH = bytes(HASH_BYTES)
"""The hash before the first entry of a stream."""
STREAM_BELL = "stream:"
"""The bell of a stream is named by this and the stream's name."""

# Between commits the newest entries of as many streams are remembered. 4,096 of them take about 2 MiB and
# cover every session with a run in flight; for any other the table is read once.
MAX_HEADS = 4_096


def link(previous: bytes, line: bytes) -> bytes:
    """Return the chain's hash at ``line``, given the previous hash."""
    return sha256(previous + line).digest()


class Head:
    """The end of a stream: its newest cursor and hash, and the encoded forms of its name."""

    __slots__ = ("bell", "cursor", "digest", "name", "prefix")

    def __init__(self, stream: str, cursor: int, digest: bytes) -> None:
        self.cursor = cursor
        self.digest = digest
        self.name = stream.encode()
        self.prefix = JOURNAL.prefix((stream,))
        self.bell = STREAM_BELL + stream


class Heads:
    """The ends of the journal and its streams, as its one writer knows them.

    They are right only while every transaction that moved them was committed: after a rollback, call
    :meth:`reset`, and they are read again when needed.
    """

    __slots__ = ("last", "streams")

    def __init__(self) -> None:
        self.last: int | None = None
        self.streams: dict[str, Head] = {}

    def reset(self) -> None:
        """Forget everything, after a rollback."""
        self.last = None
        self.streams.clear()

    def limit_memory(self) -> None:
        """Forget the streams if there are too many; call it between transactions."""
        if len(self.streams) > MAX_HEADS:
            self.streams.clear()


class Break(Value, frozen=True):
    """A point at which the journal is not what was written."""

    stream: str
    cursor: int
    message: str


class ChainReader(Protocol):
    """The reads of a snapshot by which the chain is verified."""

    def get(self, table: Table[V], *key: KeyPart) -> V | None:
        """Return the value at a key, or None."""
        ...

    def scan(self, table: Table[V], *prefix: KeyPart) -> Iterator[tuple[Key, V]]:
        """Yield the rows whose keys begin with a prefix."""
        ...

    def count(self, table: Table[Any]) -> int:
        """Return the number of rows."""
        ...


def verify_chain(snapshot: ChainReader, stream: str | None = None) -> Iterator[Break]:
    """Yield every break in the chain of one stream, or of all of them, in key order.

    After a break it continues from the hash as stored, so that one change is one break. For all streams it
    also verifies the cursors: each is in one stream, and in the one that its row names.
    Source: JOURNAL, CURSORS.
    """
    name, newest, digest, count = None, 0, NO_HASH, 0
    for (owner, cursor), stored in snapshot.scan(JOURNAL, *(() if stream is None else (stream,))):
        if owner != name:
            name, newest, digest = owner, 0, NO_HASH
        if cursor <= newest:
            yield Break(owner, cursor, "the cursor does not rise")
        if link(digest, stored[HASH_BYTES:]) != stored[:HASH_BYTES]:
            yield Break(owner, cursor, "the hash is not that of the line and the hash before it")
        if snapshot.get(CURSORS, cursor) != owner:
            yield Break(owner, cursor, "the table of cursors does not name this stream")
        newest, digest, count = cursor, stored[:HASH_BYTES], count + 1
    if stream is None and snapshot.count(CURSORS) != count:
        yield Break("", 0, f"there are {snapshot.count(CURSORS)} cursors for {count} entries")
