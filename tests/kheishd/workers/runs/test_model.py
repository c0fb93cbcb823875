"""Model calls of a run: commits, retries, long answers, and required output."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.config.sections.runs import RunsSection
from kheishd.core.contract import RESUME
from kheishd.core.text.scrub import Scrubber
from kheishd.core.workspace import Workspaces
from kheishd.hooks.composite import CompositeHook
from kheishd.hooks.os.files.tools import Files
from kheishd.hooks.output import Outputs
from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelRequest, RouteSpec, TextDelta, ThinkingDelta
from kheishd.objects.talk import session
from kheishd.store.tables import RUNS_READY
from kheishd.workers.runs.model import MAX_TRUNCATED_CALLS
from protocol.contract import OutputContract, Requirement
from protocol.events.call import ToolReturned
from protocol.events.output import RequirementSatisfied
from protocol.events.run import MessageAppended, ModelFailed
from protocol.limits.hook import MAX_STOP_BLOCKS
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.limits.names import MAX_METADATA_BYTES
from protocol.limits.output import MAX_CONTRACT_BYTES
from protocol.objects.run import RunError, SendResult
from protocol.objects.session import CredentialScope, SessionUpdate
from protocol.transcript import Item, Message, ProviderData, Text, Thinking, ToolCall, Usage
from tests.support.desk import (
    EPOCH_MS,
    Desk,
    Gate,
    Scripted,
    fails,
    gives,
    open_desk,
    says,
    wall_clock,
    working,
)
from tests.support.hooked import hooked_desk, prompt_texts, shell_hook
from tests.support.runtimes import make_runtime

NO_JITTER = RunsSection(backoff_s=1.0, max_attempts=4)


async def test_a_text_turn_is_two_commits(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A run with one answer starts in the commit of its acceptance and ends in that of its answer."""
    async with open_desk(tmp_path) as desk, working(desk):
        await desk.ask("first")
        await wait_all_tasks_blocked()
        commits = len(desk.groups)
        sent = await desk.ask("second")
        await wait_all_tasks_blocked()
        assert len(desk.groups) - commits == 2
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


