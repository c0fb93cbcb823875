"""The tools of MCP servers in runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from kheishd.core.scope import Bounds
from kheishd.hooks.composite import MAX_TOOL_NAMES, CompositeHook
from kheishd.hooks.mcp import ListResources, ReadResource, ServerTools
from kheishd.kernel.hook import Outcome, Stale, Tool
from kheishd.kernel.mcp import McpHolder, RemoteResult, ServerFailure, ServerSpec
from kheishd.kernel.runtime import ModelFailure
from protocol.events.call import ToolReturned
from protocol.objects.mcp import McpServerSettings
from protocol.objects.session import CapabilityScope, CredentialScope
from protocol.transcript import ToolCall
from tests.support.desk import Desk, Scripted, gives, open_desk, says, working
from tests.support.mcp_servers import FakePool, listed, spec_of
from tests.support.toolbox import call_of, run_context

SECRET = ServerSpec("secret", McpServerSettings(url="https://example.com/mcp", auth_ref="env:TOKEN"))


def holder_of(pool: FakePool) -> McpHolder:
    """Return a holder with a pool."""
    holder = McpHolder()
    holder.current = pool
    holder.adopted.set()
    return holder


@asynccontextmanager
async def serving(directory: Path, pool: FakePool) -> AsyncIterator[Desk]:
    """Provide a desk whose agents have the tools of a pool, and may call them."""
    hooks = CompositeHook((ServerTools(holder_of(pool)),))
    async with open_desk(directory, Scripted(), hooks=hooks) as desk, working(desk):
        yield desk


async def call(desk: Desk, tool: str, **arguments: Any) -> ToolReturned:
    """Let the model call a tool, allow it if a person is asked, and return the result."""
    desk.models.answers[:] = [
        lambda request: gives(ToolCall("call_1", tool, arguments)),
        lambda request: says("done"),
    ]
    sent = await desk.send("go on")
    await desk.until(lambda: desk.ended(sent.run_id) or desk.run(sent.run_id).calls[:1] != [])
    await desk.until(
        lambda: desk.ended(sent.run_id) or any(c.state == "asked" for c in desk.run(sent.run_id).calls)
    )
    if not desk.ended(sent.run_id):
        await desk.allow(sent.run_id)
    events = [event for _, event in desk.journal(sent.session_id)]
    return [event for event in events if isinstance(event, ToolReturned)][-1]


async def test_a_call_asks_and_its_result_is_data(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A call asks a person, with the server and the arguments; the result is labelled as data."""
    pool = FakePool(spec_of("files"))
    async with serving(tmp_path, pool) as desk:
        read = desk.listen()
        returned = await call(desk, "mcp__files__echo", text="hi")
        assert pool.calls == [("files", "echo", {"text": "hi"})]
        result = msgspec.json.decode(returned.text)
        assert (result["server"], result["content"]) == ("files", ["fine"])
        assert "data to read" in result["note"]
        assert any(piece["kind"] == "output" and piece["text"] == "1/2 half\n" for piece in read())


async def test_a_preview_names_the_server() -> None:
    """The person who is asked sees the server, its tool and the arguments."""
    tools = ServerTools(holder_of(FakePool(spec_of("files"))))
    (row,) = tools.tools
    preview = await tools.preview(call_of(row, text="hi"))
    assert preview is not None
    assert preview.text.startswith("MCP server 'files' (")
    assert '\ntool "echo"\n' in preview.text
    assert '"text":"hi"' in preview.text
    assert await tools.evidence(call_of(row)) == {"server": "files", "tool": "echo"}


@pytest.mark.parametrize(
    ("bounds", "names"),
    [
        (Bounds(), ["mcp__files__echo", "mcp__secret__echo"]),
        (Bounds(CapabilityScope(mcp=["secret"])), ["mcp__secret__echo"]),
        (Bounds(CapabilityScope(mcp=[])), []),
        (Bounds(CapabilityScope(mcp_tools=["mcp__files__echo"])), ["mcp__files__echo"]),
        (Bounds(CapabilityScope(tools=["mcp__*"])), ["mcp__files__echo", "mcp__secret__echo"]),
        (Bounds(CapabilityScope(tools=["bash"])), []),
        (Bounds(CapabilityScope(credentials=[])), ["mcp__files__echo"]),
        (Bounds(credentials=CredentialScope(mcp_credentials=[])), ["mcp__files__echo"]),
        (Bounds(blocked=("mcp__files__echo",)), ["mcp__secret__echo"]),
    ],
)
def test_gates(bounds: Bounds, names: list[str]) -> None:
    """A tool is offered within the scope, and that of a server with a credential within that scope, too."""
    tools = ServerTools(holder_of(FakePool(spec_of("files"), SECRET)))
    hooks = CompositeHook((tools,))
    offered = hooks.offer(replace(run_context(), bounds=bounds))
    assert sorted(row.name for row in offered) == names


