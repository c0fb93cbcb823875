"""The store for trio tasks: durable updates, outcomes on the loop, and bells that no reader misses."""

import gc
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing

from kheishd.kernel.state import MAX_INLINE_HASH_BYTES, Bell, State, StoreWatch, open_state, wall_clock_ms
from kheishd.store.blobs import CHUNK_BYTES, blob_name, read_blob
from kheishd.store.commit import Group, Job
from kheishd.store.environment import Transaction
from kheishd.store.guards import StoreUnusable
from kheishd.store.tables import CHILDREN, CURSORS, SESSIONS, TOKENS
from protocol.errors.daemon import DaemonDraining
from protocol.errors.run import RunNotFound
from protocol.ids import RUN
from tests.support.stores import make_input, needs_strace, python, strace_with

if TYPE_CHECKING:
    from kheishd.store.writer import Store


def say(stream: str, tx: Transaction) -> int:
    """Append one event."""
    return tx.append(stream, make_input())[0].cursor


def hello(tx: Transaction) -> int:
    """Append an event to one session."""
    return say("ses_1", tx)


def adopt(tx: Transaction) -> None:
    """Write to one table."""
    tx.put(CHILDREN, "a", "b", value=b"")


class Gate:
    """An update that blocks the writer thread until it is opened."""

    def __init__(self) -> None:
        self._inside = threading.Event()
        self._open = threading.Event()

    def __call__(self, tx: Transaction) -> str:
        self._inside.set()
        assert self._open.wait(10)
        return "through"

    async def entered(self) -> None:
        """Wait until the writer runs the update."""
        await trio.to_thread.run_sync(self._inside.wait, 10)

    def open(self) -> None:
        """Let the writer continue."""
        self._open.set()


async def test_an_update_is_durable_when_it_returns(state: State) -> None:
    """A snapshot taken right after an update shows its changes."""
    assert await state.update(hello) == 1
    with state.read() as snapshot:
        assert snapshot.last_cursor == 1


async def test_an_update_that_raises_changes_nothing(state: State) -> None:
    """The caller gets the update's own error."""

    def fail(tx: Transaction) -> None:
        hello(tx)
        raise RunNotFound("no such run")

    with pytest.raises(RunNotFound, match="no such run"):
        await state.update(fail)
    with state.read() as snapshot:
        assert snapshot.last_cursor == 0


async def test_a_watch_is_called_after_each_commit(state: State) -> None:
    """It is called at once, then once for each commit of its names, and not after it is closed."""
    seen: list[int] = []

    def hello_and_adopt(tx: Transaction) -> None:
        hello(tx)
        adopt(tx)

    def look() -> None:
        with state.read() as snapshot:
            seen.append(snapshot.last_cursor)

    watch = state.watch(look, "stream:ses_1", CHILDREN.name)
    await state.update(hello)
    await state.update(hello_and_adopt)
    await state.update(lambda tx: say("ses_2", tx))
    await state.update(adopt)
    assert seen == [0, 1, 2, 3]
    watch.close()
    watch.close()
    await state.update(hello)
    assert seen == [0, 1, 2, 3]
    assert state._watches == {}


async def test_a_watch_that_fails_tells_its_owner(state: State) -> None:
    """The first call raises; the error of a later one ends the wait, and other watches are called."""

    def fail(limit: int) -> None:
        calls.append(limit)
        if len(calls) >= limit:
            raise ZeroDivisionError

    calls: list[int] = []
    with pytest.raises(ZeroDivisionError):
        state.watch(lambda: fail(0), "journal")
    calls.clear()
    failing = state.watch(lambda: fail(2), "journal")
    other = state.watch(lambda: calls.append(0), "journal")
    await state.update(hello)
    await state.update(hello)
    assert calls == [2, 0, 2, 0, 0]
    with pytest.raises(ZeroDivisionError):
        await failing.wait()
    other.close()


