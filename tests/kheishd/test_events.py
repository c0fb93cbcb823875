"""The daemon's own events."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kheishd.events import CLEAN, commit_reload, commit_start, commit_stop
from kheishd.kernel.state import State, open_state
from kheishd.store.tables import META
from protocol.errors.store import StorageFull
from tests.support.runtimes import make_runtime


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
