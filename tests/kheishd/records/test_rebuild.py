"""The rebuild of all records from the journal, after an upgrade dropped them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from kheishd.records import rebuild as room
from kheishd.records.doctor import examine_whole
from kheishd.records.rebuild import find_unreadable, rebuild_some
from kheishd.store.environment import Snapshot
from kheishd.store.journal import link
from kheishd.store.opening import StoreUnusable, open_for_reading
from kheishd.store.tables import JOURNAL
from kheishd.store.upgrades import NOT_RECORDS, UnreadableEvent, drop_records
from kheishd.store.writer import Store
from tests.support.histories import dump, rich_history, spoil_line, update

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kheishd.store.environment import Transaction


def opened(directory: Path, rebuild: Any = rebuild_some) -> Store:
    """Open a store whose writer is inline."""
    return Store.open(directory, on_group=lambda group: None, threaded=False, version="test", rebuild=rebuild)


def make_store(directory: Path, *, damaged: bool = False) -> dict[str, list[Any]]:
    """Make a store with some of everything, as an upgrade leaves it; return its rows from before."""
    store = opened(directory)
    rich_history(store)
    if damaged:
        spoil_line(store, "ses_b", 0, lambda stored: stored[:40])
    rows = dump(store)
    environment = store._environment.lmdb
    with environment.begin(write=True) as txn:
        drop_records(environment, txn)
    store.close()
    return rows


def test_every_record_comes_back(store_dir: Path) -> None:
    """A rebuild gives the rows that the writer wrote; receipts, blobs and the journal stay."""
    rows = make_store(store_dir)
    store = opened(store_dir)
    assert dump(store) == rows
    assert examine_whole(store.read, deep=True).findings == []
    assert {table.name for table in NOT_RECORDS} <= set(rows)
    store.close()


@pytest.mark.parametrize("events", [1, 7, 1_000])
@pytest.mark.parametrize("deaths", [0, 1, 3])
def test_an_interrupted_rebuild_continues(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch, events: int, deaths: int
) -> None:
    """With transactions of any size, and after any number of failures, the rows are the same in the end."""
    rows = make_store(store_dir)
    monkeypatch.setattr(room, "EVENTS_PER_TRANSACTION", events)

    def dying(rest: list[int], tx: Transaction, after: int) -> int | None:
        reached = rebuild_some(tx, after)
        if not rest:
            raise OSError(5, "Input/output error")
        rest.pop()
        return reached

    for death in range(deaths):
        with pytest.raises(StoreUnusable, match="Input/output error"):
            opened(store_dir, partial(dying, [0] * (death if events < 1_000 else 0)))
    store = opened(store_dir)
    assert dump(store) == rows
    store.close()


def test_without_a_rebuild_such_a_store_is_refused(store_dir: Path) -> None:
    """A program that cannot rebuild records does not open a store without them."""
    make_store(store_dir)
    with pytest.raises(StoreUnusable, match="Start the daemon once"):
        opened(store_dir, None)
    with (
        pytest.raises(StoreUnusable, match="Start the daemon once"),
        open_for_reading(store_dir, current=True),
    ):
        pass
    with open_for_reading(store_dir) as environment:
        assert environment.identity
    opened(store_dir).close()
    with open_for_reading(store_dir, current=True) as environment:
        assert environment.identity


def test_a_damaged_event_is_left_out(store_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A store with a damaged event opens; the log and the doctor report the damage."""
    rows = make_store(store_dir, damaged=True)
    store = opened(store_dir)
    rebuilt = dump(store)
    assert "is left out of the records" in caplog.text
    assert rebuilt["approvals"] == rows["approvals"]
    assert [row[0] for row in rebuilt["sessions"]] == [
        row[0] for row in rows["sessions"] if row[0] != ("ses_b",)
    ]
    kinds = {(finding.kind, finding.stream) for finding in examine_whole(store.read, deep=True).findings}
    assert ("damaged", "ses_b") in kinds
    store.close()


def test_an_empty_store_has_nothing_to_rebuild(store_dir: Path) -> None:
    """A new store opens without a rebuild."""
    opened(store_dir, None).close()
    opened(store_dir, None).close()


# Before an upgrade.


def find(directory: Path) -> UnreadableEvent | None:
    """Return what a check of a closed store finds."""
    with open_for_reading(directory) as environment, Snapshot(environment) as snapshot:
        return find_unreadable(snapshot)


def test_a_sound_store_has_nothing_unreadable(store_dir: Path) -> None:
    """With records and without them, every event of a sound store can be folded."""
    make_store(store_dir)
    assert find(store_dir) is None
    opened(store_dir).close()
    assert find(store_dir) is None


def rewrite(directory: Path, change: Callable[[bytes], bytes]) -> int:
    """Change the newest line of a stream and chain it anew; return its cursor."""
    store = opened(directory)
    with store.read() as snapshot:
        cursor, _ = snapshot.head("ses_b")
        entry = snapshot.entry("ses_b", cursor)
        before = next(snapshot.entries("ses_b", cursor, reverse=True))[0]
        previous = snapshot.entry("ses_b", before)
    assert entry is not None
    assert previous is not None
    line = change(entry[1])
    update(store, lambda tx: tx.put(JOURNAL, "ses_b", cursor, value=link(previous[0], line) + line))
    store.close()
    return cursor


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda line: line[:40], "its line cannot be read"),
        (lambda line: b'{"format":2,"cursor":1,"at_ms":1,"type":"sun_risen"}', "'sun_risen' is unknown"),
        (
            lambda line: (
                b'{"format":2,"cursor":1,"at_ms":1,"session_id":"ses_b","run_id":"run_none",'
                b'"type":"approval_answered","approval_id":"apr_none","call_id":"c","decision":"allow"}'
            ),
            "does not follow from those before it",
        ),
    ],
)
def test_an_unreadable_event_is_named(store_dir: Path, change: Callable[[bytes], bytes], words: str) -> None:
    """A line that does not decode, an unknown type and a fold that fails are found, each by its cursor."""
    make_store(store_dir)
    cursor = rewrite(store_dir, change)
    unreadable = find(store_dir)
    assert unreadable is not None
    assert (unreadable.stream, unreadable.cursor) == ("ses_b", cursor)
    assert words in unreadable.message


def test_a_changed_line_is_named(store_dir: Path) -> None:
    """A broken hash chain is found before an upgrade, too."""
    make_store(store_dir, damaged=True)
    unreadable = find(store_dir)
    assert unreadable is not None
    assert "the hash is not that of the line" in unreadable.message
