"""All tables: unique names, and keys that fit LMDB."""

from typing import Any

from kheishd.store import tables
from kheishd.store.opening import MAX_TABLES
from kheishd.store.table import Key, Table
from kheishd.store.tables import (
    BLOBS,
    CONVERSATIONS,
    JOURNAL,
    RECEIPTS,
    RECEIPTS_BY_AGE,
    TABLES,
    TOKENS_BY_DIGEST,
)
from protocol.limits.names import MAX_AGENT_BYTES, MAX_IDEMPOTENCY_KEY_BYTES, MAX_SENDER_BYTES

MAX_LMDB_KEY_BYTES = 511


def test_the_longest_keys_fit() -> None:
    """The longest keys that the limits allow fit the 511 bytes of an LMDB key."""
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


def test_every_table_is_on_the_page_once() -> None:
    """Names are unique, every declared table is listed, and LMDB has room for all of them."""
    defined = [value for value in vars(tables).values() if isinstance(value, Table)]
    assert list(TABLES) == defined
    assert len({table.name for table in TABLES}) == len(TABLES) < MAX_TABLES
    assert repr(JOURNAL) == "<table journal>"
