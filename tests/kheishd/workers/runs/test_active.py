"""The record of an active run, its commits on a full disk, and the scope of its effects."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kheishd.core.run.commands import FailModelCall, Release, Start, Steer
from kheishd.core.text.scrub import Scrubber
from kheishd.records.writer import SessionWriter
from kheishd.store.blobs import read_blob
from kheishd.store.environment import Transaction
from kheishd.store.tables import META
from kheishd.workers.runs.active import RETRY_SECONDS, ActiveRun
from protocol.budget import Budget
from protocol.errors.run import RunAlreadyEnded
from protocol.errors.store import StorageFull
from protocol.objects.run import RunError
from protocol.transcript import Text
from tests.support.desk import Desk, full_disk, open_desk
from tests.support.machine import allow, answer_with_calls, call_tools


@pytest.fixture
async def desk(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Desk]:
    """Open a desk without a worker."""
    async with open_desk(tmp_path) as desk:
        yield desk


async def active_run(desk: Desk, **params: Any) -> ActiveRun:
    """Send a message and return its run as an executor would hold it."""
    sent = await desk.send("hello", **params)
    pinned = desk.pinned(sent.run_id)
    return ActiveRun(desk.services, desk.run(sent.run_id), pinned)


def put(tx: Transaction) -> str:
    """Write a row that takes some room."""
    tx.put(META, "saved", value=bytes(50_000))
    return "saved"


# Commits.


async def test_a_commit_returns_the_new_record(desk: Desk) -> None:
    """Each commit updates the record, which is that of the store."""
    active = await active_run(desk)
    assert (await active.commit(Start())).status == "running"
    assert active.record == desk.run(active.record.run_id)


async def test_an_older_record_never_replaces_a_newer_one(desk: Desk) -> None:
    """Commits that return together keep the newest record, whichever of them returns last."""
    active = await active_run(desk)
    await active.commit(Start())

    async def steer(number: int) -> None:
        await active.commit(Steer(f"str_{number}", [Text("hurry")], "user"))

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(steer, number)
    assert active.record == desk.run(active.record.run_id)
    assert active.record.pending_steers == 10


async def test_progress_ends_the_suspicion(desk: Desk) -> None:
    """The first commit after which the run has made progress lets other runs start."""
    sent = await desk.send("hello")
    await desk.leave_running(sent.run_id, 2)
    pinned = desk.pinned(sent.run_id)
    calls: list[str] = []
    active = ActiveRun(
        desk.services,
        desk.run(sent.run_id),
        pinned,
        suspect=True,
        on_progress=lambda: calls.append("progress"),
    )
    await active.commit(Steer("str_1", [Text("hurry")], "user"))
    assert (active.suspect, calls) == (True, [])
    await active.commit(Release("shutdown"))
    assert (active.suspect, calls) == (False, ["progress"])


async def test_progress_counts_although_the_next_call_begins_with_it(desk: Desk) -> None:
    """A run that makes progress and starts its next effect in one commit is suspect no more."""
    sent = await desk.send("hello")
    await desk.leave_running(sent.run_id, 2)
    active = ActiveRun(desk.services, desk.run(sent.run_id), desk.pinned(sent.run_id), suspect=True)
    failure = FailModelCall(RunError("overloaded", "later"), retry_at_ms=1)
    await active.transact(lambda writer: writer.carry_out(failure), advances=True)
    assert (active.record.attempt, active.record.starts_without_progress) == (3, 1)
    assert not active.suspect


async def test_a_verdict_is_progress_although_the_call_begins_with_it(desk: Desk) -> None:
    """A run that crashed the daemon twice while its call was judged is suspect until the verdict."""
    sent = await desk.send("hello")
    await desk.leave_running(sent.run_id, 1)
    await desk.command(sent.run_id, lambda run: answer_with_calls(), *[lambda run: Start()] * 2)
    active = ActiveRun(desk.services, desk.run(sent.run_id), desk.pinned(sent.run_id), suspect=True)
    assert active.record.starts_without_progress == 2

    def begin(writer: SessionWriter) -> None:
        writer.carry_out(allow(writer.run))
        writer.carry_out(call_tools(writer.run))

    await active.transact(begin)
    assert active.record.starts_without_progress == 1
    assert not active.suspect


async def test_a_commit_is_retried_while_the_disk_is_full(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is retried every second, and each failure is logged with its run."""
    active = await active_run(desk)
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 10:
            scope.cancel()
        await trio.lowlevel.checkpoint()

    with full_disk(), trio.CancelScope() as scope, monkeypatch.context() as patch:
        patch.setattr(trio, "sleep", pause)
        await active.update(put)
    assert scope.cancelled_caught
    assert pauses == [RETRY_SECONDS] * 10
    assert [record.__dict__["run_id"] for record in caplog.records] == [active.record.run_id] * 10
    assert await active.update(put) == "saved"


async def test_a_full_disk_fails_a_commit_without_retries(desk: Desk) -> None:
    """An orderly stop does not wait for room."""
    active = await active_run(desk)
    active.retries = False
    with full_disk():
        with pytest.raises(StorageFull):
            await active.update(put)
        with pytest.raises(StorageFull):
            await active.put_blob(bytes(50_000))


async def test_a_commit_that_has_begun_is_not_cancelled(desk: Desk) -> None:
    """A commit succeeds even in a cancelled scope."""
    active = await active_run(desk)
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await active.update(put) == "saved"
        name, _ = await active.put_blob(bytes(500_000))
        with desk.state.read() as store:
            assert read_blob(store, name) == bytes(500_000)


async def test_a_refusal_is_not_retried(desk: Desk) -> None:
    """Only a full disk leads to a retry."""
    active = await active_run(desk)

    def refuse(tx: Transaction) -> None:
        raise RunAlreadyEnded("it has ended")

    with pytest.raises(RunAlreadyEnded):
        await active.update(refuse)


async def test_a_blob_holds_no_secret(desk: Desk) -> None:
    """The name and the size are those of the scrubbed content."""
    desk.live.scrub(Scrubber(["sk-12345"]))
    name, size = await (await active_run(desk)).put_blob(b"it is sk-12345\xff")
    with desk.state.read() as store:
        content = read_blob(store, name)
    assert content == b"it is [scrubbed]\xff"
    assert size == len(content)


# Effects.


async def test_an_effect_can_be_stopped(desk: Desk) -> None:
    """A stop ends the current effect, and the next one if none is running."""
    active = await active_run(desk)
    with active.effect() as scope:
        active.stop()
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not active.out_of_time
    active.stop()
    with active.effect() as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_an_effect_ends_when_the_time_of_the_run_is_used_up(desk: Desk) -> None:
    """The effect is stopped at the run's time budget, and the run is out of time."""
    active = await active_run(desk, budget=Budget(max_work_s=1.0))
    await active.commit(Start())
    began = trio.current_time()
    with active.effect():
        await trio.sleep_forever()
    assert trio.current_time() - began == pytest.approx(1.0, abs=0.1)
    assert active.out_of_time


async def test_a_reload_finds_the_changes_of_others(desk: Desk) -> None:
    """The record is that of the store after another party changed it."""
    active = await active_run(desk)
    await active.commit(Start())
    await desk.cancel(active.record.run_id, follow=False)
    assert active.record.cancel is None
    active.reload()
    assert active.record.cancel == "cancelled"
