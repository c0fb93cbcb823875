"""Checks before LMDB opens a store: no file kills the process, and none opens as another store."""

import os
from pathlib import Path

import lmdb
import pytest

from kheishd.store.environment import DATA, Transaction
from kheishd.store.guards import (
    MARKER,
    StoreUnusable,
    check_files,
    data_bytes,
    lock_directory,
    make_directory,
    newest_meta,
    read_marker,
    set_aside_unfinished,
    write_marker,
)
from kheishd.store.tables import CHECKPOINTS
from tests.support.stores import append, fill, open_inline, python, update

PAGE = os.sysconf("SC_PAGE_SIZE")
OPEN = """
import sys
from pathlib import Path
from kheishd.store.tables import CHECKPOINTS
from tests.support.stores import open_inline
store = open_inline(Path(sys.argv[1]))
with store.read() as snapshot:
    print(snapshot.count(CHECKPOINTS))
"""


@pytest.fixture
def used(store_dir: Path) -> Path:
    """Provide the directory of a closed store with some content."""
    store = open_inline(store_dir)
    for number in range(20):
        append(store)
        fill(store, number, 50_000)
    store.close()
    return store_dir


def refused(directory: Path) -> str:
    """Return the refusal of opening; require that the files are unchanged."""
    previous = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "lock.mdb"}
    with pytest.raises(StoreUnusable) as caught:
        open_inline(directory)
    assert previous == {
        path.name: path.read_bytes() for path in directory.iterdir() if path.name != "lock.mdb"
    }
    return str(caught.value)


def test_nothing_yet(store_dir: Path) -> None:
    """An empty directory is no error, because a store may be created there."""
    store_dir.mkdir()
    assert check_files(store_dir) is None
    assert data_bytes(store_dir) == 0


def test_a_store_in_order(used: Path) -> None:
    """The marker names the store and the newer meta page states its length."""
    identity = check_files(used)
    assert identity is not None
    assert len(identity) == 32
    meta = newest_meta(used / DATA)
    assert meta.page_bytes == PAGE
    assert meta.pages * PAGE <= data_bytes(used)
    store = open_inline(used)
    assert store.identity == identity
    store.close()


@pytest.mark.parametrize("kept", [0.95, 0.5, 0.05])
def test_a_truncated_file_is_refused(used: Path, kept: float) -> None:
    """A truncated file, which would kill LMDB by SIGBUS, is refused with a remedy."""
    os.truncate(used / DATA, int(data_bytes(used) * kept))
    message = refused(used)
    assert "cut short" in message
    assert "kheishd restore BACKUP" in message
    ended = python(OPEN, used)
    assert ended.returncode == 1, "the process ends by itself"
    assert "StoreUnusable" in ended.stderr


def test_an_empty_file_is_not_a_new_store(used: Path) -> None:
    """Where a store was, an empty or missing file is refused."""
    os.truncate(used / DATA, 0)
    assert "empty or gone" in refused(used)
    (used / DATA).unlink()
    assert "kheishd restore BACKUP" in refused(used)


@pytest.mark.parametrize("page", [0, 1])
def test_a_damaged_meta_page_is_refused(used: Path, page: int) -> None:
    """A damaged meta page is refused, because LMDB needs both."""
    with (used / DATA).open("r+b") as file:
        file.seek(page * PAGE)
        file.write(b"\xa5" * PAGE)
    assert "meta pages" in refused(used)


def test_a_file_of_another_kind_is_refused(used: Path) -> None:
    """A file of another kind is neither opened nor overwritten."""
    (used / DATA).write_bytes(b"-- a dump of something else\n" * 1000)
    assert "damaged" in refused(used)


def test_a_short_file_may_be_sound(used: Path) -> None:
    """Pages taken and freed in one transaction are never written, which is no damage."""
    store = open_inline(used)

    def come_and_go(tx: Transaction) -> None:
        for number in range(4):
            tx.put(CHECKPOINTS, "t", number, value=bytes(60_000))
        for number in range(4):
            tx.delete(CHECKPOINTS, "t", number)

    update(store, come_and_go)
    store.close()
    whole = newest_meta(used / DATA).pages * PAGE
    assert data_bytes(used) < whole, "this test means nothing otherwise"
    ended = python(OPEN, used)
    assert (ended.stdout, ended.returncode) == ("20\n", 0), ended.stderr
    assert data_bytes(used) >= whole


def test_without_a_marker_a_store_is_adopted(used: Path) -> None:
    """The next start finishes one that was killed before it wrote the marker."""
    identity = read_marker(used)
    (used / MARKER).unlink()
    open_inline(used).close()
    assert read_marker(used) == identity


def test_an_empty_file_without_a_marker_is_made_a_store(store_dir: Path) -> None:
    """The next start repeats one that was killed at its beginning."""
    store_dir.mkdir()
    (store_dir / DATA).touch()
    open_inline(store_dir).close()
    assert check_files(store_dir) is not None


@pytest.mark.parametrize("content", [b"", b"kheish", b"kheish 12", b"\xff\xfe", b"other " + b"0" * 32])
def test_a_damaged_marker_is_refused(used: Path, content: bytes) -> None:
    """The refusal of a damaged marker says which file to remove, and when."""
    (used / MARKER).write_bytes(content)
    assert f"remove {used / MARKER}" in refused(used)


def test_a_marker_of_another_store_is_refused(used: Path) -> None:
    """Data and marker must belong together."""
    write_marker(used, "0" * 32)
    assert "put there from elsewhere" in refused(used)


def test_one_at_a_time(used: Path) -> None:
    """The holder of the lock keeps all others out until it releases it."""
    lock = lock_directory(used)
    assert "in use" in refused(used)
    os.close(lock)
    store = open_inline(used)
    assert "in use" in refused(used)
    store.close()
    open_inline(used).close()


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    """A store cannot be created at the path of a file."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "state"):
        with pytest.raises(StoreUnusable, match="cannot be used"):
            make_directory(path)
    with pytest.raises(StoreUnusable, match="cannot be opened"):
        lock_directory(tmp_path / "nowhere")


def first_start(directory: Path) -> bytes:
    """Return the meta pages as LMDB creates them, in a file without a marker."""
    directory.mkdir()
    lmdb.open(str(directory), map_size=1 << 20, max_dbs=10).close()
    return (directory / DATA).read_bytes()


@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1)])
def test_the_file_of_an_unfinished_first_start_is_set_aside(store_dir: Path, lost: tuple[int, ...]) -> None:
    """Meta pages that a power cut left as zeros begin no store; a new one takes their place."""
    content = bytearray(first_start(store_dir))
    for page in lost:
        content[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    (store_dir / DATA).write_bytes(content)
    store = open_inline(store_dir)
    assert append(store) == 1
    store.close()
    assert store_dir.joinpath("data.mdb.unfinished-1").read_bytes() == content


def test_nothing_else_is_taken_for_an_unfinished_store(used: Path) -> None:
    """A file with a commit, with other content, or with a marker is refused and left where it is."""
    assert set_aside_unfinished(used) is None
    with (used / DATA).open("r+b") as file:
        file.write(bytes(PAGE))
    assert set_aside_unfinished(used) is None
    (used / MARKER).unlink()
    assert set_aside_unfinished(used) is None
    (used / DATA).write_bytes(b"-- a dump of something else\n" * 1000)
    assert set_aside_unfinished(used) is None
    assert "damaged" in refused(used)