async def test_a_run_keeps_its_pinned_values(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Instructions and routes that change while a run waits apply to the next run."""
    models, gate = Scripted(), Gate()
    models.answers_to["one"] = gate
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
        assert [request.instructions == "New." for request in models.requests] == [False, False, True]
        assert [request.pinned.model for request in models.requests] == ["offline", "offline", "other"]
        assert desk.run(queued.run_id).status == "completed"


def replace_route(route: RouteSpec, **changes: Any) -> RouteSpec:
    """Replace the settings of a route."""
    return msgspec.structs.replace(route, **changes)


async def test_a_route_outside_of_the_scope_fails_the_run(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A run calls no model of a route that its session may no longer use, also if it was accepted before."""
    models, gate = Scripted(), Gate()
    models.answers_to["one"] = gate
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.send("one")
        doomed = await desk.send("two")
        scope = CredentialScope(routes=["other"])
        await desk.do(session.update, SessionUpdate(session_id=sent.session_id, credential_scope=scope))
        gate.opened.set()
        await desk.until(lambda: desk.run(doomed.run_id).status == "failed")
        assert desk.run(sent.run_id).status == "completed"
        error = desk.run(doomed.run_id).error
        assert error is not None
        assert (error.reason, "it has only other" in error.message) == ("route_forbidden", True)
        assert len(models.requests) == 1


async def test_a_missing_route_fails_the_run(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The error names the route that a reload has removed, and the next run is executed."""
    models, gate = Scripted(), Gate()
    models.answers_to["one"] = gate
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


async def test_an_answer_is_streamed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Followers get reasoning and text as they arrive; the live text ends with the answer."""

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
        assert desk.live_runs() == []


async def test_a_temporary_failure_is_retried_after_a_pause(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Each pause is up to twice as long as the one before, and each failure is journaled."""
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
        pauses = [(event.retry_at_ms or 0) - envelope.at_ms for envelope, event in failures]
        for pause, full in zip(pauses, (1000, 2000, 4000), strict=True):
            assert full / 2 <= pause <= full
        assert failures[0][1].error == RunError(
            "overloaded", "the provider said overloaded", 529, retryable=True
        )
        assert len({event.item_id for _, event in failures}) == 1
        assert wall_clock() - EPOCH_MS >= sum(pauses)


async def test_the_number_of_attempts_is_limited(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After the last attempt the run fails with the last error."""
    models = Scripted([lambda request: fails("timed_out")])
    async with open_desk(tmp_path, models, runs=NO_JITTER) as desk, working(desk):
        sent = await desk.ask()
    assert (sent.status, len(models.requests)) == ("failed", 4)
    assert sent.error is not None
    assert sent.error.reason == "timed_out"


async def test_a_permanent_failure_is_not_retried(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An invalid credential fails the run at once."""
    models = Scripted([lambda request: fails("unauthorized", retryable=False, status=401)])
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.ask()
    assert (sent.status, len(models.requests)) == ("failed", 1)


async def test_the_pause_that_a_provider_demands_is_respected(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Retry-After is waited in full; a longer one than the limit ends the run."""
    models = Scripted([lambda request: fails("rate_limited", retry_after_s=90.0), lambda request: says("ok")])
    async with open_desk(tmp_path, models) as desk, working(desk):
        began = trio.current_time()
        assert (await desk.ask()).status == "completed"
        assert trio.current_time() - began == pytest.approx(90.0, abs=0.01)
        models.answers = [lambda request: fails("rate_limited", retry_after_s=4000.0)]
        assert (await desk.ask()).status == "failed"


async def test_the_offline_model_fails_on_request(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The built-in provider fails each attempt with the requested error."""
    async with open_desk(tmp_path, make_runtime().models) as desk, working(desk):
        sent = await desk.ask("/fail overloaded")
        assert sent.error is not None
        assert (sent.status, sent.error.reason) == ("failed", "overloaded")
        assert desk.run(sent.run_id).failures == 3


async def test_a_new_attempt_replaces_the_live_text(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The next attempt starts its text anew, and none of the old text is kept."""

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
        assert desk.answers(sent.session_id) == ["all of it"]


async def test_a_missing_answer_is_retried(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A call that ends without an answer is a temporary failure."""

    async def stops(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield TextDelta("and then")

    models = Scripted([stops, lambda request: says("whole")])
    async with open_desk(tmp_path, models) as desk, working(desk):
        assert (await desk.ask()).output == "whole"


EMPTY = {"retryable": True, "usage": Usage(5, 7)}


async def test_an_empty_answer_is_retried_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An empty answer gets one more attempt in each turn; its usage counts, and the retry is the answer."""
    call = ToolCall("c1", "no_such_tool", {})
    models = Scripted(
        [
            lambda request: fails("empty_answer", **EMPTY),
            lambda request: gives(call),
            lambda request: fails("empty_answer", **EMPTY),
            lambda request: says("at last"),
        ]
    )
    async with open_desk(tmp_path, models, runs=NO_JITTER) as desk, working(desk):
        sent = await desk.ask()
    assert (sent.status, sent.output, sent.usage) == ("completed", "at last", Usage(12, 16))


async def test_two_empty_answers_fail_the_run(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A second empty answer is reported as that, with the usage of both."""
    models = Scripted([lambda request: fails("empty_answer", **EMPTY)])
    async with open_desk(tmp_path, models, runs=NO_JITTER) as desk, working(desk):
        sent = await desk.ask()
        assert (sent.status, sent.usage, len(models.requests)) == ("failed", Usage(10, 14), 2)
        assert sent.error is not None
        assert (sent.error.reason, sent.error.retryable) == ("empty_answer", False)
        assert "the retry was empty, too" in sent.error.message
        models.answers = [lambda request: says("later")]
        assert (await desk.ask("again")).output == "later"


async def test_a_restart_gives_no_second_retry_of_an_empty_answer(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An empty answer before a restart counts after it."""
    empty = Scripted([lambda request: fails("empty_answer", retry_after_s=60.0, **EMPTY)])
    async with open_desk(tmp_path, empty) as desk:
        async with working(desk):
            sent = await desk.send()
            await desk.until(lambda: desk.run(sent.run_id).retry_at_ms is not None)
        assert desk.run(sent.run_id).empty_answers == 1
    async with open_desk(tmp_path, empty) as desk, working(desk):
        await desk.until(lambda: desk.ended(sent.run_id))
        error = desk.run(sent.run_id).error
    assert (len(empty.requests), error.reason if error else None) == (2, "empty_answer")


async def test_an_empty_answer_after_an_output_is_the_end(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A run that has emitted its output is complete, though its model has nothing to add."""
    call = ToolCall("c1", "emit_output", {"text": "the output"})
    models = Scripted([lambda request: gives(call), lambda request: fails("empty_answer", **EMPTY)])
    async with open_desk(tmp_path, models, hooks=CompositeHook((Outputs(),))) as desk, working(desk):
        sent = await desk.ask()
    assert (sent.status, sent.output, len(models.requests)) == ("completed", "the output", 2)


async def test_a_paused_turn_goes_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The model is asked to continue, and both parts are the output."""
    models = Scripted([lambda r: gives(Text("one "), stop_reason="pause"), lambda r: says("two")])
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.ask()
    assert (sent.status, sent.output) == ("completed", "one two")
    assert models.requests[1].messages[-1].items == [Text(RESUME)]


async def test_a_call_that_does_not_fit_is_reported_to_the_model(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The result of a call above the limit names the limit, and the model is not asked to continue it."""
    call = ToolCall("c1", "write_file", {"path": "a", "content": "x" * MAX_ANSWER_BYTES})
    models = Scripted([lambda request: gives(call), lambda request: says("in two parts, then")])
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.ask()
        assert (sent.status, len(models.requests)) == ("completed", 2)
        (result,) = results(desk, sent)
    assert result.is_error
    assert f"exceeds the {MAX_ANSWER_BYTES:,} bytes" in result.text
    assert "this tool call did not fit" in result.text
    assert "Nothing was run" in result.text


async def test_a_model_that_repeats_a_call_that_does_not_fit(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A model that never makes its call smaller is stopped, and not asked without end."""
    call = ToolCall("c1", "write_file", {"path": "a", "content": "x" * MAX_ANSWER_BYTES})
    models = Scripted([lambda request: gives(call)])
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.ask()
    assert sent.error is not None
    assert (sent.status, sent.error.reason) == ("failed", "calls_too_large")
    assert len(models.requests) == MAX_TRUNCATED_CALLS + 1
    assert sent.usage == Usage(5, 5)


async def test_a_long_answer_is_truncated(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A truncated answer says so, escapes count, and the rest of the transaction fits."""
    for text in ("x" * 2 * MAX_ANSWER_BYTES, '"' * MAX_ANSWER_BYTES, "ä" * MAX_ANSWER_BYTES):
        models = Scripted([lambda request, text=text: gives(Text(text))])  # type: ignore[misc]
        async with open_desk(tmp_path, models) as desk, working(desk):
            sent = await desk.ask(metadata={"notes": "n" * 10_000})
            assert sent.status == "completed"
            assert sent.output is not None
            assert text.startswith(sent.output)
            assert len(sent.output.encode()) > MAX_ANSWER_BYTES // 3
            answer = [e for _, e in desk.journal(sent.session_id) if isinstance(e, MessageAppended)][-1]
            assert answer.stop_reason == "length"


async def test_thousands_of_calls_are_truncated_with_their_results(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Each call that is kept has its result, and the run continues."""
    calls: list[Item] = [ToolCall(f"c{number}", "n" * 50, {}) for number in range(5_000)]
    models = Scripted([lambda request: gives(*calls), lambda request: says("done")])
    async with open_desk(tmp_path, models) as desk, working(desk):
        assert (await desk.ask()).status == "completed"
        answer, results = models.requests[1].messages[-2:]
        assert 100 < len(answer.items) == len(results.items) < 5_000


ONE_FILE = [Requirement(type="workspace_file", path="report.md")]
WRITE = ToolCall("call_1", "write_file", {"path": "docs/report.md", "content": "all is well"})


async def test_a_run_is_reminded_of_a_requirement(tmp_path: Path) -> None:
    """The model answers, is reminded, writes the required file, and the run completes."""
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


async def test_a_failed_call_satisfies_no_requirement(tmp_path: Path) -> None:
    """The run is reminded twice at most, then it fails."""
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


async def test_a_contract_outlasts_a_restart(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The contract and the number of repairs are in the store."""
    contract = OutputContract(schema={"type": "integer"}, max_repairs=1)
    models = Scripted([lambda r: says("one"), Gate("two", "")])
    async with open_desk(tmp_path, models) as desk:
        async with working(desk):
            sent = await desk.send(output_contract=contract)
            await desk.until(lambda: desk.run(sent.run_id).repairs == 1)
            await wait_all_tasks_blocked()
        assert "run_released" in desk.kinds(sent.session_id)
        models.answers[:] = [lambda r: says("three")]
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        run = desk.run(sent.run_id)
        assert run.error is not None
        assert (run.repairs, run.error.reason) == (1, "output_contract_violated")
        assert models.requests[-1].withheld


async def test_a_contract_reserves_room_for_a_repair(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The longest answer, a long schema and the violation fit into one transaction."""
    schema = {"type": "string", "description": '"' * (MAX_CONTRACT_BYTES // 2 - 100)}
    long = lambda r: gives(Text("x" * MAX_ANSWER_BYTES), stop_reason="length")  # noqa: E731
    models = Scripted([long, lambda r: says('"short"')])
    metadata = {"filler": "x" * (MAX_METADATA_BYTES - 100)}
    async with open_desk(tmp_path, models, threaded=False) as desk, working(desk):
        sent = await desk.ask(output_contract=OutputContract(schema=schema), metadata=metadata)
        assert (sent.status, sent.output) == ("completed", '"short"')


def results(desk: Desk, sent: SendResult) -> list[ToolReturned]:
    """Return the results of a run's calls, in order."""
    return [event for _, event in desk.journal(sent.session_id) if isinstance(event, ToolReturned)]


async def test_provider_data_enters_the_next_prompt(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Data of a message and of its calls is journaled with them, and the next request has it."""
    data = ProviderData("openai api.test gpt", "id", {"reasoning_details": [{"data": "x"}]})
    call = ToolCall("c1", "look", {}, provider_data=data)

    async def attach(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield ModelAnswer([call], Usage(), "tool_calls", provider_data=data)

    models = Scripted([attach, lambda request: says("done")])
    async with open_desk(tmp_path, models) as desk, working(desk):
        sent = await desk.ask()
        expected = Message("assistant", [call], provider_data=data)
        assert models.requests[-1].messages[1] == expected
        journaled = [
            event for _, event in desk.journal(sent.session_id) if isinstance(event, MessageAppended)
        ]
        assert journaled[0].message == expected


async def test_provider_data_that_does_not_fit_is_dropped(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A long answer is committed without its data, but with its origin, and nothing of it is cut off."""
    data = ProviderData("o", fields={"details": "x" * (MAX_ANSWER_BYTES // 3)})
    text = "x" * (MAX_ANSWER_BYTES * 3 // 4)

    async def attach(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield ModelAnswer([Text(text)], Usage(), "end", provider_data=data)

    async with open_desk(tmp_path, Scripted([attach])) as desk, working(desk):
        sent = await desk.ask()
        assert sent.output == text
        (event,) = [event for _, event in desk.journal(sent.session_id) if isinstance(event, MessageAppended)]
        assert event.message.provider_data == ProviderData("o")


async def test_secrets_in_provider_data_are_redacted(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A secret in opaque data is redacted in the journal, and so in the next request."""
    data = ProviderData("o", "id-sk-0123456789", {"details": [{"data": "it is sk-0123456789"}]})
    call = ToolCall("c1", "look", {}, provider_data=data)

    async def attach(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield ModelAnswer([call], Usage(), "tool_calls", provider_data=data)

    models = Scripted([attach, lambda request: says("done")])
    async with open_desk(tmp_path, models) as desk, working(desk):
        desk.state.store.set_scrub(Scrubber(["sk-0123456789"]).scrub_journal_line)
        sent = await desk.ask()
        assert sent.status == "completed"
        assert b"sk-0123456789" not in msgspec.json.encode(models.requests[-1].messages)
        with desk.state.read() as store:
            lines = [line for _, line in store.entries(sent.session_id, 0)]
        assert not any(b"sk-0123456789" in line for line in lines)
        assert any(b'"details"' in line for line in lines)


async def test_a_hook_sends_the_model_back_to_work(tmp_path: Path) -> None:
    """The end of a run is blocked once: the reason is a message, and the next answer is the last one."""
    line = f"test -e {tmp_path}/once && exit 0; touch {tmp_path}/once; echo run the tests >&2; exit 2"
    models = Scripted([lambda request: says("done"), lambda request: says("tested")])
    async with hooked_desk(tmp_path, models, (shell_hook("tester", "stop", line),)) as desk:
        answer = await desk.ask("work")
    assert answer.output == "tested"
    assert prompt_texts(models.requests[1]) == [
        "work",
        "done",
        "You are not done: the hook 'tester' blocked it: run the tests",
    ]


async def test_a_hook_that_never_agrees_is_overruled(tmp_path: Path) -> None:
    """A run ends after some blocks, whatever its hooks say."""
    models = Scripted([lambda request: says("done")])
    async with hooked_desk(tmp_path, models, (shell_hook("never", "stop", "exit 2"),)) as desk:
        answer = await desk.ask("work")
    assert answer.status == "completed"
    assert len(models.requests) == MAX_STOP_BLOCKS + 1


async def test_a_secret_in_the_name_of_a_tool(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A provider that names a tool like a secret: no part is left once the name has become a valid one."""
    secret = 'sk-quo"ted-0123456789'
    call = ToolCall("c1", f"get {secret}", {})
    models = Scripted([lambda request: gives(call), lambda request: says("done")])
    async with open_desk(tmp_path, models) as desk, working(desk):
        scrubber = Scrubber([secret])
        desk.live.scrub(scrubber)
        desk.state.store.set_scrub(scrubber.scrub_journal_line)
        sent = await desk.ask()
        with desk.state.read() as store:
            journal = b"".join(line for _, line in store.entries(sent.session_id, 0))
    assert b"0123456789" not in journal
    assert b"get__scrubbed_" in journal


async def test_a_secret_where_an_answer_is_cut(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An answer that is too long is redacted before it is cut."""
    secret = "sk-" + "0123456789" * 5
    models = Scripted([lambda request: says("x" * (MAX_ANSWER_BYTES - 20) + secret + "y" * MAX_ANSWER_BYTES)])
    async with open_desk(tmp_path, models) as desk, working(desk):
        desk.live.scrub(Scrubber([secret]))
        sent = await desk.ask()
        with desk.state.read() as store:
            journal = b"".join(line for _, line in store.entries(sent.session_id, 0))
    assert b"xxxx" in journal
    assert b"0123" not in journal
