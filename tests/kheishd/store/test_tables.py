"""Keys and values of every table: round trips, order, limits."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.store.records import Binding
from kheishd.store.tables import (
    BLOBS,
    CONVERSATIONS,
    CURSORS,
    JOURNAL,
    RECEIPTS,
    RECEIPTS_BY_AGE,
    RUNS,
    TABLES,
    TOKENS_BY_DIGEST,
    Key,
    Table,
)
from protocol.limits.names import MAX_AGENT_BYTES, MAX_IDEMPOTENCY_KEY_BYTES, MAX_SENDER_BYTES

MAX_LMDB_KEY_BYTES = 511

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
numbers = st.integers(0, 2**64 - 1)
layouts = st.sampled_from(sorted({table.key for table in TABLES}, key=str))


def keys(layout: tuple[type, ...]) -> st.SearchStrategy[Key]:
    """Keys of one layout."""
    return st.tuples(*(texts if kind is str else numbers for kind in layout))


@given(layouts.flatmap(lambda layout: st.tuples(st.just(layout), keys(layout))))
def test_a_key_comes_back(case: tuple[tuple[type, ...], Key]) -> None:
    """Packing and unpacking a key gives the key."""
    layout, key = case
    table: Table[Any] = Table("t", layout, bytes)
    assert table.unpack(table.pack(key)) == key


@given(layouts.flatmap(lambda layout: st.tuples(st.just(layout), keys(layout), keys(layout))))
def test_keys_sort_by_their_parts(case: tuple[tuple[type, ...], Key, Key]) -> None:
    """Packed keys sort as their parts do: texts by their bytes, numbers by size."""
    layout, one, other = case
    table: Table[Any] = Table("t", layout, bytes)

    def plain(key: Key) -> tuple[Any, ...]:
        return tuple(part.encode() if isinstance(part, str) else part for part in key)

    assert (table.pack(one) < table.pack(other)) == (plain(one) < plain(other))


@given(layouts.flatmap(lambda layout: st.tuples(st.just(layout), keys(layout), keys(layout))))
def test_a_prefix_is_that_of_its_keys_alone(case: tuple[tuple[type, ...], Key, Key]) -> None:
    """A packed key begins with the prefix of its first parts, and with no other key's."""
    layout, one, other = case
    table: Table[Any] = Table("t", layout, bytes)
    for count in range(len(layout)):
        assert table.pack(one).startswith(table.prefix(one[:count]))
        assert table.pack(one).startswith(table.prefix(other[:count])) == (one[:count] == other[:count])


def test_a_zero_character_cannot_end_a_part_early() -> None:
    """A key part that holds one is refused, where another part follows it."""
    for table, key in ((JOURNAL, ("a\0b", 1)), (CONVERSATIONS, ("a\0b", "c"))):
        with pytest.raises(ValueError, match="zero character"):
            table.pack(key)


def test_a_key_has_all_its_parts() -> None:
    """A key with a part too few or too many is an error, and so is an empty one."""
    for table, key in ((RUNS, ()), (RUNS, ("a", "b")), (JOURNAL, ("a",)), (RECEIPTS, ("a", "b"))):
        with pytest.raises((TypeError, ValueError)):
            table.pack(key)
    with pytest.raises(ValueError, match="empty"):
        RUNS.pack(("",))


def test_the_longest_keys_fit() -> None:
    """What the limits allow, LMDB takes: 511 bytes a key."""
    principal = "token:" + "t" * 128
    longest: dict[Table[Any], Key] = {
        JOURNAL: ("s" * 128, 1),
        CONVERSATIONS: ("a" * MAX_AGENT_BYTES, "s" * MAX_SENDER_BYTES),
        RECEIPTS: (principal, "conversation.cancel", "k" * MAX_IDEMPOTENCY_KEY_BYTES),
        RECEIPTS_BY_AGE: (1, principal, "conversation.cancel", "k" * MAX_IDEMPOTENCY_KEY_BYTES),
        TOKENS_BY_DIGEST: ("f" * 64,),
        BLOBS: ("f" * 64, 1),
    }
    for table, key in longest.items():
        assert len(table.pack(key)) <= MAX_LMDB_KEY_BYTES, table


def test_values_come_back() -> None:
    """A struct is MessagePack, text is UTF-8, bytes are themselves."""
    binding = Binding(session_id="ses_1", bound_at_ms=5, bound_cursor=5)
    assert CONVERSATIONS.decode(CONVERSATIONS.encode(binding)) == binding
    assert CURSORS.encode("Grüße") == "Grüße".encode()
    assert CURSORS.decode("Grüße".encode()) == "Grüße"
    assert JOURNAL.encode(b"as it is") == JOURNAL.decode(b"as it is") == b"as it is"


def test_every_table_is_on_the_page_once() -> None:
    """Names are unique, and every table that the module defines is listed."""
    from kheishd.store import tables

    defined = {value for value in vars(tables).values() if isinstance(value, Table)}
    assert set(TABLES) == defined
    assert len({table.name for table in TABLES}) == len(TABLES)
    assert repr(JOURNAL) == "<table journal>"
