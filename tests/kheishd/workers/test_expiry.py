"""Expiry of approvals and questions, over clock changes, full disks and restarts; retention of captures."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.config.sections.debug import DebugSection
from kheishd.config.sections.runs import RunsSection
from kheishd.debug.captures import CaptureService
from kheishd.debug.files import CaptureFiles
from kheishd.objects.people import question
from kheishd.store.tables import APPROVALS, DEADLINES, QUESTIONS
from kheishd.workers.expiry import CAPTURE_CHECK_SECONDS, MAX_SLEEP_SECONDS, ExpiryWorker, RetentionWorker
from protocol.limits.units import MIB
from protocol.objects.question import QuestionAnswer
from tests.support.desk import EPOCH_MS, Desk, Scripted, full_disk, open_desk, wall_clock, working
from tests.support.model_calls import inline
from tests.support.runtimes import make_runtime
from tests.support.workshop import Workshop, ask, calls, hooks, write

HOUR_S = 3600.0
LIMITS = RunsSection(approval_expires_s=HOUR_S)


@asynccontextmanager
async def waiting(tmp_path: Path, *tool_calls: Any, **runtime: Any) -> AsyncIterator[tuple[Desk, str]]:
    """Open a desk with a run that waits for people; also provide the run's id."""
    models = Scripted(calls(*tool_calls))
    async with open_desk(tmp_path, models, hooks=hooks(Workshop()), **({"runs": LIMITS} | runtime)) as desk:
        async with working(desk):
            sent = await desk.ask()
            yield desk, sent.run_id


@asynccontextmanager
async def expiring(desk: Desk) -> AsyncIterator[None]:
    """Run the expiry worker."""
    async with trio.open_nursery() as nursery:
        await nursery.start(ExpiryWorker(desk.services).serve)
        yield
        nursery.cancel_scope.cancel()


async def advance(clock: MockClock, seconds: float) -> None:
    """Move the clock, and let every task that wakes do its work."""
    clock.jump(seconds)
    await wait_all_tasks_blocked()


def statuses(desk: Desk) -> list[str]:
    """Return the statuses of all approvals, then of all questions."""
    with desk.state.read() as store:
        records: list[tuple[Any, Any]] = [*store.scan(APPROVALS), *store.scan(QUESTIONS)]
    return [record.status for _, record in records]