def test_servers_of_an_agent() -> None:
    """A server that belongs to an agent's definition is for its sessions only."""
    own = replace(spec_of("own"), agents=("reviewer",))
    hooks = CompositeHook((ServerTools(holder_of(FakePool(own))),))
    context = run_context()
    assert hooks.offer(context) == []
    reviewing = replace(context, session=replace(context.session, agent="reviewer"))
    assert [row.name for row in hooks.offer(reviewing)] == ["mcp__own__echo"]


def test_changed_tools_are_offered_at_the_next_turn() -> None:
    """Tools that a server adds or removes appear and disappear; the rows stay the same object meanwhile."""
    pool = FakePool(spec_of("files"))
    holder = holder_of(pool)
    tools = ServerTools(holder)
    hooks = CompositeHook((tools,))
    assert tools.tools is tools.tools
    pool.offer(listed("other"))
    assert [row.name for row in hooks.offer(run_context())] == ["mcp__files__other"]
    assert hooks.find_tool("mcp__files__echo") is None


@pytest.mark.parametrize(
    ("failure", "annotations", "text"),
    [
        (ServerFailure("unavailable", "it is away"), {}, "cannot be called: it is away. Nothing was run"),
        (ServerFailure("lost", "it broke"), {}, "it broke. The call may have taken effect: check"),
        (ServerFailure("timed_out", "too long"), {}, "too long. The call may have taken effect"),
        (ServerFailure("lost", "it broke"), {"readOnlyHint": True}, "it broke"),
        (ServerFailure("refused", "no such file"), {}, "no such file"),
    ],
)
async def test_failures(failure: ServerFailure, annotations: dict[str, bool], text: str) -> None:
    """A call without an answer is an error that says whether it may have taken effect."""
    pool = FakePool(spec_of("files"))
    pool.offer(listed("echo", annotations=annotations))
    pool.result = failure
    hooks = CompositeHook((ServerTools(holder_of(pool)),))
    (row,) = hooks.offer(run_context())
    outcome = await hooks.dispatch(call_of(row))
    assert outcome.is_error
    assert text in outcome.text
    assert ("may have" in outcome.text) == ("may have" in text)


async def test_an_error_result_and_a_removed_server() -> None:
    """A result that is an error is one for the model; a call of a removed server runs nothing."""
    pool = FakePool(spec_of("files"))
    pool.result = RemoteResult([{"type": "text", "text": "no"}], is_error=True)
    hooks = CompositeHook((ServerTools(holder_of(pool)),))
    (row,) = hooks.offer(run_context())
    outcome = await hooks.dispatch(call_of(row))
    assert isinstance(outcome, Outcome)
    assert outcome.is_error
    pool.specs.clear()
    assert "nothing was run" in (await hooks.dispatch(call_of(row))).text


async def test_a_run_waits_for_its_servers() -> None:
    """The first prompt waits for servers that the session may use, and fails without a required one."""
    needed = spec_of("needed", required=True)
    pool = FakePool(needed, spec_of("other"), SECRET, spec_of("off"), states={"off": "disabled"})
    tools = ServerTools(holder_of(pool))
    context = replace(run_context(), bounds=Bounds(CapabilityScope(credentials=[])))
    assert not await tools.begin(context)
    assert sorted(pool.settled) == ["needed", "other"]
    pool.states["needed"] = "failed"
    with pytest.raises(ModelFailure, match="the required MCP server 'needed' cannot be used") as caught:
        await tools.begin(context)
    assert caught.value.retryable
    pool.settled.clear()
    excluded = replace(context, bounds=Bounds(CapabilityScope(mcp=["other"])))
    assert not await tools.begin(excluded)
    assert pool.settled == ["other"]
    assert not await ServerTools(McpHolder()).begin(context)


def hooks_with_resources() -> tuple[CompositeHook, FakePool]:
    """Return hooks of servers, two of which have resources, one of these with a credential."""
    pool = FakePool(spec_of("files"), SECRET, spec_of("plain"))
    pool.with_resources = {"files", "secret"}
    return CompositeHook((ServerTools(holder_of(pool)),)), pool


def tool_of(hooks: CompositeHook, name: str) -> Tool:
    """Return a tool."""
    row = hooks.find_tool(name)
    assert row is not None
    return row


async def test_resources() -> None:
    """Resources of the servers that the session may use are listed and read, as data."""
    hooks, _ = hooks_with_resources()
    context = replace(run_context(), bounds=Bounds(credentials=CredentialScope(mcp_credentials=[])))
    listing = call_of(tool_of(hooks, "list_mcp_resources"), context)
    outcome = await hooks.dispatch(replace(listing, arguments=ListResources()))
    answer = msgspec.json.decode(outcome.text)
    assert answer["server"] == "files"
    assert [row.get("uri") or row["uriTemplate"] for row in answer["content"]] == ["a:1", "a:{n}"]
    reading = call_of(tool_of(hooks, "read_mcp_resource"), context)
    outcome = await hooks.dispatch(replace(reading, arguments=ReadResource(server="files", uri="a:1")))
    answer = msgspec.json.decode(outcome.text)
    assert answer["content"] == [{"type": "resource", "uri": "a:1", "text": "text of a:1"}]
    assert "data to read" in answer["note"]
    for server in ("secret", "plain", "none"):
        refused = await hooks.dispatch(replace(reading, arguments=ReadResource(server=server, uri="a:1")))
        assert refused.is_error
        assert "there are: files" in refused.text
    preview = await hooks.preview(replace(reading, arguments=ReadResource(server="files", uri="a:1")))
    assert preview is not None
    assert preview.text.startswith("read of the MCP server 'files' (")
    assert preview.text.endswith('"a:1"')


