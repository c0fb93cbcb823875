"""Group commit: which changes stay and which results are reported when an update raises or the disk fails."""

import errno
import gc
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kheishd.store.commit import Committer, Job, has_space
from kheishd.store.environment import Transaction
from kheishd.store.journal import verify_chain
from kheishd.store.opening import open_environment
from kheishd.store.tables import CHECKPOINTS, CHILDREN, CURSORS
from protocol.errors.run import RunNotFound
from protocol.errors.store import StorageFailed, StorageFull
from protocol.limits.units import KIB, MIB
from tests.support.stores import NOW_MS, make_input, needs_strace, python, strace_with

LOCK = threading.Lock()
Fn = Callable[[Transaction], Any]


class Bench:
    """A committer and its environment, without a queue before them."""

    def __init__(self, directory: Path, map_bytes: int = 64 * MIB) -> None:
        self.opened = open_environment(directory, version="test", map_bytes=map_bytes)
        self.committer = Committer(self.opened.environment, None)

    def settle(self, *fns: Fn) -> tuple[list[Job[Any]], frozenset[str]]:
        """Flush one group."""
        jobs = [Job(fn, NOW_MS, LOCK) for fn in fns]
        return jobs, self.committer.flush(jobs)

    def transactions(self) -> int:
        """Return the number of committed transactions."""
        return self.opened.environment.lmdb.info()["last_txnid"]

    def feed(self) -> list[tuple[int, str]]:
        """Return the whole journal after verifying its chain."""
        from kheishd.store.environment import Snapshot

        with Snapshot(self.opened.environment) as snapshot:
            assert list(verify_chain(snapshot)) == []
            return list(snapshot.feed())


@pytest.fixture
def bench(store_dir: Path) -> Iterator[Bench]:
    """Provide a committer on a new store."""
    bench = Bench(store_dir)
    yield bench
    bench.opened.close()


def say(stream: str) -> Fn:
    """Return an update that appends to a stream and returns the cursor."""
    return lambda tx: tx.append(stream, make_input())[0].cursor


def refuse(tx: Transaction) -> None:
    """Refuse before writing anything."""
    raise LookupError("before")


def fail(tx: Transaction) -> None:
    """Raise after writing."""
    tx.append("ses_bad", make_input())
    tx.put(CHILDREN, "bad", "1", value=b"")
    raise LookupError("after")


def test_a_group_is_one_commit(bench: Bench) -> None:
    """The updates of a group run in order, each has its value, and the bells of all ring together."""
    previous = bench.transactions()
    jobs, rung = bench.settle(say("ses_a"), say("ses_b"), lambda tx: tx.put(CHILDREN, "a", "b", value=b""))
    assert [job.unwrap() for job in jobs] == [1, 2, None]
    assert rung == {"journal", "cursors", "stream:ses_a", "stream:ses_b", "children"}
    assert bench.transactions() == previous + 1


def test_updates_see_those_before_them(bench: Bench) -> None:
    """An update sees the changes of earlier updates of its group."""

    def once(tx: Transaction) -> bool:
        if tx.get(CHILDREN, "a", "b") is not None:
            raise LookupError("exists")
        tx.put(CHILDREN, "a", "b", value=b"")
        return True

    jobs, _ = bench.settle(once, once)
    assert jobs[0].unwrap() is True
    assert isinstance(jobs[1].error, LookupError)


def test_a_refusal_costs_its_neighbours_nothing(bench: Bench) -> None:
    """An update that raises before writing gets its error, and no update runs twice."""
    runs: list[int] = []

    def counted(tx: Transaction) -> int:
        runs.append(1)
        return int(say("ses_a")(tx))

    jobs, _ = bench.settle(counted, refuse, counted)
    assert [job.value for job in jobs] == [1, None, 2]
    assert str(jobs[1].error) == "before"
    assert len(runs) == 2