async def test_a_watch_may_close_another_one(state: State) -> None:
    """A watch that was closed during a delivery is not called in it."""
    calls: list[str] = []
    watches: list[StoreWatch] = []

    def close(name: str) -> None:
        calls.append(name)
        for watch in watches:
            watch.close()

    watches += [state.watch(partial(close, name), "journal") for name in ("one", "two")]
    calls.clear()
    await state.update(hello)
    assert calls == ["one"]


async def test_many_tasks_update_at_once(state: State) -> None:
    """Each task gets its own result, and no cursor is used twice."""
    cursors: list[int] = []

    async def work() -> None:
        for _ in range(5):
            cursors.append(await state.update(hello))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(work)
    assert sorted(cursors) == list(range(1, 251))


async def test_submit_needs_no_task(state: State) -> None:
    """A callback gets the outcome, value or error, once and on the loop."""
    outcomes: list[tuple[int | None, str | None]] = []
    both = trio.Event()

    def done(job: Job[int]) -> None:
        trio.lowlevel.current_task()
        outcomes.append((job.value, str(job.error) if job.error else None))
        if len(outcomes) == 2:
            both.set()

    def fail(tx: Transaction) -> int:
        raise RunNotFound("no such run")

    state.submit(hello, done)
    state.submit(fail, done)
    with trio.fail_after(10):
        await both.wait()
    assert outcomes == [(1, None), (None, "no such run")]


async def test_a_failing_callback_is_isolated(state: State, caplog: pytest.LogCaptureFixture) -> None:
    """The error of a callback is logged, and the other outcomes are delivered."""

    def done(job: Job[int]) -> None:
        raise LookupError("a faulty callback")

    with caplog.at_level(logging.ERROR):
        state.submit(hello, done)
        assert await state.update(hello) == 2
    assert "could not be delivered" in caplog.text
    assert "a faulty callback" in caplog.text


