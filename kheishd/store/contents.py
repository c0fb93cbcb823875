"""The former contents of files: content-addressed like blobs, but deleted once no checkpoint uses them.

A row counts the bytes of all contents. It changes in the transactions that change them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.store.blobs import blob_name, chunks
from kheishd.store.tables import FILE_CONTENT_TOTALS, FILE_CONTENT_USES, FILE_CONTENTS, WHOLE_INDEX

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot, Transaction


def read_total(store: Snapshot) -> int:
    """Return the bytes of all contents."""
    return store.get(FILE_CONTENT_TOTALS, WHOLE_INDEX) or 0


def put_content_chunk(tx: Transaction, name: str, number: int, chunk: bytes) -> None:
    """Write one chunk of a content unless it exists."""
    if tx.get(FILE_CONTENTS, name, number) is None:
        tx.put(FILE_CONTENTS, name, number, value=chunk)
        tx.put(FILE_CONTENT_TOTALS, WHOLE_INDEX, value=read_total(tx) + len(chunk))


def put_content(tx: Transaction, content: bytes) -> None:
    """Write a small content, all of it in this transaction."""
    name = blob_name(content)
    for number, chunk in chunks(content):
        put_content_chunk(tx, name, number, chunk)


def read_content(store: Snapshot, name: str) -> bytes | None:
    """Return a content; None if it was dropped or is incomplete."""
    content = b"".join(chunk for _, chunk in store.scan(FILE_CONTENTS, name))
    return content if blob_name(content) == name else None


def delete_unused(tx: Transaction, name: str) -> None:
    """Delete a content that no checkpoint uses."""
    if next(tx.scan(FILE_CONTENT_USES, name), None) is not None:
        return
    rows = [*tx.scan(FILE_CONTENTS, name)]
    for key, _ in rows:
        tx.delete(FILE_CONTENTS, *key)
    if rows:
        left = read_total(tx) - sum(len(chunk) for _, chunk in rows)
        tx.put(FILE_CONTENT_TOTALS, WHOLE_INDEX, value=max(left, 0))
