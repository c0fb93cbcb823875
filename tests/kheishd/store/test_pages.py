"""The reader of pages returns what LMDB returns, and damage is an exception."""

import os
import random
from pathlib import Path

import lmdb
import pytest

from kheishd.store.environment import DATA, Transaction
from kheishd.store.pages import PageDamaged, PageFile, get_handles, newest, parse_meta, read_metas
from kheishd.store.tables import JOURNAL, RUNS, RUNS_BY_SESSION, TABLES
from tests.support.stores import append, damage_page, fill, find_leaf, open_inline, update

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def directory(store_dir: Path) -> Path:
    """Provide the directory of a closed store with a table of several levels and big values."""
    store = open_inline(store_dir)
    for number in range(40):
        append(store, f"ses_{number % 3}", "x" * (number * 150))
    fill(store, 1, 100_000)

    def write(tx: Transaction) -> None:
        for row in range(3_000):
            tx.put(RUNS_BY_SESSION, f"s{row}", row, value="v")

    update(store, write)
    store.close()
    return store_dir


def test_it_reads_what_lmdb_reads(directory: Path) -> None:
    """All rows, forwards and backwards, each row by its key, and the ranges between the keys are the same."""
    env = lmdb.open(str(directory), max_dbs=256, readonly=True, lock=False)
    file = PageFile(directory / DATA)
    chance = random.Random(1)
    for table, handle in get_handles(file, TABLES).items():
        db = env.open_db(table.name.encode(), create=False)
        with env.begin(db=db) as theirs:
            ours = file.begin()
            rows = list(theirs.cursor())
            assert list(ours.cursor(handle).iternext()) == rows
            assert list(ours.cursor(handle).iterprev()) == rows[::-1]
            assert ours.stat(handle)["entries"] == len(rows)
            assert [row for row in file.rows(handle) if row is not None] == rows
            for key, value in chance.sample(rows, min(len(rows), 30)):
                assert ours.get(key, None, handle) == value
                for probe in (key + b"\0", key[:-1], key[:-1] + b"\xff" * 9):
                    mine, cursor = ours.cursor(handle), theirs.cursor()
                    assert mine.set_range(probe) == cursor.set_range(probe)
                    assert mine.key() == cursor.key()
                    if mine.key():
                        assert (mine.prev(), mine.key()) == (cursor.prev(), cursor.key())
    file.close()
    file.close()
    env.close()


def test_an_empty_table(store_dir: Path) -> None:
    """A table without rows has no first and no last entry."""
    open_inline(store_dir).close()
    file = PageFile(store_dir / DATA)
    transaction, handle = file.begin(), RUNS.name.encode()
    assert transaction.get(b"x", b"default", handle) == b"default"
    with transaction.cursor(handle) as cursor:
        assert (cursor.first(), cursor.last(), cursor.key()) == (False, False, b"")
    transaction.abort()
    assert file.info()["map_size"] == os.path.getsize(store_dir / DATA)
    file.close()


def test_a_damaged_leaf_is_an_exception(directory: Path) -> None:
    """Rows beyond a damaged page cannot be read, rows elsewhere can."""
    damage_page(directory / DATA, find_leaf(directory / DATA, RUNS_BY_SESSION.name, last=True))
    file = PageFile(directory / DATA)
    transaction, handle = file.begin(), RUNS_BY_SESSION.name.encode()
    with pytest.raises(PageDamaged, match="is not a page of a table"):
        transaction.cursor(handle).last()
    assert transaction.cursor(handle).first()
    assert transaction.cursor(JOURNAL.name.encode()).last()
    rows = list(file.rows(handle))
    assert rows.count(None) == 1
    assert len(rows) > 2_000
    file.close()


def read_all(data: Path) -> None:
    """Read every row of every table."""
    file = PageFile(data)
    try:
        for handle in file.tables():
            list(file.begin().cursor(handle).iternext())
    finally:
        file.close()


def test_a_missing_value_is_an_exception(directory: Path) -> None:
    """A big value whose pages are gone cannot be read."""
    os.truncate(directory / DATA, os.path.getsize(directory / DATA) * 9 // 10)
    with pytest.raises(PageDamaged, match="cut short"):
        read_all(directory / DATA)


@pytest.mark.parametrize("page", [0, 1])
def test_one_meta_page_is_enough(directory: Path, page: int) -> None:
    """With one damaged meta page, the state of the other one is read."""
    damage_page(directory / DATA, page)
    with (directory / DATA).open("rb") as data:
        metas = read_metas(data.fileno())
    assert [meta is None for meta in metas] == [page == 0, page == 1]
    assert newest(*metas) is not None
    file = PageFile(directory / DATA)
    assert JOURNAL.name.encode() in file.tables()
    file.close()


def test_without_a_meta_page_there_is_nothing_to_read(directory: Path) -> None:
    """Two damaged meta pages make the file unreadable."""
    for page in (0, 1):
        damage_page(directory / DATA, page)
    with pytest.raises(PageDamaged, match="neither meta page"):
        PageFile(directory / DATA)
    assert parse_meta(b"") is None


@pytest.mark.parametrize("seed", range(3))
def test_no_damage_is_worse_than_an_exception(directory: Path, seed: int) -> None:
    """Reading everything of a file with any damaged page ends with rows or with PageDamaged."""
    chance = random.Random(seed)
    sound = (directory / DATA).read_bytes()
    for _ in range(60):
        page, content = chance.randrange(len(sound) // PAGE), bytearray(sound)
        for _ in range(chance.choice((1, 3, 400))):
            content[page * PAGE + chance.randrange(PAGE)] = chance.randrange(256)
        (directory / DATA).write_bytes(content)
        try:
            file = PageFile(directory / DATA)
        except PageDamaged:
            continue
        for handle in file.tables():
            list(file.rows(handle))
            for read in ("iternext", "iterprev"):
                try:
                    list(getattr(file.begin().cursor(handle), read)())
                except PageDamaged:
                    continue
        file.close()
