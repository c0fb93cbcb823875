"""Large values: content-addressed by SHA-256, in chunks, one chunk per transaction.

A blob's chunks count from 0, and a blob exists only once the last chunk is there: commit a reference to it
afterwards. The hash shows that a blob which a crash left incomplete is none. Writing the same content again
writes no existing chunk.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from kheishd.store.tables import BLOBS
from protocol.limits.units import KIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.store.environment import Snapshot, Transaction

# One chunk fits into one update (256 KiB) with room for the update's other changes.
CHUNK_BYTES = 192 * KIB


def blob_name(content: bytes) -> str:
    """Return the name of a blob with this content: its SHA-256, in hex."""
    return sha256(content).hexdigest()


def chunks(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the numbered chunks of a blob. Empty content has one empty chunk."""
    for number, start in enumerate(range(0, max(len(content), 1), CHUNK_BYTES)):
        yield number, content[start : start + CHUNK_BYTES]


def put_chunk(tx: Transaction, name: str, number: int, chunk: bytes) -> None:
    """Write one chunk unless it exists."""
    if (name, number) not in tx.blobs:
        if tx.get(BLOBS, name, number) is None:
            tx.put(BLOBS, name, number, value=chunk)
        tx.blobs.add((name, number))


def read_blob(snapshot: Snapshot, name: str) -> bytes | None:
    """Return the content of a blob; None if it does not exist or is incomplete."""
    content = b"".join(chunk for _, chunk in snapshot.scan(BLOBS, name))
    return content if blob_name(content) == name else None
