"""The interface of workers: unique names, and defaults for workers that need no orderly stop."""

from typing import Any

import pytest
import trio

from kheishd.workers.expiry import ExpiryWorker, RetentionWorker
from kheishd.workers.runs.worker import RunWorker
from kheishd.workers.shells import ShellWorker
from kheishd.workers.titles import TitleWorker
from kheishd.workers.worker import Worker

WORKERS: tuple[type[Worker], ...] = (ShellWorker, TitleWorker, RunWorker, ExpiryWorker, RetentionWorker)


class Idle(Worker):
    """A worker that does nothing."""

    name = "idle"

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sleep until cancelled."""
        task_status.started()
        await trio.sleep_forever()


def test_names_are_unique() -> None:
    """No two workers share a name."""
    assert len({worker.name for worker in WORKERS}) == len(WORKERS)


async def test_a_worker_may_be_cut_short_by_default(autojump_clock: Any) -> None:
    """A worker without work in flight drains at once and needs no time to stop."""
    worker = Idle()
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.serve)
        with trio.CancelScope() as scope:
            # Even a drain without any time left is carried out.
            scope.cancel()
            await worker.drain()
        assert not scope.cancelled_caught
        assert worker.max_stop_s == 0.0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("worker", WORKERS)
def test_every_worker_has_the_interface(worker: type[Worker]) -> None:
    """Each worker inherits the interface, so that the daemon starts and stops all of them alike."""
    assert Worker in worker.__mro__