def test_one_that_raises_takes_back_only_itself(bench: Bench) -> None:
    """A failed update is rolled back with its cursor and its bells; the others are stored."""
    jobs, rung = bench.settle(say("ses_a"), fail, say("ses_a"), refuse, say("ses_b"))
    assert [job.value for job in jobs] == [1, None, 2, None, 3]
    assert [str(job.error) for job in jobs if job.error] == ["after", "before"]
    assert rung == {"journal", "cursors", "stream:ses_a", "stream:ses_b"}
    assert bench.feed() == [(1, "ses_a"), (2, "ses_a"), (3, "ses_b")]


def test_one_alone_that_raises(bench: Bench) -> None:
    """A group of one needs no nested transaction for its rollback."""
    previous = bench.transactions()
    jobs, rung = bench.settle(fail)
    assert isinstance(jobs[0].error, LookupError)
    assert (rung, bench.feed(), bench.transactions()) == (frozenset(), [], previous)


def test_whatever_is_raised_is_the_jobs_own(bench: Bench) -> None:
    """Neither SystemExit nor a key that LMDB refuses ends the writer."""

    def leave(tx: Transaction) -> None:
        raise SystemExit(1)

    def too_long(tx: Transaction) -> None:
        tx.put(CHILDREN, "x" * 300, "y" * 300, value=b"")

    jobs, _ = bench.settle(leave, too_long, say("ses_a"))
    assert isinstance(jobs[0].error, SystemExit)
    assert isinstance(jobs[1].error, lmdb.BadValsizeError)
    assert jobs[2].unwrap() == 1
    assert bench.committer.failure is None


