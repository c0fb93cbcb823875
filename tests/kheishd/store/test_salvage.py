"""Repair by copy: all that can be read is kept, the journal must be whole, the damaged file stays."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kheishd.store.environment import DATA, Snapshot, Transaction
from kheishd.store.guards import StoreUnusable, read_marker
from kheishd.store.opening import open_for_reading
from kheishd.store.salvage import salvage
from kheishd.store.structure import check_structure
from kheishd.store.tables import BLOBS, META, RUNS_BY_SESSION, TABLES
from tests.support.stores import (
    append,
    content,
    damage_page,
    fill,
    find_leaf,
    open_inline,
    point_free_page,
    update,
)


@pytest.fixture
def directory(store_dir: Path) -> Path:
    """Provide the directory of a closed store whose tables have several pages."""
    store = open_inline(store_dir)

    def write(tx: Transaction) -> None:
        for number in range(300):
            tx.put(RUNS_BY_SESSION, f"ses_{number}", number, value="run" * 10)
            tx.put(BLOBS, f"{number:064}", 0, value=b"chunk" * 20)

    update(store, write)
    for number in range(200):
        append(store, f"ses_{number % 5}", "x" * 200)
        fill(store, number % 3, 10_000)
    store.close()
    return store_dir


def rows(directory: Path, name: str) -> int:
    """Return the number of rows of a table."""
    tables = {table.name: table for table in TABLES}
    with open_for_reading(directory) as environment, Snapshot(environment) as snapshot:
        return len(list(snapshot.scan(tables[name])))


def test_a_wrong_list_of_free_pages(directory: Path) -> None:
    """All rows are kept, the list is new, and the damaged file is kept beside."""
    previous, identity = content(directory), read_marker(directory)
    point_free_page(directory / DATA)
    damaged = (directory / DATA).read_bytes()
    salvaged = salvage(directory)
    assert (salvaged.rebuilt, salvaged.lost) == ([], {})
    assert salvaged.kept.read_bytes() == damaged
    assert check_structure(str(directory / DATA)) == []
    assert (content(directory), read_marker(directory)) == (previous, identity)
    store = open_inline(directory)
    assert append(store) == 201
    store.close()


@pytest.mark.parametrize("name", ["runs_by_session", "checkpoints"])
def test_damaged_records_are_left_to_be_rebuilt(directory: Path, name: str) -> None:
    """A damaged table of records is emptied, and all records are marked to be rebuilt."""
    damage_page(directory / DATA, find_leaf(directory / DATA, name))
    assert salvage(directory).rebuilt == [name]
    assert rows(directory, name) == 0
    assert rows(directory, "journal") == 200
    with open_for_reading(directory) as environment, Snapshot(environment) as snapshot:
        assert snapshot.get(META, "rebuild") == b"0"


def test_cursors_are_made_from_the_journal(directory: Path) -> None:
    """The table of cursors is restored from the keys of the journal, without a rebuild."""
    previous = content(directory)
    damage_page(directory / DATA, find_leaf(directory / DATA, "cursors"))
    assert salvage(directory).rebuilt == ["cursors"]
    assert content(directory) == previous


def test_blobs_are_kept_as_far_as_they_can_be_read(directory: Path) -> None:
    """Of a table that nothing can restore, the readable rows are kept, and the loss is stated."""
    damage_page(directory / DATA, find_leaf(directory / DATA, "blobs"))
    assert salvage(directory).lost == {"blobs": 1}
    assert 200 < rows(directory, "blobs") < 300


def break_line(data: Path) -> None:
    """Change one letter of a journal line in place."""
    content = bytearray(data.read_bytes())
    begin = find_leaf(data, "journal") * os.sysconf("SC_PAGE_SIZE")
    line = content.rindex(b"x" * 200, begin, begin + os.sysconf("SC_PAGE_SIZE"))
    content[line + 5] = ord("y")
    data.write_bytes(content)


def break_metas(data: Path) -> None:
    """Damage both meta pages."""
    for page in (0, 1):
        damage_page(data, page)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: damage_page(data, find_leaf(data, "journal")),
        lambda data: damage_page(data, find_leaf(data, "meta")),
        break_metas,
        break_line,
    ],
)
def test_what_cannot_be_repaired_is_not_touched(directory: Path, damage: Callable[[Path], object]) -> None:
    """A lost or changed event asks for a backup; the files stay as they are."""
    damage(directory / DATA)
    before = (directory / DATA).read_bytes()
    with pytest.raises(StoreUnusable, match=r"cannot be repaired.*Nothing was changed\..*kheishd restore"):
        salvage(directory)
    assert (directory / DATA).read_bytes() == before
    assert [path.name for path in directory.glob("*before-repair*")] == []
    assert not (directory / ".restoring").exists()


@pytest.mark.parametrize("page", [0, 1])
def test_one_damaged_meta_page(directory: Path, page: int) -> None:
    """The state of the other meta page is kept, and it is said that the newest commit may be missing."""
    damage_page(directory / DATA, page)
    salvaged = salvage(directory)
    assert salvaged.may_be_older
    assert rows(directory, "journal") in (199, 200)
    assert check_structure(str(directory / DATA)) == []
