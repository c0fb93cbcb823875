"""MCP servers over RPC."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from kheishd.config.sections.mcp import McpSection
from kheishd.core.definition import built_in
from kheishd.kernel.call import Caller
from kheishd.kernel.mcp import RemoteResult, ServerFailure
from kheishd.objects.node import mcp as handlers
from kheishd.objects.node.mcp import (
    call_tool,
    delete_server,
    get_server,
    list_prompts,
    list_resources,
    list_servers,
    list_tools,
    put_server,
    restart_server,
)
from kheishd.store.tables import MCP_SERVERS, SECRETS
from protocol.errors.mcp import (
    McpCallFailed,
    McpServerInvalid,
    McpServerLimit,
    McpServerNotFound,
    McpServerReadOnly,
    McpServerUnavailable,
    McpToolNotFound,
)
from protocol.errors.refusal import Refusal
from protocol.errors.session import InputTooLarge
from protocol.errors.token import ScopeWouldWiden
from protocol.objects.mcp import (
    McpCallParams,
    McpListParams,
    McpPromptsParams,
    McpResourcesParams,
    McpServerDelete,
    McpServerPut,
    McpServerRef,
    McpServerSettings,
    McpToolsParams,
)
from tests.support.desk import OPERATOR, Desk, open_desk
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
        desk.services.mcp.expect()
        (view,) = list_servers.answer(desk.call(), McpListParams()).servers
        assert (view.name, view.state) == ("a", "starting")


async def test_mcp_get_ok(desk: Desk, pool: FakePool) -> None:
    """One server is shown with its error output, which lists leave out."""
    pool.error_output = ["it failed"]
    view = get_server.answer(desk.call(), McpServerRef(server="a"))
    assert (view.name, view.state, view.error_output) == ("a", "ready", ["it failed"])
    assert [row.error_output for row in list_servers.answer(desk.call(), McpListParams()).servers] == [[]] * 3


async def test_mcp_get_ok_while_the_daemon_starts(tmp_path: Path) -> None:
    """Until the daemon has begun to connect to it, a configured server is starting."""
    async with open_desk(tmp_path, threaded=True, mcp={"a": McpSection(command="a")}) as desk:
        desk.services.mcp.expect()
        assert get_server.answer(desk.call(), McpServerRef(server="a")).state == "starting"
        with pytest.raises(McpServerNotFound):
            get_server.answer(desk.call(), McpServerRef(server="b"))


async def test_mcp_get_mcp_server_not_found(desk: Desk) -> None:
    """A server that does not exist, or is another agent's, is refused."""
    with pytest.raises(McpServerNotFound):
        get_server.answer(desk.call(), McpServerRef(server="none"))
    desk.services.mcp.current = FakePool(replace(spec_of("own"), agents=("critic",)))
    restricted = desk.call(replace(OPERATOR, agents=frozenset(("default",))))
    with pytest.raises(McpServerNotFound):
        get_server.answer(restricted, McpServerRef(server="own"))


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
    return await call_tool.act(desk.call(), McpCallParams(server=server, tool=tool, input={"x": 1}))


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


async def test_servers_of_other_agents_are_hidden(desk: Desk) -> None:
    """A token that covers some agents sees the servers of these agents and those that are for all."""
    pool = FakePool(spec_of("all"), replace(spec_of("own"), agents=("critic",)))
    desk.services.mcp.current = pool
    restricted = desk.call(replace(OPERATOR, agents=frozenset(("default",))))
    assert [view.name for view in list_servers.answer(restricted, McpListParams()).servers] == ["all"]
    tools = list_tools.answer(restricted, McpToolsParams()).tools
    assert [tool.name for tool in tools] == ["mcp__all__echo"]
    with pytest.raises(McpServerNotFound):
        await call_tool.act(restricted, McpCallParams(server="own", tool="echo"))
    with pytest.raises(McpServerNotFound):
        await restart_server.act(restricted, McpServerRef(server="own"))
    covered = desk.call(replace(OPERATOR, agents=frozenset(("critic",))))
    assert len(list_servers.answer(covered, McpListParams()).servers) == 2


async def test_mcp_resources_ok(desk: Desk) -> None:
    """Resources are listed, then templates."""
    result = await list_resources.act(desk.call(), McpResourcesParams(server="a"))
    assert [(row.uri, row.name, row.mime_type, row.is_template) for row in result.resources] == [
        ("a:1", "one", "text/plain", False),
        ("a:{n}", "any", None, True),
    ]