outcomes = st.lists(st.sampled_from(["say", "say", "fail", "refuse", "nothing"]), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(groups=st.lists(outcomes, max_size=5))
def test_any_mixture_keeps_what_succeeded(tmp_path_factory: pytest.TempPathFactory, groups: Any) -> None:
    """For any group, exactly the successful appends are in the journal, in order."""
    directory = tmp_path_factory.mktemp("mixture")
    bench = Bench(directory)
    kinds: dict[str, Fn] = {"fail": fail, "refuse": refuse, "nothing": lambda tx: None}
    expected = 0
    for group in groups:
        jobs, rung = bench.settle(*(kinds.get(kind, say("ses_a")) for kind in group))
        for kind, job in zip(group, jobs, strict=True):
            assert (job.error is not None) == (kind in ("fail", "refuse"))
            if kind == "say":
                expected += 1
                assert job.unwrap() == expected
        assert ("stream:ses_a" in rung) == ("say" in group)
    assert bench.feed() == [(cursor, "ses_a") for cursor in range(1, expected + 1)]
    bench.opened.close()
    shutil.rmtree(directory)


def test_a_refusal_leaves_no_cycle(bench: Bench) -> None:
    """A refusal leaves no work for the garbage collector."""

    def turn_down(tx: Transaction) -> None:
        raise RunNotFound

    gc.collect()
    gc.disable()
    try:
        jobs, _ = bench.settle(turn_down)
        assert isinstance(jobs[0].error, RunNotFound)
        del jobs
        assert gc.collect() == 0
    finally:
        gc.enable()


# The disk is full.


def fill(number: int, kilobytes: int = 200) -> Fn:
    """Return an update that writes a number of bytes."""
    return lambda tx: tx.put(CHECKPOINTS, "s", number, value=bytes(kilobytes * KIB))


@pytest.fixture
def small(store_dir: Path) -> Iterator[Bench]:
    """Provide a committer on a store of at most 2 MiB."""
    bench = Bench(store_dir, 2 * MIB)
    yield bench
    bench.opened.close()


def test_on_a_full_disk_each_learns_its_own_fate(small: Bench) -> None:
    """A group that does not fit is not refused as a whole: each update that fits is stored."""
    for number in range(4):
        small.settle(fill(number))
    jobs, rung = small.settle(say("ses_a"), *(fill(number) for number in range(4, 14)), say("ses_b"))
    refused = [isinstance(job.error, StorageFull) for job in jobs]
    assert not refused[0]
    assert any(refused)
    assert not refused[-1], "what is small still fits"
    assert "stream:ses_a" in rung
    assert small.feed() == [(1, "ses_a"), (2, "ses_b")]


def test_nothing_is_kept_where_nobody_will_find_it(store_dir: Path) -> None:
    """After the data file was removed, updates fail and the previous content can still be read."""
    bench = Bench(store_dir)
    bench.settle(say("ses_a"))
    assert bench.committer.is_in_place
    shutil.rmtree(store_dir)
    jobs, rung = bench.settle(say("ses_a"), say("ses_b"))
    assert [type(job.error) for job in jobs] == [StorageFailed, StorageFailed]
    assert "backup" in str(jobs[0].error)
    assert rung == frozenset()
    assert not bench.committer.is_in_place
    assert bench.committer.failure is None, "the daemon lives on, for a backup"
    assert bench.feed()[0] == (1, "ses_a")


def test_full_is_said_and_passes(small: Bench) -> None:
    """A full store serves reads and reports that it is full; with space again, writing resumes."""
    small.settle(say("ses_a"))
    number = 0
    while not small.committer.is_full:
        jobs, _ = small.settle(fill(number))
        number += 1
    assert isinstance(jobs[0].error, StorageFull)
    assert small.feed() == [(1, "ses_a")]
    assert small.committer.failure is None
    small.settle(lambda tx: [tx.delete(CHECKPOINTS, "s", old) for old in range(number)])
    # LMDB gives a freed page to the transaction after the next one.
    small.settle(say("ses_a"))
    jobs, _ = small.settle(fill(0))
    assert jobs[0].error is None
    assert not small.committer.is_full


def test_one_that_goes_on_after_the_disk_was_full(small: Bench) -> None:
    """An update that swallows the full-disk error loses its changes and still gets an error."""
    for number in range(6):
        small.settle(fill(number))

    def deaf(tx: Transaction) -> str:
        for number in range(10, 30):
            try:
                fill(number, 12)(tx)
            except lmdb.Error:
                return "all is well"
        raise AssertionError("it should not have fitted")

    jobs, _ = small.settle(deaf, say("ses_a"))
    assert jobs[0].error is not None
    assert small.feed() in ([], [(1, "ses_a")])
    assert small.committer.failure is None


# A real disk's errors, injected by strace or by limits, in a process of its own.

PROGRAM = """
import os, resource, sys, threading
from pathlib import Path
from kheishd.store.commit import Committer, Job, has_space
from kheishd.store.environment import Snapshot
from kheishd.store.opening import open_environment
from tests.support.stores import make_input

directory, limit = Path(sys.argv[1]), int(sys.argv[2])
opened = open_environment(directory, version="test")
committer = Committer(opened.environment, None)
def settle(*texts):
    def say(text):
        return lambda tx: tx.append("ses_1", make_input(text))[0].cursor
    jobs = [Job(say(text), 0, threading.Lock()) for text in texts]
    committer.flush(jobs)
    for job in jobs:
        print(type(job.error).__name__ if job.error else job.value, end=" ")
settle("first")
if limit:
    data = os.path.getsize(directory / "data.mdb")
    resource.setrlimit(resource.RLIMIT_FSIZE, (data + limit, resource.RLIM_INFINITY))
sys.stdout.flush()
os.write(2, b"ready")
settle("x" * 200_000, "small")
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
settle("again")
with Snapshot(opened.environment) as snapshot:
    print("| read", snapshot.last_cursor, "| full" if committer.is_full else "| room", "|", committer.failure)
"""


def test_a_write_cut_short_is_a_full_disk(store_dir: Path) -> None:
    """A short write, an I/O error to LMDB, counts as a full disk and passes once there is space."""
    ended = python(PROGRAM, store_dir, "20000")
    assert ended.stdout == "1 StorageFull 2 3 | read 3 | room | None\n", ended.stderr


def test_looking_for_room_leaves_nothing_even_if_killed(
    store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that probes for space has no name while it takes space."""
    open_environment(store_dir, version="test").close()
    names: list[str] = []

    def allocate(descriptor: int, offset: int, length: int) -> None:
        names.extend(path.name for path in store_dir.iterdir())
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("kheishd.store.commit.os.posix_fallocate", allocate)
    assert not has_space(store_dir)
    assert sorted(names) == ["checked", "data.mdb", "identity", "lock.mdb"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Provide a disk of 4 MiB, if this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_real_disk_fills_and_empties(small_disk: Path) -> None:
    """A full disk refuses writes and serves reads; writing resumes once there is space."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 * MIB))
    bench = Bench(small_disk / "state")
    bench.settle(say("ses_a"))
    number = 0
    while not bench.committer.is_full:
        bench.settle(fill(number), fill(number + 1, 1), fill(number + 2))
        number += 3
    assert bench.committer.failure is None
    assert bench.feed() == [(1, "ses_a")]
    ballast.unlink()
    jobs, _ = bench.settle(fill(number), say("ses_a"))
    assert [job.error for job in jobs] == [None, None]
    assert not bench.committer.is_full
    assert bench.feed() == [(1, "ses_a"), (2, "ses_a")]
    bench.opened.close()


@needs_strace
def test_no_space_left_is_a_full_disk(store_dir: Path) -> None:
    """After ENOSPC from the disk, only the large update of the group is refused."""
    open_environment(store_dir, version="test").close()
    ended = python(PROGRAM, store_dir, "0", under=strace_with("writev,pwritev:error=ENOSPC:when=3..4"))
    values, read, room, failure = ended.stdout.strip().split(" | ")
    assert (values, room, failure) == ("1 StorageFull 2 3", "room", "None"), ended.stderr + ended.stdout
    assert read == "read 3"


@needs_strace
def test_a_failed_flush_is_final(store_dir: Path) -> None:
    """After EIO from fdatasync, every update fails and the disk is not tried again."""
    open_environment(store_dir, version="test").close()
    ended = python(PROGRAM, store_dir, "0", under=strace_with("fdatasync:error=EIO:when=2+"))
    assert ended.stdout.startswith("1 StorageFailed StorageFailed StorageFailed | read 1"), ended.stderr
    assert "Input/output error" in ended.stdout
    again = python(PROGRAM, store_dir, "0")
    assert again.stdout.startswith("2 3 4 5 | read 5"), "the next start finds what was acknowledged"


def test_the_outcomes_of_a_broken_environment(bench: Bench) -> None:
    """After LMDB itself failed, nothing is written any more and every update gets the failure."""
    environment = bench.opened.environment
    broken = Committer(environment, None)

    def panic(tx: Transaction) -> None:
        raise lmdb.PanicError("the meta page could not be written", errno.EIO)

    jobs = [Job(fn, NOW_MS, LOCK) for fn in (say("ses_a"), panic, say("ses_a"))]
    assert broken.flush(jobs) == frozenset()
    assert all(isinstance(job.error, StorageFailed) for job in jobs)
    assert broken.failure is not None
    assert isinstance(bench_job(broken).error, StorageFailed)
    assert bench.feed() == []


def bench_job(committer: Committer) -> Job[Any]:
    """Return one more job."""
    job = Job(say("ses_a"), NOW_MS, LOCK)
    committer.flush([job])
    return job


def test_cursors_go_on_after_other_commits(bench: Bench) -> None:
    """The committer knows the end of the journal after failures of every kind."""
    bench.settle(say("ses_a"), fail)
    bench.settle(fail)
    bench.settle(refuse, say("ses_b"))
    jobs, _ = bench.settle(lambda tx: (tx.last_cursor, tx.get(CURSORS, 2), tx.head("ses_b")[0]))
    assert jobs[0].unwrap() == (2, "ses_b", 2)
