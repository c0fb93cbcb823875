"""Saving on a full disk: tried again until there is room, unless there is no patience left."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from kheishd.core.text.scrub import Scrubber
from kheishd.kernel.live import Live
from kheishd.kernel.state import State
from kheishd.store.blobs import read_blob
from kheishd.store.environment import Transaction
from kheishd.store.tables import META
from kheishd.workers.runs.saving import SAVE_AGAIN_SECONDS, DurableCommit
from protocol.errors.run import RunAlreadyEnded
from protocol.errors.store import StorageFull
from tests.support.desk import full_disk


def saving(state: State) -> DurableCommit:
    """The saving of one run."""
    return DurableCommit(state, Live(), "run_1")


def put(tx: Transaction) -> str:
    """Something to save, which takes some room."""
    tx.put(META, "saved", value=bytes(50_000))
    return "saved"


async def test_what_cannot_be_saved_is_tried_again(
    inline_state: State, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Every second; the log says for which run."""
    with full_disk(), trio.move_on_after(10 * SAVE_AGAIN_SECONDS) as patience:
        await saving(inline_state).update(put)
    assert patience.cancelled_caught
    assert 9 <= len(caplog.records) <= 11
    assert {record.__dict__["run_id"] for record in caplog.records} == {"run_1"}
    assert await saving(inline_state).update(put) == "saved"


async def test_where_there_is_no_patience_a_full_disk_is_told(
    inline_state: State, autojump_clock: MockClock
) -> None:
    """An orderly stop does not wait for room."""
    hasty = saving(inline_state)
    hasty.patient = False
    with full_disk():
        with pytest.raises(StorageFull):
            await hasty.update(put)
        with pytest.raises(StorageFull):
            await hasty.put_blob(bytes(50_000))


async def test_what_has_begun_to_be_saved_is_saved(inline_state: State, autojump_clock: MockClock) -> None:
    """Whoever wants the run stopped."""
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await saving(inline_state).update(put) == "saved"
        name, _ = await saving(inline_state).put_blob(bytes(500_000))
        with inline_state.read() as store:
            assert read_blob(store, name) == bytes(500_000)


async def test_a_refusal_is_for_whoever_saves(inline_state: State) -> None:
    """Only a full disk is waited for."""

    def refuse(tx: Transaction) -> None:
        raise RunAlreadyEnded("it has ended")

    with pytest.raises(RunAlreadyEnded):
        await saving(inline_state).update(refuse)


async def test_a_blob_holds_no_secret(inline_state: State, tmp_path: Path) -> None:
    """Its name and size are those of what is kept."""
    live = Live()
    live.scrub(Scrubber(["sk-12345"]))
    name, size = await DurableCommit(inline_state, live, "run_1").put_blob(b"it is sk-12345\xff")
    with inline_state.read() as store:
        kept = read_blob(store, name)
    assert kept == b"it is [scrubbed]\xff"
    assert size == len(kept)
