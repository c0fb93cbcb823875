"""Writes are queued without waiting, done in order, bounded, and independent of each other's failures."""

import logging
import threading
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.debug.queue import (
    CLOSE_SECONDS,
    MAX_LOGGED_RUNS,
    MAX_QUEUED_BYTES,
    WriteQueue,
    make_thread_runner,
)
from tests.support.model_calls import inline


async def test_writes_are_done_in_order_in_a_thread(nursery: trio.Nursery) -> None:
    """The caller does not wait; a flush waits until all writes are done, one after another."""
    queue, done = WriteQueue(make_thread_runner()), list[tuple[int, int]]()
    for number in range(100):
        assert queue.put("run_1", 1, lambda number=number: done.append((number, threading.get_ident())))  # type: ignore[misc]
    assert not done
    await nursery.start(queue.serve)
    await queue.flush()
    assert [number for number, _ in done] == list(range(100))
    assert threading.get_ident() not in {thread for _, thread in done}


async def test_the_queue_is_bounded(nursery: trio.Nursery) -> None:
    """While the disk is slow, the queue refuses writes beyond its bound, except those of size 0."""
    queue, gate = WriteQueue(make_thread_runner()), threading.Event()
    await nursery.start(queue.serve)
    assert queue.put("run_1", MAX_QUEUED_BYTES // 2, gate.wait)  # type: ignore[arg-type]
    await wait_all_tasks_blocked()
    assert not queue.put("run_1", MAX_QUEUED_BYTES // 2, gate.wait)  # type: ignore[arg-type]
    assert queue.put("run_1", 0, lambda: None)
    gate.set()
    await queue.flush()
    assert queue.put("run_1", MAX_QUEUED_BYTES // 2, lambda: None)


async def test_a_failure_is_logged_once_per_run(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """Other writes are done; each run's first failure is logged, an unexpected one with its traceback."""
    queue, done = WriteQueue(make_thread_runner()), list[str]()
    await nursery.start(queue.serve)

    def fill_disk() -> None:
        raise OSError(28, "No space left on device")

    def fail() -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.WARNING):
        for run_id, write in (("run_1", fill_disk), ("run_1", fill_disk), ("run_2", fail)):
            queue.put(run_id, 1, write)
            queue.put(run_id, 1, lambda: done.append("done"))
        await queue.flush()
    assert len(done) == 3
    logged = [(vars(record)["run_id"], record.exc_info is not None) for record in caplog.records]
    assert logged == [("run_1", False), ("run_2", True)]
    assert "No space left on device" in caplog.text


async def test_the_memory_of_failures_is_bounded(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """After many other runs have failed, a run's next failure is logged again."""
    queue = WriteQueue(inline)
    await nursery.start(queue.serve)

    def fail() -> None:
        raise OSError

    for number in [*range(MAX_LOGGED_RUNS + 1), MAX_LOGGED_RUNS, 0]:
        queue.put(f"run_{number}", 1, fail)
    await queue.flush()
    assert [vars(record)["run_id"] for record in caplog.records[-2:]] == [f"run_{MAX_LOGGED_RUNS}", "run_0"]


async def test_the_end_writes_the_rest() -> None:
    """Writes queued just before the daemon ends are done."""
    queue, done = WriteQueue(make_thread_runner()), list[int]()
    async with trio.open_nursery() as nursery:
        await nursery.start(queue.serve)
        queue.put("run_1", 1, lambda: done.append(1))
        nursery.cancel_scope.cancel()
    assert done == [1]


async def test_the_end_does_not_wait_for_a_hanging_disk(autojump_clock: MockClock) -> None:
    """A disk that never responds delays the end only briefly."""

    async def hang(*args: Any) -> None:
        await trio.sleep_forever()

    queue = WriteQueue(hang)
    async with trio.open_nursery() as nursery:
        await nursery.start(queue.serve)
        queue.put("run_1", 1, lambda: None)
        await wait_all_tasks_blocked()
        queue.put("run_1", 1, lambda: None)
        started = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - started == pytest.approx(CLOSE_SECONDS)