async def test_the_updates_of_one_round_are_one_commit(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates that are submitted in one round of the loop are delivered together, in their order."""
    groups: list[list[Any]] = []
    deliver = state.deliver
    values: list[int | None] = []

    def deliver_and_note(group: Group) -> None:
        groups.append(group.jobs)
        deliver(group)

    monkeypatch.setattr(state, "deliver", deliver_and_note)
    for _ in range(20):
        state.submit(hello, lambda job: values.append(job.value))
    await state.update(hello)
    assert values == list(range(1, 21))
    assert [len(jobs) for jobs in groups] == [21]


async def test_a_firm_update_is_not_cancelled(state: State) -> None:
    """A firm update of a cancelled caller runs, and the caller gets its result."""
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await state.update(hello, is_firm=True) == 1
    assert not scope.cancelled_caught


async def test_a_queued_update_is_cancelled_at_once(state: State) -> None:
    """A cancelled update that was queued never runs."""
    gate = Gate()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(state.update, gate)
        await gate.entered()
        with trio.move_on_after(0) as scope:
            await state.update(hello)
        assert scope.cancelled_caught
        gate.open()
    assert await state.update(hello) == 1


async def test_a_running_update_is_waited_for(state: State) -> None:
    """A cancelled caller waits for an update that runs, and gets its result."""
    gate = Gate()
    results = []

    async def update(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            results.append(await state.update(gate))

    async with trio.open_nursery() as nursery:
        scope = await nursery.start(update)
        await gate.entered()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert results == []
        gate.open()
    assert results == ["through"]


async def test_refusals_leave_no_cycle(state: State) -> None:
    """A refused update leaves nothing for the garbage collector."""

    def refuse(tx: Transaction) -> None:
        raise RunNotFound

    async def once() -> None:
        try:
            await state.update(refuse)
        except RunNotFound:
            pass

    await once()
    gc.collect()
    gc.disable()
    try:
        await once()
        await state.update(lambda tx: None)
        assert gc.collect() == 0
    finally:
        gc.enable()


# Bells.


async def test_a_bell_rings_for_what_was_touched(state: State) -> None:
    """A bell rings for its tables and streams, and not for others."""
    children, first = state.bell(CHILDREN.name), state.bell("stream:ses_1")
    second, any_append = state.bell("stream:ses_2"), state.bell(CURSORS.name)
    either = state.bell(TOKENS.name, SESSIONS.name, "stream:ses_1")
    await state.update(hello)
    assert (children.rung, first.rung, second.rung) == (False, True, False)
    assert any_append.rung
    assert either.rung
    await state.update(adopt)
    assert children.rung


async def test_a_bell_taken_before_reading_misses_nothing(state: State) -> None:
    """A commit between taking and waiting rings the bell; later bells are not affected."""
    bell = state.bell("stream:ses_1")
    await state.update(hello)
    with trio.fail_after(10):
        await bell.wait()
        await bell.wait()
    later = state.bell("stream:ses_1")
    assert not later.rung


async def test_a_follower_misses_nothing(state: State) -> None:
    """However commits and reads interleave, a follower sees every event once, in order."""
    seen: list[int] = []

    async def follow() -> None:
        while len(seen) < 200:
            bell = state.bell("stream:ses_1")
            with state.read() as snapshot:
                cursors = [cursor for cursor, _ in snapshot.entries("ses_1", seen[-1] if seen else 0)]
            seen.extend(cursors)
            if not cursors:
                await bell.wait()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            for _ in range(200):
                await state.update(hello)
    assert seen == list(range(1, 201))


async def test_an_update_that_fails_rings_nothing(state: State) -> None:
    """A failed update rings no bell, not even with the next commit."""
    bell = state.bell("stream:ses_1", CURSORS.name)

    def fail(tx: Transaction) -> None:
        hello(tx)
        raise LookupError

    with pytest.raises(LookupError):
        await state.update(fail)
    await state.update(adopt)
    assert not bell.rung


async def test_abandoned_bells_are_forgotten(state: State) -> None:
    """A bell without an owner takes no memory; a bell with one rings."""
    references = state._bells._references
    for number in range(1000):
        state.bell("stream:ses_quiet", f"stream:ses_{number}")
    assert references == {}
    bell = state.bell("stream:ses_1", "stream:ses_2")
    assert len(references) == 2
    await state.update(hello)
    assert bell.rung
    assert references == {}


async def test_a_bell_rung_by_hand(state: State) -> None:
    """The owner can ring a bell without names."""
    bell = state.bell()
    assert not bell.rung
    bell.ring()
    await bell.wait()
    assert isinstance(bell, Bell)


# Clocks, ids, blobs.


async def test_ids_and_times_come_from_the_clock(store_dir: Path) -> None:
    """The clock is a parameter, later ids sort later, and an event has the time of its submission."""
    now = [1_000]
    async with open_state(store_dir, version="test", clock=lambda: now[0]) as state:
        first = state.new_id(RUN)
        now[0] += 1
        second = state.new_id(RUN)
        assert first < second
        assert first.startswith("run_")
        assert state.now_ms() == 1_001
        envelope, _ = await state.update(lambda tx: tx.append("ses_1", make_input()))
        assert envelope.at_ms == 1_001
    assert wall_clock_ms() == pytest.approx(time.time() * 1000, abs=60_000)


async def test_a_blob_of_many_chunks(state: State) -> None:
    """A large value is stored in chunks and found by its name."""
    content = b"content " * CHUNK_BYTES
    name = await state.put_blob(content)
    with state.read() as snapshot:
        assert read_blob(snapshot, name) == content


async def test_a_large_value_is_hashed_beside_the_loop(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large value is hashed in a thread, a small one on the loop."""
    threads: list[int] = []

    def watched(content: bytes) -> str:
        threads.append(threading.get_ident())
        return blob_name(content)

    monkeypatch.setattr("kheishd.kernel.state.blob_name", watched)
    await state.put_blob(bytes(MAX_INLINE_HASH_BYTES))
    name = await state.put_blob(bytes(MAX_INLINE_HASH_BYTES + 1))
    assert [thread == threading.get_ident() for thread in threads] == [True, False]
    with state.read() as snapshot:
        assert read_blob(snapshot, name) == bytes(MAX_INLINE_HASH_BYTES + 1)


async def test_a_backup_in_a_thread(state: State, tmp_path: Path) -> None:
    """A backup returns the newest cursor of the copy."""
    await state.update(hello)
    assert await state.backup(tmp_path / "copy") == 1


class EndlessStore:
    """A store whose backup never ends by itself."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    def backup(self, directory: Path, *, check: Callable[[], object]) -> int:
        """Run until the check raises."""
        self.begun.set()
        while True:
            check()


async def test_a_backup_can_be_cancelled(tmp_path: Path) -> None:
    """A cancelled backup ends, so that a stopping daemon does not wait for it."""
    store = EndlessStore()
    state = State(cast("Store", store), wall_clock_ms)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(state.backup, tmp_path / "copy")
            await trio.to_thread.run_sync(store.begun.wait, 10)
            nursery.cancel_scope.cancel()


# Opening and closing.


async def test_closing_delivers_every_outcome(store_dir: Path) -> None:
    """Submitted updates are done and delivered before the state is closed."""
    values: list[int | None] = []
    async with open_state(store_dir, version="test") as state:
        for _ in range(300):
            state.submit(hello, lambda job: values.append(job.value))
    assert values == list(range(1, 301))
    with pytest.raises(DaemonDraining):
        await state.update(hello)


async def test_closing_while_cancelled(store_dir: Path) -> None:
    """A cancelled owner closes the state and leaves it usable."""
    values: list[int | None] = []
    with trio.CancelScope() as scope:
        async with open_state(store_dir, version="test") as state:
            state.submit(hello, lambda job: values.append(job.value))
            scope.cancel()
            await trio.sleep_forever()
    assert values == [1]
    async with open_state(store_dir, version="test") as state:
        assert await state.update(hello) == 2


async def test_a_store_that_cannot_be_opened(store_dir: Path) -> None:
    """The refusal is raised as itself, not in a group."""
    await trio.Path(store_dir).touch()
    with pytest.raises(StoreUnusable):
        async with open_state(store_dir, version="test"):
            pass


async def test_inline_updates_take_no_time(
    inline_state: State, autojump_clock: trio.testing.MockClock
) -> None:
    """With an inline writer, a mock clock does not jump while an update is awaited."""
    with trio.fail_after(1):
        for number in range(1, 50):
            bell = inline_state.bell("stream:ses_1")
            assert await inline_state.update(hello) == number
            await bell.wait()
    assert trio.current_time() == autojump_clock.current_time()


FAILING = """
import sys, trio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast
from kheishd.kernel.state import open_state
from protocol.errors.store import StorageFailed
from tests.support.stores import make_input

async def main():
    async with open_state(Path(sys.argv[1]), version="test") as state:
        try:
            await state.update(lambda tx: tx.append("ses_1", make_input()))
        except StorageFailed as error:
            print(error.code, state.store.failure is not None)
        with trio.fail_after(10):
            await state.failed.wait()
        print("stopping")
trio.run(main)
"""


@needs_strace
def test_a_failed_store_rings(store_dir: Path) -> None:
    """Every caller gets storage_failed, and ``failed`` rings for the daemon."""
    # Strace counts for each thread; the main thread opens a store that is there without a flush.
    python(FAILING.replace("await state.failed.wait()", "return"), store_dir)
    ended = python(FAILING, store_dir, under=strace_with("fdatasync:error=EIO"))
    assert ended.stdout == "1507 True\nstopping\n", ended.stderr
