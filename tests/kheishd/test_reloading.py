"""Coalesced work: asked often, done once more, and always after the last who asked."""

import pytest
import trio

from kheishd.reloading import Coalesced


class Work:
    """Counts how often it is done; each time waits to be let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.gate = trio.Semaphore(0)
        self.fails = False

    async def __call__(self) -> int:
        self.begun += 1
        mine = self.begun
        await self.gate.acquire()
        if self.fails:
            raise ValueError("refused")
        return mine


async def test_many_requests_are_two_performances(nursery: trio.Nursery) -> None:
    """One under way, ten more asked meanwhile: exactly one more, and all ten get what it gives."""
    work = Work()
    reloads = Coalesced(nursery, work)
    got: list[int] = []

    async def ask() -> None:
        got.append(await reloads.request())

    async with trio.open_nursery() as askers:
        askers.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(10):
            askers.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert work.begun == 1
        work.gate.release()
        await trio.testing.wait_all_tasks_blocked()
        work.gate.release()
    assert got == [1] + [2] * 10
    assert work.begun == 2


async def test_a_failure_reaches_its_askers_only(nursery: trio.Nursery) -> None:
    """Who asked is told; the next request is performed as if nothing had been."""
    work = Work()
    reloads = Coalesced(nursery, work)
    work.fails = True
    work.gate.release()
    with pytest.raises(ValueError, match="refused"):
        await reloads.request()
    work.fails = False
    work.gate.release()
    assert await reloads.request() == 2


async def test_an_asker_that_leaves_stops_nothing(nursery: trio.Nursery) -> None:
    """Its request is cancelled; the work goes on for the others."""
    work = Work()
    reloads = Coalesced(nursery, work)
    async with trio.open_nursery() as askers:
        askers.start_soon(reloads.request)
        await trio.testing.wait_all_tasks_blocked()
        askers.cancel_scope.cancel()
    work.gate.release()
    await trio.testing.wait_all_tasks_blocked()
    assert work.begun == 1
