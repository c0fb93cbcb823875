"""Several parts behind one face: their order, whose opinion counts, and what goes wrong inside one."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kheishd.hooks.composite import FAILED, MAX_PROBE_SECONDS, CompositeHook
from kheishd.kernel.hook import (
    Deny,
    Invocation,
    NeedsAnswer,
    NeedsApproval,
    Opinion,
    Outcome,
    ProbeResult,
    RunContext,
    Stale,
    SubHook,
    Tool,
    ToolError,
)
from protocol.limits.call import MAX_TOOL_BYTES
from protocol.objects.approval import Preview
from protocol.objects.question import Question
from tests.support.toolbox import Toolbox, place, tool, use_of


class Thinking(SubHook):
    """A part without tools that thinks something of every call, and says something after it."""

    def __init__(self, name: str, opinion: Opinion | Exception | None = None, says: str = "") -> None:
        self.name = name
        self._opinion = opinion
        self._says = says

    def sections(self, place: RunContext) -> Sequence[str]:
        """Its name."""
        return [self.name]

    async def before_call(self, use: Invocation) -> Opinion | None:
        """What it thinks."""
        if isinstance(self._opinion, Exception):
            raise self._opinion
        return self._opinion

    async def after_call(self, use: Invocation, outcome: Outcome) -> Outcome:
        """The outcome, and what it says."""
        if isinstance(self._opinion, Exception):
            raise self._opinion
        return Outcome(outcome.text + self._says, outcome.is_error)


class Broken(SubHook):
    """A part in which everything goes wrong."""

    name = "broken"
    tools = (tool("breaks"),)

    def offer(self, place: RunContext) -> Sequence[Tool]:
        """Errors: KeyError."""
        raise KeyError("offered")

    def sections(self, place: RunContext) -> Sequence[str]:
        """Errors: KeyError."""
        raise KeyError("sections")

    def subject(self, use: Invocation) -> str:
        """Errors: KeyError."""
        raise KeyError("subject")

    async def preview(self, use: Invocation) -> Preview | None:
        """Errors: KeyError."""
        raise KeyError("preview")

    async def evidence(self, use: Invocation) -> dict[str, Any]:
        """Errors: KeyError."""
        raise KeyError("evidence")

    async def dispatch(self, use: Invocation) -> Outcome:
        """Errors: KeyError."""
        raise KeyError("dispatch")

    async def probe(self, use: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """Errors: KeyError."""
        raise KeyError("probe")


class Doing(SubHook):
    """A part whose one tool does what it is given."""

    name = "doing"
    tools = (tool("does", timeout_s=2.0),)

    def __init__(self, does: Any) -> None:
        self._does = does

    async def dispatch(self, use: Invocation) -> Outcome:
        """Do it."""
        return Outcome(await self._does() or "done")

    async def probe(self, use: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """Do it."""
        await self._does()
        return ProbeResult("done", "it was done")


# What is offered.


def test_tools_and_sections_come_in_the_order_of_their_parts() -> None:
    """A part without tools has its say, too."""
    hooks = CompositeHook([Thinking("first"), Toolbox(tools=(tool("b"), tool("a"))), Doing(None)])
    assert [each.name for each in hooks.offer(place())] == ["b", "a", "does"]
    assert hooks.sections(place("/srv")) == ["first", "Notes are kept in /srv."]
    assert hooks.find_tool("does") is Doing.tools[0]
    assert hooks.find_tool("gone") is None


def test_a_scope_leaves_tools_out() -> None:
    """Null is everything, empty is nothing; what explains tools that are not there is left out with them."""
    hooks = CompositeHook([Thinking("first"), Toolbox(), Doing(None)])
    within = place(tools=["does", "look", "gone"])
    assert [each.name for each in hooks.offer(within)] == ["look", "does"]
    assert hooks.offer(place(tools=[])) == []
    assert hooks.sections(place(tools=["does"])) == ["first"]
    assert hooks.sections(place(tools=[])) == ["first"]


def test_a_scope_that_was_narrowed_since_leaves_tools_out() -> None:
    """A run has no tool that its session, or one above it, does not allow any more, whatever it pinned."""
    hooks = CompositeHook([Thinking("first"), Toolbox(), Doing(None)])
    narrowed = replace(place(tools=["does", "look"]), tools=["look", "note"])
    assert [each.name for each in hooks.offer(narrowed)] == ["look"]
    assert hooks.offer(replace(place(), tools=[])) == []


def test_a_part_offers_its_own_tools_only() -> None:
    """One that offers what is not its own would have it dispatched to another part."""
    stray = Toolbox(tools=(tool("mine"),))
    stray.offer = lambda place: [tool("mine"), tool("does"), tool("new")]  # type: ignore[method-assign]
    assert [each.name for each in CompositeHook([stray, Doing(None)]).offer(place())] == ["mine", "does"]


def test_two_tools_of_one_name_are_a_fault() -> None:
    """Whoever puts parts together is told which."""
    with pytest.raises(ValueError, match="both toolbox and doing have a tool called does"):
        CompositeHook([Toolbox(tools=(tool("does"),)), Doing(None)])


@pytest.mark.parametrize("name", ["", "a.b", "a b", "ä", "../a", "a" * (MAX_TOOL_BYTES + 1), "a\n"])
def test_a_name_that_no_provider_takes_is_a_fault(name: str) -> None:
    """One such name would have every request of every agent refused."""
    with pytest.raises(ValueError, match="no provider accepts"):
        CompositeHook([Toolbox(tools=(tool(name),))])


# Opinions.

ASKS = NeedsAnswer([Question(question="Which?", key="which")])


@pytest.mark.parametrize(
    ("opinions", "counts"),
    [
        ([None, None], None),
        ([NeedsApproval("a"), None, NeedsApproval("b")], NeedsApproval("a")),
        ([NeedsApproval("a"), ASKS], ASKS),
        ([NeedsApproval("a"), ASKS, Deny("no"), Deny("never")], Deny("no")),
        ([NeedsApproval("a"), ValueError("x")], Deny("the hook 'part1' failed, so this was not run")),
    ],
)
async def test_one_opinion_counts(opinions: list[Any], counts: Opinion | None) -> None:
    """No before a question, a question before an approval; of two alike the first; a failure is a no."""
    parts = [Thinking(f"part{number}", opinion) for number, opinion in enumerate(opinions)]
    assert await CompositeHook([*parts, Toolbox()]).before_call(use_of(tool("note"))) == counts


async def test_what_is_said_after_a_call_is_said_in_order(caplog: pytest.LogCaptureFixture) -> None:
    """Each part amends what the one before left; one that fails leaves it as it was."""
    parts = [Thinking("a", says=" a"), Thinking("b", ValueError("x")), Thinking("c", says=" c")]
    outcome = await CompositeHook([*parts, Toolbox()]).after_call(use_of(tool("note")), Outcome("done"))
    assert outcome == Outcome("done a c")
    assert [record.__dict__["part"] for record in caplog.records] == ["b"]


# Dispatching.


async def test_a_call_goes_to_the_part_that_offers_its_tool() -> None:
    """And to no other."""

    async def done() -> str:
        return "by the right one"

    hooks = CompositeHook([Toolbox(), Doing(done)])
    assert await hooks.dispatch(use_of(Doing.tools[0])) == Outcome("by the right one")


async def test_a_call_has_its_time_and_no_more(autojump_clock: MockClock) -> None:
    """It is stopped, and the model is told after how long."""
    outcome = await CompositeHook([Doing(trio.sleep_forever)]).dispatch(use_of(Doing.tools[0]))
    assert outcome == Outcome("This took longer than 2 s and was stopped.", is_error=True)
    assert trio.current_time() == pytest.approx(2.0)


async def test_a_tools_own_patience_is_its_own_affair(caplog: pytest.LogCaptureFixture) -> None:
    """A timeout inside of it is a fault like any other, not the tool's time."""

    async def impatient() -> None:
        raise trio.TooSlowError

    outcome = await CompositeHook([Doing(impatient)]).dispatch(use_of(Doing.tools[0]))
    assert outcome == Outcome(FAILED, is_error=True)
    assert "TooSlowError" in caplog.text


