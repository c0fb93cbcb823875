"""The rules of the journal: increasing cursors, and a chain that reveals every change."""

import hashlib

import pytest

from kheishd.store.journal import HASH_BYTES, MAX_HEADS, NO_HASH, Break, Head, Heads, link, verify_chain
from kheishd.store.tables import CURSORS, JOURNAL
from kheishd.store.writer import Store
from tests.support.stores import append, update


def breaks(store: Store, stream: str | None = None) -> list[Break]:
    """Return the breaks that verification finds."""
    with store.read() as snapshot:
        return list(verify_chain(snapshot, stream))


def spoil(store: Store, stream: str, cursor: int, stored: bytes | None) -> None:
    """Replace an entry, or delete it."""
    if stored is None:
        update(store, lambda tx: tx.delete(JOURNAL, stream, cursor))
    else:
        update(store, lambda tx: tx.put(JOURNAL, stream, cursor, value=stored))


def test_the_chain_is_sha256_of_hash_and_line() -> None:
    """The chain is SHA-256 over the previous hash and the line's bytes."""
    first = link(NO_HASH, b"one")
    assert first == hashlib.sha256(bytes(32) + b"one").digest()
    assert link(first, b"two") == hashlib.sha256(first + b"two").digest()


def test_each_stream_has_its_own_chain(store: Store) -> None:
    """Two streams written alternately have one increasing cursor and two sound chains."""
    assert [append(store, stream) for stream in ("ses_a", "ses_b", "ses_a", "daemon")] == [1, 2, 3, 4]
    assert breaks(store) == []
    with store.read() as snapshot:
        first, line = snapshot.entry("ses_a", 1), snapshot.entry("ses_a", 3)
        assert first is not None
        assert line is not None
        assert snapshot.head("ses_a") == (3, link(first[0], line[1]))
        assert snapshot.head("ses_none") == (0, NO_HASH)


@pytest.mark.parametrize("cursor", [1, 3, 5])
def test_a_changed_line_is_one_break(store: Store, cursor: int) -> None:
    """One changed bit anywhere is one break, at that entry."""
    for number in range(5):
        append(store, text=f"number {number}")
    with store.read() as snapshot:
        entry = snapshot.entry("ses_1", cursor)
    assert entry is not None
    spoil(store, "ses_1", cursor, entry[0] + entry[1].replace(b"number", b"Number"))
    assert [(damage.stream, damage.cursor) for damage in breaks(store)] == [("ses_1", cursor)]
    assert [damage.cursor for damage in breaks(store, "ses_1")] == [cursor]


def test_a_changed_hash_is_seen(store: Store) -> None:
    """A changed hash fits neither its own line nor the next one."""
    for _ in range(3):
        append(store)
    with store.read() as snapshot:
        entry = snapshot.entry("ses_1", 2)
    assert entry is not None
    spoil(store, "ses_1", 2, bytes(HASH_BYTES) + entry[1])
    assert [damage.cursor for damage in breaks(store, "ses_1")] == [2, 3]


def test_a_missing_entry_is_seen(store: Store) -> None:
    """An entry missing in the middle breaks the chain; one missing at the end leaves its cursor."""
    for _ in range(3):
        append(store)
    spoil(store, "ses_1", 2, None)
    assert [damage.cursor for damage in breaks(store, "ses_1")] == [3]
    spoil(store, "ses_1", 3, None)
    assert breaks(store, "ses_1") == []
    assert "3 cursors for 1 entries" in breaks(store)[-1].message


def test_a_cursor_of_another_stream_is_seen(store: Store) -> None:
    """The table of cursors must name the stream that has the entry."""
    append(store)
    update(store, lambda tx: tx.put(CURSORS, 1, value="ses_2"))
    assert [damage.message for damage in breaks(store)] == ["the table of cursors does not name this stream"]


def test_heads_are_forgotten_and_bounded() -> None:
    """The remembered ends of streams are dropped after a rollback, and when there are too many."""
    heads = Heads()
    heads.last = 7
    heads.streams["ses_1"] = Head("ses_1", 7, NO_HASH)
    heads.limit_memory()
    assert heads.streams
    heads.reset()
    assert heads.last is None
    assert not heads.streams
    heads.streams = {str(number): Head("x", 0, NO_HASH) for number in range(MAX_HEADS + 1)}
    heads.limit_memory()
    assert heads.streams == {}
