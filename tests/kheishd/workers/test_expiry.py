"""Expiry: what nobody answers in time is asked for no longer, whatever clocks, disks and restarts do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.kernel.runtime import RunLimits
from kheishd.objects.people import question
from kheishd.store.tables import APPROVALS, DEADLINES, QUESTIONS
from kheishd.workers.expiry import LOOK_SECONDS, ExpiryWorker
from protocol.objects.question import QuestionAnswer
from tests.support.desk import Desk, Scripted, full_disk, open_desk, wall_clock, working
from tests.support.workshop import Workshop, ask, calls, hooks, write

HOUR_S = 3600.0
LIMITS = RunLimits(approval_expires_s=HOUR_S)


@asynccontextmanager
async def waiting(tmp_path: Path, *asked: Any, **runtime: Any) -> AsyncIterator[tuple[Desk, str]]:
    """A desk with a run that waits for people, and its id; nothing expires yet."""
    models = Scripted(calls(*asked))
    async with open_desk(tmp_path, models, hooks=hooks(Workshop()), **({"limits": LIMITS} | runtime)) as desk:
        async with working(desk):
            sent = await desk.ask()
            yield desk, sent.run_id


@asynccontextmanager
async def expiring(desk: Desk) -> AsyncIterator[None]:
    """The expiry worker at work."""
    async with trio.open_nursery() as nursery:
        await nursery.start(ExpiryWorker(desk.state).serve)
        yield
        nursery.cancel_scope.cancel()


async def later(clock: MockClock, seconds: float) -> None:
    """Time passes, and who wakes in it does what there is to do."""
    clock.jump(seconds)
    await wait_all_tasks_blocked()


def statuses(desk: Desk) -> list[str]:
    """How approvals and questions stand."""
    with desk.state.read() as store:
        records: list[tuple[Any, Any]] = [*store.scan(APPROVALS), *store.scan(QUESTIONS)]
    return [record.status for _, record in records]


async def test_an_approval_expires_when_its_time_is_over(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its call is denied, the model is told that nobody answered, and the run goes on."""
    async with waiting(tmp_path, write()) as (desk, run_id), expiring(desk):
        began = trio.current_time()
        await desk.until(lambda: desk.ended(run_id))
        assert trio.current_time() - began == pytest.approx(HOUR_S, abs=1)
        assert (desk.run(run_id).status, statuses(desk)) == ("completed", ["expired"])
        assert "tool_returned" in desk.kinds(desk.run(run_id).session_id, run_id)
        assert desk.count(DEADLINES) == 0


async def test_a_question_expires_and_ends_its_run(tmp_path: Path, autojump_clock: MockClock) -> None:
    """At the time that the model said, and not before."""
    async with waiting(tmp_path, ask(expires_after_s=90)) as (desk, run_id), expiring(desk):
        began = trio.current_time()
        await desk.until(lambda: desk.ended(run_id))
        assert trio.current_time() - began == pytest.approx(90, abs=1)
        assert (desk.run(run_id).status, statuses(desk)) == ("cancelled", ["expired"])


async def test_the_earliest_comes_first(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Also where it is asked for while the worker sleeps towards a later one."""
    async with waiting(tmp_path, write()) as (desk, late), expiring(desk):
        await wait_all_tasks_blocked()
        models: Any = desk.holder.current().models
        models.parts = calls(ask(expires_after_s=60))
        early = (await desk.ask(sender="bob")).run_id
        began = trio.current_time()
        await desk.until(lambda: desk.ended(early))
        assert trio.current_time() - began == pytest.approx(60, abs=1)
        assert not desk.ended(late)


async def test_what_was_answered_does_not_expire(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its deadline is gone with the answer."""
    async with waiting(tmp_path, ask(expires_after_s=60)) as (desk, run_id), expiring(desk):
        with desk.state.read() as store:
            ((question_id,), _) = next(store.scan(QUESTIONS))
        await desk.do(question.answer, QuestionAnswer(question_id=question_id, declined=True))
        await desk.until(lambda: desk.ended(run_id))
        await later(autojump_clock, 120)
        assert (desk.run(run_id).status, statuses(desk)) == ("completed", ["declined"])


async def test_what_expired_while_nobody_was_there(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A daemon that starts again lapses it at once."""
    async with waiting(tmp_path, write()) as (desk, run_id):
        await later(autojump_clock, 2 * HOUR_S)
        assert statuses(desk) == ["pending"]
        async with expiring(desk):
            await desk.until(lambda: desk.ended(run_id))
        assert statuses(desk) == ["expired"]


async def test_a_clock_that_is_set_forward_is_noticed_soon(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It sleeps towards a time of the wall, and looks at the wall every half minute."""
    async with waiting(tmp_path, write()) as (desk, run_id), expiring(desk):
        await wait_all_tasks_blocked()
        desk.state.now_ms = lambda: wall_clock() + 24 * 3_600_000
        began = trio.current_time()
        await desk.until(lambda: desk.ended(run_id))
        assert trio.current_time() - began <= LOOK_SECONDS


async def test_a_clock_that_is_set_back_only_means_more_time(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What is not due by the clock as it is now does not lapse, and is not forgotten either."""
    async with waiting(tmp_path, write()) as (desk, run_id), expiring(desk):
        await wait_all_tasks_blocked()
        desk.state.now_ms = lambda: wall_clock() - 3_600_000
        await later(autojump_clock, HOUR_S + 60)
        assert statuses(desk) == ["pending"]
        await desk.until(lambda: desk.ended(run_id))
        assert statuses(desk) == ["expired"]


async def test_a_full_disk_is_waited_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What could not be written is written once there is room."""
    async with waiting(tmp_path, write()) as (desk, run_id):
        await later(autojump_clock, 2 * HOUR_S)
        with full_disk():
            async with expiring(desk):
                await wait_all_tasks_blocked()
                assert statuses(desk) == ["pending"]
        async with expiring(desk):
            await desk.until(lambda: desk.ended(run_id))


@pytest.mark.parametrize("kind", ["approval", "nonsense"])
async def test_a_deadline_of_nothing_harms_nobody(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """A row without a record, or of a kind that is not known, is told of once; the others expire."""
    async with waiting(tmp_path, write()) as (desk, run_id):
        await desk.state.update(lambda tx: tx.put(DEADLINES, 1, kind, "apr_none", value=b""))
        async with expiring(desk):
            await desk.until(lambda: desk.ended(run_id))
            await wait_all_tasks_blocked()
        assert statuses(desk) == ["expired"]
        assert sum("apr_none" in record.message for record in caplog.records) == 1
