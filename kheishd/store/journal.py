"""The journal's law: one rising cursor for the daemon, one hash chain for each stream.

An entry is stored as the chain's hash and the line: 32 bytes and the rest. The hash is SHA-256 of the
hash before it and the line's bytes; before the first line stand 32 zero bytes. What is stored is never
rewritten, so whoever knows the newest hash of a stream can tell that nothing before it was changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, TypeVar

from kheishd.store.tables import CURSORS, JOURNAL, Key, KeyPart, Table

V = TypeVar("V")
HASH_BYTES = 32
NO_HASH = bytes(HASH_BYTES)
"""What stands before the first entry of a stream."""
STREAM_BELL = "stream:"
"""The bell of a stream is called this and the stream's name."""

# The newest entries of as many streams are remembered between commits. 4,096 of them take about
# 2 MiB and cover every session with a run in flight; any other is one look into the table.
MAX_HEADS = 4_096


def link(previous: bytes, line: bytes) -> bytes:
    """The chain's hash at ``line``, given the hash before it."""
    return sha256(previous + line).digest()


class Head:
    """Where a stream stands: its newest cursor and hash, and what the next entry needs of its name."""

    __slots__ = ("bell", "cursor", "digest", "name", "prefix")

    def __init__(self, stream: str, cursor: int, digest: bytes) -> None:
        self.cursor = cursor
        self.digest = digest
        self.name = stream.encode()
        self.prefix = JOURNAL.prefix((stream,))
        self.bell = STREAM_BELL + stream


class Heads:
    """Where the journal stands, as its one writer knows it.

    Right only while every transaction that moved it was committed: whoever takes one back calls
    :meth:`forget`, and what is needed is read again.
    """

    __slots__ = ("last", "streams")

    def __init__(self) -> None:
        self.last: int | None = None
        self.streams: dict[str, Head] = {}

    def forget(self) -> None:
        """Something was taken back: know nothing."""
        self.last = None
        self.streams.clear()

    def bound(self) -> None:
        """Keep the memory this takes within its limit; called between transactions."""
        if len(self.streams) > MAX_HEADS:
            self.streams.clear()


@dataclass(frozen=True, slots=True)
class Break:
    """A place where the journal is not what was written."""

    stream: str
    cursor: int
    message: str


class Readable(Protocol):
    """What verifying needs of a snapshot."""

    def get(self, table: Table[V], *key: KeyPart) -> V | None:
        """The value at a key, or None."""
        ...

    def scan(self, table: Table[V], *prefix: KeyPart) -> Iterator[tuple[Key, V]]:
        """Rows whose key begins so."""
        ...

    def count(self, table: Table[Any]) -> int:
        """How many rows there are."""
        ...


def verify_chain(snapshot: Readable, stream: str | None = None) -> Iterator[Break]:
    """Every break in the chain of one stream, or of all of them, in key order.

    After a break the chain is followed from the hash as stored, so that one change is one break.
    Of all streams the cursors are verified too: each in one stream, and in the one that it says.
    Source: JOURNAL, CURSORS.
    """
    name, at, digest, count = None, 0, NO_HASH, 0
    for (here, cursor), stored in snapshot.scan(JOURNAL, *(() if stream is None else (stream,))):
        if here != name:
            name, at, digest = here, 0, NO_HASH
        if cursor <= at:
            yield Break(here, cursor, "the cursor does not rise")
        if link(digest, stored[HASH_BYTES:]) != stored[:HASH_BYTES]:
            yield Break(here, cursor, "the hash is not that of the line and the hash before it")
        if snapshot.get(CURSORS, cursor) != here:
            yield Break(here, cursor, "the table of cursors does not name this stream")
        at, digest, count = cursor, stored[:HASH_BYTES], count + 1
    if stream is None and snapshot.count(CURSORS) != count:
        yield Break("", 0, f"there are {snapshot.count(CURSORS)} cursors for {count} entries")