async def test_an_approval_expires_at_its_deadline(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The call is denied, the model is told that no answer came in time, and the run continues."""
    async with waiting(tmp_path, write()) as (desk, run_id), expiring(desk):
        began = trio.current_time()
        await desk.until(lambda: desk.ended(run_id))
        assert trio.current_time() - began == pytest.approx(HOUR_S, abs=1)
        assert (desk.run(run_id).status, statuses(desk)) == ("completed", ["expired"])
        assert "tool_returned" in desk.kinds(desk.run(run_id).session_id, run_id)
        assert desk.count(DEADLINES) == 0


async def test_a_question_expires_and_ends_its_run(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A question expires at the time that the model chose, not earlier, and its run is cancelled."""
    async with waiting(tmp_path, ask(expires_after_s=90)) as (desk, run_id), expiring(desk):
        began = trio.current_time()
        await desk.until(lambda: desk.ended(run_id))
        assert trio.current_time() - began == pytest.approx(90, abs=1)
        assert (desk.run(run_id).status, statuses(desk)) == ("cancelled", ["expired"])


async def test_the_earliest_deadline_comes_first(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A new, earlier deadline wakes the worker that sleeps until a later one."""
    async with waiting(tmp_path, write()) as (desk, late), expiring(desk):
        await wait_all_tasks_blocked()
        models: Any = desk.holder.current().models
        models.answers = calls(ask(expires_after_s=60))
        early = (await desk.ask(sender="bob")).run_id
        began = trio.current_time()
        await desk.until(lambda: desk.ended(early))
        assert trio.current_time() - began == pytest.approx(60, abs=1)
        assert not desk.ended(late)


async def test_an_answered_question_does_not_expire(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An answer removes the deadline."""
    async with waiting(tmp_path, ask(expires_after_s=60)) as (desk, run_id), expiring(desk):
        with desk.state.read() as store:
            ((question_id,), _) = next(store.scan(QUESTIONS))
        await desk.do(question.answer, QuestionAnswer(question_id=question_id, declined=True))
        await desk.until(lambda: desk.ended(run_id))
        await advance(autojump_clock, 120)
        assert (desk.run(run_id).status, statuses(desk)) == ("completed", ["declined"])


async def test_a_deadline_may_pass_while_no_daemon_runs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The next daemon lapses an overdue object at its start."""
    async with waiting(tmp_path, write()) as (desk, run_id):
        await advance(autojump_clock, 2 * HOUR_S)
        assert statuses(desk) == ["pending"]
        async with expiring(desk):
            await desk.until(lambda: desk.ended(run_id))
        assert statuses(desk) == ["expired"]


async def test_a_clock_that_is_set_forward_is_noticed_soon(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The worker reads the wall clock at least every half minute."""
    async with waiting(tmp_path, write()) as (desk, run_id), expiring(desk):
        await wait_all_tasks_blocked()
        desk.state.now_ms = lambda: wall_clock() + 24 * 3_600_000
        began = trio.current_time()
        await desk.until(lambda: desk.ended(run_id))
        assert trio.current_time() - began <= MAX_SLEEP_SECONDS


async def test_a_clock_that_is_set_back_only_means_more_time(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An object that is not due by the current clock does not lapse, and lapses once it is due."""
    async with waiting(tmp_path, write()) as (desk, run_id), expiring(desk):
        await wait_all_tasks_blocked()
        desk.state.now_ms = lambda: wall_clock() - 3_600_000
        await advance(autojump_clock, HOUR_S + 60)
        assert statuses(desk) == ["pending"]
        await desk.until(lambda: desk.ended(run_id))
        assert statuses(desk) == ["expired"]


async def test_a_lapse_is_retried_while_the_disk_is_full(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A lapse that could not be committed is committed once there is room."""
    async with waiting(tmp_path, write()) as (desk, run_id):
        await advance(autojump_clock, 2 * HOUR_S)
        with full_disk():
            async with expiring(desk):
                await wait_all_tasks_blocked()
                assert statuses(desk) == ["pending"]
        async with expiring(desk):
            await desk.until(lambda: desk.ended(run_id))


@pytest.mark.parametrize("kind", ["approval", "nonsense"])
async def test_a_deadline_without_an_object_is_skipped(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """A deadline without a record, or of an unknown kind, is logged once; the other objects expire."""
    async with waiting(tmp_path, write()) as (desk, run_id):
        await desk.state.update(lambda tx: tx.put(DEADLINES, 1, kind, "apr_none", value=b""))
        async with expiring(desk):
            await desk.until(lambda: desk.ended(run_id))
            await wait_all_tasks_blocked()
        assert statuses(desk) == ["expired"]
        assert sum("apr_none" in record.message for record in caplog.records) == 1


# Retention of captures.


def capture(files: CaptureFiles, directory: Path, run_id: str, age_s: float) -> None:
    """Write a capture that has this age when the clock starts."""
    artifacts = files.open_call(run_id, "turn-0001-attempt-0001")
    artifacts.write_whole("answer", b"{}")
    artifacts.close()
    at_s = EPOCH_MS / 1000 - age_s
    for path in (*(directory / run_id).iterdir(), directory / run_id):
        os.utime(path, (at_s, at_s))


@asynccontextmanager
async def retaining(tmp_path: Path, captures: CaptureService, **runtime: Any) -> AsyncIterator[Desk]:
    """Run the retention worker and the captures' own task."""
    async with open_desk(tmp_path, **runtime) as desk, trio.open_nursery() as nursery:
        await nursery.start(captures.serve)
        await nursery.start(RetentionWorker(replace(desk.services, captures=captures)).serve)
        yield desk
        nursery.cancel_scope.cancel()


def names(directory: Path) -> list[str]:
    """Return the names in a directory."""
    return sorted(path.name for path in directory.iterdir())


async def test_old_captures_are_removed(tmp_path: Path, mock_clock: MockClock) -> None:
    """CaptureService are checked at the start and every hour, by the limits of the current runtime."""
    directory = tmp_path / "debug"
    files = CaptureFiles(directory)
    captures = CaptureService(files, in_thread=inline, clock=lambda: wall_clock() / 1000)
    for run_id, age_s in (("run_old", 49 * HOUR_S), ("run_middle", 47.5 * HOUR_S), ("run_new", HOUR_S)):
        capture(files, directory, run_id, age_s)
    debug = DebugSection(max_age_s=48 * HOUR_S, max_bytes=100 * MIB)
    async with retaining(tmp_path, captures, debug=debug) as desk:
        await advance(mock_clock, 1)
        assert names(directory) == ["run_middle", "run_new"]
        await advance(mock_clock, CAPTURE_CHECK_SECONDS)
        assert names(directory) == ["run_new"]
        desk.holder.replace(make_runtime(2, debug=DebugSection(max_age_s=HOUR_S, max_bytes=100 * MIB)))
        await advance(mock_clock, CAPTURE_CHECK_SECONDS - 2)
        assert names(directory) == ["run_new"]
        await advance(mock_clock, 2)
        assert names(directory) == []


async def test_an_unsafe_directory_of_captures_is_left_alone(tmp_path: Path, mock_clock: MockClock) -> None:
    """A symlink is not followed, and the worker keeps running."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "debug").symlink_to(tmp_path / "home")
    captures = CaptureService(CaptureFiles(tmp_path / "home" / "debug"), in_thread=inline)
    async with retaining(tmp_path, captures):
        for _ in range(3):
            await advance(mock_clock, CAPTURE_CHECK_SECONDS)
    assert names(tmp_path / "home") == ["debug"]
