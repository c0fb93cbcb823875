"""The writer thread and the store's interface: order, groups, cancelling, closing, failing."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kheishd.store.commit import Group, Job
from kheishd.store.environment import Transaction
from kheishd.store.upgrades import SCHEMA
from kheishd.store.writer import Store
from protocol.errors.daemon import DaemonDraining
from protocol.errors.store import StorageFailed
from protocol.limits.store import MAX_GROUP_UPDATES
from protocol.limits.units import MIB
from tests.support.stores import (
    NOW_MS,
    append,
    fill,
    make_input,
    needs_strace,
    open_inline,
    python,
    strace_with,
    update,
)


class Threaded:
    """A store with its writer thread, which can be held in an update so that others queue up."""

    def __init__(self, directory: Path) -> None:
        self.groups: list[Group] = []
        self.settled = threading.Semaphore(0)
        self.failures: list[str] = []
        self.store = Store.open(
            directory, on_group=self._heard, on_failure=self.failures.append, version="test"
        )
        self._release = threading.Event()

    def _heard(self, group: Group) -> None:
        self.groups.append(group)
        for _ in group.jobs:
            self.settled.release()

    def say(self, stream: str = "ses_1") -> Job[int]:
        """Submit one event."""
        return self.store.submit(lambda tx: tx.append(stream, make_input())[0].cursor, NOW_MS)

    def hold(self) -> None:
        """Hold the writer in an update until it is released."""
        inside = threading.Event()

        def wait(tx: Transaction) -> None:
            inside.set()
            assert self._release.wait(10)

        self.store.submit(wait, NOW_MS)
        assert inside.wait(10)

    def release(self) -> None:
        """Release the writer."""
        self._release.set()

    def wait(self, jobs: int) -> None:
        """Wait until a number of further jobs is flushed."""
        for _ in range(jobs):
            assert self.settled.acquire(timeout=10)


@pytest.fixture
def threaded(store_dir: Path) -> Iterator[Threaded]:
    """Provide a store with its writer thread."""
    threaded = Threaded(store_dir)
    yield threaded
    threaded.release()
    threaded.store.close()


def test_updates_run_in_order(threaded: Threaded) -> None:
    """Updates run in the order of submission, and each job is reported once."""
    jobs = [threaded.say() for _ in range(1000)]
    threaded.wait(1000)
    assert [job.unwrap() for job in jobs] == list(range(1, 1001))
    assert [job for group in threaded.groups for job in group.jobs] == jobs


def test_what_queues_up_is_one_group(threaded: Threaded) -> None:
    """Updates that queue up during a commit form the next group, up to 256 of them."""
    threaded.hold()
    for _ in range(MAX_GROUP_UPDATES + 44):
        threaded.say()
    threaded.release()
    threaded.wait(MAX_GROUP_UPDATES + 45)
    assert [len(group.jobs) for group in threaded.groups] == [1, MAX_GROUP_UPDATES, 44]
    assert threaded.groups[1].rung == {"journal", "cursors", "stream:ses_1"}


def test_everything_is_on_the_disk_when_it_is_told(store_dir: Path) -> None:
    """A snapshot shows the changes of a group when the group is reported."""
    seen: list[tuple[int, int]] = []
    opened: list[Store] = []

    def told(group: Group) -> None:
        with opened[0].read() as snapshot:
            seen.append((max(job.unwrap() for job in group.jobs), snapshot.last_cursor))

    opened.append(Store.open(store_dir, on_group=told, version="test"))
    for _ in range(20):
        opened[0].submit(lambda tx: tx.append("ses_1", make_input())[0].cursor, NOW_MS)
    opened[0].close()
    assert seen
    assert all(acknowledged == there for acknowledged, there in seen)


def test_a_queued_update_can_be_taken_back(threaded: Threaded) -> None:
    """A cancelled queued update never runs and gets no result."""
    threaded.hold()
    first, second, third = threaded.say(), threaded.say(), threaded.say()
    assert second.cancel()
    assert not second.cancel()
    threaded.release()
    threaded.wait(3)
    assert (first.unwrap(), third.unwrap()) == (1, 2)
    assert [job for group in threaded.groups[1:] for job in group.jobs] == [first, third]
    assert not first.cancel(), "it has run"


def test_a_running_update_cannot_be_taken_back(threaded: Threaded) -> None:
    """An update that the writer has claimed cannot be cancelled."""
    inside, go_on = threading.Event(), threading.Event()

    def wait(tx: Transaction) -> str:
        inside.set()
        go_on.wait(10)
        return "done"

    job = threaded.store.submit(wait, NOW_MS)
    inside.wait(10)
    assert not job.cancel()
    go_on.set()
    threaded.wait(1)
    assert job.unwrap() == "done"


def test_a_group_of_cancelled_updates_is_none(threaded: Threaded) -> None:
    """A group of cancelled updates is neither committed nor reported."""
    threaded.hold()
    jobs = [threaded.say() for _ in range(3)]
    assert all(job.cancel() for job in jobs)
    threaded.release()
    last = threaded.say()
    threaded.wait(2)
    assert last.unwrap() == 1
    assert sum(len(group.jobs) for group in threaded.groups) == 2


def test_closing_finishes_what_is_queued(store_dir: Path) -> None:
    """Closing flushes every submitted update and refuses later ones."""
    threaded = Threaded(store_dir)
    threaded.hold()
    jobs = [threaded.say() for _ in range(600)]
    closer = threading.Thread(target=threaded.store.close)
    closer.start()
    threaded.release()
    closer.join(10)
    assert [job.unwrap() for job in jobs] == list(range(1, 601))
    with pytest.raises(DaemonDraining):
        threaded.say()
    threaded.store.close()
    store = open_inline(store_dir)
    assert append(store) == 601
    store.close()


def test_many_threads_may_submit(threaded: Threaded) -> None:
    """Every update of every thread gets its own cursor, increasing in each thread."""
    found: dict[int, list[Job[int]]] = {}

    def work(number: int) -> None:
        found[number] = [threaded.say(f"ses_{number}") for _ in range(100)]

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    threaded.wait(400)
    cursors = [[job.unwrap() for job in jobs] for jobs in found.values()]
    assert sorted(cursor for own in cursors for cursor in own) == list(range(1, 401))
    assert all(own == sorted(own) for own in cursors)


def test_without_a_thread_it_is_done_at_once(store_dir: Path) -> None:
    """Without a thread, an update is reported with its submitter's tag before submit returns."""
    told: list[Any] = []
    store = Store.open(
        store_dir,
        on_group=lambda group: told.extend((job.tag, job.value) for job in group.jobs),
        threaded=False,
        version="test",
    )
    job = store.submit(lambda tx: tx.append("ses_1", make_input())[0].cursor, NOW_MS, "mine")
    assert told == [("mine", 1)]
    assert not job.cancel()
    store.close()
    store.close()


