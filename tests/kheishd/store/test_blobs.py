"""Blobs: complete or absent, and each content stored once."""

import hashlib

import pytest

from kheishd.store.blobs import CHUNK_BYTES, blob_name, chunks, put_chunk, read_blob
from kheishd.store.environment import Transaction
from kheishd.store.tables import BLOBS
from kheishd.store.writer import Store
from protocol.limits.store import MAX_UPDATE_BYTES
from tests.support.stores import update


def put(store: Store, content: bytes, count: int | None = None) -> str:
    """Write a blob, or its first chunks."""
    name = blob_name(content)
    for number, chunk in list(chunks(content))[:count]:

        def write(tx: Transaction, number: int = number, chunk: bytes = chunk) -> None:
            put_chunk(tx, name, number, chunk)

        update(store, write)
    return name


def read(store: Store, name: str) -> bytes | None:
    """Read a blob."""
    with store.read() as snapshot:
        return read_blob(snapshot, name)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES - 1])
def test_a_blob_comes_back(store: Store, size: int) -> None:
    """A blob's name is the SHA-256 of its content, whatever its size; every chunk fits into an update."""
    content = bytes(number % 251 for number in range(size))
    assert all(len(chunk) <= CHUNK_BYTES < MAX_UPDATE_BYTES for _, chunk in chunks(content))
    name = put(store, content)
    assert name == hashlib.sha256(content).hexdigest()
    assert read(store, name) == content


def test_a_half_written_blob_is_none(store: Store) -> None:
    """A blob exists only once its last chunk is there."""
    content = b"x" * (3 * CHUNK_BYTES)
    name = put(store, content, 2)
    assert read(store, name) is None
    put(store, content)
    assert read(store, name) == content


def test_the_same_content_is_kept_once(store: Store) -> None:
    """Writing a blob again writes nothing; an unknown name has no blob."""
    name = put(store, b"same")

    def again(tx: Transaction) -> bool:
        put_chunk(tx, name, 0, b"same")
        return tx.has_written

    assert not update(store, again)
    with store.read() as snapshot:
        assert snapshot.count(BLOBS) == 1
    assert read(store, blob_name(b"other")) is None
