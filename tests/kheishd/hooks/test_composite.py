"""Sub-hooks behind one interface: their order, their opinions, their failures, and tools that come and go."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from kheishd.core.scope import Bounds
from kheishd.hooks import composite
from kheishd.hooks.composite import FAILED, MAX_PROBE_SECONDS, CompositeHook
from kheishd.kernel.hook import (
    Deny,
    HookPrompt,
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
from protocol.objects.session import CapabilityScope
from tests.support.toolbox import Toolbox, call_of, run_context, tool


class Commentator(SubHook):
    """A sub-hook without tools that has an opinion about every call, and adds a comment to its result."""

    def __init__(self, name: str, opinion: Opinion | Exception | None = None, comment: str = "") -> None:
        self.name = name
        self._opinion = opinion
        self._comment = comment

    def sections(self, context: RunContext) -> Sequence[str]:
        """Return its name."""
        return [self.name]

    def situation(self, context: RunContext) -> Sequence[str]:
        """Return its name in a sentence, which cannot be encoded."""
        return [f"It is {self.name}\udce9."]

    async def before_call(self, call: Invocation) -> Opinion | None:
        """Return its opinion, or raise it."""
        if isinstance(self._opinion, Exception):
            raise self._opinion
        return self._opinion

    async def after_call(self, call: Invocation, outcome: Outcome) -> Outcome:
        """Add its comment, or raise its opinion."""
        if isinstance(self._opinion, Exception):
            raise self._opinion
        return Outcome(outcome.text + self._comment, outcome.is_error)


class Broken(SubHook):
    """A sub-hook in which everything fails."""

    name = "broken"
    tools = (tool("breaks"),)

    def offer(self, context: RunContext) -> Sequence[Tool]:
        """Raise KeyError."""
        raise KeyError("offer")

    def sections(self, context: RunContext) -> Sequence[str]:
        """Raise KeyError."""
        raise KeyError("sections")

    def situation(self, context: RunContext) -> Sequence[str]:
        """Raise KeyError."""
        raise KeyError("situation")

    def subject(self, call: Invocation) -> str:
        """Raise KeyError."""
        raise KeyError("subject")

    async def preview(self, call: Invocation) -> Preview | None:
        """Raise KeyError."""
        raise KeyError("preview")

    async def evidence(self, call: Invocation) -> dict[str, Any]:
        """Raise KeyError."""
        raise KeyError("evidence")

    async def dispatch(self, call: Invocation) -> Outcome:
        """Raise KeyError."""
        raise KeyError("dispatch")

    async def probe(self, call: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """Raise KeyError."""
        raise KeyError("probe")


class Doing(SubHook):
    """A sub-hook whose one tool runs a function."""

    name = "doing"
    tools = (tool("does", timeout_s=2.0),)

    def __init__(self, function: Any) -> None:
        self._function = function

    async def dispatch(self, call: Invocation) -> Outcome:
        """Run it."""
        return Outcome(await self._function() or "done")

    async def probe(self, call: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """Run it."""
        await self._function()
        return ProbeResult("done", "it was done")


class Server(SubHook):
    """A sub-hook whose tools appear and disappear, as those of an MCP server do."""

    def __init__(self, name: str, *rows: Tool) -> None:
        self.name = name
        self.rows = list(rows)
        self.calls: list[str] = []

    @property
    def tools(self) -> Sequence[Tool]:
        """The tools that the server has now; KeyError while it cannot be reached."""
        if self.rows == [None]:
            raise KeyError("gone")
        return self.rows

    def subject(self, call: Invocation) -> str:
        """Return the server's name."""
        return self.name

    async def dispatch(self, call: Invocation) -> Outcome:
        """Record the call."""
        self.calls.append(call.tool.name)
        return Outcome(f"{self.name} ran {call.tool.name}")

    async def probe(self, call: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """Return that it ran."""
        return ProbeResult("done", f"{self.name} says so")


def names(hooks: CompositeHook, context: RunContext | None = None) -> list[str]:
    """Return the names of the offered tools."""
    return [row.name for row in hooks.offer(context or run_context())]


# Offered tools.


def test_tools_and_sections_come_in_the_order_of_their_parts() -> None:
    """Tools and sections come in the order of the sub-hooks, with or without tools."""
    hooks = CompositeHook([Commentator("first"), Toolbox(tools=(tool("b"), tool("a"))), Doing(None)])
    assert [item.name for item in hooks.offer(run_context())] == ["b", "a", "does"]
    prompt = hooks.prompt(run_context("/srv"))
    assert prompt.tools == hooks.offer(run_context("/srv"))
    assert prompt.sections == ["first", "Notes are kept in /srv."]
    assert prompt.situation == ["It is first\ufffd."]
    assert hooks.find_tool("does") is Doing.tools[0]
    assert hooks.find_tool("gone") is None


def within(*tools: str) -> Bounds:
    """Return bounds that allow only some tools."""
    return Bounds(CapabilityScope(tools=list(tools)))


def test_a_scope_leaves_tools_out() -> None:
    """A null scope allows all tools, an empty one none; sections follow the offered tools."""
    hooks = CompositeHook([Commentator("first"), Toolbox(), Doing(None)])
    context = run_context(tools=["does", "look", "gone"])
    assert [item.name for item in hooks.offer(context)] == ["look", "does"]
    assert hooks.offer(run_context(tools=[])) == []
    assert hooks.prompt(context).tools == hooks.offer(context)
    assert hooks.prompt(run_context(tools=["does"])).sections == ["first"]
    without = hooks.prompt(run_context(tools=[]))
    assert (without.tools, without.sections, without.situation) == ([], ["first"], ["It is first\ufffd."])


def test_a_scope_that_was_narrowed_since_leaves_tools_out() -> None:
    """A run has only the tools that its pinned scope and the current scope both allow."""
    hooks = CompositeHook([Commentator("first"), Toolbox(), Doing(None)])
    narrowed = replace(run_context(tools=["does", "look"]), bounds=within("look", "note"))
    assert [item.name for item in hooks.offer(narrowed)] == ["look"]
    assert hooks.offer(replace(run_context(), bounds=within())) == []


def test_a_part_offers_its_own_tools_only() -> None:
    """A sub-hook cannot offer a tool of another one, or one that it does not have."""
    stray = Toolbox(tools=(tool("mine"),))
    stray.offer = lambda context: [tool("mine"), tool("does"), tool("new")]  # type: ignore[method-assign]
    assert [item.name for item in CompositeHook([stray, Doing(None)]).offer(run_context())] == [
        "mine",
        "does",
    ]


def test_two_tools_of_one_name_are_a_fault() -> None:
    """Two tools of one name at construction are a programming error, which names both."""
    with pytest.raises(ValueError, match="both toolbox and doing have a tool called does"):
        CompositeHook([Toolbox(tools=(tool("does"),)), Doing(None)])


@pytest.mark.parametrize("name", ["", "a.b", "a b", "ä", "../a", "a" * (MAX_TOOL_BYTES + 1), "a\n"])
def test_a_name_that_no_provider_takes_is_a_fault(name: str) -> None:
    """An invalid name at construction is an error: providers would refuse every request."""
    with pytest.raises(ValueError, match="no provider accepts"):
        CompositeHook([Toolbox(tools=(tool(name),))])


# Tools that appear and disappear.


async def test_a_tool_appears_and_disappears() -> None:
    """A tool can be found, offered and called as soon as it exists, and no longer than it exists."""
    server = Server("mcp")
    hooks = CompositeHook([Toolbox(tools=(tool("note"),)), server])
    assert names(hooks) == ["note"]
    assert hooks.find_tool("fetch_issue") is None
    server.rows.append(tool("fetch_issue"))
    row = hooks.find_tool("fetch_issue")
    assert row is server.rows[0]
    assert names(hooks) == ["note", "fetch_issue"]
    assert [item.name for item in hooks.tools()] == ["note", "fetch_issue"]
    assert await hooks.dispatch(call_of(row)) == Outcome("mcp ran fetch_issue")
    server.rows.clear()
    assert hooks.find_tool("fetch_issue") is None
    assert names(hooks) == ["note"]


def test_a_prompt_follows_the_tools() -> None:
    """A row that is replaced, added or removed shows in the next prompt, and so does a narrowed scope."""
    server = Server("mcp", tool("send"))
    hooks = CompositeHook([server, Doing(None)])
    assert hooks.prompt(run_context()).tools == [*server.rows, *Doing.tools]
    server.rows[:] = [tool("send", description="Send it by post.")]
    assert hooks.prompt(run_context()).tools == [*server.rows, *Doing.tools]
    assert hooks.find_tool("send") is server.rows[0]
    server.rows.append(tool("receive"))
    assert hooks.prompt(run_context()).tools == [*server.rows, *Doing.tools]
    narrowed = replace(run_context(), bounds=within("receive"))
    assert hooks.prompt(narrowed).tools == server.rows[1:]
    server.rows.append(tool("read", droppable=True))
    assert hooks.prompt(narrowed).droppable == ["read"]
    server.rows.clear()
    assert hooks.prompt(run_context()).tools == [*Doing.tools]
    assert hooks.prompt(narrowed).tools == []


def test_runs_with_other_scopes_have_their_own_offers() -> None:
    """The tools that were offered to one run are not offered to a run with other scopes."""
    hooks = CompositeHook([Toolbox(), Doing(None)])
    scopes: tuple[list[str] | None, ...] = (None, ["look"], ["look", "does"], ["look"], [], None)
    contexts = [run_context(tools=tools) for tools in scopes]
    contexts += [replace(run_context(), bounds=Bounds(CapabilityScope(tools=tools))) for tools in scopes]
    fresh = [CompositeHook([Toolbox(), Doing(None)]).offer(context) for context in contexts]
    assert [hooks.offer(context) for context in contexts] == fresh
    assert [hooks.prompt(context).tools for context in contexts] == fresh


def test_an_offer_that_depends_on_the_context_is_made_for_each_run() -> None:
    """A sub-hook that decides by the run itself is asked each time."""
    chooser = Toolbox(tools=(tool("a"), tool("b")))
    chooser.offer = lambda context: [tool(context.workspace)]  # type: ignore[method-assign]
    hooks = CompositeHook([chooser])
    assert [names(hooks, run_context(workspace)) for workspace in ("a", "b", "a")] == [["a"], ["b"], ["a"]]


async def test_a_call_of_a_vanished_tool_says_so() -> None:
    """A tool may vanish between the model's call and its execution: nothing runs, and the result is true."""
    server = Server("mcp", tool("fetch_issue"))
    hooks = CompositeHook([server])
    call = call_of(server.rows[0])
    assert hooks.subject(call) == "mcp"
    server.rows.clear()
    expected = "the tool 'fetch_issue' is no longer available; nothing was run"
    assert await hooks.dispatch(call) == Outcome(expected, is_error=True)
    with pytest.raises(ToolError, match="no longer available"):
        hooks.subject(call)
    with pytest.raises(ToolError, match="no longer available"):
        await hooks.preview(call)
    assert await hooks.evidence(call) == {}
    assert (await hooks.probe(call, {})).outcome == "unknown"
    assert server.calls == []


async def test_a_late_tool_cannot_take_a_name(caplog: pytest.LogCaptureFixture) -> None:
    """A tool that appears under a name in use is left out, in any order of sub-hooks; the log warns once."""
    server, box = Server("mcp"), Toolbox(tools=(tool("note"),))
    hooks = CompositeHook([server, box])
    server.rows += [tool("note"), tool("other")]
    for _ in range(3):
        assert names(hooks) == ["other", "note"]
    assert hooks.find_tool("note") is box.tools[0]
    (record,) = caplog.records
    assert "both toolbox and mcp have a tool called note" in record.getMessage()


async def test_a_name_stays_with_its_first_owner() -> None:
    """A name is not free when its tool vanishes: an approval for one server must not serve another one."""
    first, second = Server("first", tool("send")), Server("second")
    hooks = CompositeHook([first, second])
    call = call_of(first.rows[0])
    second.rows.append(tool("send"))
    first.rows.clear()
    assert hooks.find_tool("send") is None
    assert names(hooks) == []
    assert (await hooks.dispatch(call)).is_error
    assert second.calls == []
    first.rows.append(tool("send"))
    assert await hooks.dispatch(call) == Outcome("first ran send")


@pytest.mark.parametrize("name", ["", "a.b", "a b", "ä", "a" * (MAX_TOOL_BYTES + 1)])
def test_a_late_tool_with_an_invalid_name_is_left_out(name: str) -> None:
    """A server's invalid name must not make a provider refuse the requests of every agent."""
    server = Server("mcp")
    hooks = CompositeHook([server])
    server.rows += [tool(name), tool("valid")]
    assert names(hooks) == ["valid"]


def test_a_server_that_lists_a_tool_twice() -> None:
    """The first of two rows with one name is used."""
    server = Server("mcp")
    hooks = CompositeHook([server])
    server.rows += [tool("send", description="one"), tool("send", description="two")]
    assert [row.description for row in hooks.offer(run_context())] == ["one"]


def test_the_number_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that renames its tools again and again cannot fill the memory."""
    monkeypatch.setattr(composite, "MAX_TOOL_NAMES", 3)
    server = Server("mcp")
    hooks = CompositeHook([server])
    for number in range(5):
        server.rows[:] = [tool(f"t{number}")]
        assert names(hooks) == ([f"t{number}"] if number < 3 else [])


def test_a_sub_hook_that_cannot_list_its_tools(caplog: pytest.LogCaptureFixture) -> None:
    """The other sub-hooks keep their tools, and the log has the reason."""
    server = Server("mcp", tool("send"))
    hooks = CompositeHook([server, Doing(None)])
    server.rows[:] = [None]  # type: ignore[list-item]
    assert names(hooks) == ["does"]
    assert hooks.find_tool("send") is None
    assert "a hook could not list its tools" in caplog.text


async def test_the_scope_applies_to_tools_that_appear() -> None:
    """A run has no tool beyond its scope, whenever the tool appeared."""
    server = Server("mcp")
    hooks = CompositeHook([server])
    server.rows += [tool("send"), tool("fetch")]
    assert names(hooks, run_context(tools=["fetch"])) == ["fetch"]


# Opinions.

ASKS = NeedsAnswer([Question(question="Which?", key="which")])


@pytest.mark.parametrize(
    ("opinions", "counts"),
    [
        ([None, None], None),
        ([NeedsApproval("a"), None, NeedsApproval("b")], NeedsApproval("a")),
        ([NeedsApproval("a"), ASKS], ASKS),
        ([NeedsApproval("a", is_firm=False), NeedsApproval("b")], NeedsApproval("b")),
        ([NeedsApproval("a"), ASKS, Deny("no"), Deny("never")], Deny("no")),
        ([NeedsApproval("a"), ValueError("x")], Deny("the hook 'part1' failed, so this was not run")),
    ],
)
async def test_one_opinion_counts(opinions: list[Any], counts: Opinion | None) -> None:
    """A denial precedes a question, a question an approval; the first of equals counts; a failure denies."""
    parts = [Commentator(f"part{number}", opinion) for number, opinion in enumerate(opinions)]
    assert await CompositeHook([*parts, Toolbox()]).before_call(call_of(tool("note"))) == counts


async def test_what_is_said_after_a_call_is_said_in_order(caplog: pytest.LogCaptureFixture) -> None:
    """Each sub-hook amends the outcome of the previous one; one that fails amends nothing."""
    failing = Commentator("b", ValueError("x"))
    parts = [Commentator("a", comment=" a"), failing, Commentator("c", comment=" c")]
    outcome = await CompositeHook([*parts, Toolbox()]).after_call(call_of(tool("note")), Outcome("done"))
    assert outcome == Outcome("done a c")
    assert [record.__dict__["part"] for record in caplog.records] == ["b"]


# Dispatching.


async def test_a_call_goes_to_the_part_that_offers_its_tool() -> None:
    """A call is dispatched to the sub-hook of its tool only."""

    async def done() -> str:
        return "by the right one"

    hooks = CompositeHook([Toolbox(), Doing(done)])
    assert await hooks.dispatch(call_of(Doing.tools[0])) == Outcome("by the right one")


async def test_a_call_has_its_time_and_no_more(autojump_clock: MockClock) -> None:
    """A call is stopped at its timeout, and the model is told the time."""
    outcome = await CompositeHook([Doing(trio.sleep_forever)]).dispatch(call_of(Doing.tools[0]))
    assert outcome == Outcome("This took longer than 2 s and was stopped.", is_error=True)
    assert trio.current_time() == pytest.approx(2.0)


async def test_a_tools_own_patience_is_its_own_affair(caplog: pytest.LogCaptureFixture) -> None:
    """A timeout inside the tool is a fault like any other."""

    async def impatient() -> None:
        raise trio.TooSlowError

    outcome = await CompositeHook([Doing(impatient)]).dispatch(call_of(Doing.tools[0]))
    assert outcome == Outcome(FAILED, is_error=True)
    assert "TooSlowError" in caplog.text


async def test_a_tools_no_is_what_the_model_reads() -> None:
    """A tool's error is the result, also out of a nursery."""
    outcome = await CompositeHook([Toolbox()]).dispatch(call_of(tool("refuses")))
    assert outcome == Outcome("this tool does nothing; say something else", is_error=True)


async def test_a_fault_is_for_the_log_and_not_for_the_model(caplog: pytest.LogCaptureFixture) -> None:
    """A fault is logged, and the model only learns that there was one."""
    outcome = await CompositeHook([Toolbox()]).dispatch(call_of(tool("raises")))
    assert outcome == Outcome(FAILED, is_error=True)
    assert "nobody's business" in caplog.text


async def test_what_went_stale_is_for_the_worker() -> None:
    """A stale approval reaches the worker, also out of a nursery."""

    async def stale() -> None:
        async with trio.open_nursery():
            raise Stale

    with pytest.raises(Stale):
        await CompositeHook([Doing(stale)]).dispatch(call_of(Doing.tools[0]))


async def test_what_is_no_text_is_made_one() -> None:
    """Lone surrogates are replaced: file names need not be UTF-8, but the journal is."""

    async def lists() -> str:
        return "caf\udce9.txt é"

    outcome = await CompositeHook([Doing(lists)]).dispatch(call_of(Doing.tools[0]))
    assert outcome.text == "caf\ufffd.txt é"


# A part in which everything goes wrong.


async def test_a_broken_part_harms_its_own_calls_only(caplog: pytest.LogCaptureFixture) -> None:
    """A broken sub-hook fails its own calls only, and none of them runs unjudged."""
    hooks = CompositeHook([Broken(), Doing(None)])
    assert [item.name for item in hooks.offer(run_context())] == ["does"]
    assert hooks.prompt(run_context()) == HookPrompt([tool("does", timeout_s=2.0)], [], [], [])
    use = call_of(Broken.tools[0])
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
    """An impossible call fails in its preview, so no person is asked."""
    hooks = CompositeHook([Toolbox()])
    use = call_of(tool("careful"), run_context(str(tmp_path)), text="impossible")
    with pytest.raises(ToolError, match="this cannot be noted"):
        await hooks.preview(use)


# After a crash.


async def test_a_probe_has_its_time_and_no_more(autojump_clock: MockClock) -> None:
    """A probe has a time limit, after which the outcome is unknown."""
    selected = tool("does", timeout_s=3_600.0)
    hooks = CompositeHook([Doing(trio.sleep_forever)])
    assert (await hooks.probe(call_of(selected), {})).outcome == "unknown"
    assert trio.current_time() == pytest.approx(MAX_PROBE_SECONDS)


async def test_what_a_probe_finds_is_what_is_found() -> None:
    """The probe of the tool's sub-hook decides."""

    async def nothing() -> None:
        return None

    hooks = CompositeHook([Doing(nothing)])
    assert await hooks.probe(call_of(Doing.tools[0]), {}) == ProbeResult("done", "it was done")
