"""One run in the worker's hands: its commits, its retries, and how it is stopped at any moment."""

import dataclasses
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.config.sections.runs import RunsSection
from kheishd.config.sections.tools import ToolsSection
from kheishd.core.workspace import Workspaces
from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.os.files.tools import Files
from kheishd.kernel.hook import Invocation, Outcome, SubHook, Tool
from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelRequest, RouteSpec, TextDelta, ThinkingDelta
from kheishd.store.tables import RUNS_CANCELLED, RUNS_READY
from protocol.budget import Budget
from protocol.contract import OutputContract, Requirement
from protocol.events.call import ToolReturned
from protocol.events.output import RequirementSatisfied
from protocol.events.run import MessageAppended, ModelFailed
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.limits.names import MAX_METADATA_BYTES
from protocol.limits.output import MAX_CONTRACT_BYTES
from protocol.objects.run import RunError, SendResult
from protocol.transcript import Item, Text, Thinking, ToolCall, ToolResult, Usage, text_of
from tests.support.desk import (
    EPOCH_MS,
    Desk,
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
from tests.support.runtimes import make_runtime

NO_JITTER = RunsSection(backoff_s=1.0, max_attempts=4)


async def test_a_text_turn_is_three_commits(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Accepted; taken up and asked; answered and ended. No more, for each costs a write to the disk."""
    async with open_desk(tmp_path) as desk, working(desk):
        await desk.ask("first")
        await wait_all_tasks_blocked()
        before = len(desk.groups)
        sent = await desk.ask("second")
        await wait_all_tasks_blocked()
        assert len(desk.groups) - before == 3
        assert desk.kinds(sent.session_id, sent.run_id) == [
            "input_received",
            "run_accepted",
            "run_started",
            "model_asked",
            "message_appended",
            "run_ended",
        ]
        assert (sent.status, sent.output, sent.usage) == ("completed", "You said: second", Usage(1, 1))
        assert desk.count(RUNS_READY) == 0


async def test_a_run_keeps_what_it_pinned(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Instructions changed while a run waits are for the next one; the route's settings too."""
    models, gate = Scripted(), Gate()
    models.to["one"] = gate
    async with open_desk(tmp_path, models) as desk, working(desk):
        await desk.send("one")
        queued = await desk.send("two")
        old = desk.holder.current()
        changed = replace(old.definitions["default"], instructions="New.", digest="0" * 64)
        route = replace_route(old.routes["offline"], model="other")
        desk.holder.replace(
            make_runtime(2, models=models, definitions={"default": changed}, routes={"offline": route})
        )
        later = await desk.send("three")
        gate.opened.set()
        await desk.until(lambda: desk.run(later.run_id).status == "completed")
        assert [asked.instructions == "New." for asked in models.asked] == [False, False, True]
        assert [asked.pinned.model for asked in models.asked] == ["offline", "offline", "other"]
        assert desk.run(queued.run_id).status == "completed"


def replace_route(route: RouteSpec, **changes: Any) -> RouteSpec:
    """A route with other settings."""
    return dataclasses.replace(route, **changes)


async def test_a_route_that_is_gone_fails_the_run_and_says_so(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A queued run whose route a reload took away is told which; the next one runs."""
    models, gate = Scripted(), Gate()
    models.to["one"] = gate
    async with open_desk(tmp_path, models) as desk, working(desk):
        await desk.send("one")
        doomed = await desk.send("two")
        routes = {"elsewhere": replace_route(desk.holder.current().routes["offline"], route_id="elsewhere")}
        desk.holder.replace(make_runtime(2, models=models, routes=routes, default_route="elsewhere"))
        gate.opened.set()
        await desk.until(lambda: desk.run(doomed.run_id).status == "failed")
        assert desk.run(doomed.run_id).error == RunError(
            "route_gone", "the route 'offline', which this run is pinned to, is gone"
        )
        assert (await desk.ask("three")).status == "completed"


async def test_text_is_followed_while_it_is_written(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Thinking and text reach followers as they come; afterwards nothing is being written."""

    async def thinks(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield ThinkingDelta("hm ")
        yield TextDelta("he")
        yield TextDelta("llo")
        yield ModelAnswer([Thinking("hm "), Text("hello")], Usage(), "end")

    async with open_desk(tmp_path, Scripted([thinks])) as desk, working(desk):
        heard = desk.listen()
        sent = await desk.ask()
        assert [(delta["kind"], delta["offset"], delta["text"]) for delta in heard()] == [
            ("thinking", 0, "hm "),
            ("text", 0, "he"),
            ("text", 2, "llo"),
        ]
        assert {(delta["run_id"], delta["attempt"]) for delta in heard()} == {(sent.run_id, 1)}
        await wait_all_tasks_blocked()
        assert desk.writing() == []


# Trying again.


async def test_a_failure_that_may_pass_is_tried_again_after_a_pause(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Each pause up to twice the one before; the journal says what failed and when it goes on."""
    models = Scripted(
        [lambda request: fails("overloaded", status=529)] * 3 + [lambda request: says("at last")]
    )
    async with open_desk(tmp_path, models, runs=NO_JITTER) as desk, working(desk):
        sent = await desk.ask()
        assert (sent.status, sent.output) == ("completed", "at last")
        failures = [
            (envelope, event)
            for envelope, event in desk.journal(sent.session_id)
            if isinstance(event, ModelFailed)
        ]
        pauses = [event.retry_at_ms - envelope.at_ms for envelope, event in failures]
        for pause, full in zip(pauses, (1000, 2000, 4000), strict=True):
            assert full / 2 <= pause <= full
        assert failures[0][1].error == RunError(
            "overloaded", "the provider said overloaded", 529, retryable=True
        )
        assert len({event.item_id for _, event in failures}) == 1
        assert wall_clock() - EPOCH_MS >= sum(pauses)


async def test_enough_failures_are_enough(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After the last attempt the run has failed, with the last error."""
    models = Scripted([lambda request: fails("timed_out")])
    async with open_desk(tmp_path, models, runs=NO_JITTER) as desk, working(desk):
        sent = await desk.ask()
    assert (sent.status, len(models.asked)) == ("failed", 4)
    assert sent.error is not None
    assert sent.error.reason == "timed_out"


async def test_a_failure_that_will_not_pass_is_not_tried_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A wrong key is as wrong the second time."""
    models = Scripted([lambda request: fails("unauthorized", retryable=False, status=401)])
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.ask()
    assert (sent.status, len(models.asked)) == ("failed", 1)


async def test_the_provider_says_how_long_to_wait(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Retry-After is waited in full; more than there is patience for ends the run."""
    models = Scripted([lambda request: fails("rate_limited", retry_after_s=90.0), lambda request: says("ok")])
    async with open_desk(tmp_path, models) as desk, working(desk):
        began = trio.current_time()
        assert (await desk.ask()).status == "completed"
        assert trio.current_time() - began == pytest.approx(90.0, abs=0.01)
        models.parts = [lambda request: fails("rate_limited", retry_after_s=4000.0)]
        assert (await desk.ask()).status == "failed"


async def test_the_offline_stand_in_fails_as_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The built-in provider, with its own limits: four attempts, then the error it was told to give."""
    async with open_desk(tmp_path, make_runtime().models) as desk, working(desk):
        sent = await desk.ask("/fail overloaded")
        assert sent.error is not None
        assert (sent.status, sent.error.reason) == ("failed", "overloaded")
        assert desk.run(sent.run_id).failures == 3


async def test_what_was_written_before_a_failure_is_replaced(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The next attempt starts its text anew, under a higher number; none of the old is kept."""

    async def breaks(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield TextDelta("half of")
        async for event in fails("connection_failed"):
            yield event

    models = Scripted([breaks, lambda request: says("all of it")])
    async with open_desk(tmp_path, models) as desk, working(desk):
        heard = desk.listen()
        sent = await desk.ask()
        assert [(delta["attempt"], delta["offset"], delta["text"]) for delta in heard()] == [
            (1, 0, "half of"),
            (2, 0, "all of it"),
        ]
        assert desk.said(sent.session_id) == ["all of it"]


async def test_a_provider_that_ends_without_an_answer_is_tried_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """That is a failure like any other."""

    async def stops(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield TextDelta("and then")

    models = Scripted([stops, lambda request: says("whole")])
    async with open_desk(tmp_path, models) as desk, working(desk):
        assert (await desk.ask()).output == "whole"


async def test_a_clock_that_is_set_back_keeps_nobody_waiting(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A pause is slept through on a clock that only goes forward; a day lost on the wall does not matter."""
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
    """A daemon that starts again does not ask a provider earlier than it wanted."""
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


# Tools that are not there; those that are have their own tests.


async def test_a_call_gets_its_result_before_the_model_is_asked_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """This version has no tools and says so to the model, which then answers."""
    calls: list[Item] = [Text("I look."), ToolCall("c1", "look", {}), ToolCall("c2", "look", {"at": 1})]
    models = Scripted([lambda request: gives(*calls, stop_reason="tool_calls"), lambda request: says("done")])
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.ask()
        assert (sent.status, sent.output, len(models.asked)) == ("completed", "done", 2)
        results = models.asked[1].messages[-1].items
        assert [(r.call_id, r.is_error) for r in results if isinstance(r, ToolResult)] == [
            ("c1", True),
            ("c2", True),
        ]
        assert desk.run(sent.run_id).turn == 2


async def test_a_model_that_only_calls_comes_to_its_limit(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The run has failed after as many calls as it may make."""
    models = Scripted([lambda request: gives(ToolCall("c1", "look", {}))])
    async with open_desk(tmp_path, models, runs=RunsSection(max_turns=5)) as desk, working(desk):
        sent = await desk.ask()
    assert sent.error is not None
    assert (sent.error.reason, len(models.asked)) == ("turn_limit", 5)


# Steering.


async def test_what_is_said_to_a_run_is_read_before_it_ends(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """In the middle of an answer: the model answers, reads it and answers again."""
    models, gate = Scripted(), Gate()
    models.parts = [gate, lambda request: says("as you wish")]
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.send("write a poem")
        await gate.reached.wait()
        await desk.order(sent.run_id, lambda run: STEER)
        gate.opened.set()
        await desk.until(lambda: desk.ended(sent.run_id))
        assert desk.said(sent.session_id) == ["so far and so on", "as you wish"]
        assert [text_of(message.items) for message in models.asked[1].messages] == [
            "write a poem",
            "so far and so on",
            "and hurry",
        ]


# Answers that are too long.


async def test_an_answer_is_kept_as_far_as_it_fits(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A long one says that it was cut; escapes count; with it still goes what a transaction needs."""
    for text in ("x" * 2 * MAX_ANSWER_BYTES, '"' * MAX_ANSWER_BYTES, "ä" * MAX_ANSWER_BYTES):
        models = Scripted([lambda request, text=text: gives(Text(text))])  # type: ignore[misc]
        async with open_desk(tmp_path, models) as desk, working(desk):
            sent = await desk.ask(metadata={"notes": "n" * 10_000})
            assert sent.status == "completed"
            assert sent.output is not None
            assert text.startswith(sent.output)
            assert len(sent.output.encode()) > MAX_ANSWER_BYTES // 3
            said = [e for _, e in desk.journal(sent.session_id) if isinstance(e, MessageAppended)][-1]
            assert said.stop_reason == "length"


async def test_thousands_of_calls_are_kept_with_their_results_as_far_as_both_fit(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Each call that is kept has its result; the run goes on."""
    calls: list[Item] = [ToolCall(f"c{number}", "n" * 50, {}) for number in range(5_000)]
    models = Scripted([lambda request: gives(*calls), lambda request: says("done")])
    async with open_desk(tmp_path, models) as desk, working(desk):
        assert (await desk.ask()).status == "completed"
        kept, results = models.asked[1].messages[-2:]
        assert 100 < len(kept.items) == len(results.items) < 5_000


# A full disk.


async def test_an_answer_outlasts_a_full_disk(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is kept and saved when there is room; the model is not asked again for what it has said."""
    models, gate = Scripted(), Gate()
    models.parts = [gate]
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.send()
        await gate.reached.wait()
        with full_disk():
            gate.opened.set()
            await wait_all_tasks_blocked()
            assert desk.run(sent.run_id).status == "running"
        await desk.until(lambda: desk.run(sent.run_id).status == "completed")
        assert desk.said(sent.session_id) == ["so far and so on"]
        assert len(models.asked) == 1
    assert "the disk is full" in caplog.text


async def test_a_full_disk_does_not_keep_the_daemon_from_stopping(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What cannot be saved is asked again at the next start; no input is lost."""
    models, gate = Scripted(), Gate()
    models.parts = [gate, lambda request: says("again")]
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
        assert desk.said(sent.session_id) == ["again"]
        assert desk.count(RUNS_CANCELLED) == 0


async def test_a_full_disk_starts_nothing_and_loses_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """No model is asked for what could not be saved; a stop meanwhile is in order; later all goes on."""
    models = Scripted()
    async with open_desk(tmp_path, models) as desk:
        sent = await desk.send()
        with full_disk():
            async with working(desk):
                await wait_all_tasks_blocked()
            assert models.asked == []
            assert desk.run(sent.run_id).status == "queued"
        async with working(desk):
            await desk.until(lambda: desk.run(sent.run_id).status == "completed")


# What a run must have done and given.

ONE_FILE = [Requirement(type="workspace_file", path="report.md")]
WRITE = ToolCall("call_1", "write_file", {"path": "docs/report.md", "content": "all is well"})


async def test_a_run_is_reminded_of_what_it_was_to_do(tmp_path: Path) -> None:
    """It answers, is reminded, writes the file after all, and is done."""
    models = Scripted([lambda r: says("done"), lambda r: gives(WRITE), lambda r: says("now it is")])
    made: dict[str, Any] = {
        "hooks": CompositeHook((Files(),)),
        "workspaces": Workspaces(str(tmp_path), "/home/kheish"),
    }
    async with open_desk(tmp_path, models, **made) as desk, working(desk):
        sent = await desk.ask(completion_requirements=ONE_FILE)
        assert sent.status == "waiting_for_approval"
        await desk.allow(sent.run_id)
        run = desk.run(sent.run_id)
        assert (run.status, run.reminders, run.met_requirements) == ("completed", 1, [0])
        event = next(e for _, e in desk.journal(sent.session_id) if isinstance(e, RequirementSatisfied))
        assert (event.path, event.call_id) == ("docs/report.md", "call_1")
        assert (tmp_path / "docs" / "report.md").read_text() == "all is well"


async def test_a_call_that_failed_did_nothing_that_was_required(tmp_path: Path) -> None:
    """The run is reminded, twice at most, and fails."""
    wrong = ToolCall("call_1", "write_file", {"path": "../report.md", "content": "x"})
    models = Scripted([lambda r: gives(wrong), lambda r: says("done")])
    made: dict[str, Any] = {
        "hooks": CompositeHook((Files(),)),
        "workspaces": Workspaces(str(tmp_path), "/home/kheish"),
    }
    async with open_desk(tmp_path, models, **made) as desk, working(desk):
        sent = await desk.ask(completion_requirements=ONE_FILE)
        run = desk.run(sent.run_id)
        assert (sent.status, run.met_requirements, run.reminders) == ("failed", [], 2)
        assert run.error is not None
        assert run.error.reason == "completion_required"


async def test_a_run_is_bound_after_a_restart(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What it owes and how often it was asked for it stand in its record."""
    contract = OutputContract(schema={"type": "integer"}, max_repairs=1)
    models = Scripted([lambda r: says("one"), Gate("two", "")])
    async with open_desk(tmp_path, models) as desk:
        async with working(desk):
            sent = await desk.send(output_contract=contract)
            await desk.until(lambda: desk.run(sent.run_id).repairs == 1)
            await wait_all_tasks_blocked()
        assert "run_released" in desk.kinds(sent.session_id)
        models.parts[:] = [lambda r: says("three")]
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        run = desk.run(sent.run_id)
        assert run.error is not None
        assert (run.repairs, run.error.reason) == (1, "output_contract_violated")
        assert models.asked[-1].withheld


async def test_an_answer_that_must_fit_leaves_room_for_its_repair(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The longest answer, a long schema and what is wrong with it are one transaction."""
    schema = {"type": "string", "description": '"' * (MAX_CONTRACT_BYTES // 2 - 100)}
    long = lambda r: gives(Text("x" * MAX_ANSWER_BYTES), stop_reason="length")  # noqa: E731
    models = Scripted([long, lambda r: says('"short"')])
    metadata = {"filler": "x" * (MAX_METADATA_BYTES - 100)}
    async with open_desk(tmp_path, models, threaded=False) as desk, working(desk):
        sent = await desk.ask(output_contract=OutputContract(schema=schema), metadata=metadata)
        assert (sent.status, sent.output) == ("completed", '"short"')


# What it may cost.

IN_A_SECOND = Budget(max_work_s=1.0)


async def test_time_ends_a_model_call_and_what_had_arrived_is_kept(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """At that very moment, with the reason."""
    async with open_desk(tmp_path, Scripted([Gate("so far", "")])) as desk, working(desk):
        began = trio.current_time()
        sent = await desk.ask(budget=IN_A_SECOND)
        assert trio.current_time() - began == pytest.approx(1.0, abs=0.01)
        assert sent.error is not None
        assert (sent.status, sent.error.reason, sent.output) == ("failed", "time_budget", "so far")
        assert desk.run(sent.run_id).worked_ms == pytest.approx(1_000, abs=10)
        await wait_all_tasks_blocked()
        assert desk.writing() == []


class Slow(SubHook):
    """A part whose tool takes an hour, if it may."""

    name = "slow"
    tools = (Tool("dawdle", "Wait.", {"type": "object"}, "read", timeout_s=7_200, parallel=True),)

    def __init__(self) -> None:
        self.open = self.most = 0

    async def dispatch(self, use: Invocation) -> Outcome:
        """Wait, and say so."""
        use.stream("waiting")
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await trio.sleep_until(trio.current_time() + use.arguments.get("s", 3_600))
        finally:
            self.open -= 1
        return Outcome("x" * use.arguments.get("gives", 0))


def dawdles(*arguments: dict[str, Any]) -> list[Item]:
    """Calls of the slow tool."""
    return [ToolCall(f"call_{number}", "dawdle", each) for number, each in enumerate(arguments)]


def results(desk: Desk, sent: SendResult) -> list[ToolReturned]:
    """What calls gave."""
    return [event for _, event in desk.journal(sent.session_id) if isinstance(event, ToolReturned)]


async def test_time_ends_a_tool_and_every_call_has_its_result(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """With what it had said by then."""
    models = Scripted([lambda r: gives(*dawdles({}, {}))])
    async with open_desk(tmp_path, models, hooks=CompositeHook((Slow(),))) as desk, working(desk):
        sent = await desk.ask(budget=IN_A_SECOND)
        assert sent.error is not None
        assert (sent.status, sent.error.reason) == ("failed", "time_budget")
        assert [(each.how, "waiting" in each.text) for each in results(desk, sent)] == [("stopped", True)] * 2


@pytest.mark.parametrize("answer", [Gate("so far", ""), lambda r: gives(*dawdles({})), lambda r: fails()])
async def test_time_ends_a_run_whatever_the_wall_clock_does(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    """One that is set back, or stands still, gives no run more time, and cancels none."""
    monkeypatch.setattr("tests.support.desk.wall_clock", lambda: EPOCH_MS)
    limits = RunsSection(backoff_s=60.0, max_attempts=9)
    made: dict[str, Any] = {"hooks": CompositeHook((Slow(),)), "runs": limits}
    async with open_desk(tmp_path, Scripted([answer]), **made) as desk, working(desk):
        began = trio.current_time()
        sent = await desk.ask(budget=IN_A_SECOND)
        assert trio.current_time() - began == pytest.approx(1.0, abs=0.01)
        assert sent.error is not None
        assert (sent.status, sent.error.reason) == ("failed", "time_budget")


async def test_time_ends_a_pause(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Waiting for a provider is work, too."""
    limits = RunsSection(backoff_s=60.0, max_attempts=9)
    async with open_desk(tmp_path, Scripted([lambda r: fails()]), runs=limits) as desk, working(desk):
        sent = await desk.ask(budget=IN_A_SECOND)
        assert sent.error is not None
        assert sent.error.reason == "time_budget"


async def test_waiting_in_the_queue_costs_no_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A run is in hand when it is taken up."""
    models = Scripted(to={"slow": lambda r: slowly(), "next": lambda r: says("done")})
    async with open_desk(tmp_path, models) as desk, working(desk):
        await desk.send("slow")
        assert (await desk.ask("next", budget=IN_A_SECOND)).status == "completed"


async def slowly() -> AsyncIterator[ModelEvent]:
    """An answer that takes ten seconds."""
    await trio.sleep_until(trio.current_time() + 10)
    yield ModelAnswer([Text("well")], Usage(1, 1), "end", "scripted")


async def test_tools_are_held_to_what_is_configured_now(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A reload counts from the next batch on, also in a run that is at work."""
    slow = Slow()
    batch = dawdles(*[{"s": 1}] * 3)
    models = Scripted([lambda r: gives(*batch), lambda r: gives(*batch), lambda r: says("done")])
    limits = ToolsSection(max_parallel=1)
    async with open_desk(tmp_path, models, hooks=CompositeHook((slow,)), tools=limits) as desk, working(desk):
        sent = await desk.send()
        await desk.until(lambda: len(results(desk, sent)) == 2)
        assert slow.most == 1
        desk.holder.replace(
            make_runtime(2, models=models, hooks=CompositeHook((slow,)), tools=ToolsSection())
        )
        await desk.until(lambda: desk.ended(sent.run_id))
        assert (slow.most, len(results(desk, sent))) == (3, 6)


@pytest.mark.parametrize(
    ("limits", "arguments", "how", "said"),
    [
        (ToolsSection(max_calls=1), [{"s": 1}] * 2, "failed", "2 calls in one message, and the limit is 1"),
        (ToolsSection(max_input_bytes=32), [{"note": "x" * 64}], "failed", "tools.max_input_bytes, is 32"),
        (ToolsSection(max_timeout_s=50.0), [{"s": 100}], "failed", "longer than 70 s"),
        (
            ToolsSection(max_output_bytes=40_000),
            [{"s": 1, "gives": 50_000}],
            "returned",
            "Of 50000 bytes of output the first 40000 were kept",
        ),
    ],
)
async def test_limits_of_tools_are_named(
    tmp_path: Path,
    autojump_clock: MockClock,
    limits: ToolsSection,
    arguments: list[dict[str, Any]],
    how: str,
    said: str,
) -> None:
    """The model reads which limit it was, and the run goes on."""
    models = Scripted([lambda r: gives(*dawdles(*arguments)), lambda r: says("done")])
    async with (
        open_desk(tmp_path, models, hooks=CompositeHook((Slow(),)), tools=limits) as desk,
        working(desk),
    ):
        sent = await desk.ask()
        assert sent.status == "completed"
        assert {(each.how, said in each.text) for each in results(desk, sent)} == {(how, True)}


async def test_what_all_tools_of_a_run_give_together_is_limited(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Once it is over the limit nothing more is run, and the model answers with what there is."""
    call = lambda r: gives(*dawdles({"s": 1, "gives": 600}))  # noqa: E731
    models = Scripted([call, call, call, lambda r: says("done")])
    limits = ToolsSection(max_run_output_bytes=1_000)
    async with (
        open_desk(tmp_path, models, hooks=CompositeHook((Slow(),)), tools=limits) as desk,
        working(desk),
    ):
        sent = await desk.ask()
        assert [each.how for each in results(desk, sent)] == ["returned", "returned", "failed"]
        assert "gave 1200 bytes together" in results(desk, sent)[-1].text
        assert sent.status == "completed"
