"""The executor of a run: pauses, steering, full disks and the time budget."""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.config.sections.runs import RunsSection
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.runtime import ModelAnswer, ModelEvent
from kheishd.store.tables import RUNS_CANCELLED
from protocol.budget import Budget
from protocol.transcript import Item, Text, ToolCall, ToolResult, Usage, text_of
from tests.support.desk import (
    EPOCH_MS,
    Gate,
    Scripted,
    fails,
    full_disk,
    gives,
    open_desk,
    says,
    wall_clock,
    working,
)
from tests.support.machine import STEER
from tests.support.slow_tool import Dawdling, dawdling_calls, results

# Pauses.


async def test_a_clock_that_is_set_back_does_not_extend_a_pause(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A pause is measured by the monotonic clock."""
    models = Scripted([lambda request: fails(retry_after_s=10.0), lambda request: says("ok")])
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.send()
        await desk.until(lambda: desk.run(sent.run_id).failures == 1)
        await wait_all_tasks_blocked()
        desk.state.now_ms = lambda: wall_clock() - 24 * 3600 * 1000
        began = trio.current_time()
        await desk.until(lambda: desk.run(sent.run_id).status == "completed")
        assert trio.current_time() - began <= 10.01


async def test_a_pause_outlasts_a_restart(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The next daemon waits until the end of the pause before it asks the provider."""
    models = Scripted([lambda request: fails(retry_after_s=600.0), lambda request: says("ok")])
    async with open_desk(tmp_path, models) as desk:
        async with working(desk):
            sent = await desk.send()
            await desk.until(lambda: desk.run(sent.run_id).failures == 1)
            await wait_all_tasks_blocked()
        due_at = desk.run(sent.run_id).retry_at_ms
        assert due_at is not None
        async with working(desk):
            await desk.until(lambda: desk.run(sent.run_id).status == "completed")
        assert wall_clock() >= due_at
        assert desk.run(sent.run_id).attempt == 0


# Turns.


async def test_a_call_gets_its_result_before_the_model_is_asked_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The model reads the result of its call, here that there is no such tool, and answers."""
    calls: list[Item] = [Text("I look."), ToolCall("c1", "look", {}), ToolCall("c2", "look", {"at": 1})]
    models = Scripted([lambda request: gives(*calls, stop_reason="tool_calls"), lambda request: says("done")])
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.ask()
        assert (sent.status, sent.output, len(models.requests)) == ("completed", "done", 2)
        results = models.requests[1].messages[-1].items
        assert [(r.call_id, r.is_error) for r in results if isinstance(r, ToolResult)] == [
            ("c1", True),
            ("c2", True),
        ]
        assert desk.run(sent.run_id).turn == 2


async def test_the_number_of_turns_is_limited(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A run fails after its maximum number of turns."""
    models = Scripted([lambda request: gives(ToolCall("c1", "look", {}))])
    async with open_desk(tmp_path, models, runs=RunsSection(max_turns=5)) as desk, working(desk):
        sent = await desk.ask()
    assert sent.error is not None
    assert (sent.error.reason, len(models.requests)) == ("turn_limit", 5)


# Steering.


async def test_a_steer_is_read_before_the_run_ends(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A steer that arrives during an answer leads to another turn."""
    models, gate = Scripted(), Gate()
    models.answers = [gate, lambda request: says("as you wish")]
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.send("write a poem")
        await gate.reached.wait()
        await desk.command(sent.run_id, lambda run: STEER)
        gate.opened.set()
        await desk.until(lambda: desk.ended(sent.run_id))
        assert desk.answers(sent.session_id) == ["so far and so on", "as you wish"]
        assert [text_of(message.items) for message in models.requests[1].messages] == [
            "write a poem",
            "so far and so on",
            "and hurry",
        ]


# A full disk.


async def test_an_answer_outlasts_a_full_disk(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is committed once there is room, and the model is not asked twice."""
    models, gate = Scripted(), Gate()
    models.answers = [gate]
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.send()
        await gate.reached.wait()
        with full_disk():
            gate.opened.set()
            await wait_all_tasks_blocked()
            assert desk.run(sent.run_id).status == "running"
        await desk.until(lambda: desk.run(sent.run_id).status == "completed")
        assert desk.answers(sent.session_id) == ["so far and so on"]
        assert len(models.requests) == 1
    assert "the disk is full" in caplog.text


async def test_a_full_disk_does_not_keep_the_daemon_from_stopping(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An answer that cannot be committed is asked for again at the next start."""
    models, gate = Scripted(), Gate()
    models.answers = [gate, lambda request: says("again")]
    async with open_desk(tmp_path, models) as desk:
        with ExitStack() as disk:
            async with working(desk):
                sent = await desk.send()
                await gate.reached.wait()
                disk.enter_context(full_disk())
                gate.opened.set()
                await wait_all_tasks_blocked()
        async with working(desk):
            await desk.until(lambda: desk.run(sent.run_id).status == "completed")
        assert desk.answers(sent.session_id) == ["again"]
        assert desk.count(RUNS_CANCELLED) == 0


async def test_a_full_disk_starts_nothing_and_loses_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """No model is called while the start cannot be committed; later the run continues."""
    models = Scripted()
    async with open_desk(tmp_path, models) as desk:
        sent = await desk.send()
        with full_disk():
            async with working(desk):
                await wait_all_tasks_blocked()
            assert models.requests == []
            assert desk.run(sent.run_id).status == "queued"
        async with working(desk):
            await desk.until(lambda: desk.run(sent.run_id).status == "completed")


# The time budget.

IN_A_SECOND = Budget(max_work_s=1.0)


async def test_the_time_budget_ends_a_model_call(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The call ends at the limit, its text until then is kept, and the error names the budget."""
    async with open_desk(tmp_path, Scripted([Gate("so far", "")])) as desk, working(desk):
        began = trio.current_time()
        sent = await desk.ask(budget=IN_A_SECOND)
        assert trio.current_time() - began == pytest.approx(1.0, abs=0.01)
        assert sent.error is not None
        assert (sent.status, sent.error.reason, sent.output) == ("failed", "time_budget", "so far")
        assert desk.run(sent.run_id).worked_ms == pytest.approx(1_000, abs=10)
        await wait_all_tasks_blocked()
        assert desk.live_runs() == []


async def test_the_time_budget_ends_tools(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Every call has a result with its output until then."""
    models = Scripted([lambda r: gives(*dawdling_calls({}, {}))])
    async with open_desk(tmp_path, models, hooks=CompositeHook((Dawdling(),))) as desk, working(desk):
        sent = await desk.ask(budget=IN_A_SECOND)
        assert sent.error is not None
        assert (sent.status, sent.error.reason) == ("failed", "time_budget")
        assert [(result.how, "waiting" in result.text) for result in results(desk, sent)] == [
            ("stopped", True)
        ] * 2


@pytest.mark.parametrize(
    "answer", [Gate("so far", ""), lambda r: gives(*dawdling_calls({})), lambda r: fails()]
)
async def test_the_time_budget_does_not_follow_the_wall_clock(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    """A wall clock that is set back or stands still neither extends nor cancels a run."""
    monkeypatch.setattr("tests.support.desk.wall_clock", lambda: EPOCH_MS)
    limits = RunsSection(backoff_s=60.0, max_attempts=9)
    made: dict[str, Any] = {"hooks": CompositeHook((Dawdling(),)), "runs": limits}
    async with open_desk(tmp_path, Scripted([answer]), **made) as desk, working(desk):
        began = trio.current_time()
        sent = await desk.ask(budget=IN_A_SECOND)
        assert trio.current_time() - began == pytest.approx(1.0, abs=0.01)
        assert sent.error is not None
        assert (sent.status, sent.error.reason) == ("failed", "time_budget")


async def test_the_time_budget_ends_a_pause(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A pause before a retry counts as working time."""
    limits = RunsSection(backoff_s=60.0, max_attempts=9)
    async with open_desk(tmp_path, Scripted([lambda r: fails()]), runs=limits) as desk, working(desk):
        sent = await desk.ask(budget=IN_A_SECOND)
        assert sent.error is not None
        assert sent.error.reason == "time_budget"


async def test_queueing_takes_no_working_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Working time begins when the run starts."""
    models = Scripted(answers_to={"slow": lambda r: slowly(), "next": lambda r: says("done")})
    async with open_desk(tmp_path, models) as desk, working(desk):
        await desk.send("slow")
        assert (await desk.ask("next", budget=IN_A_SECOND)).status == "completed"


async def slowly() -> AsyncIterator[ModelEvent]:
    """Answer after ten seconds."""
    await trio.sleep_until(trio.current_time() + 10)
    yield ModelAnswer([Text("well")], Usage(1, 1), "end", "scripted")
