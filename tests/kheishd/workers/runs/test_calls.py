"""Tool calls: their order, failures, output, stops, crashes and approvals, on a real store."""

import re
from contextlib import ExitStack
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kheishd.config.sections.permissions import PermissionsSection
from kheishd.config.sections.tools import ToolsSection
from kheishd.core.run.calls import NOT_RUN, STOPPED
from kheishd.core.run.commands import BeginModelCall, Start
from kheishd.core.text.scrub import Scrubber
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.hook import Deny, Invocation, NeedsAnswer, Outcome, SubHook, ToolError
from kheishd.objects.people import permission
from kheishd.objects.talk import session
from kheishd.objects.talk.send import send_to_session
from kheishd.store.blobs import read_blob
from kheishd.store.commit import Group
from kheishd.store.environment import Snapshot
from kheishd.store.tables import SESSIONS
from kheishd.workers.runs.judge import MAX_LISTED_TOOLS, list_names
from protocol.events.approval import ApprovalRequested
from protocol.events.call import ToolCalled, ToolObserved, ToolReturned
from protocol.events.question import QuestionAsked
from protocol.events.session import SessionRenamed
from protocol.limits.call import MAX_CALLS, MAX_PARALLEL_CALLS, MAX_TOOL_TEXT_BYTES, MAX_WAITING_CALLS
from protocol.objects.permission import PermissionMode, PermissionUpdate, Rule
from protocol.objects.question import Question
from protocol.objects.run import SETTLED, SendResult
from protocol.objects.session import CapabilityScope, SessionCreate, SessionSend, SessionUpdate
from protocol.transcript import ToolCall, ToolResult
from tests.support.desk import (
    Desk,
    Gate,
    Scripted,
    full_disk,
    gives,
    open_desk,
    says,
    working,
)
from tests.support.machine import allow, answer, answer_approvals, answer_question, call_tools, resolve_doubt
from tests.support.runtimes import make_runtime
from tests.support.slow_tool import Dawdling, dawdling_calls, results
from tests.support.toolbox import NOTES, TOOLS, Toolbox, calls, tool, workbench
from tests.support.transcripts import assert_valid


def results_by_call(desk: Desk, session_id: str) -> dict[str, ToolReturned]:
    """Return the results in a session by call id; each call has one."""
    events = [event for _, event in desk.journal(session_id) if isinstance(event, ToolReturned)]
    assert len({event.call_id for event in events}) == len(events)
    return {event.call_id: event for event in events}


def call_events(desk: Desk, session_id: str) -> list[str]:
    """Return the type and the call of every call event in a session, in order."""
    return [
        f"{event.__struct_config__.tag} {event.call_id}"
        for _, event in desk.journal(session_id)
        if isinstance(event, ToolCalled | ToolReturned | ToolObserved)
    ]


def notes(directory: Path) -> list[str]:
    """Return the lines that tools have written."""
    path = directory / "work" / NOTES
    return path.read_text().splitlines() if path.exists() else []


# Order.


