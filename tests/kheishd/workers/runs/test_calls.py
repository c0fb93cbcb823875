"""Tool calls in the worker's hands: what is journaled when, and what becomes of them whatever happens."""

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
from kheishd.kernel.hook import Deny, Invocation, NeedsAnswer, Outcome, SubHook, Tool, ToolError
from kheishd.objects.people import permission
from kheishd.objects.talk import session
from kheishd.objects.talk.send import send_to_session
from kheishd.store.blobs import read_blob
from kheishd.store.commit import Group
from kheishd.store.environment import Snapshot
from kheishd.store.tables import SESSIONS
from protocol.events.approval import ApprovalRequested
from protocol.events.call import ToolCalled, ToolObserved, ToolReturned
from protocol.events.question import QuestionAsked
from protocol.events.session import SessionRenamed
from protocol.limits.call import MAX_CALLS, MAX_PARALLEL_CALLS, MAX_TOOL_TEXT_BYTES, MAX_WAITING_CALLS
from protocol.objects.permission import PermissionMode, PermissionUpdate, Rule
from protocol.objects.question import Question
from protocol.objects.run import SETTLED, SendResult
from protocol.objects.session import CapabilityScope, SessionCreate, SessionSend, SessionUpdate
from protocol.transcript import Item, ToolCall, ToolResult
from tests.support.desk import (
    Desk,
    Scripted,
    full_disk,
    gives,
    open_desk,
    says,
    working,
)
from tests.support.machine import allow, answer, answer_approvals, answer_question, call_tools, resolve_doubt
from tests.support.runtimes import make_runtime
from tests.support.toolbox import NOTES, TOOLS, Toolbox, calls, tool, workbench
from tests.support.transcripts import assert_valid


def returned(desk: Desk, session_id: str) -> dict[str, ToolReturned]:
    """The results in a session, by call; each has one."""
    events = [event for _, event in desk.journal(session_id) if isinstance(event, ToolReturned)]
    assert len({event.call_id for event in events}) == len(events)
    return {event.call_id: event for event in events}


def of_calls(desk: Desk, session_id: str) -> list[str]:
    """What happened to calls, in order: the type of each event, and its call."""
    return [
        f"{event.__struct_config__.tag} {event.call_id}"
        for _, event in desk.journal(session_id)
        if isinstance(event, ToolCalled | ToolReturned | ToolObserved)
    ]


def notes(directory: Path) -> list[str]:
    """The lines that tools wrote."""
    path = directory / "work" / NOTES
    return path.read_text().splitlines() if path.exists() else []


# Order.


