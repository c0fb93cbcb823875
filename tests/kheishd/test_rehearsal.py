"""The rehearsal of an upgrade: the store is only read, and every difference is found."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from kheishd.records.rebuild import rebuild_some
from kheishd.rehearsal import WORK, Rehearsal, rehearse
from kheishd.store.environment import DATA
from kheishd.store.guards import StoreUnusable
from kheishd.store.tables import META, RUNS
from kheishd.store.upgrades import SCHEMA
from kheishd.store.writer import Store
from tests.support.histories import rich_history, spoil_line, update

if TYPE_CHECKING:
    from pathlib import Path


def open_store(home: Path) -> Store:
    """Open the store of a home, with an inline writer."""
    (home / "state").mkdir(parents=True, exist_ok=True)
    return Store.open(
        home / "state",
        on_group=lambda group: None,
        threaded=False,
        version="0.1.0",
        rebuild=rebuild_some,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Provide a home with a store of schema 4 that has some of everything."""
    store = open_store(tmp_path / "home")
    rich_history(store)
    update(store, lambda tx: tx.put(META, "schema", value=b"4"))
    store.close()
    return tmp_path / "home"


def run(home: Path) -> Rehearsal:
    """Rehearse; require that the store is unchanged and nothing else is left."""
    before = (home / "state" / DATA).read_bytes()
    try:
        return rehearse(home / "state", home, "0.2.0")
    finally:
        assert (home / "state" / DATA).read_bytes() == before
        assert [path.name for path in home.iterdir()] == ["state"]


def test_an_upgrade_that_loses_nothing(home: Path) -> None:
    """A sound store has no differences; counts, ends and records are compared."""
    rehearsal = run(home)
    assert (rehearsal.from_version, rehearsal.from_schema, rehearsal.to_schema) == ("0.1.0", 4, SCHEMA)
    assert rehearsal.differences == []
    assert rehearsal.records > 10
    assert rehearsal.heads > 2
    assert rehearsal.counts["journal"][0] == rehearsal.counts["journal"][1] == rehearsal.cursor


def test_a_record_that_changes_its_meaning_is_found(home: Path) -> None:
    """A record that the journal does not give is a difference, with its field and both values."""
    store = open_store(home)
    with store.read() as snapshot:
        key, record = next(iter(snapshot.scan(RUNS)))
    forged = replace(record, status="failed" if record.status != "failed" else "completed")
    update(store, lambda tx: tx.put(RUNS, *key, value=forged))
    update(store, lambda tx: tx.put(RUNS, "run_none", value=replace(record, run_id="run_none")))
    update(store, lambda tx: tx.put(META, "schema", value=b"4"))
    store.close()
    differences = run(home).differences
    assert f"runs {key[0]}: status was '{forged.status}', and is '{record.status}'" in differences
    assert "runs run_none: is missing" in differences


def test_an_upgrade_that_would_be_refused(home: Path) -> None:
    """An event that cannot be read refuses the rehearsal as it would the upgrade."""
    store = open_store(home)
    cursor = spoil_line(store, "ses_b", 0, lambda stored: stored[:40])
    update(store, lambda tx: tx.put(META, "schema", value=b"4"))
    store.close()
    with pytest.raises(StoreUnusable, match=f"the event {cursor} of ses_b"):
        run(home)


def test_the_rest_of_a_killed_rehearsal_is_removed(home: Path) -> None:
    """The copy of a killed rehearsal takes no room after the next one."""
    left = home / WORK / "state"
    left.mkdir(parents=True)
    (left / DATA).write_bytes(b"rest")
    assert run(home).differences == []


def test_a_rehearsal_needs_room(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for a copy there is no rehearsal."""
    real = os.statvfs(home)
    full = os.statvfs_result([*real[:3], 1, 1, *real[5:10]])
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(StoreUnusable, match="A rehearsal needs"):
        run(home)


def test_a_home_without_a_store(tmp_path: Path) -> None:
    """There is nothing to rehearse without a store."""
    (tmp_path / "state").mkdir()
    with pytest.raises(StoreUnusable, match="holds no store"):
        rehearse(tmp_path / "state", tmp_path, "0.2.0")
