"""The calls during which a daemon died: run again, found done, or in doubt."""

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kheishd.core.run.calls import IN_DOUBT
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.hook import Invocation, Outcome, ProbeResult, SubHook, Tool
from kheishd.kernel.runtime import ModelEvent, ModelRequest
from protocol.contract import Requirement
from protocol.events.call import CallProbed, ToolCalled, ToolReturned
from protocol.events.indoubt import IndoubtOpened, IndoubtResolved
from protocol.transcript import ToolCall, ToolResult
from tests.support.desk import Desk, Scripted, gives, open_desk, says, working
from tests.support.toolbox import NOTES, Toolbox, calls, tool, workbench

Answer = Callable[[ModelRequest], AsyncIterator[ModelEvent]]


def results_by_call(desk: Desk, session_id: str) -> dict[str, ToolReturned]:
    """Return the results in a session by call id; each call has one."""
    events = [event for _, event in desk.journal(session_id) if isinstance(event, ToolReturned)]
    assert len({event.call_id for event in events}) == len(events)
    return {event.call_id: event for event in events}


def notes(directory: Path) -> list[str]:
    """Return the lines that tools have written."""
    path = directory / "work" / NOTES
    return path.read_text().splitlines() if path.exists() else []


async def crash(
    tmp_path: Path, box: Toolbox, *parts: Answer, until: trio.Event | None = None
) -> tuple[str, str]:
    """Let a daemon die in a call; return the session and the run, which are left in ``after``."""
    async with workbench(tmp_path, box, *parts) as desk, working(desk):
        sent = await desk.send()
        await (until or box.reached).wait()
        desk.copy_store(tmp_path / "after")
        (tmp_path / "after" / "work").symlink_to(tmp_path / "work")
    return sent.session_id, sent.run_id


async def test_a_repeatable_call_is_run_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A repeatable call is run again without a probe, and the model does not notice."""
    session_id, run_id = await crash(tmp_path, Toolbox(holds="before"), calls(("again", {"text": "a"})))
    async with workbench(tmp_path / "after", Toolbox()) as desk, working(desk):
        await desk.until(lambda: desk.ended(run_id))
        assert notes(tmp_path) == ["a"]
        assert [e.attempt for _, e in desk.journal(session_id) if isinstance(e, ToolCalled)] == [1, 2]
        assert desk.models.requests[-1].messages[-1].items == [ToolResult("call_1", "again", "noted: a")]


async def test_a_call_that_took_effect_is_not_run_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The probe resolves the doubt at once, and the model is told its note."""
    session_id, run_id = await crash(tmp_path, Toolbox(holds="after"), calls(("note", {"text": "a"})))
    async with workbench(tmp_path / "after", Toolbox()) as desk, working(desk):
        await desk.until(lambda: desk.ended(run_id))
        assert notes(tmp_path) == ["a"]
        assert desk.kinds(session_id)[-6:-3] == ["indoubt_opened", "indoubt_resolved", "tool_returned"]
        (doubted,) = (e for _, e in desk.journal(session_id) if isinstance(e, IndoubtOpened))
        assert doubted.evidence == {"size": 0, "noting": "a", "found": "a\n"}
        (settled,) = (e for _, e in desk.journal(session_id) if isinstance(e, IndoubtResolved))
        assert (settled.outcome, settled.indoubt_id) == ("done", doubted.indoubt_id)
        (result,) = results_by_call(desk, session_id).values()
        assert (result.how, result.is_error) == ("returned", False)
        assert "took effect all the same: the line is there." in result.text


