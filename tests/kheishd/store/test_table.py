"""Tables: keys and values come back, and keys sort by their parts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.store.records import Binding
from kheishd.store.table import Key, Table
from kheishd.store.tables import (
    CONVERSATIONS,
    CURSORS,
    JOURNAL,
    RECEIPTS,
    RUNS,
    TABLES,
)

MAX_LMDB_KEY_BYTES = 511

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
numbers = st.integers(0, 2**64 - 1)
layouts = st.sampled_from(sorted({table.key for table in TABLES}, key=str))


def keys(layout: tuple[type, ...]) -> st.SearchStrategy[Key]:
    """Return a strategy for the keys of one layout."""
    return st.tuples(*(texts if kind is str else numbers for kind in layout))


@given(layouts.flatmap(lambda layout: st.tuples(st.just(layout), keys(layout))))
def test_a_key_comes_back(case: tuple[tuple[type, ...], Key]) -> None:
    """Unpacking a packed key gives the key."""
    layout, key = case
    table: Table[Any] = Table("t", layout, bytes)
    assert table.unpack(table.pack(key)) == key


@given(layouts.flatmap(lambda layout: st.tuples(st.just(layout), keys(layout), keys(layout))))
def test_keys_sort_by_their_parts(case: tuple[tuple[type, ...], Key, Key]) -> None:
    """Packed keys sort by their parts: texts by their bytes, numbers by size."""
    layout, first, second = case
    table: Table[Any] = Table("t", layout, bytes)

    def plain(key: Key) -> tuple[Any, ...]:
        return tuple(part.encode() if isinstance(part, str) else part for part in key)

    assert (table.pack(first) < table.pack(second)) == (plain(first) < plain(second))


@given(layouts.flatmap(lambda layout: st.tuples(st.just(layout), keys(layout), keys(layout))))
def test_a_prefix_is_that_of_its_keys_alone(case: tuple[tuple[type, ...], Key, Key]) -> None:
    """A packed key begins with the prefix of its first parts, and with no other key's."""
    layout, first, second = case
    table: Table[Any] = Table("t", layout, bytes)
    for count in range(len(layout)):
        assert table.pack(first).startswith(table.prefix(first[:count]))
        assert table.pack(first).startswith(table.prefix(second[:count])) == (first[:count] == second[:count])


def test_a_zero_character_cannot_end_a_part_early() -> None:
    """A zero character in a key part is refused if another part follows."""
    for table, key in ((JOURNAL, ("a\0b", 1)), (CONVERSATIONS, ("a\0b", "c"))):
        with pytest.raises(ValueError, match="zero character"):
            table.pack(key)


def test_a_key_has_all_its_parts() -> None:
    """An empty key and one with too few or too many parts are errors."""
    for table, key in ((RUNS, ()), (RUNS, ("a", "b")), (JOURNAL, ("a",)), (RECEIPTS, ("a", "b"))):
        with pytest.raises((TypeError, ValueError)):
            table.pack(key)
    with pytest.raises(ValueError, match="empty"):
        RUNS.pack(("",))


def test_values_come_back() -> None:
    """A struct is stored as MessagePack, text as UTF-8, bytes as they are."""
    binding = Binding(session_id="ses_1", bound_at_ms=5, bound_cursor=5)
    assert CONVERSATIONS.decode(CONVERSATIONS.encode(binding)) == binding
    assert CURSORS.encode("Grüße") == "Grüße".encode()
    assert CURSORS.decode("Grüße".encode()) == "Grüße"
    assert JOURNAL.encode(b"as it is") == JOURNAL.decode(b"as it is") == b"as it is"