async def test_resources_of_a_server_that_fails() -> None:
    """A server that does not answer is named in the list, and a read of it is an error."""
    hooks, pool = hooks_with_resources()
    pool.result = ServerFailure("unavailable", "it is away")
    listing = call_of(tool_of(hooks, "list_mcp_resources"))
    outcome = await hooks.dispatch(replace(listing, arguments=ListResources(server="files")))
    assert msgspec.json.decode(outcome.text)["content"] == [{"server": "files", "problem": "it is away"}]
    reading = call_of(tool_of(hooks, "read_mcp_resource"))
    outcome = await hooks.dispatch(replace(reading, arguments=ReadResource(server="files", uri="a:1")))
    assert (outcome.is_error, outcome.text) == (True, "the MCP server 'files': it is away")


async def test_a_missing_tool_of_a_server_that_is_down(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The model learns that the tool's server is down, unless the session may not use the server."""
    pool = FakePool(spec_of("broken"), SECRET, states={"broken": "failed", "secret": "failed"})
    pool.tools = ()
    async with serving(tmp_path, pool) as desk:
        result = await call(desk, "mcp__broken__x")
    problem = "The MCP server 'broken' cannot be used: it is failed."
    assert result.text == f"There is no tool 'mcp__broken__x'. {problem} There are no tools."
    hooks = CompositeHook((ServerTools(holder_of(pool)),))
    scoped = replace(run_context(), bounds=Bounds(CapabilityScope(mcp=["broken"])))
    assert hooks.explain_missing(scoped, "mcp__broken__x") == problem
    assert hooks.explain_missing(scoped, "mcp__secret__x") is None
    assert hooks.explain_missing(scoped, "bash") is None


def test_resource_tools_need_a_server_with_resources() -> None:
    """The tools for resources exist while a server has some, and are offered if the session may use it."""
    hooks, pool = hooks_with_resources()
    names = {row.name for row in hooks.offer(run_context())}
    assert {"list_mcp_resources", "read_mcp_resource"} <= names
    excluded = replace(run_context(), bounds=Bounds(CapabilityScope(mcp=["plain"])))
    assert [row.name for row in hooks.offer(excluded)] == ["mcp__plain__echo"]
    pool.with_resources = set()
    assert hooks.find_tool("read_mcp_resource") is None


async def test_a_preview_cannot_be_forged() -> None:
    """The server comes first, and its name for the tool is quoted; long arguments are shown in short, too."""
    pool = FakePool(spec_of("files"))
    pool.offer(listed("x' of the MCP server 'bank' (https://bank.example)"))
    tools = ServerTools(holder_of(pool))
    (row,) = tools.tools
    preview = await tools.preview(call_of(row, text="y" * 500, n=1))
    assert preview is not None
    first, second, third, *_ = preview.text.split("\n")
    assert first.startswith("MCP server 'files' (")
    assert second == "tool \"x' of the MCP server 'bank' (https://bank.example)\""
    assert '"n":1' in third
    assert len(third) < 200
    assert "y" * 500 in preview.text


async def test_an_approval_is_for_the_server_that_was_shown() -> None:
    """A call is asked about again if the server or the tool's schema has changed since; nothing is sent."""
    pool = FakePool(spec_of("files"))
    tools = ServerTools(holder_of(pool))
    (row,) = tools.tools
    preview = await tools.preview(call_of(row))
    assert preview is not None
    approved = replace(call_of(row), binding=preview.binding)
    assert not (await tools.dispatch(approved)).is_error
    pool.offer([{"name": "echo", "inputSchema": {"type": "object", "title": "other"}}])
    with pytest.raises(Stale):
        await tools.dispatch(approved)
    pool.specs["files"] = spec_of("files", "other")
    pool.offer(listed("echo"))
    with pytest.raises(Stale):
        await tools.dispatch(approved)
    assert len(pool.calls) == 1


async def test_calls_wait_for_servers_after_a_restart() -> None:
    """Before a call of a server's tool is judged, cleared or probed, its session's servers have settled."""
    pool = FakePool(spec_of("files"))
    hooks = CompositeHook((ServerTools(holder_of(pool)),))
    await hooks.prepare(run_context(), ["bash"])
    assert pool.settled == []
    await hooks.prepare(run_context(), ["mcp__files__echo"])
    assert pool.settled == ["files"]


def test_names_of_servers_are_never_used_up() -> None:
    """A server that renames its tools again and again takes no name from others."""
    pool = FakePool(spec_of("files"))
    hooks = CompositeHook((ServerTools(holder_of(pool)),))
    for number in range(MAX_TOOL_NAMES // 100 + 2):
        pool.offer(listed(*(f"t{number}-{index}" for index in range(100))))
        assert len(hooks.tools()) == 100