async def test_a_tools_no_is_what_the_model_reads() -> None:
    """Out of a nursery, too."""
    outcome = await CompositeHook([Toolbox()]).dispatch(use_of(tool("refuses")))
    assert outcome == Outcome("this tool does nothing; say something else", is_error=True)


async def test_a_fault_is_for_the_log_and_not_for_the_model(caplog: pytest.LogCaptureFixture) -> None:
    """The model learns that there was one."""
    outcome = await CompositeHook([Toolbox()]).dispatch(use_of(tool("raises")))
    assert outcome == Outcome(FAILED, is_error=True)
    assert "nobody's business" in caplog.text


async def test_what_went_stale_is_for_the_worker() -> None:
    """It asks the person again; out of a nursery, too."""

    async def stale() -> None:
        async with trio.open_nursery():
            raise Stale

    with pytest.raises(Stale):
        await CompositeHook([Doing(stale)]).dispatch(use_of(Doing.tools[0]))


async def test_what_is_no_text_is_made_one() -> None:
    """Names of files need not be UTF-8, and what cannot be said cannot be journaled."""

    async def lists() -> str:
        return "caf\udce9.txt é"

    outcome = await CompositeHook([Doing(lists)]).dispatch(use_of(Doing.tools[0]))
    assert outcome.text == "caf?.txt é"


