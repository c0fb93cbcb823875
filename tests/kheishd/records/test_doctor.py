"""The doctor: it finds every damage, and nothing in a healthy store."""

from functools import partial
from typing import Any

import pytest
import trio

from kheishd.kernel.state import State
from kheishd.records import doctor
from kheishd.records.doctor import Examination, examine, examine_whole
from kheishd.store.environment import Transaction
from kheishd.store.table import Key, Table
from kheishd.store.tables import (
    BLOBS,
    JOURNAL,
    META,
    RUNS,
    SECRET_VALUES,
)
from kheishd.store.writer import Store
from protocol.events.daemon import DaemonStarted
from protocol.journal.envelope import DAEMON_STREAM
from tests.support.histories import (
    CACHES,
    CONTENTS,
    derived_tables,
    rich_history,
    session_with_runs,
    spoil_line,
    update,
)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("step_rows", [1, 2, 7, 4096])
def test_a_healthy_store(store: Store, deep: bool, step_rows: int) -> None:
    """With steps of any size, everything is examined once and nothing is found."""
    rich_history(store)
    diagnosis = examine_whole(store.read, deep=deep, step_rows=step_rows)
    assert diagnosis.findings == []
    assert diagnosis.complete
    assert diagnosis.streams == 20
    with store.read() as snapshot:
        assert diagnosis.events == snapshot.last_cursor


def test_an_empty_store(store: Store) -> None:
    """An empty store is healthy."""
    assert examine_whole(store.read, deep=True).findings == []


@pytest.mark.parametrize(
    "table",
    derived_tables(BLOBS, *CACHES, JOURNAL, META, SECRET_VALUES, *CONTENTS),
    ids=lambda table: table.name,
)
def test_every_lost_row_is_found(store: Store, table: Table[Any]) -> None:
    """Every lost row of every rebuildable table is found."""
    rich_history(store)
    with store.read() as snapshot:
        rows = list(snapshot.scan(table))
    assert rows
    for key, value in rows:
        update(store, partial(_delete, table, key))
        findings = examine_whole(store.read, deep=True).findings
        assert findings, key
        assert all(finding.kind == "differs" for finding in findings)
        assert "doctor --repair" in findings[0].remedy
        update(store, partial(_put, table, key, value))
    assert examine_whole(store.read, deep=True).findings == []


def test_damage_names_the_place_and_the_way_out(store: Store) -> None:
    """The finding of a changed line names its stream and cursor, and that only a backup helps."""
    rich_history(store)
    cursor = spoil_line(store, "ses_b", 2, lambda stored: stored[:-2] + b" }")
    (finding, *_) = examine_whole(store.read, deep=True).findings
    assert (finding.kind, finding.stream, finding.cursor) == ("damaged", "ses_b", cursor)
    assert "restore" in finding.remedy


def test_a_damaged_blob(store: Store) -> None:
    """A blob whose content does not match its name is damage."""
    rich_history(store)
    with store.read() as snapshot:
        key, _ = next(snapshot.scan(BLOBS))
    update(store, lambda tx: tx.put(BLOBS, *key, value=b"something else"))
    (finding,) = examine_whole(store.read, deep=True).findings
    assert str(key[0]) in finding.message


def test_a_shallow_look_says_that_it_is_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shallow examination reads the newest part of the journal and says that there is more."""
    monkeypatch.setattr(doctor, "SHALLOW_ROWS", 20)
    rich_history(store)
    session_with_runs(store, "ses_long", *["ended"] * 10)
    cursor = spoil_line(store, "ses_long", -3, lambda stored: stored[:-2] + b" }")
    early = spoil_line(store, "ses_a", 1, lambda stored: stored[:-2] + b" }")
    shallow = examine_whole(store.read, deep=False)
    assert not shallow.complete
    assert shallow.events == 20
    assert {finding.cursor for finding in shallow.findings} <= {cursor, cursor + 1}
    deep = examine_whole(store.read, deep=True)
    assert early in {finding.cursor for finding in deep.findings}


def test_more_findings_than_anybody_reads(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings end at a limit, and the diagnosis says that it is incomplete."""
    monkeypatch.setattr(doctor, "MAX_FINDINGS", 3)
    rich_history(store)

    def forget(tx: Transaction) -> None:
        for key, _ in list(tx.scan(RUNS)):
            tx.delete(RUNS, *key)

    update(store, forget)
    diagnosis = examine_whole(store.read, deep=True)
    assert len(diagnosis.findings) == 3
    assert not diagnosis.complete


def test_what_is_written_meanwhile_is_examined_too(store: Store) -> None:
    """Entries written between two steps are examined, without a false finding."""
    rich_history(store)
    examination = Examination(deep=True, step_rows=3)
    more, number = True, 0
    while more:
        with store.read() as snapshot:
            more = examination.step(snapshot)
        if number < 30:
            session_with_runs(store, f"ses_new{number}", "ended", "queued")
            number += 1
    assert examination.diagnosis().findings == []
    assert examination.diagnosis().streams > 5


async def test_online_it_lets_others_go_on(state: State) -> None:
    """During an examination other tasks run and the store takes updates."""
    for number in range(50):
        await state.update(partial(_start, number))
    done = trio.Event()
    turns = 0

    async def beside() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beside)
        diagnosis = await examine(state.read, deep=True)
        done.set()
    assert diagnosis.events == 50
    assert diagnosis.findings == []
    assert turns > 1


def _start(number: int, tx: Transaction) -> None:
    tx.append(DAEMON_STREAM, DaemonStarted(version="test", pid=number, schema=1))


def _delete(table: Table[Any], key: Key, tx: Transaction) -> None:
    tx.delete(table, *key)


def _put(table: Table[Any], key: Key, value: Any, tx: Transaction) -> None:
    tx.put(table, *key, value=value)


def test_a_slot_without_its_value(store: Store) -> None:
    """A lost value is reported, with its remedy; no event contains it, so nothing repairs it."""
    rich_history(store)
    update(store, partial(_delete, SECRET_VALUES, ("openai",)))
    (finding,) = examine_whole(store.read, deep=False).findings
    assert (finding.kind, finding.remedy) == ("lost", "store it again, or delete the slot")
    assert "'openai'" in finding.message
