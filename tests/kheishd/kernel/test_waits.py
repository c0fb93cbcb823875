"""Waits for runs: one reader of each run, however many callers wait."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.core.run.commands import BeginModelCall, EndEarly, RequestCancel, Start
from kheishd.kernel.waits import RunWaits
from kheishd.store.environment import Snapshot
from protocol.errors.rpc import Overloaded
from protocol.errors.store import StoreDamaged
from protocol.limits.rpc import MAX_RUN_WAITS
from tests.support.desk import Desk, open_desk


class Waiters:
    """Callers that wait for a run, with the statuses that they got."""

    def __init__(self, desk: Desk, session_id: str, run_id: str) -> None:
        self.waits = RunWaits()
        self.statuses: list[str] = []
        self.errors: list[Exception] = []
        self._desk = desk
        self._session_id = session_id
        self._run_id = run_id

    async def wait(self, principal: str = "uid:0") -> None:
        """Wait for the run."""
        try:
            run = await self.waits.wait(self._desk.state, self._session_id, self._run_id, principal)
        except StoreDamaged as error:
            self.errors.append(error)
        else:
            self.statuses.append(run.status)


async def test_a_commit_is_read_once_for_all_callers(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many callers wait for a run, each of its commits is read once, and its end answers all."""
    reads = 0
    enter = Snapshot.__enter__

    def count(self: Snapshot) -> Snapshot:
        nonlocal reads
        reads += 1
        return enter(self)

    async with open_desk(tmp_path) as desk, trio.open_nursery() as nursery:
        watched = set(desk.state._watches)
        sent = await desk.send()
        waiters = Waiters(desk, sent.session_id, sent.run_id)
        for _ in range(500):
            nursery.start_soon(waiters.wait)
        await wait_all_tasks_blocked()
        monkeypatch.setattr(Snapshot, "__enter__", count)
        await desk.rename(sent.session_id, times=1)
        await desk.command(sent.run_id, lambda run: Start(), lambda run: BeginModelCall("itm_1"))
        await wait_all_tasks_blocked()
        assert (reads, waiters.statuses) == (2, [])
        await desk.command(sent.run_id, lambda run: RequestCancel("cancelled"))
        assert reads == 3
        await desk.command(sent.run_id, lambda run: EndEarly([]))
        await wait_all_tasks_blocked()
        assert (reads, waiters.statuses) == (4, ["cancelled"] * 500)
        assert waiters.waits._readers == {}
        assert set(desk.state._watches) == watched


async def test_a_caller_may_wait_for_one_run_a_limited_number_of_times(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Other callers and other runs have limits of their own, and a wait that is over counts no more."""
    async with open_desk(tmp_path) as desk, trio.open_nursery() as nursery:
        sent = await desk.send()
        waiters = Waiters(desk, sent.session_id, sent.run_id)
        for _ in range(MAX_RUN_WAITS):
            waiters.waits.require_room(sent.run_id, "ada")
            nursery.start_soon(waiters.wait, "ada")
            await wait_all_tasks_blocked()
        with pytest.raises(Overloaded, match="64 requests of this caller"):
            waiters.waits.require_room(sent.run_id, "ada")
        waiters.waits.require_room(sent.run_id, "bob")
        waiters.waits.require_room("run_2", "ada")
        nursery.cancel_scope.cancel()
    waiters.waits.require_room(sent.run_id, "ada")


async def test_damage_ends_all_waits(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A run that cannot be read any more will not settle: every caller gets the error."""
    async with open_desk(tmp_path) as desk, trio.open_nursery() as nursery:
        sent = await desk.send()
        waiters = Waiters(desk, sent.session_id, sent.run_id)
        nursery.start_soon(waiters.wait)
        nursery.start_soon(waiters.wait)
        await wait_all_tasks_blocked()
        await desk.corrupt_run(sent.run_id)
        await desk.rename(sent.session_id, times=1)
        await wait_all_tasks_blocked()
        assert [type(error) for error in waiters.errors] == [StoreDamaged] * 2
        await waiters.wait()
        assert len(waiters.errors) == 3


async def test_a_run_that_has_ended_is_answered_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Nothing is awaited."""
    async with open_desk(tmp_path) as desk:
        sent = await desk.send()
        await desk.cancel(sent.run_id)
        waiters = Waiters(desk, sent.session_id, sent.run_id)
        with trio.fail_after(1):
            await waiters.wait()
        assert waiters.statuses == ["cancelled"]