def test_a_store_says_what_it_is(store: Store, store_dir: Path) -> None:
    """A store states its directory, its schema, and that it works."""
    assert (store.directory, store.schema, store.is_full, store.failure) == (store_dir, SCHEMA, False, None)


def test_a_full_store_says_so(store_dir: Path) -> None:
    """A refused write sets ``is_full``, and a successful one clears it."""
    store = open_inline(store_dir, map_bytes=2 * MIB)
    number = 0
    while not store.is_full:
        store.submit(_fill(number), NOW_MS)
        number += 1
    update(store, lambda tx: [tx.delete(_bulk(), *key) for key, _ in tx.scan(_bulk())])
    append(store)
    fill(store, 0, 200_000)
    assert not store.is_full
    store.close()


def _bulk() -> Any:
    from kheishd.store.tables import CHECKPOINTS

    return CHECKPOINTS


def _fill(number: int) -> Callable[[Transaction], None]:
    return lambda tx: tx.put(_bulk(), "s", number, value=bytes(200_000))


FAILING = """
import sys, threading
from pathlib import Path
from kheishd.store.writer import Store
from tests.support.stores import make_input

told = threading.Semaphore(0)
def on_group(group):
    for job in group.jobs:
        told.release()
failures = []
store = Store.open(Path(sys.argv[1]), on_group=on_group, on_failure=failures.append, version="test")
jobs = []
for number in range(6):
    jobs.append(store.submit(lambda tx: tx.append("ses_1", make_input())[0].cursor, 0))
    told.acquire()
print(*(type(job.error).__name__ if job.error else job.value for job in jobs))
with store.read() as snapshot:
    print(snapshot.last_cursor, len(failures), failures[0] == store.failure)
store.close()
"""


@needs_strace
def test_a_failed_disk_is_told_once(store_dir: Path) -> None:
    """A failed flush is reported once; later updates get storage_failed, and reads are served."""
    # Strace counts for each thread: the main one has no flush where the store is there already, the third of
    # the writer's fails.
    open_inline(store_dir).close()
    ended = python(FAILING, store_dir, under=strace_with("fdatasync:error=EIO:when=3+"))
    failed = StorageFailed.__name__
    assert ended.stdout == f"1 2 {failed} {failed} {failed} {failed}\n2 1 True\n", ended.stderr
