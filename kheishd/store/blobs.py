"""Large values: content-addressed by SHA-256, in chunks, one chunk a transaction.

A blob's chunks count from 0. Until the last is there it is nothing: whoever refers to a blob commits the
reference afterwards, and what a crash left behind half-written is found by its hash to be no blob.
Writing the same content again writes nothing that is there.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from kheishd.store.tables import BLOBS
from protocol.limits.units import KIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.store.environment import Snapshot, Transaction

# One chunk fits into what one update may write, 256 KiB, with room for what else the update does.
CHUNK_BYTES = 192 * KIB


def blob_name(content: bytes) -> str:
    """What a blob of this content is called: its SHA-256, in hex."""
    return sha256(content).hexdigest()


def chunks(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The chunks of a blob, numbered. Empty content has one, empty, chunk."""
    for number, start in enumerate(range(0, max(len(content), 1), CHUNK_BYTES)):
        yield number, content[start : start + CHUNK_BYTES]


def put_chunk(tx: Transaction, name: str, number: int, chunk: bytes) -> None:
    """Write one chunk, unless it is there."""
    if tx.get(BLOBS, name, number) is None:
        tx.put(BLOBS, name, number, value=chunk)


def read_blob(snapshot: Snapshot, name: str) -> bytes | None:
    """The content of a blob; None if it is not there, or not whole."""
    content = b"".join(chunk for _, chunk in snapshot.scan(BLOBS, name))
    return content if blob_name(content) == name else None