async def test_a_call_is_journaled_before_it_runs_and_after(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Called, what it observed, returned; then the next; then the model reads both."""
    box = Toolbox()
    both = calls(("note", {"text": "a"}), ("note", {"text": "b"}))
    async with workbench(tmp_path, box, both) as desk, working(desk):
        sent = await desk.ask()
        assert of_calls(desk, sent.session_id) == [
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
        assert desk.models.asked[1].messages[-1].items == [
            ToolResult("call_1", "note", "noted: a"),
            ToolResult("call_2", "note", "noted: b"),
        ]
        assert (sent.status, sent.output) == ("completed", "done")
        assert f"Notes are kept in {tmp_path}/work." in desk.models.asked[0].instructions
        assert [offered.name for offered in desk.models.asked[0].tools] == [each.name for each in TOOLS]


async def test_nothing_has_run_when_a_call_is_journaled(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Whoever finds it called knows that it may have run; whoever does not, that it has not."""
    box = Toolbox(holds="before")
    async with workbench(tmp_path, box, calls(("note", {"text": "a"}))) as desk, working(desk):
        sent = await desk.send()
        await box.reached.wait()
        assert of_calls(desk, sent.session_id)[:1] == ["tool_called call_1"]
        assert notes(tmp_path) == []
        box.goes_on.set()
        await desk.until(lambda: desk.ended(sent.run_id))


async def test_calls_that_say_so_run_side_by_side(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Sixteen at once at most; the others wait for all of those."""
    box = Toolbox()
    many = calls(*(("look", {"text": str(n), "seconds": 10.0}) for n in range(MAX_PARALLEL_CALLS + 4)))
    async with workbench(tmp_path, box, many) as desk, working(desk):
        began = trio.current_time()
        sent = await desk.ask()
        assert trio.current_time() - began == pytest.approx(20.0)
        assert box.most == MAX_PARALLEL_CALLS
        assert len(returned(desk, sent.session_id)) == MAX_PARALLEL_CALLS + 4
        assert {result.took_ms for result in returned(desk, sent.session_id).values()} == {10_000}
        results = desk.models.asked[1].messages[-1].items
        order = [item.call_id for item in results if isinstance(item, ToolResult)]
        assert order == [f"call_{n + 1}" for n in range(MAX_PARALLEL_CALLS + 4)]


async def test_other_calls_run_alone(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One that does not say so waits for those before it, and those after it wait for it."""
    box = Toolbox()
    wait = {"text": "x", "seconds": 10.0}
    mixed = calls(("look", wait), ("slow", wait), ("look", wait), ("look", wait))
    async with workbench(tmp_path, box, mixed) as desk, working(desk):
        began = trio.current_time()
        await desk.ask()
        assert trio.current_time() - began == pytest.approx(30.0)
        assert box.most == 2


async def test_what_a_tool_changes_is_committed_with_its_result(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Right before it, in the same commit."""
    async with workbench(tmp_path, Toolbox(), calls(("renames", {"text": "A title"}))) as desk, working(desk):
        sent = await desk.ask()
        assert desk.session(sent.session_id).title == "A title"
        events = [event for _, event in desk.journal(sent.session_id)]
        (at,) = (number for number, event in enumerate(events) if isinstance(event, SessionRenamed))
        assert isinstance(events[at + 1], ToolReturned)


class Settles(SubHook):
    """A part whose one tool changes the title, by what it is when that is committed; it is never longer."""

    name = "settles"
    tools = (tool("settles", default="ask", repeatable=True),)

    async def dispatch(self, use: Invocation) -> Outcome:
        """Say what is to be decided later."""
        wanted = str(use.arguments["text"])

        def change(store: Snapshot) -> Outcome:
            title = _title(store, use.context.session.session_id)
            if title is not None and len(wanted) > len(title):
                raise ToolError(f"{title} is shorter")
            return Outcome(f"{title} became {wanted}", events=(SessionRenamed(title=wanted),))

        return Outcome("nobody reads this", decide=change)


def _title(store: Snapshot, session_id: str) -> str | None:
    found = store.get(SESSIONS, session_id)
    return found.title if found is not None else None


async def test_what_a_call_changes_can_be_decided_when_it_is_committed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """By what is true then: what was decided is the result, right after what it changed."""
    hooks = CompositeHook((Settles(),))
    allow = PermissionsSection(rules=[Rule(tool="settles", decision="allow")])
    twice = calls(("settles", {"text": "short"}), ("settles", {"text": "much longer"}))
    async with workbench(tmp_path, Toolbox(), twice, hooks=hooks, permissions=allow) as desk, working(desk):
        sent = await desk.ask()
        results = returned(desk, sent.session_id)
        assert (results["call_1"].text, results["call_1"].how) == ("None became short", "returned")
        assert (results["call_2"].text, results["call_2"].how) == ("short is shorter", "failed")
        assert results["call_2"].is_error
        assert desk.session(sent.session_id).title == "short"
        events = [event for _, event in desk.journal(sent.session_id)]
        (at,) = (number for number, event in enumerate(events) if isinstance(event, SessionRenamed))
        assert events[at + 1] == results["call_1"]


async def test_what_is_decided_late_still_says_that_a_person_changed_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The model is told what was done instead of what it wrote."""
    hooks = CompositeHook((Settles(),))
    once = calls(("settles", {"text": "long enough"}))
    async with workbench(tmp_path, Toolbox(), once, hooks=hooks) as desk, working(desk):
        sent = await desk.ask()
        await desk.order(sent.run_id, lambda run: answer_approvals(run, updated_input={"text": "x"}))
        await desk.until(lambda: desk.ended(sent.run_id))
        told = returned(desk, sent.session_id)["call_1"].text
        assert told == 'The person who approved this changed its input to {"text":"x"}\nNone became x'


# What goes wrong.


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (ToolCall("c", "fly", {}), "There is no tool called 'fly' here. Those there are: again, "),
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
async def test_the_model_is_told_what_went_wrong(
    tmp_path: Path, autojump_clock: MockClock, asked: ToolCall, says: str
) -> None:
    """It reads a result that is an error, and goes on."""
    async with workbench(tmp_path, Toolbox(), lambda request: gives(asked)) as desk, working(desk):
        sent = await desk.ask()
        (result,) = returned(desk, sent.session_id).values()
        assert says in result.text
        assert (result.how, result.is_error, sent.status) == ("failed", True, "completed")


async def test_a_call_without_a_name_that_fits_is_answered_under_another(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What is given back to a provider has names and ids that it takes."""
    asked = ToolCall("an id that is longer than forty characters are", "näme of a tool!", {})
    async with workbench(tmp_path, Toolbox(), lambda request: gives(asked)) as desk, working(desk):
        await desk.ask()
        said, results = desk.models.asked[1].messages[-2:]
        (call,) = said.items
        (result,) = results.items
        assert isinstance(call, ToolCall)
        assert isinstance(result, ToolResult)
        assert call.name == result.name == "n_me_of_a_tool_"
        assert call.call_id == result.call_id == "an id that is longer than forty characte"


async def test_too_many_calls_are_refused_and_the_run_goes_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """None of three hundred runs; with the shortest of names, where their results are all that counts."""
    box = Toolbox()
    many = [ToolCall(f"c{n}", "t", {}) for n in range(300)]
    async with workbench(tmp_path, box, lambda request: gives(*many)) as desk, working(desk):
        sent = await desk.ask()
        assert sent.status == "completed"
        assert MAX_CALLS < len(returned(desk, sent.session_id)) <= 300
        assert box.did == []


# Output.


async def test_a_long_result_stands_whole_in_a_blob(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The model reads its beginning and its end, and how much was left out."""
    async with workbench(tmp_path, Toolbox(), calls(("long", {"size": 1_000_000}))) as desk, working(desk):
        sent = await desk.ask()
        (result,) = returned(desk, sent.session_id).values()
        assert len(result.text.encode()) < MAX_TOOL_TEXT_BYTES + 100
        assert f"[... {1_000_000 - MAX_TOOL_TEXT_BYTES} bytes left out here ...]" in result.text
        assert result.blob is not None
        assert result.bytes == 1_000_000
        with desk.state.read() as store:
            assert read_blob(store, result.blob) == b"x" * 1_000_000


class Whole(SubHook):
    """A part whose one tool gives some bytes beside its text."""

    name = "whole"
    tools = (tool("dumps"),)

    def __init__(self, text: str, whole: bytes) -> None:
        self._outcome = Outcome(text, full_output=whole)

    async def dispatch(self, use: Invocation) -> Outcome:
        """Give them."""
        return self._outcome


async def test_no_blob_holds_a_secret(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Neither does the text."""
    part = Whole("it is sk-12345", b"\xff it is sk-12345 \xff")
    hooks = CompositeHook((part,))
    async with workbench(tmp_path, Toolbox(), calls(("dumps", {})), hooks=hooks) as desk, working(desk):
        scrubber = Scrubber(["sk-12345"])
        desk.live.scrub(scrubber)
        desk.state.store.set_scrub(scrubber.scrub_journal_line)
        sent = await desk.ask()
        (result,) = returned(desk, sent.session_id).values()
        assert result.text == "it is [scrubbed]"
        assert result.blob is not None
        with desk.state.read() as store:
            kept = read_blob(store, result.blob)
        assert kept == b"\xff it is [scrubbed] \xff"
        assert result.bytes == len(kept)


async def test_output_is_followed_while_a_tool_runs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Under the call's id; once the result is in the journal nothing is being written."""
    box = Toolbox()
    pair = calls(("look", {"text": "one", "seconds": 5.0}), ("look", {"text": "other", "seconds": 9.0}))
    async with workbench(tmp_path, box, pair) as desk, working(desk):
        heard = desk.listen()
        sent = await desk.send()
        await box.reached.wait()
        await wait_all_tasks_blocked()
        assert desk.writing() == [sent.run_id] * 2
        await desk.until(lambda: "call_1" in returned(desk, sent.session_id))
        await wait_all_tasks_blocked()
        assert desk.writing() == [sent.run_id]
        await desk.until(lambda: desk.ended(sent.run_id))
        await wait_all_tasks_blocked()
        assert desk.writing() == []
        outputs = [delta for delta in heard() if delta["kind"] == "output"]
        assert sorted((d["item_id"], d["attempt"], d["offset"], d["text"]) for d in outputs) == [
            ("call_1", 1, 0, "one begins\n"),
            ("call_1", 1, 11, "one ends\n"),
            ("call_2", 1, 0, "other begins\n"),
            ("call_2", 1, 13, "other ends\n"),
        ]


async def test_output_that_is_no_text_is_made_one(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A follower is not harmed by what a program writes."""

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


# Somebody wants the run stopped.


async def test_a_cancelled_call_has_stopped_before_the_answer(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its result says so, with the last that it wrote; calls that had not begun say that."""
    box = Toolbox()
    pair = calls(("slow", {"text": "working"}), ("note", {"text": "never"}))
    async with workbench(tmp_path, box, pair) as desk, working(desk):
        sent = await desk.send()
        await box.reached.wait()
        run = await desk.cancel(sent.run_id)
        assert (run.status, box.open) == ("cancelled", 0)
        assert {call_id: result.text for call_id, result in returned(desk, sent.session_id).items()} == {
            "call_1": f"{STOPPED} Its last output:\nworking begins\n",
            "call_2": NOT_RUN,
        }
        assert notes(tmp_path) == []
        assert (await desk.ask("go on")).status == "completed"


async def test_a_call_that_was_stopped_before_it_began_says_so(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It is journaled as called by then; nothing of it was done."""

    class Cancelling(Toolbox):
        async def evidence(self, use: Invocation) -> dict[str, Any]:
            await desk.cancel(use.context.run.run_id, follow=False)
            return {}

    box = Cancelling()
    async with workbench(tmp_path, box, calls(("note", {"text": "a"}))) as desk, working(desk):
        sent = await desk.ask()
        assert (sent.status, box.did) == ("cancelled", [])
        assert of_calls(desk, sent.session_id) == ["tool_called call_1", "tool_returned call_1"]
        assert returned(desk, sent.session_id)["call_1"].text == NOT_RUN


@pytest.mark.parametrize("ends", ["cancel", "shutdown"])
async def test_judging_can_be_stopped(tmp_path: Path, autojump_clock: MockClock, ends: str) -> None:
    """A hook that ponders for ever keeps neither a person nor the daemon waiting."""

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
                assert returned(desk, sent.session_id)["call_1"].text == NOT_RUN
        if ends == "shutdown":
            assert desk.kinds(sent.session_id)[-1] == "run_released"
            assert not desk.run(sent.run_id).claimed
            box.goes_on.set()
            async with working(desk):
                await desk.until(lambda: desk.ended(sent.run_id))
            assert notes(tmp_path) == ["a"]


async def test_what_had_ended_when_it_was_stopped_is_told_as_it_was(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A hook that takes its time over a result does not make it one that was stopped."""

    class Slow(SubHook):
        name = "slow"

        async def after_call(self, use: Invocation, outcome: Outcome) -> Outcome:
            box.reached.set()
            await trio.sleep_forever()
            return outcome

    box = Toolbox()
    hooks = CompositeHook((box, Slow()))
    renaming = calls(("renames", {"text": "A title"}))
    async with workbench(tmp_path, box, renaming, hooks=hooks) as desk, working(desk):
        sent = await desk.send()
        await box.reached.wait()
        assert (await desk.cancel(sent.run_id)).status == "cancelled"
        (result,) = returned(desk, sent.session_id).values()
        assert (result.how, result.text) == ("returned", "renamed")
        assert desk.session(sent.session_id).title == "A title"


async def test_a_run_that_waits_is_cancelled_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What was asked is withdrawn, however many wait; no more of them than one commit can take back."""
    box = Toolbox()
    many = calls(*(("careful", {"text": "x" * (900 if n < 8 else 20)}) for n in range(MAX_CALLS)))
    async with workbench(tmp_path, box, many) as desk, working(desk):
        sent = await desk.ask(metadata={"m": "m" * 12_000})
        assert sent.status == "waiting_for_approval"
        waiting = [call for call in desk.run(sent.run_id).calls if call.state == "asked"]
        assert len(waiting) == MAX_WAITING_CALLS
        assert len(returned(desk, sent.session_id)) == MAX_CALLS - MAX_WAITING_CALLS
        assert "wait for a person already" in returned(desk, sent.session_id)["call_25"].text
        assert (await desk.cancel(sent.run_id)).status == "cancelled"
        assert len(returned(desk, sent.session_id)) == MAX_CALLS
        assert desk.kinds(sent.session_id).count("approval_lapsed") == MAX_WAITING_CALLS


# The daemon stops.


async def test_an_orderly_stop_says_what_became_of_a_call(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One that may not be run twice has its result; the next daemon tells the model and goes on."""
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
        (result,) = returned(desk, sent.session_id).values()
        assert result.text == f"{STOPPED} Its last output:\nworking begins\n"
        assert desk.run(sent.run_id).status == "completed"


async def test_an_orderly_stop_leaves_what_may_be_run_again_to_the_next(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It is simply run again; newer output replaces older."""
    box = Toolbox()
    async with workbench(tmp_path, box, calls(("look", {"text": "x", "seconds": 10.0}))) as desk:
        heard = desk.listen()
        async with working(desk):
            sent = await desk.send()
            await box.reached.wait()
        assert desk.kinds(sent.session_id)[-1] == "run_released"
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        assert of_calls(desk, sent.session_id) == ["tool_called call_1"] * 2 + ["tool_returned call_1"]
        assert [delta["attempt"] for delta in heard() if delta["kind"] == "output"] == [1, 2, 2]


# The daemon dies.


async def test_a_call_that_kills_the_daemon_again_and_again_is_given_up(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The run is parked; the call, which may have taken effect, is in doubt."""
    async with workbench(tmp_path, Toolbox()) as desk:
        sent = await desk.send()
        begin = [
            lambda run: Start(),
            lambda run: BeginModelCall("itm_1"),
            lambda run: _calling(),
            allow,
            call_tools,
        ]
        await desk.order(sent.run_id, *begin)
        for _ in range(2):
            await desk.order(sent.run_id, lambda run: Start(), _not_done, call_tools)
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        run = desk.run(sent.run_id)
        assert run.error is not None
        assert (run.status, run.error.reason) == ("failed", "parked")
        assert desk.kinds(sent.session_id)[-3:] == ["indoubt_opened", "tool_returned", "run_ended"]
        assert desk.models.asked == []


async def test_judging_that_kills_the_daemon_again_and_again_is_given_up(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nothing of it is journaled before it is done; that nobody got beyond it is what counts."""
    async with workbench(tmp_path, Toolbox()) as desk:
        sent = await desk.send()
        begin = [lambda run: Start(), lambda run: BeginModelCall("itm_1"), lambda run: _calling()]
        await desk.order(sent.run_id, *begin, *[lambda run: Start()] * 3)
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        run = desk.run(sent.run_id)
        assert run.error is not None
        assert run.error.reason == "parked"
        assert returned(desk, sent.session_id)["call_1"].text == NOT_RUN


def _calling() -> Any:
    return answer(ToolCall("call_1", "note", {"text": "a"}))


def _not_done(run: Any) -> Any:
    return resolve_doubt(run, 0, "not_done")


class Recorded(Toolbox):
    """A box that is copied after every commit, with the store and what its tools wrote."""

    copies = 0

    def watch(self, desk: Desk, directory: Path) -> None:
        """From now on, copy."""
        told = desk.state.deliver

        def settle(group: Group) -> None:
            told(group)
            self.copies += 1
            desk.leave_behind(directory / f"after{self.copies}")
            copytree(directory / "work", directory / f"after{self.copies}" / "work")

        desk.state.deliver = settle  # type: ignore[method-assign]


async def test_wherever_the_daemon_dies_every_call_has_its_result_and_none_is_done_twice(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """After every single commit: the next daemon finishes the run, and what may not be done twice is not."""
    box = Recorded()
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
        desk.models.to["hello"] = batch
        sent = await desk.ask("hello")
        await desk.order(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        await wait_all_tasks_blocked()
    assert box.copies > 15
    for number in range(1, box.copies + 1):
        copy = tmp_path / f"after{number}"
        rmtree(tmp_path / "work")
        copytree(copy / "work", tmp_path / "work")
        async with workbench(copy, Toolbox()) as desk, working(desk):
            desk.models.to["hello"] = batch
            await _finished(desk, sent.run_id)
            _undamaged(desk, sent.session_id, tmp_path)


async def _finished(desk: Desk, run_id: str) -> None:
    """Wait for the end of a run, and approve what it asks for."""
    while True:
        await desk.until(lambda: desk.run(run_id).status in SETTLED)
        if desk.ended(run_id):
            return
        await desk.order(run_id, answer_approvals)


def _undamaged(desk: Desk, session_id: str, directory: Path) -> None:
    results = returned(desk, session_id)
    assert sorted(results) == [f"call_{number}" for number in range(1, 7)]
    assert desk.kinds(session_id)[-1] == "run_ended"
    assert {results[call_id].how for call_id in ("call_1", "call_2", "call_3", "call_5")} == {"returned"}
    assert results["call_6"].how == "failed"
    written = notes(directory)
    assert [written.count(line) for line in ("noted", "approved")] == [1, 1]
    assert written.count("again") in (1, 2)
    for asked in desk.models.asked:
        assert_valid(asked.messages)


# A full disk.


async def test_a_result_outlasts_a_full_disk(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is kept and saved once there is room; meanwhile nothing new begins, and nothing is done twice."""
    box = Toolbox(holds="after")
    pair = calls(("note", {"text": "a"}), ("note", {"text": "b"}))
    async with workbench(tmp_path, box, pair) as desk, working(desk):
        sent = await desk.send()
        await box.reached.wait()
        with full_disk():
            box.goes_on.set()
            await wait_all_tasks_blocked()
            assert box.did == ["note a"]
            assert returned(desk, sent.session_id) == {}
        await desk.until(lambda: desk.ended(sent.run_id))
        assert notes(tmp_path) == ["a", "b"]
        assert returned(desk, sent.session_id)["call_1"].text == "noted: a"
    assert "the disk is full" in caplog.text


async def test_a_long_result_outlasts_a_full_disk(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its blob, too."""

    class Dumps(Whole):
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
            assert returned(desk, sent.session_id) == {}
        await desk.until(lambda: desk.ended(sent.run_id))
        (result,) = returned(desk, sent.session_id).values()
        assert (result.how, result.bytes) == ("returned", 500_000)


async def test_what_ended_on_a_full_disk_is_not_said_to_have_been_stopped(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Whoever cancels meanwhile is told when there is room, and then the truth."""
    box = Toolbox(holds="after")
    async with workbench(tmp_path, box, calls(("note", {"text": "a"}))) as desk, working(desk):
        sent = await desk.send()
        await box.reached.wait()
        with full_disk():
            box.goes_on.set()
            await wait_all_tasks_blocked()
        # There is room now, but the next try is only due in a second: the wish comes first.
        assert returned(desk, sent.session_id) == {}
        assert (await desk.cancel(sent.run_id)).status == "cancelled"
        (result,) = returned(desk, sent.session_id).values()
        assert (result.how, result.text) == ("returned", "noted: a")


async def test_a_full_disk_does_not_keep_the_daemon_from_stopping(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be saved is in doubt at the next start, where the probe finds it."""
    box = Toolbox(holds="after")
    async with workbench(tmp_path, box, calls(("note", {"text": "a"}))) as desk:
        with ExitStack() as disk:
            async with working(desk):
                sent = await desk.send()
                await box.reached.wait()
                disk.enter_context(full_disk())
                box.goes_on.set()
                await wait_all_tasks_blocked()
        assert returned(desk, sent.session_id) == {}
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        (result,) = returned(desk, sent.session_id).values()
        assert (result.how, notes(tmp_path)) == ("returned", ["a"])
    assert "could not be released" in caplog.text


# A person is asked.


async def test_an_approved_call_runs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The run waits without a task, and is taken up when the person has answered."""
    box = Toolbox()
    async with workbench(tmp_path, box, calls(("careful", {"text": "a"}))) as desk, working(desk) as worker:
        sent = await desk.ask()
        await wait_all_tasks_blocked()
        assert (sent.status, worker.active, box.did) == ("waiting_for_approval", 0, [])
        await desk.order(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        assert notes(tmp_path) == ["a"]


async def test_a_changed_input_is_what_is_done_and_the_model_is_told(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It would else believe that what it wrote was done."""
    async with workbench(tmp_path, Toolbox(), calls(("careful", {"text": "a"}))) as desk, working(desk):
        sent = await desk.ask()
        await desk.order(sent.run_id, lambda run: answer_approvals(run, updated_input={"text": "b"}))
        await desk.until(lambda: desk.ended(sent.run_id))
        assert notes(tmp_path) == ["b"]
        (result,) = returned(desk, sent.session_id).values()
        assert result.text == 'The person who approved this changed its input to {"text":"b"}\nnoted: b'


def approvals(desk: Desk, session_id: str) -> list[ApprovalRequested]:
    """What was asked."""
    return [event for _, event in desk.journal(session_id) if isinstance(event, ApprovalRequested)]


async def test_what_changed_since_it_was_shown_is_asked_about_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The approval held for what was there then."""
    async with workbench(tmp_path, Toolbox(), calls(("careful", {"text": "a"}))) as desk, working(desk):
        sent = await desk.ask()
        (tmp_path / "work" / NOTES).write_text("of somebody else\n")
        await desk.order(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.run(sent.run_id).status in SETTLED)
        first, second = approvals(desk, sent.session_id)
        assert second.note == "what was approved has changed since: look again"
        assert first.preview is not None
        assert second.preview is not None
        assert first.preview.binding != second.preview.binding
        await desk.order(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        assert notes(tmp_path) == ["of somebody else", "a"]


async def test_what_changed_at_the_last_moment_is_asked_about_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Others that run beside it go on; the run waits when they are done."""
    box = Toolbox()
    pair = calls(("stale", {"text": "a"}), ("look", {"text": "b", "seconds": 10.0}))
    async with workbench(tmp_path, box, pair) as desk, working(desk):
        sent = await desk.ask()
        await desk.order(sent.run_id, answer_approvals)
        await desk.until(lambda: len(approvals(desk, sent.session_id)) == 2)
        await wait_all_tasks_blocked()
        assert desk.run(sent.run_id).status == "running"
        await desk.until(lambda: desk.run(sent.run_id).status in SETTLED)
        assert returned(desk, sent.session_id)["call_2"].text == "seen: b"
        await desk.order(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        assert notes(tmp_path) == ["a"]


@pytest.mark.parametrize("tool_name", ["careful", "note"])
async def test_what_is_denied_meanwhile_does_not_run(
    tmp_path: Path, autojump_clock: MockClock, tool_name: str
) -> None:
    """Neither what a person approved, nor what was allowed and waited beside it."""
    box = Toolbox()
    pair = calls(("careful", {"text": "a"}), ("note", {"text": "b"}))
    async with workbench(tmp_path, box, pair) as desk, working(desk):
        sent = await desk.ask()
        rule = Rule(tool=tool_name, decision="deny", note="closed for today")
        await desk.do(permission.update, PermissionUpdate(add=[rule]))
        await desk.order(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        denied = next(r for r in returned(desk, sent.session_id).values() if r.tool == tool_name)
        assert (denied.how, denied.text) == ("denied", "This is no longer allowed: closed for today")
        assert len(notes(tmp_path)) == 1


async def allowed_beside_a_question(desk: Desk) -> SendResult:
    """A run that waits for an answer, with a call beside of which only its mode says that it may run."""
    made = await desk.do(session.create, SessionCreate(permission_mode="bypassPermissions"))
    sent: SendResult = await desk.do(send_to_session, SessionSend(session_id=made.session_id, content="go"))
    await desk.until(lambda: desk.run(sent.run_id).status in SETTLED)
    assert desk.run(sent.run_id).status == "waiting_for_user_question"
    return sent


@pytest.mark.parametrize("mode", ["default", "dontAsk"])
async def test_what_a_wider_mode_allowed_is_judged_by_a_narrower_one(
    tmp_path: Path, autojump_clock: MockClock, mode: PermissionMode
) -> None:
    """Nobody was asked, as the mode was wide; now a person is, or it is denied where nobody is to be."""
    box = Toolbox(opinions={"note": NeedsAnswer([Question(question="Which?", key="which")])})
    pair = calls(("careful", {"text": "a"}), ("note", {"text": "b"}))
    async with workbench(tmp_path, box, pair) as desk, working(desk):
        sent = await allowed_beside_a_question(desk)
        await desk.do(session.update, SessionUpdate(session_id=sent.session_id, permission_mode=mode))
        await desk.order(sent.run_id, lambda run: answer_question(run.calls[1]))
        await desk.until(lambda: desk.run(sent.run_id).status in SETTLED)
        assert notes(tmp_path) == []
        if mode == "dontAsk":
            assert returned(desk, sent.session_id)["call_1"].how == "denied"
            return
        (asked,) = approvals(desk, sent.session_id)
        assert asked.note == "this was allowed before, and now a person is to be asked: careful's default"
        assert asked.preview is not None
        await desk.order(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        assert notes(tmp_path) == ["a"]


async def test_what_a_person_approved_is_not_asked_about_again_by_a_narrower_mode(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nor denied where nobody is to be asked: somebody was."""
    async with workbench(tmp_path, Toolbox(), calls(("careful", {"text": "a"}))) as desk, working(desk):
        sent = await desk.ask()
        await desk.do(session.update, SessionUpdate(session_id=sent.session_id, permission_mode="dontAsk"))
        await desk.order(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        assert notes(tmp_path) == ["a"]


async def test_a_tool_that_is_gone_after_a_wait_says_so(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Over a restart, or a reload: the model is told, and the run goes on."""
    box = Toolbox()
    async with workbench(tmp_path, box, calls(("careful", {"text": "a"}))) as desk, working(desk):
        sent = await desk.ask()
        box.lost.add("careful")
        await desk.order(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        (result,) = returned(desk, sent.session_id).values()
        assert (result.how, result.text) == ("failed", "The tool 'careful' is gone.")


async def narrowed(desk: Desk, session_id: str, tools: list[str]) -> None:
    """The tools that a session may use at most are fewer from here on."""
    await desk.do(session.update, SessionUpdate(session_id=session_id, scope=CapabilityScope(tools=tools)))


async def test_a_tool_that_left_the_scope_does_not_run(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Whatever a person approved before, and whatever the run pinned."""
    box = Toolbox()
    pair = calls(("careful", {"text": "a"}), ("note", {"text": "b"}))
    async with workbench(tmp_path, box, pair) as desk, working(desk):
        sent = await desk.ask()
        await narrowed(desk, sent.session_id, ["note"])
        await desk.order(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        result = returned(desk, sent.session_id)["call_1"]
        assert (result.how, result.text) == ("failed", "The tool 'careful' is no longer allowed here.")
        assert notes(tmp_path) == ["b"]


async def test_a_tool_that_left_the_scope_of_a_parent_is_not_offered(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A child's run that was accepted before goes by what its parents allow when its calls are judged."""
    box = Toolbox()
    async with workbench(tmp_path, box, calls(("note", {"text": "a"}))) as desk:
        parent = await desk.do(session.create, SessionCreate(session_id="above"))
        child = await desk.do(session.create, SessionCreate(parent_session_id=parent.session_id))
        sent = await desk.do(send_to_session, SessionSend(session_id=child.session_id, content="go"))
        await narrowed(desk, parent.session_id, ["look"])
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        (result,) = returned(desk, sent.session_id).values()
        assert result.text == "There is no tool called 'note' here. Those there are: look."
        assert notes(tmp_path) == []


async def test_a_run_goes_on_under_the_runtime_there_is_after_its_wait(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its tools are those of the present one; arguments that fit no longer are refused."""
    async with workbench(tmp_path, Toolbox(), calls(("careful", {"text": "a"}))) as desk, working(desk):
        sent = await desk.ask()
        present = desk.holder.current()
        changed = Toolbox(tools=(tool("careful", default="ask", schema={"required": ["line"]}),))
        desk.holder.replace(
            make_runtime(
                2, models=present.models, hooks=CompositeHook((changed,)), workspaces=present.workspaces
            )
        )
        await desk.order(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        (result,) = returned(desk, sent.session_id).values()
        assert "these arguments do not fit careful" in result.text
        assert desk.retired == [1]


async def test_a_person_may_answer_while_the_rest_of_a_batch_is_judged(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nothing runs before all of it is judged."""

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
        await desk.order(sent.run_id, answer_approvals)
        await wait_all_tasks_blocked()
        assert box.did == []
        box.goes_on.set()
        await desk.until(lambda: desk.run(sent.run_id).status in SETTLED)
        assert desk.run(sent.run_id).status == "waiting_for_approval"
        await desk.order(sent.run_id, answer_approvals)
        await desk.until(lambda: desk.ended(sent.run_id))
        assert len(box.did) == 17


async def test_a_question_is_asked_and_never_dispatched(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its answer is its result; two of a message are asked, a third is told to be part of them."""
    question = NeedsAnswer([Question(question="Which?", key="which")], expires_after_ms=60_000)
    box = Toolbox(opinions={"note": question})
    async with workbench(tmp_path, box, calls(*[("note", {"text": "a"})] * 3)) as desk, working(desk):
        sent = await desk.ask()
        assert sent.status == "waiting_for_user_question"
        asked = [event for _, event in desk.journal(sent.session_id) if isinstance(event, QuestionAsked)]
        assert [each.call_id for each in asked] == ["call_1", "call_2"]
        assert asked[0].expires_at_ms == desk.state.now_ms() + 60_000
        assert "ask all in one call" in returned(desk, sent.session_id)["call_3"].text
        for place in (0, 1):
            await desk.order(sent.run_id, lambda run, place=place: answer_question(run.calls[place]))  # type: ignore[misc]
        await desk.until(lambda: desk.ended(sent.run_id))
        assert box.did == []


async def test_who_fails_before_a_call_keeps_it_from_running(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A hook's no is a denial, with its reason."""
    box = Toolbox(opinions={"note": Deny("not on a Sunday")})
    async with workbench(tmp_path, box, calls(("note", {"text": "a"}))) as desk, working(desk):
        sent = await desk.ask()
        (result,) = returned(desk, sent.session_id).values()
        assert (result.how, result.text) == ("denied", "This was not allowed: not on a Sunday")


# Limits of tools.


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