async def test_mcp_prompts_ok(desk: Desk) -> None:
    """Prompts are listed with the names of their arguments."""
    (prompt,) = (await list_prompts.act(desk.call(), McpPromptsParams(server="a"))).prompts
    assert (prompt.name, prompt.description, prompt.arguments) == ("greet", "Greets.", ["who"])


async def refusal_of(desk: Desk, method: str, server: str) -> Refusal:
    """Return the refusal of a list of resources or prompts."""
    acts: dict[str, Any] = {
        "resources": (list_resources, McpResourcesParams),
        "prompts": (list_prompts, McpPromptsParams),
    }
    handler, params = acts[method]
    with pytest.raises(Refusal) as caught:
        await handler.act(desk.call(), params(server=server))
    return caught.value


async def test_mcp_resources_mcp_server_not_found(desk: Desk) -> None:
    """An unknown server is refused."""
    assert isinstance(await refusal_of(desk, "resources", "z"), McpServerNotFound)


async def test_mcp_resources_mcp_server_unavailable(desk: Desk, pool: FakePool) -> None:
    """A server that is not connected is not asked."""
    pool.result = ServerFailure("unavailable", "it is away")
    assert isinstance(await refusal_of(desk, "resources", "a"), McpServerUnavailable)


async def test_mcp_resources_mcp_call_failed(desk: Desk, pool: FakePool) -> None:
    """The error of a server is quoted."""
    pool.result = ServerFailure("refused", "no")
    assert isinstance(await refusal_of(desk, "resources", "a"), McpCallFailed)


async def test_mcp_prompts_mcp_server_not_found(desk: Desk) -> None:
    """An unknown server is refused."""
    assert isinstance(await refusal_of(desk, "prompts", "z"), McpServerNotFound)


async def test_mcp_prompts_mcp_server_unavailable(desk: Desk, pool: FakePool) -> None:
    """A server that is not connected is not asked."""
    pool.result = ServerFailure("unavailable", "it is away")
    assert isinstance(await refusal_of(desk, "prompts", "a"), McpServerUnavailable)


async def test_mcp_prompts_mcp_call_failed(desk: Desk, pool: FakePool) -> None:
    """The error of a server is quoted."""
    pool.result = ServerFailure("lost", "it ended")
    assert isinstance(await refusal_of(desk, "prompts", "a"), McpCallFailed)


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


# Servers in the store.

RESTRICTED = replace(OPERATOR, agents=frozenset(("default",)))


async def put(desk: Desk, server: str = "live", *, caller: Caller = OPERATOR, **settings: Any) -> Any:
    """Store a server."""
    params = McpServerPut(server=server, settings=McpServerSettings(**settings))
    return await desk.do(put_server, params, caller=caller)


async def test_mcp_put_ok(desk: Desk) -> None:
    """A server is stored, and replaced; the same settings again are no event."""
    view = await put(desk, command=["x", "y"], env_refs={"A": "env:A"})
    assert (view.name, view.source, view.state, view.command) == ("live", "stored", "starting", ["x", "y"])
    assert (await put(desk, url="http://localhost/mcp", enabled=False)).state == "disabled"
    await put(desk, url="http://localhost/mcp", enabled=False)
    assert desk.kinds("daemon") == ["mcp_server_stored", "mcp_server_stored"]
    assert desk.count(MCP_SERVERS) == 1


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({}, "$.params.settings"),
        ({"command": "a", "auth_ref": "env:A"}, "$.params.settings.auth_ref"),
        ({"command": "a", "env": {"API_KEY": "x"}}, "$.params.settings.env"),
    ],
)
async def test_mcp_put_mcp_server_invalid(desk: Desk, settings: Any, field: str) -> None:
    """Invalid settings are refused, and the refusal names the field."""
    with pytest.raises(McpServerInvalid) as caught:
        await put(desk, **settings)
    assert caught.value.field == field


async def test_mcp_put_mcp_server_read_only(tmp_path: Path) -> None:
    """A server of the configuration or of an agent cannot be replaced or deleted."""
    own = replace(built_in(), mcp_servers={"own": McpServerSettings(command="b")})
    runtime = {"mcp": {"a": McpSection(command="a")}, "definitions": {"default": own}}
    async with open_desk(tmp_path, threaded=True, **runtime) as desk:
        for server in ("a", "own"):
            with pytest.raises(McpServerReadOnly, match=f"has an MCP server '{server}'"):
                await put(desk, server, command="x")
            with pytest.raises(McpServerReadOnly):
                await desk.do(delete_server, McpServerDelete(server=server))


