"""Former contents of files in the store."""

from functools import partial

from kheishd.kernel.state import State
from kheishd.store.blobs import CHUNK_BYTES, blob_name, chunks
from kheishd.store.contents import delete_unused, put_content, put_content_chunk, read_content, read_total
from kheishd.store.tables import FILE_CONTENT_USES, FILE_CONTENTS


async def test_contents_are_counted_and_deleted_when_unused(inline_state: State) -> None:
    """A content is stored once, and exists until no checkpoint uses it."""
    name = blob_name(b"one")
    for _ in range(2):
        await inline_state.update(lambda tx: put_content(tx, b"one"))
    await inline_state.update(lambda tx: put_content(tx, b""))
    await inline_state.update(lambda tx: tx.put(FILE_CONTENT_USES, name, "chk_1", value=b""))
    await inline_state.update(lambda tx: delete_unused(tx, name))
    with inline_state.read() as store:
        assert (read_total(store), read_content(store, name)) == (3, b"one")
        assert read_content(store, blob_name(b"")) == b""
    await inline_state.update(lambda tx: tx.delete(FILE_CONTENT_USES, name, "chk_1"))
    await inline_state.update(lambda tx: delete_unused(tx, name))
    await inline_state.update(lambda tx: delete_unused(tx, "none"))
    with inline_state.read() as store:
        assert (read_total(store), read_content(store, name), store.count(FILE_CONTENTS)) == (0, None, 1)


async def test_an_incomplete_content_is_none(inline_state: State) -> None:
    """A content that a crash left without its last chunk is not restored."""
    content = b"x" * (CHUNK_BYTES + 1)
    number, chunk = next(chunks(content))
    name = blob_name(content)
    await inline_state.update(partial(put_content_chunk, name=name, number=number, chunk=chunk))
    with inline_state.read() as store:
        assert read_content(store, name) is None