# A part in which everything goes wrong.


async def test_a_broken_part_harms_its_own_calls_only(caplog: pytest.LogCaptureFixture) -> None:
    """Others are offered what they were; what it cannot say about its calls keeps them from being run."""
    hooks = CompositeHook([Broken(), Doing(None)])
    assert [each.name for each in hooks.offer(place())] == ["does"]
    assert hooks.sections(place()) == []
    use = use_of(Broken.tools[0])
    with pytest.raises(ToolError, match="the daemon's log"):
        hooks.subject(use)
    with pytest.raises(ToolError, match="the daemon's log"):
        await hooks.preview(use)
    assert await hooks.evidence(use) == {}
    assert await hooks.dispatch(use) == Outcome(FAILED, is_error=True)
    assert (await hooks.probe(use, {})).outcome == "unknown"
    assert all(record.levelno >= logging.WARNING for record in caplog.records)
    assert caplog.text.count("KeyError") >= 6


async def test_a_tool_that_says_no_in_advance(tmp_path: Any) -> None:
    """Nobody is asked about what cannot be done; what it notes is then nothing."""
    hooks = CompositeHook([Toolbox()])
    use = use_of(tool("careful"), place(str(tmp_path)), text="impossible")
    with pytest.raises(ToolError, match="this cannot be noted"):
        await hooks.preview(use)


# After a crash.


async def test_a_probe_has_its_time_and_no_more(autojump_clock: MockClock) -> None:
    """Whoever wants the run stopped waits for it; nothing is known then."""
    chosen = tool("does", timeout_s=3_600.0)
    hooks = CompositeHook([Doing(trio.sleep_forever)])
    assert (await hooks.probe(use_of(chosen), {})).outcome == "unknown"
    assert trio.current_time() == pytest.approx(MAX_PROBE_SECONDS)


async def test_what_a_probe_finds_is_what_is_found() -> None:
    """Its part knows."""

    async def nothing() -> None:
        return None

    hooks = CompositeHook([Doing(nothing)])
    assert await hooks.probe(use_of(Doing.tools[0]), {}) == ProbeResult("done", "it was done")
