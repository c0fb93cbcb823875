"""The first start of a restored store: every step once, whatever interrupts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kheishd.kernel.state import State, open_state
from kheishd.restored import finish_restore, format_time
from kheishd.store.backup import restore
from kheishd.store.epoch import OpenWork
from kheishd.store.tables import CRONS, CRONS_DUE, MAIL, MAILBOXES_DUE, RUNS, RUNS_TO_CONCLUDE, SESSIONS
from kheishd.store.writer import Store
from protocol.errors.store import StorageFull
from protocol.objects.run import ENDED
from tests.support.histories import NOW_MS, rich_history

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    """Provide the state of a restored store with some of everything."""
    store = Store.open(tmp_path / "old", on_group=lambda group: None, threaded=False, version="test")
    rich_history(store)
    store.backup(tmp_path / "copy")
    store.close()
    restore(tmp_path / "copy", tmp_path / "state")
    async with open_state(tmp_path / "state", version="test") as state:
        yield state


def open_runs(state: State) -> list[str]:
    """Return the runs that have not ended."""
    with state.read() as store:
        open_in_sessions = [run_id for _, session in store.scan(SESSIONS) for run_id in session.open_runs]
        runs = [run.run_id for _, run in store.scan(RUNS) if run.status not in ENDED]
    assert sorted(open_in_sessions) == sorted(runs)
    return runs


async def test_no_run_stays_open(state: State) -> None:
    """Every open run ends, in one pass, and a second start finds nothing to do."""
    opened = open_runs(state)
    assert opened
    mark = await finish_restore(state)
    assert mark is not None
    assert (mark.pending, open_runs(state)) == (False, [])
    work = mark.open_work or OpenWork()
    assert work.running + work.queued + work.waiting == len(opened)
    with state.read() as store:
        last = store.last_cursor
    assert await finish_restore(state) == mark
    with state.read() as store:
        assert store.last_cursor == last


async def test_no_mail_is_delivered_again(state: State) -> None:
    """Messages that were open in the backup are dead letters, and no end of a run is reported."""
    await finish_restore(state)
    with state.read() as store:
        mails = [mail for _, mail in store.scan(MAIL)]
        assert {mail.state for mail in mails} == {"done", "dead_letter"}
        assert {mail.outcome for mail in mails} == {"delivered", "attempts", "restored"}
        assert not store.count(RUNS_TO_CONCLUDE)
        assert not store.count(MAILBOXES_DUE)


async def test_a_store_that_was_never_restored(tmp_path: Path) -> None:
    """An ordinary store has no mark, and nothing is written."""
    async with open_state(tmp_path / "state", version="test") as state:
        assert await finish_restore(state) is None
        with state.read() as store:
            assert store.last_cursor == 0


@pytest.mark.parametrize("commits", range(4))
async def test_an_interrupted_pass_continues(
    state: State, monkeypatch: pytest.MonkeyPatch, commits: int
) -> None:
    """A full disk after any commit ends the pass; the next one continues and ends each run once."""
    opened = open_runs(state)
    remaining = commits
    real = state.update

    async def update(fn: Callable[[object], object]) -> object:
        nonlocal remaining
        if remaining == 0:
            raise StorageFull("no space")
        remaining -= 1
        return await real(fn)

    monkeypatch.setattr(state, "update", update)
    with pytest.raises(StorageFull):
        await finish_restore(state)
    monkeypatch.undo()
    mark = await finish_restore(state)
    assert mark is not None
    work = mark.open_work or OpenWork()
    assert work.running + work.queued + work.waiting == len(opened)
    assert open_runs(state) == []


def test_times_are_in_utc() -> None:
    """A time for people names its zone."""
    assert format_time(1_800_000_000_000) == "2027-01-15 08:00:00 UTC"


async def test_no_cron_entry_fires_what_was_due_in_the_backup(state: State) -> None:
    """It may have fired after the backup: it is missed, with the reason, and the next due time is to come."""
    state.now_ms = lambda: NOW_MS + 1_000_000  # type: ignore[method-assign,unused-ignore]
    await finish_restore(state)
    with state.read() as store:
        assert [key for key, _ in store.scan(CRONS_DUE) if key[0] <= state.now_ms()] == []
        tidy = store.need(CRONS, "tidy")
    assert (tidy.recent[-1].outcome, tidy.recent[-1].reason) == ("missed", "restored")
    assert tidy.status == "active"