class Scribe(SubHook):
    """A sub-hook whose tool writes a file and never returns."""

    name = "scribe"
    tools = (
        Tool("scribble", "Write.", {"type": "object"}, "edit", writes=lambda arguments: [arguments["path"]]),
    )

    def __init__(self, finding: ProbeResult) -> None:
        self.finding = finding
        self.reached = trio.Event()

    async def dispatch(self, use: Invocation) -> Outcome:
        """Write, and never return."""
        self.reached.set()
        await trio.sleep_forever()
        raise AssertionError

    async def probe(self, use: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """Return the finding that the test set."""
        return self.finding


@pytest.mark.parametrize(("outcome", "met"), [("done", [0]), ("unknown", [])])
async def test_a_call_that_took_effect_satisfies_a_requirement(
    tmp_path: Path, autojump_clock: MockClock, outcome: Any, met: list[int]
) -> None:
    """A required file counts as written if the probe finds it; else the run is reminded."""
    scribe = Scribe(ProbeResult(outcome, "it was looked for"))
    hooks = CompositeHook((scribe,))
    requirements = [Requirement(type="workspace_file", path="a.md")]
    write = ToolCall("call_1", "scribble", {"path": "a.md"})
    async with open_desk(tmp_path, Scripted([lambda r: gives(write)]), hooks=hooks) as desk, working(desk):
        sent = await desk.send(completion_requirements=requirements)
        await scribe.reached.wait()
        desk.copy_store(tmp_path / "after")
    models = Scripted([lambda r: says("done")])
    async with open_desk(tmp_path / "after", models, hooks=hooks) as desk, working(desk):
        await desk.until(lambda: desk.ended(sent.run_id))
        run = desk.run(sent.run_id)
        assert (run.met_requirements, run.status) == (met, "completed" if met else "failed")
        assert run.reminders == (0 if met else 2)


async def test_a_call_that_took_no_effect_is_run(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The finding is journaled, and the call is run."""
    session_id, run_id = await crash(tmp_path, Toolbox(holds="before"), calls(("note", {"text": "a"})))
    async with workbench(tmp_path / "after", Toolbox()) as desk, working(desk):
        await desk.until(lambda: desk.ended(run_id))
        assert notes(tmp_path) == ["a"]
        (probed,) = (e for _, e in desk.journal(session_id) if isinstance(e, CallProbed))
        assert probed.note == "no line is there"
        assert [e.attempt for _, e in desk.journal(session_id) if isinstance(e, ToolCalled)] == [1, 2]


async def test_a_call_with_an_unknown_outcome_is_in_doubt(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The call is not run again, an item holds the evidence, and the model is told."""
    session_id, run_id = await crash(tmp_path, Toolbox(holds="before"), calls(("note", {"text": "a"})))
    (tmp_path / "work" / NOTES).write_text("of somebody else\n")
    async with workbench(tmp_path / "after", Toolbox()) as desk, working(desk):
        await desk.until(lambda: desk.ended(run_id))
        assert notes(tmp_path) == ["of somebody else"]
        (doubted,) = (e for _, e in desk.journal(session_id) if isinstance(e, IndoubtOpened))
        assert (doubted.tool, doubted.index, doubted.note) == ("note", 0, "other lines are there")
        assert doubted.evidence == {"size": 0, "noting": "a"}
        assert doubted.called_at_ms > 0
        (result,) = results_by_call(desk, session_id).values()
        assert (result.how, result.text) == (
            "in_doubt",
            f"{IN_DOUBT} What is known: other lines are there.",
        )
        assert desk.run(run_id).status == "completed"


async def test_a_call_whose_tool_is_gone_is_in_doubt(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A call without a probe is in doubt; its evidence is kept for an operator."""
    session_id, run_id = await crash(tmp_path, Toolbox(holds="before"), calls(("note", {"text": "a"})))
    async with workbench(tmp_path / "after", Toolbox(tools=())) as desk, working(desk):
        await desk.until(lambda: desk.ended(run_id))
        (doubted,) = (e for _, e in desk.journal(session_id) if isinstance(e, IndoubtOpened))
        assert (doubted.note, doubted.evidence) == ("the tool is gone", {"size": 0, "noting": "a"})


async def test_a_call_with_outdated_arguments_is_in_doubt(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A call is in doubt if its tool has changed so that the arguments do not fit."""
    session_id, run_id = await crash(tmp_path, Toolbox(holds="before"), calls(("note", {"text": "a"})))
    changed = tool("note", schema={"type": "object", "required": ["line"]})
    async with workbench(tmp_path / "after", Toolbox(tools=(changed,))) as desk, working(desk):
        await desk.until(lambda: desk.ended(run_id))
        (doubted,) = (e for _, e in desk.journal(session_id) if isinstance(e, IndoubtOpened))
        assert doubted.note == "its arguments no longer fit the tool"


async def test_each_call_of_a_batch_is_probed_by_itself(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A call that had returned stays returned, and the others are probed one by one."""
    box = Toolbox(
        tools=(tool("note", parallel=True), tool("again", parallel=True, repeatable=True)), holds="after"
    )
    batch = calls(("note", {"text": "a"}), ("again", {"text": "b"}))
    session_id, run_id = await crash(tmp_path, box, batch)
    box_after = Toolbox(tools=box.tools)
    async with workbench(tmp_path / "after", box_after) as desk, working(desk):
        await desk.until(lambda: desk.ended(run_id))
        assert box_after.did == ["again b"]
        assert set(results_by_call(desk, session_id)) == {"call_1", "call_2"}


async def test_a_cancelled_run_is_probed_before_it_ends(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A run that was being cancelled when the daemon died ends with the true results of its calls."""
    box = Toolbox(holds="after")
    async with workbench(tmp_path, box, calls(("note", {"text": "a"}))) as desk:
        async with working(desk):
            sent = await desk.send()
            await box.reached.wait()
            desk.copy_store(tmp_path / "after")
        (tmp_path / "after" / "work").symlink_to(tmp_path / "work")
    async with workbench(tmp_path / "after", Toolbox()) as desk:
        await desk.cancel(sent.run_id, follow=False)
        async with working(desk):
            await desk.until(lambda: desk.ended(sent.run_id))
        (result,) = results_by_call(desk, sent.session_id).values()
        assert (result.how, desk.run(sent.run_id).status) == ("returned", "cancelled")


async def test_evidence_is_found_among_long_events(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Only the evidence of the call itself counts, whatever else the journal holds."""
    box = Toolbox(holds="after")
    async with workbench(tmp_path, box, calls(("note", {"text": "a"}))) as desk, working(desk):
        sent = await desk.send()
        await box.reached.wait()
        for number in range(20):
            await desk.send(f'"type":"tool_called" {number} ' + "x" * 50_000)
        desk.copy_store(tmp_path / "after")
        (tmp_path / "after" / "work").symlink_to(tmp_path / "work")
    async with workbench(tmp_path / "after", Toolbox()) as desk, working(desk):
        await desk.until(lambda: desk.ended(sent.run_id))
        (doubted,) = (e for _, e in desk.journal(sent.session_id) if isinstance(e, IndoubtOpened))
        assert doubted.evidence == {"size": 0, "noting": "a", "found": "a\n"}