async def test_mcp_put_mcp_server_limit(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has room for a number of servers; one of them can still be replaced."""
    monkeypatch.setattr(handlers, "MAX_STORED_SERVERS", 1)
    await put(desk, "one", command="x")
    await put(desk, "one", command="y")
    with pytest.raises(McpServerLimit):
        await put(desk, "two", command="x")


async def test_mcp_put_input_too_large(desk: Desk) -> None:
    """Settings that are too long are refused."""
    with pytest.raises(InputTooLarge):
        await put(desk, command="x", args=["y" * 8_000] * 3)


async def test_mcp_put_scope_would_widen(desk: Desk) -> None:
    """A token that covers some agents stores no program for all."""
    with pytest.raises(ScopeWouldWiden):
        await put(desk, command="x", caller=RESTRICTED)


async def test_mcp_delete_ok(desk: Desk) -> None:
    """A stored server is deleted."""
    await put(desk, command="x")
    assert (await desk.do(delete_server, McpServerDelete(server="live"))).server == "live"
    assert desk.count(MCP_SERVERS) == 0


async def test_mcp_delete_ok_with_a_login(tmp_path: Path) -> None:
    """The tokens of a server go with it, and are revoked."""
    settings = McpServerSettings(url="https://live.example/mcp", oauth=True)
    async with open_desk(tmp_path, threaded=True, stored_servers={"live": settings}) as desk:
        desk.services.mcp.current = pool = FakePool()
        desk.services.secrets.prepare("mcp.oauth.live")
        await desk.state.update(
            lambda tx: desk.services.secrets.put_slot(tx, "mcp.oauth.live", "the value of it", "oauth")
        )
        await desk.do(put_server, McpServerPut(server="live", settings=settings))
        await desk.do(delete_server, McpServerDelete(server="live"))
        assert (desk.count(SECRETS), pool.held) == (0, [])


async def test_mcp_delete_mcp_server_not_found(desk: Desk) -> None:
    """A server that is not stored is refused."""
    with pytest.raises(McpServerNotFound):
        await desk.do(delete_server, McpServerDelete(server="none"))


async def test_mcp_delete_mcp_server_read_only(tmp_path: Path) -> None:
    """A server of the configuration is deleted there."""
    async with open_desk(tmp_path, threaded=True, mcp={"a": McpSection(command="a")}) as desk:
        with pytest.raises(McpServerReadOnly, match="the configuration has"):
            await desk.do(delete_server, McpServerDelete(server="a"))


async def test_mcp_delete_scope_would_widen(desk: Desk) -> None:
    """A token that covers some agents deletes no server of all."""
    with pytest.raises(ScopeWouldWiden):
        await desk.do(delete_server, McpServerDelete(server="a"), caller=RESTRICTED)


RESTRICTED = replace(OPERATOR, agents=frozenset(("critic",)))


async def test_mcp_call_scope_would_widen(desk: Desk, pool: FakePool) -> None:
    """A token for one agent calls the servers of its agents only: others have the operator's credentials."""
    restricted = desk.call(RESTRICTED)
    with pytest.raises(ScopeWouldWiden):
        await call_tool.act(restricted, McpCallParams(server="a", tool="echo"))
    assert pool.calls == []
    own = FakePool(replace(spec_of("own"), agents=("critic",)))
    desk.services.mcp.current = own
    await call_tool.act(restricted, McpCallParams(server="own", tool="echo"))
    assert len(own.calls) == 1


async def test_mcp_resources_scope_would_widen(desk: Desk) -> None:
    """A token for one agent does not read from a server for all."""
    with pytest.raises(ScopeWouldWiden):
        await list_resources.act(desk.call(RESTRICTED), McpResourcesParams(server="a"))


async def test_mcp_prompts_scope_would_widen(desk: Desk) -> None:
    """A token for one agent does not read from a server for all."""
    with pytest.raises(ScopeWouldWiden):
        await list_prompts.act(desk.call(RESTRICTED), McpPromptsParams(server="a"))


async def test_mcp_restart_scope_would_widen(desk: Desk, pool: FakePool) -> None:
    """A token for one agent does not restart a server for all."""
    with pytest.raises(ScopeWouldWiden):
        await restart_server.act(desk.call(RESTRICTED), McpServerRef(server="a"))
    assert pool.restarted == []
