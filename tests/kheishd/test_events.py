"""The daemon's own events."""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.events import CLEAN, commit_reload, commit_start, commit_stop
from kheishd.kernel.state import State, open_state
from kheishd.store.checkup import write_note
from kheishd.store.environment import DATA
from kheishd.store.guards import StoreUnusable
from kheishd.store.opening import open_lmdb
from kheishd.store.pages import PageFile
from kheishd.store.table import Table
from kheishd.store.tables import CURSORS, JOURNAL, META, TABLES
from protocol.errors.store import StorageFull
from tests.support.runtimes import make_runtime
from tests.support.stores import append, closed, damage_page, find_leaf, open_inline


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    """Open a state on an empty store."""
    (tmp_path / "state").mkdir()
    async with open_state(tmp_path / "state", version="test") as state:
        yield state


async def test_a_stop_marks_the_store_as_clean(state: State) -> None:
    """A start after an orderly stop is not one after a crash; a start without one is."""
    assert not await commit_start(state), "the first start"
    assert await commit_start(state), "a start without a stop"
    await commit_reload(state, make_runtime(2))
    await commit_stop(state, "SIGTERM")
    with state.read() as store:
        assert store.get(META, CLEAN) == b"1"
        assert store.last_cursor == 4
    assert not await commit_start(state)
    with state.read() as store:
        assert store.get(META, CLEAN) is None


async def test_a_full_disk_does_not_stop_the_daemon(
    state: State, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that cannot be stored is logged."""

    async def refuse(change: object) -> None:
        raise StorageFull("no space")

    monkeypatch.setattr(state, "update", refuse)
    await commit_stop(state, "SIGTERM")
    assert "could not be stored: no space" in caplog.text


@pytest.fixture(scope="module")
def full_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a closed store with 18 events in two streams and a row in each other table."""
    directory = closed(tmp_path_factory.mktemp("full") / "state", 9)
    store = open_inline(directory)
    for _ in range(9):
        append(store, "ses_2")
    append(store)
    store.close()
    env = open_lmdb(directory)
    for table in set(TABLES) - {JOURNAL, CURSORS, META}:
        key = table.pack(tuple("a" if kind is str else 1 for kind in table.key))
        with env.begin(write=True, db=env.open_db(table.name.encode())) as txn:
            txn.put(key, b"")
    env.close()
    return directory


@pytest.mark.parametrize("is_noticed", [True, False])
@pytest.mark.parametrize(
    "table", [table for table in TABLES if table is not META], ids=lambda table: table.name
)
async def test_a_damaged_table_does_not_stop_the_start(
    full_store: Path, tmp_path: Path, table: Table[Any], is_noticed: bool
) -> None:
    """With any one table damaged, the daemon starts, and knows the end of the journal.

    It makes no difference whether the check before the opening finds the damage, or a later read.
    """
    directory = tmp_path / "state"
    shutil.copytree(full_store, directory)
    page = find_leaf(directory / DATA, table.name)
    damage_page(directory / DATA, page)
    if not is_noticed:
        write_note(directory / DATA)
    async with open_state(directory, version="test") as state:
        await commit_start(state)
        with state.read() as store:
            assert store.last_cursor == (20 if state.store.damage is None else 19)
            assert store.get(META, "schema")
        if is_noticed or table in (CURSORS, JOURNAL):
            assert state.store.damage is not None


async def test_damage_with_a_misleading_error(full_store: Path, tmp_path: Path) -> None:
    """A damaged page whose error in LMDB is that of an invalid transaction is damage, too."""
    directory = tmp_path / "state"
    shutil.copytree(full_store, directory)
    page = find_leaf(directory / DATA, "journal", last=True)
    size = os.sysconf("SC_PAGE_SIZE")
    content = (directory / DATA).read_bytes()[page * size : (page + 1) * size]
    damage_page(directory / DATA, page, b"\xff" * 16 + content[16:])
    write_note(directory / DATA)
    async with open_state(directory, version="test") as state:
        await commit_start(state)
        assert state.store.damage is not None


async def test_a_store_that_cannot_be_read_is_refused(full_store: Path, tmp_path: Path) -> None:
    """Without its description or its list of tables, a store does not open, and no reads are promised."""
    pages = PageFile(full_store / DATA)
    pages.close()
    for name, page in (("meta", pages.tree(b"meta").root), ("tables", pages.meta.main.root)):
        for is_noticed in (True, False):
            directory = tmp_path / f"{name}-{is_noticed}"
            shutil.copytree(full_store, directory)
            damage_page(directory / DATA, page)
            if not is_noticed:
                write_note(directory / DATA)
            with pytest.raises(StoreUnusable, match="kheishd restore BACKUP") as refused:
                async with open_state(directory, version="test"):
                    pass
            assert "reads go on" not in str(refused.value)
