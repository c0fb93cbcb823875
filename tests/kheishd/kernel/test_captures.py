"""Handing over what is captured: in order, without waiting, bounded, and harming nobody."""

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.core.text.scrub import Scrubber
from kheishd.kernel.capture_files import CaptureFiles
from kheishd.kernel.captures import MAX_LOGGED, MAX_WAITING_BYTES, Captures
from protocol.errors.run import DebugNotFound
from tests.support.model_asking import inline

STEM = "turn-0001-attempt-0001"


def captures_in(directory: Path, **changes: Any) -> Captures:
    """Captures of a home."""
    return Captures(CaptureFiles(directory / "debug"), **changes)


async def test_jobs_are_done_in_order_in_a_thread(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Whoever hands over does not wait; all is done once it is flushed, one after another."""
    captures, done = captures_in(tmp_path), list[tuple[int, int]]()
    for number in range(100):
        assert captures.put("run_1", 1, lambda number=number: done.append((number, threading.get_ident())))  # type: ignore[misc]
    assert not done
    await nursery.start(captures.serve)
    await captures.flushed()
    assert [number for number, _ in done] == list(range(100))
    assert threading.get_ident() not in {thread for _, thread in done}


async def test_what_waits_is_bounded(tmp_path: Path, nursery: trio.Nursery) -> None:
    """While the disk is slow so much is taken and no more, but for what has no size; then more again."""
    captures, gate = captures_in(tmp_path), threading.Event()
    await nursery.start(captures.serve)
    assert captures.put("run_1", MAX_WAITING_BYTES // 2, gate.wait)  # type: ignore[arg-type]
    await wait_all_tasks_blocked()
    assert not captures.put("run_1", MAX_WAITING_BYTES // 2, gate.wait)  # type: ignore[arg-type]
    assert captures.put("run_1", 0, lambda: None)
    gate.set()
    await captures.flushed()
    assert captures.put("run_1", MAX_WAITING_BYTES // 2, lambda: None)


async def test_a_job_that_fails_harms_nobody(
    tmp_path: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """Others are done; the first failure of each run is logged, one that nobody foresaw with its trace."""
    captures, done = captures_in(tmp_path), list[str]()
    await nursery.start(captures.serve)

    def full() -> None:
        raise OSError(28, "No space left on device")

    def faulty() -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.WARNING):
        for run_id, job in (("run_1", full), ("run_1", full), ("run_2", faulty)):
            captures.put(run_id, 1, job)
            captures.put(run_id, 1, lambda: done.append("done"))
        await captures.flushed()
    assert len(done) == 3
    told = [(vars(record)["run_id"], record.exc_info is not None) for record in caplog.records]
    assert told == [("run_1", False), ("run_2", True)]
    assert "No space left on device" in caplog.text


async def test_what_is_remembered_of_failures_is_bounded(
    tmp_path: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """However many runs fail, only of so many it is known that they did."""
    captures = captures_in(tmp_path, in_thread=inline)
    await nursery.start(captures.serve)

    def full() -> None:
        raise OSError

    for number in [*range(MAX_LOGGED + 1), MAX_LOGGED, 0]:
        captures.put(f"run_{number}", 1, full)
    await captures.flushed()
    assert [vars(record)["run_id"] for record in caplog.records[-2:]] == [f"run_{MAX_LOGGED}", "run_0"]


async def test_the_end_does_what_is_left(tmp_path: Path) -> None:
    """What was handed over just before the daemon ends is written."""
    captures, done = captures_in(tmp_path), list[int]()
    async with trio.open_nursery() as nursery:
        await nursery.start(captures.serve)
        captures.put("run_1", 1, lambda: done.append(1))
        nursery.cancel_scope.cancel()
    assert done == [1]


async def test_the_end_does_not_wait_for_a_disk_that_hangs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A disk that never answers holds the end up for a moment only."""

    async def hang(*args: Any) -> None:
        await trio.sleep_forever()

    captures = captures_in(tmp_path, in_thread=hang)
    async with trio.open_nursery() as nursery:
        await nursery.start(captures.serve)
        captures.put("run_1", 1, lambda: None)
        await wait_all_tasks_blocked()
        captures.put("run_1", 1, lambda: None)
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began == pytest.approx(2.0)


async def test_reading_sees_what_was_handed_over(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Whoever reads waits for what was captured before; what has become a secret is not read."""
    captures = captures_in(tmp_path)
    await nursery.start(captures.serve)
    with pytest.raises(DebugNotFound):
        await captures.artifacts("run_1")

    def write() -> None:
        sheaf = captures.open("run_1", STEM)
        sheaf.write("answer", b'{"key":"sk-0123456789"}')
        sheaf.close()

    captures.put("run_1", 1, write)
    [artifact] = await captures.artifacts("run_1")
    captures.scrub(Scrubber(["sk-0123456789"]))
    _, text, following = await captures.text("run_1", artifact.artifact_id, 0, 100)
    assert (text, following) == ('{"key":"[scrubbed]"}', None)


async def test_collecting_is_a_job_like_others(tmp_path: Path, nursery: trio.Nursery) -> None:
    """By the wall clock, what is too old is removed; where it cannot be, that is logged and no more."""
    captures = captures_in(tmp_path, clock=lambda: 1e12)
    await nursery.start(captures.serve)
    captures.put("run_1", 1, lambda: captures.open("run_1", STEM).close())
    captures.collect(60.0, 1)
    await captures.flushed()
    assert not await trio.Path(tmp_path / "debug" / "run_1").exists()


async def test_a_veil_has_a_key_of_its_own(tmp_path: Path) -> None:
    """Digests of one daemon's life say nothing in another's."""
    text = "x" * 100
    assert captures_in(tmp_path).veil.redact_text(text) != captures_in(tmp_path).veil.redact_text(text)
