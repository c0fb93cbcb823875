"""Locks by name: one at a time, in no ring, and nothing left behind."""

import trio
from trio.testing import wait_all_tasks_blocked

from kheishd.hooks.os.files.locks import PathLocks


async def test_one_at_a_time() -> None:
    """Who comes second waits; other names are free."""
    locks = PathLocks()
    order: list[str] = []

    async def hold(name: str, *paths: str) -> None:
        async with locks.held(paths):
            order.append(f"{name} in")
            await trio.lowlevel.checkpoint()
            order.append(f"{name} out")

    async with trio.open_nursery() as nursery:
        async with locks.held(["a"]):
            nursery.start_soon(hold, "second", "a")
            await wait_all_tasks_blocked()
            await hold("other", "b")
        assert order == ["other in", "other out"]
    assert order[2:] == ["second in", "second out"]
    assert len(locks) == 0


async def test_nobody_waits_in_a_ring() -> None:
    """Whatever order the names are given in, and if one is given twice."""
    locks = PathLocks()

    async def hold(*paths: str) -> None:
        for _ in range(20):
            async with locks.held(paths):
                await trio.lowlevel.checkpoint()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, "a", "b", "a")
            nursery.start_soon(hold, "b", "a")
            nursery.start_soon(hold, "b")
    assert len(locks) == 0


async def test_who_gives_up_waiting_leaves_the_lock_to_others() -> None:
    """It is neither lost nor doubled."""
    locks = PathLocks()
    async with locks.held(["a"]):
        with trio.move_on_after(0) as scope:
            async with locks.held(["a"]):
                raise AssertionError("held by two")
        assert scope.cancelled_caught
        assert len(locks) == 1
    assert len(locks) == 0
