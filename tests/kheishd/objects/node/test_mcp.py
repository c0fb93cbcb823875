"""MCP servers over RPC."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from trio.testing import MockClock

from kheishd.config.sections.mcp import McpSection
from kheishd.kernel.mcp import RemoteResult, ServerFailure
from kheishd.objects.node.mcp import call_tool, list_servers, list_tools, restart_server
from protocol.errors.mcp import McpCallFailed, McpServerNotFound, McpServerUnavailable, McpToolNotFound
from protocol.objects.mcp import McpCallParams, McpListParams, McpServerRef, McpToolsParams
from tests.support.desk import Desk, open_desk
from tests.support.mcp_servers import FakePool, listed, spec_of


@pytest.fixture
def pool() -> FakePool:
    """Return three servers: one is ready, one failed, one disabled."""
    return FakePool(spec_of("a"), spec_of("b"), spec_of("c"), states={"b": "failed", "c": "disabled"})


@pytest.fixture
async def desk(tmp_path: Path, pool: FakePool, autojump_clock: MockClock) -> AsyncIterator[Desk]:
    """Provide a desk with the servers."""
    async with open_desk(tmp_path) as desk:
        desk.services.mcp.current = pool
        desk.services.mcp.adopted.set()
        yield desk


async def test_mcp_list_ok(desk: Desk) -> None:
    """Servers are listed by name, in pages."""
    first = list_servers.answer(desk.call(), McpListParams(limit=2))
    assert [(view.name, view.state) for view in first.servers] == [("a", "ready"), ("b", "failed")]
    rest = list_servers.answer(desk.call(), McpListParams(after=first.next))
    assert ([view.name for view in rest.servers], rest.next) == (["c"], None)


async def test_mcp_list_ok_while_the_daemon_starts(tmp_path: Path) -> None:
    """Until the daemon has begun to connect to them, configured servers are starting."""
    async with open_desk(tmp_path, threaded=True, mcp={"a": McpSection(command="a")}) as desk:
        (view,) = list_servers.answer(desk.call(), McpListParams()).servers
        assert (view.name, view.state) == ("a", "starting")


async def test_mcp_tools_ok(desk: Desk, pool: FakePool) -> None:
    """Tools are listed by their names for agents, of all servers or of one, in pages."""
    pool.offer(listed("x", "y", description="D", annotations={"readOnlyHint": True}))
    page = list_tools.answer(desk.call(), McpToolsParams(limit=5))
    assert [tool.name for tool in page.tools] == [f"mcp__{s}__{t}" for s in "abc" for t in "xy"][:5]
    page = list_tools.answer(desk.call(), McpToolsParams(after=page.next))
    assert [tool.name for tool in page.tools] == ["mcp__c__y"]
    (tool, _) = list_tools.answer(desk.call(), McpToolsParams(server="b")).tools
    assert (tool.server, tool.tool, tool.description, tool.read_only, tool.input_schema) == (
        *("b", "x", "D"),
        *(True, {"type": "object"}),
    )


async def test_mcp_tools_mcp_server_not_found(desk: Desk) -> None:
    """An unknown server is refused."""
    with pytest.raises(McpServerNotFound, match="no MCP server 'z'"):
        list_tools.answer(desk.call(), McpToolsParams(server="z"))


async def call(desk: Desk, server: str = "a", tool: str = "echo") -> Any:
    """Call a tool."""
    return await call_tool.act(desk.call(), McpCallParams(server=server, tool=tool, arguments={"x": 1}))


async def test_mcp_call_ok(desk: Desk, pool: FakePool) -> None:
    """An operator calls a tool by the server's name of it, and sees what an agent would."""
    result = await call(desk)
    assert pool.calls == [("a", "echo", {"x": 1})]
    assert msgspec.json.decode(result.text)["content"] == ["fine"]
    assert (result.server, result.tool, result.is_error) == ("a", "echo", False)
    pool.result = RemoteResult([], is_error=True)
    assert (await call(desk)).is_error


async def test_mcp_call_mcp_server_not_found(desk: Desk) -> None:
    """An unknown server is refused."""
    with pytest.raises(McpServerNotFound):
        await call(desk, "z")


async def test_mcp_call_mcp_tool_not_found(desk: Desk) -> None:
    """An unknown tool is refused, and nothing is sent."""
    with pytest.raises(McpToolNotFound, match="has no tool 'none'"):
        await call(desk, tool="none")


async def test_mcp_call_mcp_server_unavailable(desk: Desk, pool: FakePool) -> None:
    """A server that is not connected is not called, also if its connection has just ended."""
    with pytest.raises(McpServerUnavailable, match="it is failed"):
        await call(desk, "b")
    pool.result = ServerFailure("unavailable", "it is away")
    with pytest.raises(McpServerUnavailable, match="it is away"):
        await call(desk)


async def test_mcp_call_mcp_call_failed(desk: Desk, pool: FakePool) -> None:
    """The error of a server is quoted."""
    pool.result = ServerFailure("refused", "no such file")
    with pytest.raises(McpCallFailed, match="the MCP server 'a': no such file"):
        await call(desk)


async def test_mcp_restart_ok(desk: Desk, pool: FakePool) -> None:
    """A server is connected anew; the result is its state then."""
    assert (await restart_server.act(desk.call(), McpServerRef(server="a"))).state == "ready"
    assert pool.restarted == ["a"]


async def test_mcp_restart_mcp_server_not_found(desk: Desk) -> None:
    """An unknown server is refused."""
    with pytest.raises(McpServerNotFound):
        await restart_server.act(desk.call(), McpServerRef(server="z"))


async def test_mcp_restart_mcp_server_unavailable(desk: Desk) -> None:
    """A disabled server is refused."""
    with pytest.raises(McpServerUnavailable, match="is disabled"):
        await restart_server.act(desk.call(), McpServerRef(server="c"))