async def test_a_call_is_journaled_before_and_after_it_runs(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Each call is called, observed and returned before the next one; then the model reads both results."""
    box = Toolbox()
    both = calls(("note", {"text": "a"}), ("note", {"text": "b"}))
    async with workbench(tmp_path, box, both) as desk, working(desk):
        sent = await desk.ask()
        assert call_events(desk, sent.session_id) == [
            "tool_called call_1",
            "tool_observed call_1",
            "tool_returned call_1",
            "tool_called call_2",
            "tool_observed call_2",
            "tool_returned call_2",
        ]
        assert notes(tmp_path) == ["a", "b"]
        evidence = [e.evidence for _, e in desk.journal(sent.session_id) if isinstance(e, ToolCalled)]
        assert evidence == [{"size": 0}, {"size": 2}]
        assert desk.models.requests[1].messages[-1].items == [
            ToolResult("call_1", "note", "noted: a"),
            ToolResult("call_2", "note", "noted: b"),
        ]
        assert (sent.status, sent.output) == ("completed", "done")
        assert f"Notes are kept in {tmp_path}/work." in desk.models.requests[0].instructions
        assert [row.name for row in desk.models.requests[0].tools] == [row.name for row in TOOLS]


async def test_a_call_does_not_run_before_it_is_journaled(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A call has no effect before the journal says that it was called."""
    box = Toolbox(holds="before")
    async with workbench(tmp_path, box, calls(("note", {"text": "a"}))) as desk, working(desk):
        sent = await desk.send()
        await box.reached.wait()
        assert call_events(desk, sent.session_id)[:1] == ["tool_called call_1"]
        assert notes(tmp_path) == []
        box.goes_on.set()
        await desk.until(lambda: desk.ended(sent.run_id))


async def test_parallel_calls_run_side_by_side(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Parallel calls run together up to a limit; the others wait for all of them."""
    box = Toolbox()
    many = calls(*(("look", {"text": str(n), "seconds": 10.0}) for n in range(MAX_PARALLEL_CALLS + 4)))
    async with workbench(tmp_path, box, many) as desk, working(desk):
        began = trio.current_time()
        sent = await desk.ask()
        assert trio.current_time() - began == pytest.approx(20.0)
        assert box.most == MAX_PARALLEL_CALLS
        assert len(results_by_call(desk, sent.session_id)) == MAX_PARALLEL_CALLS + 4
        assert {result.took_ms for result in results_by_call(desk, sent.session_id).values()} == {10_000}
        results = desk.models.requests[1].messages[-1].items
        order = [item.call_id for item in results if isinstance(item, ToolResult)]
        assert order == [f"call_{n + 1}" for n in range(MAX_PARALLEL_CALLS + 4)]


async def test_a_call_that_is_not_parallel_runs_alone(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A call that is not parallel waits for the calls before it, and the calls after it wait for it."""
    box = Toolbox()
    wait = {"text": "x", "seconds": 10.0}
    mixed = calls(("look", wait), ("slow", wait), ("look", wait), ("look", wait))
    async with workbench(tmp_path, box, mixed) as desk, working(desk):
        began = trio.current_time()
        await desk.ask()
        assert trio.current_time() - began == pytest.approx(30.0)
        assert box.most == 2


async def test_changes_are_committed_with_the_result(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A tool's events are committed with its result, right before it."""
    async with workbench(tmp_path, Toolbox(), calls(("renames", {"text": "A title"}))) as desk, working(desk):
        sent = await desk.ask()
        assert desk.session(sent.session_id).title == "A title"
        events = [event for _, event in desk.journal(sent.session_id)]
        (index,) = (i for i, event in enumerate(events) if isinstance(event, SessionRenamed))
        assert isinstance(events[index + 1], ToolReturned)


class Renames(SubHook):
    """A sub-hook whose tool changes the title at commit time, but never to a longer one."""

    name = "settles"
    tools = (tool("settles", default="ask", repeatable=True),)

    async def dispatch(self, use: Invocation) -> Outcome:
        """Return an outcome that is decided at its commit."""
        title = str(use.arguments["text"])

        def decide(store: Snapshot) -> Outcome:
            session = store.need(SESSIONS, use.context.session.session_id)
            if session.title is not None and len(title) > len(session.title):
                raise ToolError(f"{session.title} is shorter")
            return Outcome(f"{session.title} became {title}", events=(SessionRenamed(title=title),))

        return Outcome("this is not read", decide=decide)


async def test_an_outcome_can_be_decided_at_its_commit(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The decision at commit time is the result, and its events come right before it."""
    hooks = CompositeHook((Renames(),))
    allow = PermissionsSection(rules=[Rule(tool="settles", decision="allow")])
    twice = calls(("settles", {"text": "short"}), ("settles", {"text": "much longer"}))
    async with workbench(tmp_path, Toolbox(), twice, hooks=hooks, permissions=allow) as desk, working(desk):
        sent = await desk.ask()
        results = results_by_call(desk, sent.session_id)
        assert (results["call_1"].text, results["call_1"].how) == ("None became short", "returned")
        assert (results["call_2"].text, results["call_2"].how) == ("short is shorter", "failed")
        assert results["call_2"].is_error
        assert desk.session(sent.session_id).title == "short"
        events = [event for _, event in desk.journal(sent.session_id)]
        (index,) = (i for i, event in enumerate(events) if isinstance(event, SessionRenamed))
        assert events[index + 1] == results["call_1"]


async def test_a_decided_outcome_mentions_a_changed_input(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The model is told the input that was used instead of its own."""
    hooks = CompositeHook((Renames(),))
    once = calls(("settles", {"text": "long enough"}))
    async with workbench(tmp_path, Toolbox(), once, hooks=hooks) as desk, working(desk):
        sent = await desk.ask()
        await desk.command(sent.run_id, lambda run: answer_approvals(run, updated_input={"text": "x"}))
        await desk.until(lambda: desk.ended(sent.run_id))
        text = results_by_call(desk, sent.session_id)["call_1"].text
        assert text == 'The person who approved this changed its input to {"text":"x"}\nNone became x'


# Failures.


def test_a_long_list_of_tools_states_the_rest() -> None:
    """The list of tools that the model reads says how many names it leaves out."""
    names = [f"t{number:02}" for number in range(MAX_LISTED_TOOLS + 2)]
    assert list_names(names).endswith(", t39, and 2 more.")
    assert list_names(names[:-2]).endswith(", t39.")
    assert list_names([]) == "There are no tools."


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (ToolCall("c", "fly", {}), "There is no tool 'fly'. The tools are: again, "),
        (
            ToolCall("c", "note", {"text": 5}),
            'these arguments do not fit note: $.text: this is not of type "string"',
        ),
        (
            ToolCall("c", "note", {}, invalid="they are no JSON object"),
            "cannot be used: they are no JSON object",
        ),
        (ToolCall("c", "refuses", {}), "this tool does nothing; say something else"),
        (ToolCall("c", "raises", {}), "Something failed inside the tool; the daemon's log has the details."),
        (ToolCall("c", "endless", {}), "This took longer than 5 s and was stopped."),
        (ToolCall("c", "careful", {"text": "impossible"}), "this cannot be noted"),
    ],
)
async def test_the_model_is_told_why_a_call_failed(
    tmp_path: Path, autojump_clock: MockClock, call: ToolCall, text: str
) -> None:
    """The model reads an error result, and the run continues."""
    async with workbench(tmp_path, Toolbox(), lambda request: gives(call)) as desk, working(desk):
        sent = await desk.ask()
        (result,) = results_by_call(desk, sent.session_id).values()
        assert text in result.text
        assert (result.how, result.is_error, sent.status) == ("failed", True, "completed")


async def test_invalid_names_and_ids_are_replaced(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Names and ids that are sent back to a provider hold only characters that it accepts."""
    invalid = ToolCall("an id that is longer than forty characters are", "näme of a tool!", {})
    async with workbench(tmp_path, Toolbox(), lambda request: gives(invalid)) as desk, working(desk):
        await desk.ask()
        answer, results = desk.models.requests[1].messages[-2:]
        (call,) = answer.items
        (result,) = results.items
        assert isinstance(call, ToolCall)
        assert isinstance(result, ToolResult)
        assert call.name == result.name == "n_me_of_a_tool_"
        assert call.call_id == result.call_id
        assert re.fullmatch(r"call_[0-9a-f]{24}", call.call_id)


async def test_too_many_calls_are_refused(tmp_path: Path, autojump_clock: MockClock) -> None:
    """None of three hundred calls of one message runs, and the run continues."""
    box = Toolbox()
    many = [ToolCall(f"c{n}", "t", {}) for n in range(300)]
    async with workbench(tmp_path, box, lambda request: gives(*many)) as desk, working(desk):
        sent = await desk.ask()
        assert sent.status == "completed"
        assert MAX_CALLS < len(results_by_call(desk, sent.session_id)) <= 300
        assert box.did == []


# Output.


async def test_a_long_result_is_stored_as_a_blob(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The model reads the beginning and the end, and the number of bytes left out."""
    async with workbench(tmp_path, Toolbox(), calls(("long", {"size": 1_000_000}))) as desk, working(desk):
        sent = await desk.ask()
        (result,) = results_by_call(desk, sent.session_id).values()
        assert len(result.text.encode()) < MAX_TOOL_TEXT_BYTES + 100
        assert f"[... {1_000_000 - MAX_TOOL_TEXT_BYTES} bytes left out here ...]" in result.text
        assert result.blob is not None
        assert result.bytes == 1_000_000
        with desk.state.read() as store:
            assert read_blob(store, result.blob) == b"x" * 1_000_000


class FullOutput(SubHook):
    """A sub-hook whose tool returns a text and a full output."""

    name = "whole"
    tools = (tool("dumps"),)

    def __init__(self, text: str, whole: bytes) -> None:
        self._outcome = Outcome(text, full_output=whole)

    async def dispatch(self, use: Invocation) -> Outcome:
        """Give them."""
        return self._outcome


async def test_no_blob_holds_a_secret(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Secrets are removed from the text and from the full output."""
    part = FullOutput("it is sk-12345", b"\xff it is sk-12345 \xff")
    hooks = CompositeHook((part,))
    async with workbench(tmp_path, Toolbox(), calls(("dumps", {})), hooks=hooks) as desk, working(desk):
        scrubber = Scrubber(["sk-12345"])
        desk.live.scrub(scrubber)
        desk.state.store.set_scrub(scrubber.scrub_journal_line)
        sent = await desk.ask()
        (result,) = results_by_call(desk, sent.session_id).values()
        assert result.text == "it is [scrubbed]"
        assert result.blob is not None
        with desk.state.read() as store:
            content = read_blob(store, result.blob)
        assert content == b"\xff it is [scrubbed] \xff"
        assert result.bytes == len(content)


class Decides(SubHook):
    """A tool whose long outcome is decided at its commit."""

    name = "decides"
    tools = FullOutput.tools

    def __init__(self, text: str) -> None:
        self._text = text

    async def dispatch(self, use: Invocation) -> Outcome:
        """Decide later."""
        return Outcome("", decide=lambda tx: Outcome(self._text))


async def test_a_decided_outcome_is_scrubbed_before_it_is_cut(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A secret at the cut of a text that is decided at the commit leaves no part."""
    secret = "sk-" + "0123456789" * 5
    half = MAX_TOOL_TEXT_BYTES // 2
    hooks = CompositeHook((Decides("x" * (half - 20) + secret + "y" * half),))
    async with workbench(tmp_path, Toolbox(), calls(("dumps", {})), hooks=hooks) as desk, working(desk):
        desk.live.scrub(Scrubber([secret]))
        sent = await desk.ask()
        (result,) = results_by_call(desk, sent.session_id).values()
        assert "left out here" in result.text
        assert "012" not in result.text


async def test_output_is_followed_while_a_tool_runs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Output is streamed under its call id, until the result is in the journal."""
    box = Toolbox()
    pair = calls(("look", {"text": "one", "seconds": 5.0}), ("look", {"text": "other", "seconds": 9.0}))
    async with workbench(tmp_path, box, pair) as desk, working(desk):
        heard = desk.listen()
        sent = await desk.send()
        await box.reached.wait()
        await wait_all_tasks_blocked()
        assert desk.live_runs() == [sent.run_id] * 2
        await desk.until(lambda: "call_1" in results_by_call(desk, sent.session_id))
        await wait_all_tasks_blocked()
        assert desk.live_runs() == [sent.run_id]
        await desk.until(lambda: desk.ended(sent.run_id))
        await wait_all_tasks_blocked()
        assert desk.live_runs() == []
        outputs = [delta for delta in heard() if delta["kind"] == "output"]
        assert sorted((d["item_id"], d["attempt"], d["offset"], d["text"]) for d in outputs) == [
            ("call_1", 1, 0, "one begins\n"),
            ("call_1", 1, 11, "one ends\n"),
            ("call_2", 1, 0, "other begins\n"),
            ("call_2", 1, 13, "other ends\n"),
        ]


async def test_invalid_output_becomes_text(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Invalid characters of a program's output are replaced for its followers."""

    class Odd(SubHook):
        name = "odd"
        tools = (tool("dumps"),)

        async def dispatch(self, use: Invocation) -> Outcome:
            use.stream("caf\udce9 é")
            return Outcome("done")

    hooks = CompositeHook((Odd(),))
    async with workbench(tmp_path, Toolbox(), calls(("dumps", {})), hooks=hooks) as desk, working(desk):
        heard = desk.listen()
        await desk.ask()
        assert [delta["text"] for delta in heard() if delta["kind"] == "output"] == ["caf? é"]


# Cancelling.


async def test_a_cancelled_call_has_stopped_when_the_cancel_returns(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its result holds its last output; calls that had not begun have a result that says so."""
    box = Toolbox()
    pair = calls(("slow", {"text": "working"}), ("note", {"text": "never"}))
    async with workbench(tmp_path, box, pair) as desk, working(desk):
        sent = await desk.send()
        await box.reached.wait()
        run = await desk.cancel(sent.run_id)
        assert (run.status, box.open) == ("cancelled", 0)
        assert {
            call_id: result.text for call_id, result in results_by_call(desk, sent.session_id).items()
        } == {
            "call_1": f"{STOPPED} Its last output:\nworking begins\n",
            "call_2": NOT_RUN,
        }
        assert notes(tmp_path) == []
        assert (await desk.ask("go on")).status == "completed"


async def test_a_call_that_is_stopped_before_its_dispatch_was_not_run(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Such a call is journaled as called unless its verdict is, too; its result says that it was not run."""

    class Cancelling(Toolbox):
        async def evidence(self, use: Invocation) -> dict[str, Any]:
            if use.call_id == last:
                await desk.cancel(use.context.run.run_id, follow=False)
            return {}

    box = Cancelling()
    last = "call_1"
    async with workbench(tmp_path / "one", box, calls(("note", {"text": "a"}))) as desk, working(desk):
        sent = await desk.ask()
        assert (sent.status, box.did) == ("cancelled", [])
        assert call_events(desk, sent.session_id) == ["tool_returned call_1"]
        assert results_by_call(desk, sent.session_id)["call_1"].text == NOT_RUN
    last = "call_2"
    both = calls(("note", {"text": "a"}), ("note", {"text": "b"}))
    async with workbench(tmp_path / "two", box, both) as desk, working(desk):
        sent = await desk.ask()
        assert (sent.status, box.did) == ("cancelled", ["note a"])
        assert call_events(desk, sent.session_id)[-2:] == ["tool_called call_2", "tool_returned call_2"]
        assert results_by_call(desk, sent.session_id)["call_2"].text == NOT_RUN


async def test_a_tool_call_is_three_commits(tmp_path: Path, autojump_clock: MockClock) -> None:
    """They are the model's answer, the verdict with the begin, and the result with the next model call."""
    quick = (tool("long", parallel=True), tool("plain"))
    both = calls(("long", {"size": 3}), ("long", {"size": 4}))
    async with workbench(tmp_path, Toolbox(tools=quick), both) as desk, working(desk):
        commits = len(desk.groups)
        sent = await desk.ask()
        await wait_all_tasks_blocked()
        assert desk.kinds(sent.session_id, sent.run_id) == [
            "input_received",
            "run_accepted",
            "run_started",
            "model_asked",
            "message_appended",
            "calls_judged",
            "tool_called",
            "tool_called",
            "tool_returned",
            "tool_returned",
            "model_asked",
            "message_appended",
            "run_ended",
        ]
        # The results of calls that run side by side are committed as they come.
        assert len(desk.groups) - commits == 2 + 3 + 1


async def test_the_evidence_of_a_quick_call_needs_no_commit(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What a call leaves in its outcome is journaled before its result, in the same commit."""
    quick = calls(("quick", {"text": "a"}))
    async with workbench(tmp_path, Toolbox(tools=(tool("quick"),)), quick) as desk, working(desk):
        commits = len(desk.groups)
        sent = await desk.ask()
        await wait_all_tasks_blocked()
        assert len(desk.groups) - commits == 2 + 3
        assert call_events(desk, sent.session_id) == [
            "tool_called call_1",
            "tool_observed call_1",
            "tool_returned call_1",
        ]
        (observed,) = [e.evidence for _, e in desk.journal(sent.session_id) if isinstance(e, ToolObserved)]
        assert observed == {"noting": "a"}


async def test_calls_that_all_fail_are_one_commit_with_the_next_model_call(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nothing runs between the verdicts and the next model call."""
    async with workbench(tmp_path, Toolbox(), calls(("absent", {}))) as desk, working(desk):
        commits = len(desk.groups)
        assert (await desk.ask()).status == "completed"
        await wait_all_tasks_blocked()
        assert len(desk.groups) - commits == 4


async def test_a_crash_between_the_result_and_the_model_call_asks_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The model call that begins with the result counts as a start, and the tool does not run again."""
    box, gate = Toolbox(), Gate()
    async with workbench(tmp_path, box, calls(("note", {"text": "a"})), gate) as desk, working(desk):
        sent = await desk.send()
        await gate.reached.wait()
        assert desk.run(sent.run_id).starts_without_progress == 1
        desk.copy_store(tmp_path / "copy")
        gate.opened.set()
    async with workbench(tmp_path / "copy", Toolbox()) as desk, working(desk):
        await desk.until(lambda: desk.ended(sent.run_id))
        assert call_events(desk, sent.session_id).count("tool_called call_1") == 1
        assert (desk.run(sent.run_id).starts, desk.run(sent.run_id).status) == (2, "completed")
        assert desk.answers(sent.session_id)[-1] == "done"


@pytest.mark.parametrize("ends", ["cancel", "shutdown"])
async def test_judging_can_be_stopped(tmp_path: Path, autojump_clock: MockClock, ends: str) -> None:
    """A hook that never returns delays neither a cancel nor a shutdown."""

    class Pondering(SubHook):
        name = "pondering"

        async def before_call(self, use: Invocation) -> None:
            box.reached.set()
            await box.goes_on.wait()

    box = Toolbox()
    hooks = CompositeHook((Pondering(), box))
    async with workbench(tmp_path, box, calls(("note", {"text": "a"})), hooks=hooks) as desk:
        async with working(desk):
            sent = await desk.send()
            await box.reached.wait()
            if ends == "cancel":
                assert (await desk.cancel(sent.run_id)).status == "cancelled"
                assert results_by_call(desk, sent.session_id)["call_1"].text == NOT_RUN
        if ends == "shutdown":
            assert desk.kinds(sent.session_id)[-1] == "run_released"
            assert not desk.run(sent.run_id).claimed
            box.goes_on.set()
            async with working(desk):
                await desk.until(lambda: desk.ended(sent.run_id))
            assert notes(tmp_path) == ["a"]


async def test_an_ended_call_keeps_its_outcome_when_the_run_is_stopped(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A stop during ``after_call`` does not replace the outcome."""

    class Dawdling(SubHook):
        name = "slow"

        async def after_call(self, use: Invocation, outcome: Outcome) -> Outcome:
            box.reached.set()
            await trio.sleep_forever()
            return outcome

    box = Toolbox()
    hooks = CompositeHook((box, Dawdling()))
    renaming = calls(("renames", {"text": "A title"}))
    async with workbench(tmp_path, box, renaming, hooks=hooks) as desk, working(desk):
        sent = await desk.send()
        await box.reached.wait()
        assert (await desk.cancel(sent.run_id)).status == "cancelled"
        (result,) = results_by_call(desk, sent.session_id).values()
        assert (result.how, result.text) == ("returned", "renamed")
        assert desk.session(sent.session_id).title == "A title"


async def test_a_waiting_run_is_cancelled_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """All approvals lapse in one commit, so no more calls may wait than one commit can hold."""
    box = Toolbox()
    many = calls(*(("careful", {"text": "x" * (900 if n < 8 else 20)}) for n in range(MAX_CALLS)))
    async with workbench(tmp_path, box, many) as desk, working(desk):
        sent = await desk.ask(metadata={"m": "m" * 12_000})
        assert sent.status == "waiting_for_approval"
        waiting = [call for call in desk.run(sent.run_id).calls if call.state == "asked"]
        assert len(waiting) == MAX_WAITING_CALLS
        assert len(results_by_call(desk, sent.session_id)) == MAX_CALLS - MAX_WAITING_CALLS
        assert "wait for a person already" in results_by_call(desk, sent.session_id)["call_25"].text
        assert (await desk.cancel(sent.run_id)).status == "cancelled"
        assert len(results_by_call(desk, sent.session_id)) == MAX_CALLS
        assert desk.kinds(sent.session_id).count("approval_lapsed") == MAX_WAITING_CALLS


# Stopping the daemon.


async def test_an_orderly_stop_ends_a_call_that_may_not_repeat(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The call has a result at the stop, and the next daemon continues the run."""
    box = Toolbox()
    async with workbench(tmp_path, box, calls(("slow", {"text": "working"}))) as desk:
        async with working(desk):
            sent = await desk.send()
            await box.reached.wait()
        assert desk.kinds(sent.session_id)[-2:] == ["tool_returned", "run_released"]
        assert box.open == 0
        assert desk.run(sent.run_id).starts_without_progress == 0
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        (result,) = results_by_call(desk, sent.session_id).values()
        assert result.text == f"{STOPPED} Its last output:\nworking begins\n"
        assert desk.run(sent.run_id).status == "completed"


async def test_an_orderly_stop_leaves_a_repeatable_call_to_the_next_daemon(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The next daemon runs the call again, and its output replaces the old output."""
    box = Toolbox()
    async with workbench(tmp_path, box, calls(("look", {"text": "x", "seconds": 10.0}))) as desk:
        heard = desk.listen()
        async with working(desk):
            sent = await desk.send()
            await box.reached.wait()
        assert desk.kinds(sent.session_id)[-1] == "run_released"
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        assert call_events(desk, sent.session_id) == ["tool_called call_1"] * 2 + ["tool_returned call_1"]
        assert [delta["attempt"] for delta in heard() if delta["kind"] == "output"] == [1, 2, 2]


# Crashes.


async def test_a_call_that_crashes_the_daemon_repeatedly_is_parked(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The run fails as parked, and the call, which may have taken effect, is in doubt."""
    async with workbench(tmp_path, Toolbox()) as desk:
        sent = await desk.send()
        begin = [
            lambda run: Start(),
            lambda run: BeginModelCall("itm_1"),
            lambda run: one_call(),
            allow,
            call_tools,
        ]
        await desk.command(sent.run_id, *begin)
        for _ in range(2):
            await desk.command(sent.run_id, lambda run: Start(), found_not_done, call_tools)
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        run = desk.run(sent.run_id)
        assert run.error is not None
        assert (run.status, run.error.reason) == ("failed", "parked")
        assert desk.kinds(sent.session_id)[-3:] == ["indoubt_opened", "tool_returned", "run_ended"]
        assert desk.models.requests == []


async def test_judging_that_crashes_the_daemon_repeatedly_is_parked(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Starts without progress count even though judging journals nothing before it is done."""
    async with workbench(tmp_path, Toolbox()) as desk:
        sent = await desk.send()
        begin = [lambda run: Start(), lambda run: BeginModelCall("itm_1"), lambda run: one_call()]
        await desk.command(sent.run_id, *begin, *[lambda run: Start()] * 3)
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        run = desk.run(sent.run_id)
        assert run.error is not None
        assert run.error.reason == "parked"
        assert results_by_call(desk, sent.session_id)["call_1"].text == NOT_RUN


def one_call() -> Any:
    """Answer with one call."""
    return answer(ToolCall("call_1", "note", {"text": "a"}))


def found_not_done(run: Any) -> Any:
    """Record that the first call took no effect."""
    return resolve_doubt(run, 0, "not_done")


class RecordingToolbox(Toolbox):
    """A toolbox that is copied after every commit, with the store and the written lines."""

    copies = 0

    def watch(self, desk: Desk, directory: Path) -> None:
        """Copy after every further commit."""
        deliver = desk.state.deliver

        def deliver_and_copy(group: Group) -> None:
            deliver(group)
            self.copies += 1
            desk.copy_store(directory / f"after{self.copies}")
            copytree(directory / "work", directory / f"after{self.copies}" / "work")

        desk.state.deliver = deliver_and_copy  # type: ignore[method-assign]


async def test_a_crash_after_any_commit_loses_no_result_and_repeats_no_call(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """After each single commit the next daemon finishes the run and repeats only repeatable calls."""
    box = RecordingToolbox()
    batch = calls(
        ("look", {"text": "one", "seconds": 1.0}),
        ("look", {"text": "two", "seconds": 2.0}),
        ("note", {"text": "noted"}),
        ("again", {"text": "again"}),
        ("plain", {"text": "approved"}),
        ("fly", {}),
    )
    async with workbench(tmp_path, box) as desk, working(desk):
        box.watch(desk, tmp_path)
        desk.models.answers_to["hello"] = batch
        sent = await desk.ask("hello")
        await desk.command(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        await wait_all_tasks_blocked()
    assert box.copies > 15
    for number in range(1, box.copies + 1):
        copy = tmp_path / f"after{number}"
        rmtree(tmp_path / "work")
        copytree(copy / "work", tmp_path / "work")
        async with workbench(copy, Toolbox()) as desk, working(desk):
            desk.models.answers_to["hello"] = batch
            await finish(desk, sent.run_id)
            assert_complete(desk, sent.session_id, tmp_path)


async def finish(desk: Desk, run_id: str) -> None:
    """Wait for the end of a run, and approve all its calls."""
    while True:
        await desk.until(lambda: desk.run(run_id).status in SETTLED)
        if desk.ended(run_id):
            return
        await desk.command(run_id, answer_approvals)


def assert_complete(desk: Desk, session_id: str, directory: Path) -> None:
    """Assert that every call has its result and that no effect happened twice."""
    results = results_by_call(desk, session_id)
    assert sorted(results) == [f"call_{number}" for number in range(1, 7)]
    assert desk.kinds(session_id)[-1] == "run_ended"
    assert {results[call_id].how for call_id in ("call_1", "call_2", "call_3", "call_5")} == {"returned"}
    assert results["call_6"].how == "failed"
    written = notes(directory)
    assert [written.count(line) for line in ("noted", "approved")] == [1, 1]
    assert written.count("again") in (1, 2)
    for request in desk.models.requests:
        assert_valid(request.messages)


# A full disk.


async def test_a_result_outlasts_a_full_disk(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The result is committed once there is room; until then no other call begins."""
    box = Toolbox(holds="after")
    pair = calls(("note", {"text": "a"}), ("note", {"text": "b"}))
    async with workbench(tmp_path, box, pair) as desk, working(desk):
        sent = await desk.send()
        await box.reached.wait()
        with full_disk():
            box.goes_on.set()
            await wait_all_tasks_blocked()
            assert box.did == ["note a"]
            assert results_by_call(desk, sent.session_id) == {}
        await desk.until(lambda: desk.ended(sent.run_id))
        assert notes(tmp_path) == ["a", "b"]
        assert results_by_call(desk, sent.session_id)["call_1"].text == "noted: a"
    assert "the disk is full" in caplog.text


async def test_a_long_result_outlasts_a_full_disk(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The blob of a long result is stored once there is room."""

    class Dumps(FullOutput):
        async def dispatch(self, use: Invocation) -> Outcome:
            box.reached.set()
            await box.goes_on.wait()
            return await super().dispatch(use)

    box = Toolbox()
    hooks = CompositeHook((Dumps("much", b"y" * 500_000),))
    async with workbench(tmp_path, box, calls(("dumps", {})), hooks=hooks) as desk, working(desk):
        sent = await desk.send()
        await box.reached.wait()
        with full_disk():
            box.goes_on.set()
            await wait_all_tasks_blocked()
            assert results_by_call(desk, sent.session_id) == {}
        await desk.until(lambda: desk.ended(sent.run_id))
        (result,) = results_by_call(desk, sent.session_id).values()
        assert (result.how, result.bytes) == ("returned", 500_000)


async def test_a_cancel_on_a_full_disk_keeps_the_outcome(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A call that had ended before the cancel returns its own result."""
    box = Toolbox(holds="after")
    async with workbench(tmp_path, box, calls(("note", {"text": "a"}))) as desk, working(desk):
        sent = await desk.send()
        await box.reached.wait()
        with full_disk():
            box.goes_on.set()
            await wait_all_tasks_blocked()
        # There is room now, but the retry is due in a second only: the cancel comes first.
        assert results_by_call(desk, sent.session_id) == {}
        assert (await desk.cancel(sent.run_id)).status == "cancelled"
        (result,) = results_by_call(desk, sent.session_id).values()
        assert (result.how, result.text) == ("returned", "noted: a")


async def test_a_full_disk_does_not_keep_the_daemon_from_stopping(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A result that cannot be committed is found by the probe at the next start."""
    box = Toolbox(holds="after")
    async with workbench(tmp_path, box, calls(("note", {"text": "a"}))) as desk:
        with ExitStack() as disk:
            async with working(desk):
                sent = await desk.send()
                await box.reached.wait()
                disk.enter_context(full_disk())
                box.goes_on.set()
                await wait_all_tasks_blocked()
        assert results_by_call(desk, sent.session_id) == {}
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        (result,) = results_by_call(desk, sent.session_id).values()
        assert (result.how, notes(tmp_path)) == ("returned", ["a"])
    assert "could not be released" in caplog.text


# Approvals and questions.


async def test_an_approved_call_runs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The run waits without an executor or memory, and continues when the person has approved."""
    box = Toolbox()
    async with workbench(tmp_path, box, calls(("careful", {"text": "a"}))) as desk, working(desk) as worker:
        sent = await desk.ask()
        await wait_all_tasks_blocked()
        assert (sent.status, worker.active, box.did) == ("waiting_for_approval", 0, [])
        assert len(desk.services.transcripts) == 0
        await desk.command(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        assert notes(tmp_path) == ["a"]
        await wait_all_tasks_blocked()
        assert len(desk.services.transcripts) == 1


async def test_a_changed_input_is_used_and_the_model_is_told(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The call runs with the approver's input, and its result says so."""
    async with workbench(tmp_path, Toolbox(), calls(("careful", {"text": "a"}))) as desk, working(desk):
        sent = await desk.ask()
        await desk.command(sent.run_id, lambda run: answer_approvals(run, updated_input={"text": "b"}))
        await desk.until(lambda: desk.ended(sent.run_id))
        assert notes(tmp_path) == ["b"]
        (result,) = results_by_call(desk, sent.session_id).values()
        assert result.text == 'The person who approved this changed its input to {"text":"b"}\nnoted: b'


def approvals(desk: Desk, session_id: str) -> list[ApprovalRequested]:
    """Return the approvals that were requested in a session."""
    return [event for _, event in desk.journal(session_id) if isinstance(event, ApprovalRequested)]


async def test_a_changed_preview_is_approved_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An approval holds only for the state that was shown."""
    async with workbench(tmp_path, Toolbox(), calls(("careful", {"text": "a"}))) as desk, working(desk):
        sent = await desk.ask()
        (tmp_path / "work" / NOTES).write_text("of somebody else\n")
        await desk.command(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.run(sent.run_id).status in SETTLED)
        first, second = approvals(desk, sent.session_id)
        assert second.note == "what was approved has changed since: look again"
        assert first.preview is not None
        assert second.preview is not None
        assert first.preview.binding != second.preview.binding
        await desk.command(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        assert notes(tmp_path) == ["of somebody else", "a"]


async def test_a_stale_call_is_approved_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The other calls of the batch finish; then the run waits for the new approval."""
    box = Toolbox()
    pair = calls(("stale", {"text": "a"}), ("look", {"text": "b", "seconds": 10.0}))
    async with workbench(tmp_path, box, pair) as desk, working(desk):
        sent = await desk.ask()
        await desk.command(sent.run_id, answer_approvals)
        await desk.until(lambda: len(approvals(desk, sent.session_id)) == 2)
        await wait_all_tasks_blocked()
        assert desk.run(sent.run_id).status == "running"
        await desk.until(lambda: desk.run(sent.run_id).status in SETTLED)
        assert results_by_call(desk, sent.session_id)["call_2"].text == "seen: b"
        await desk.command(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        assert notes(tmp_path) == ["a"]


@pytest.mark.parametrize("tool_name", ["careful", "note"])
async def test_a_new_deny_rule_stops_an_allowed_call(
    tmp_path: Path, autojump_clock: MockClock, tool_name: str
) -> None:
    """A rule that denies a call after its approval, or while it waits, applies."""
    box = Toolbox()
    pair = calls(("careful", {"text": "a"}), ("note", {"text": "b"}))
    async with workbench(tmp_path, box, pair) as desk, working(desk):
        sent = await desk.ask()
        rule = Rule(tool=tool_name, decision="deny", note="closed for today")
        await desk.do(permission.update, PermissionUpdate(add=[rule]))
        await desk.command(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        denied = next(r for r in results_by_call(desk, sent.session_id).values() if r.tool == tool_name)
        assert (denied.how, denied.text) == ("denied", "This is no longer allowed: closed for today")
        assert len(notes(tmp_path)) == 1


async def question_in_bypass_mode(desk: Desk) -> SendResult:
    """Start a run in bypass mode that waits for an answer, with an allowed call beside the question."""
    made = await desk.do(session.create, SessionCreate(permission_mode="bypassPermissions"))
    sent: SendResult = await desk.do(send_to_session, SessionSend(session_id=made.session_id, content="go"))
    await desk.until(lambda: desk.run(sent.run_id).status in SETTLED)
    assert desk.run(sent.run_id).status == "waiting_for_user_question"
    return sent


@pytest.mark.parametrize("mode", ["default", "dontAsk"])
async def test_a_narrower_mode_applies_to_a_call_that_has_not_run(
    tmp_path: Path, autojump_clock: MockClock, mode: PermissionMode
) -> None:
    """A call that the mode allowed needs an approval now, or is denied where no person may be asked."""
    box = Toolbox(opinions={"note": NeedsAnswer([Question(question="Which?", key="which")])})
    pair = calls(("careful", {"text": "a"}), ("note", {"text": "b"}))
    async with workbench(tmp_path, box, pair) as desk, working(desk):
        sent = await question_in_bypass_mode(desk)
        await desk.do(session.update, SessionUpdate(session_id=sent.session_id, permission_mode=mode))
        await desk.command(sent.run_id, lambda run: answer_question(run.calls[1]))
        await desk.until(lambda: desk.run(sent.run_id).status in SETTLED)
        assert notes(tmp_path) == []
        if mode == "dontAsk":
            assert results_by_call(desk, sent.session_id)["call_1"].how == "denied"
            return
        (approval,) = approvals(desk, sent.session_id)
        assert approval.note == "this was allowed before, and now a person is to be asked: careful's default"
        assert approval.preview is not None
        await desk.command(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        assert notes(tmp_path) == ["a"]


async def test_a_narrower_mode_keeps_an_approval(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An approved call runs even in a mode that asks no person."""
    async with workbench(tmp_path, Toolbox(), calls(("careful", {"text": "a"}))) as desk, working(desk):
        sent = await desk.ask()
        await desk.do(session.update, SessionUpdate(session_id=sent.session_id, permission_mode="dontAsk"))
        await desk.command(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        assert notes(tmp_path) == ["a"]


async def test_a_tool_may_be_gone_after_a_wait(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The model is told that the tool is gone, and the run continues."""
    box = Toolbox()
    async with workbench(tmp_path, box, calls(("careful", {"text": "a"}))) as desk, working(desk):
        sent = await desk.ask()
        box.lost.add("careful")
        await desk.command(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        (result,) = results_by_call(desk, sent.session_id).values()
        assert (result.how, result.text) == ("failed", "The tool 'careful' is gone.")


async def narrow(desk: Desk, session_id: str, tools: list[str]) -> None:
    """Reduce the tools that a session may use."""
    await desk.do(session.update, SessionUpdate(session_id=session_id, scope=CapabilityScope(tools=tools)))


async def test_a_tool_outside_the_current_scope_does_not_run(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The current scope applies, whatever was approved and whatever the run pinned."""
    box = Toolbox()
    pair = calls(("careful", {"text": "a"}), ("note", {"text": "b"}))
    async with workbench(tmp_path, box, pair) as desk, working(desk):
        sent = await desk.ask()
        await narrow(desk, sent.session_id, ["note"])
        await desk.command(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        result = results_by_call(desk, sent.session_id)["call_1"]
        assert (result.how, result.text) == ("failed", "The tool 'careful' is no longer allowed here.")
        assert notes(tmp_path) == ["b"]


async def test_a_tool_outside_the_scope_of_a_parent_is_not_offered(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The current scope of the parent applies to the runs of a child that were accepted before."""
    box = Toolbox()
    async with workbench(tmp_path, box, calls(("note", {"text": "a"}))) as desk:
        parent = await desk.do(session.create, SessionCreate(session_id="above"))
        child = await desk.do(session.create, SessionCreate(parent_session_id=parent.session_id))
        sent = await desk.do(send_to_session, SessionSend(session_id=child.session_id, content="go"))
        await narrow(desk, parent.session_id, ["look"])
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        (result,) = results_by_call(desk, sent.session_id).values()
        assert result.text == "There is no tool 'note'. The tools are: look."
        assert notes(tmp_path) == []


async def test_a_run_continues_with_the_current_runtime_after_a_wait(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its tools are those of the current runtime, and arguments that no longer fit are refused."""
    async with workbench(tmp_path, Toolbox(), calls(("careful", {"text": "a"}))) as desk, working(desk):
        sent = await desk.ask()
        present = desk.holder.current()
        changed = Toolbox(tools=(tool("careful", default="ask", schema={"required": ["line"]}),))
        desk.holder.replace(
            make_runtime(
                2, models=present.models, hooks=CompositeHook((changed,)), workspaces=present.workspaces
            )
        )
        await desk.command(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        (result,) = results_by_call(desk, sent.session_id).values()
        assert "these arguments do not fit careful" in result.text
        assert desk.retired == [1]


async def test_a_person_may_answer_before_the_whole_batch_is_judged(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """No call runs before all of the batch is judged."""

    class Pondering(SubHook):
        name = "pondering"

        async def before_call(self, use: Invocation) -> None:
            if use.arguments["text"] == "last":
                box.reached.set()
                await box.goes_on.wait()

    box = Toolbox()
    batch = calls(*(("plain", {"text": str(n)}) for n in range(16)), ("plain", {"text": "last"}))
    hooks = CompositeHook((Pondering(), box))
    async with workbench(tmp_path, box, batch, hooks=hooks) as desk, working(desk):
        sent = await desk.send()
        await box.reached.wait()
        assert desk.run(sent.run_id).status == "running"
        await desk.command(sent.run_id, answer_approvals)
        await wait_all_tasks_blocked()
        assert box.did == []
        box.goes_on.set()
        await desk.until(lambda: desk.run(sent.run_id).status in SETTLED)
        assert desk.run(sent.run_id).status == "waiting_for_approval"
        await desk.command(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        assert len(box.did) == 17


async def test_a_question_is_asked_and_never_dispatched(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The answer is the result of the call; a third question in a message is refused."""
    question = NeedsAnswer([Question(question="Which?", key="which")], expires_after_ms=60_000)
    box = Toolbox(opinions={"note": question})
    async with workbench(tmp_path, box, calls(*[("note", {"text": "a"})] * 3)) as desk, working(desk):
        sent = await desk.ask()
        assert sent.status == "waiting_for_user_question"
        questions = [event for _, event in desk.journal(sent.session_id) if isinstance(event, QuestionAsked)]
        assert [question.call_id for question in questions] == ["call_1", "call_2"]
        assert questions[0].expires_at_ms == desk.state.now_ms() + 60_000
        assert "ask all in one call" in results_by_call(desk, sent.session_id)["call_3"].text
        for index in (0, 1):
            await desk.command(sent.run_id, lambda run, index=index: answer_question(run.calls[index]))  # type: ignore[misc]
        await desk.until(lambda: desk.ended(sent.run_id))
        assert box.did == []


async def test_a_hook_may_deny_a_call(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The denial of a hook is the result, with its note."""
    box = Toolbox(opinions={"note": Deny("not on a Sunday")})
    async with workbench(tmp_path, box, calls(("note", {"text": "a"}))) as desk, working(desk):
        sent = await desk.ask()
        (result,) = results_by_call(desk, sent.session_id).values()
        assert (result.how, result.text) == ("denied", "This was not allowed: not on a Sunday")


# Limits of tools.


async def test_the_current_limits_of_tools_apply(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A reload applies from the next batch on, also to an active run."""
    slow = Dawdling()
    batch = dawdling_calls(*[{"s": 1}] * 3)
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
    ("limits", "arguments", "how", "text"),
    [
        (ToolsSection(max_calls=1), [{"s": 1}] * 2, "failed", "2 calls in one message; the limit is 1"),
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
async def test_a_result_names_the_limit_that_was_exceeded(
    tmp_path: Path,
    autojump_clock: MockClock,
    limits: ToolsSection,
    arguments: list[dict[str, Any]],
    how: str,
    text: str,
) -> None:
    """The model reads which limit was exceeded, and the run continues."""
    models = Scripted([lambda r: gives(*dawdling_calls(*arguments)), lambda r: says("done")])
    async with (
        open_desk(tmp_path, models, hooks=CompositeHook((Dawdling(),)), tools=limits) as desk,
        working(desk),
    ):
        sent = await desk.ask()
        assert sent.status == "completed"
        assert {(result.how, text in result.text) for result in results(desk, sent)} == {(how, True)}


async def test_the_total_output_of_a_run_is_limited(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Beyond the limit no further call runs, and the model answers with the results it has."""
    call = lambda r: gives(*dawdling_calls({"s": 1, "gives": 600}))  # noqa: E731
    models = Scripted([call, call, call, lambda r: says("done")])
    limits = ToolsSection(max_run_output_bytes=1_000)
    async with (
        open_desk(tmp_path, models, hooks=CompositeHook((Dawdling(),)), tools=limits) as desk,
        working(desk),
    ):
        sent = await desk.ask()
        assert [result.how for result in results(desk, sent)] == ["returned", "returned", "failed"]
        assert "returned 1200 bytes" in results(desk, sent)[-1].text
        assert sent.status == "completed"
