"""Postings in a table: the rows of an inverted index with the key (owner, term, number)."""

from __future__ import annotations

from itertools import islice
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kheishd.core.memory.ranking import Posting
    from kheishd.store.environment import Snapshot
    from kheishd.store.table import Table

_VALUE: Final = Struct(">BH")
_POSTING: Final = Struct(">QBH")

MAX_COUNT = 2**8 - 1
MAX_LENGTH = 2**16 - 1


def pack_posting(count: int, length: int) -> bytes:
    """Return the value of a posting: in one byte how often, in two the length of the document."""
    return _VALUE.pack(min(count, MAX_COUNT), min(length, MAX_LENGTH))


class Postings:
    """The postings of one owner in a table, in a snapshot."""

    def __init__(self, store: Snapshot, table: Table[bytes], owner: str) -> None:
        self._store = store
        self._table = table
        self._owner = owner

    def read(self, term: str, max_rows: int) -> list[Posting]:
        """Return the newest postings of a term, the newest first."""
        rows = self._store.scan_packed(self._table, self._owner, term, reverse=True)
        packed = b"".join([key[-8:] + value for key, value in islice(rows, max_rows)])
        return list(_POSTING.iter_unpack(packed))

    def find(self, term: str, number: int) -> Posting | None:
        """Return the posting of a term for a document; None if the document does not contain it."""
        value = self._store.get(self._table, self._owner, term, number)
        return None if value is None else (number, *_VALUE.unpack(value))
