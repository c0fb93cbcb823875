"""MCP servers: their states, their tools, and calls by an operator."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from kheishd.config.sections.mcp import find_server_problems
from kheishd.core.mcp import format_answer
from kheishd.kernel.call import Call, control, mutation, origin_of, query
from kheishd.kernel.mcp import RemoteTool, ServerFailure, ServerSpec, server_not_found, servers_of, view_of
from kheishd.objects.pages import page_of
from kheishd.objects.storable import require_storable
from kheishd.records.writer import StreamWriter
from kheishd.store.tables import MCP_SERVERS, SECRETS
from protocol.errors.mcp import (
    McpCallFailed,
    McpServerInvalid,
    McpServerLimit,
    McpServerReadOnly,
    McpServerUnavailable,
    McpToolNotFound,
)
from protocol.errors.token import ScopeWouldWiden
from protocol.events.mcp import McpServerDeleted, McpServerStored
from protocol.journal.envelope import DAEMON_STREAM
from protocol.limits.mcp import (
    MAX_SERVER_SETTINGS_BYTES,
    MAX_SERVER_TOOL_DESCRIPTION_BYTES,
    MAX_STORED_SERVERS,
)
from protocol.objects import mcp as rows
from protocol.objects.mcp import (
    DeletedMcpServer,
    McpCallParams,
    McpCallResult,
    McpListParams,
    McpPrompt,
    McpPromptList,
    McpPromptsParams,
    McpResource,
    McpResourceList,
    McpResourcesParams,
    McpServer,
    McpServerDelete,
    McpServerList,
    McpServerPut,
    McpServerRef,
    McpServerState,
    McpTool,
    McpToolList,
    McpToolsParams,
)
from protocol.text import truncate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kheishd.store.environment import Transaction

# Resources and prompts of one answer: 256 with descriptions of 2 KiB take half a mebibyte.
MAX_LISTED: Final = 256


@query(rows.LIST)
def list_servers(call: Call, params: McpListParams) -> McpServerList:
    """List the servers by name."""
    holder = call.services.mcp
    views = holder.current.views()
    if not holder.adopted.is_set():
        views = [view_of(spec, "starting") for spec in servers_of(call.runtime).values()]
    found = (((view.name,), view) for view in views if params.after is None or view.name > params.after)
    page, following = page_of(found, params.limit, lambda view: _may_see(call, view.agents))
    return McpServerList([replace(view, error_output=[]) for view in page], following)


@query(rows.GET)
def get_server(call: Call, params: McpServerRef) -> McpServer:
    """Read the state of a server. Errors: McpServerNotFound."""
    holder = call.services.mcp
    if not holder.adopted.is_set():
        spec = servers_of(call.runtime).get(params.server)
        if spec is None or not _may_see(call, spec.agents):
            raise server_not_found(params.server)
        return view_of(spec, "starting")
    _find(call, params.server)
    return next(view for view in holder.current.views() if view.name == params.server)


def _may_see(call: Call, agents: Sequence[str]) -> bool:
    """Whether a caller may see a server: one of certain agents needs a token that covers one of them."""
    return not agents or any(call.caller.may_read_agent(agent) for agent in agents)


def _find(call: Call, name: str) -> ServerSpec:
    """Return a server. Errors: McpServerNotFound, also for one that the caller may not see."""
    spec = call.services.mcp.current.find(name)
    if not _may_see(call, spec.agents):
        raise server_not_found(name)
    return spec


def _find_usable(call: Call, name: str) -> None:
    """Require a server that the caller may use: one for all agents needs a token for all.

    Errors: McpServerNotFound, ScopeWouldWiden.
    """
    if not _find(call, name).agents:
        require_unrestricted(call)


@query(rows.TOOLS)
def list_tools(call: Call, params: McpToolsParams) -> McpToolList:
    """List the tools of a server, or of all, by name. Errors: McpServerNotFound."""
    if params.server is not None:
        _find(call, params.server)
    tools = sorted(call.services.mcp.current.tools, key=lambda tool: tool.row.name)
    found = (
        ((tool.row.name,), _view_of(tool))
        for tool in tools
        if params.server in (None, tool.spec.name)
        and _may_see(call, tool.spec.agents)
        and (params.after is None or tool.row.name > params.after)
    )
    page, following = page_of(found, params.limit, lambda view: True)
    return McpToolList(page, following)


def _view_of(tool: RemoteTool) -> McpTool:
    return McpTool(
        name=tool.row.name,
        server=tool.spec.name,
        tool=tool.remote_name,
        description=tool.row.description,
        input_schema=dict(tool.row.schema),
        read_only=tool.read_only,
        idempotent=tool.idempotent,
    )


@contextmanager
def _refusing_failures(server: str) -> Iterator[None]:
    """Turn the failure of a request into a refusal. Errors: McpCallFailed, McpServerUnavailable."""
    try:
        yield
    except ServerFailure as failure:
        text = f"the MCP server '{server}': {failure}"
        if failure.reason == "unavailable":
            raise McpServerUnavailable(text, field="$.params.server") from None
        raise McpCallFailed(text) from None


@control(rows.CALL)
async def call_tool(call: Call, params: McpCallParams) -> McpCallResult:
    """Call a tool.

    Errors: McpCallFailed, McpServerNotFound, McpServerUnavailable, McpToolNotFound, ScopeWouldWiden.
    """
    await call.services.mcp.adopted.wait()
    pool = call.services.mcp.current
    _find_usable(call, params.server)
    problem = pool.find_problem(params.server)
    if problem is not None:
        raise McpServerUnavailable(f"the MCP server '{params.server}' cannot be called: {problem}")
    names = {tool.remote_name for tool in pool.tools if tool.spec.name == params.server}
    if params.tool not in names:
        raise McpToolNotFound(
            f"the MCP server '{params.server}' has no tool '{params.tool}'; mcp.tools names its tools",
            field="$.params.tool",
        )
    began = time.monotonic()
    with _refusing_failures(params.server):
        result = await pool.call(params.server, params.tool, params.input, lambda line: None)
    text, _ = format_answer(
        params.server, result.content, result.structured, call.live.scrubber.scrub_cut, result.problem
    )
    return McpCallResult(
        server=params.server,
        tool=params.tool,
        text=text,
        is_error=result.is_error,
        duration_ms=round((time.monotonic() - began) * 1000),
    )


@control(rows.RESOURCES)
async def list_resources(call: Call, params: McpResourcesParams) -> McpResourceList:
    """List resources and templates.

    Errors: McpCallFailed, McpServerNotFound, McpServerUnavailable, ScopeWouldWiden.
    """
    await call.services.mcp.adopted.wait()
    _find_usable(call, params.server)
    with _refusing_failures(params.server):
        listing = await call.services.mcp.current.list_resources(params.server)
    return McpResourceList(
        [
            McpResource(
                uri=row.get("uri") or row.get("uriTemplate", ""),
                name=row.get("name", ""),
                description=truncate(row.get("description", ""), MAX_SERVER_TOOL_DESCRIPTION_BYTES),
                mime_type=row.get("mimeType"),
                is_template="uriTemplate" in row,
            )
            for row in listing.rows[:MAX_LISTED]
        ],
        [*listing.warnings],
    )


@control(rows.PROMPTS)
async def list_prompts(call: Call, params: McpPromptsParams) -> McpPromptList:
    """List prompts.

    Errors: McpCallFailed, McpServerNotFound, McpServerUnavailable, ScopeWouldWiden.
    """
    await call.services.mcp.adopted.wait()
    _find_usable(call, params.server)
    with _refusing_failures(params.server):
        listing = await call.services.mcp.current.list_prompts(params.server)
    return McpPromptList(
        [
            McpPrompt(
                name=row["name"],
                description=truncate(row.get("description", ""), MAX_SERVER_TOOL_DESCRIPTION_BYTES),
                arguments=[argument["name"] for argument in row.get("arguments", ())],
            )
            for row in listing.rows[:MAX_LISTED]
        ],
        [*listing.warnings],
    )


@control(rows.RESTART)
async def restart_server(call: Call, params: McpServerRef) -> McpServer:
    """Connect to a server anew.

    Errors: McpServerNotFound, McpServerUnavailable if it is disabled, ScopeWouldWiden.
    """
    await call.services.mcp.adopted.wait()
    pool = call.services.mcp.current
    _find_usable(call, params.server)
    await pool.restart(params.server)
    return next(view for view in pool.views() if view.name == params.server)


# Servers in the store.


def prepare_put(call: Call, params: McpServerPut) -> McpServerPut:
    """Validate a server. Errors: InputTooLarge, McpServerInvalid, McpServerReadOnly, ScopeWouldWiden."""
    require_unrestricted(call)
    _require_stored(call, params.server)
    problems = list(find_server_problems(params.settings))
    if problems:
        key = problems[0].path
        field = "$.params.settings" + (f".{key[0]}" if key else "")
        raise McpServerInvalid("; ".join(map(str, problems)), field=field)
    require_storable(params.settings, MAX_SERVER_SETTINGS_BYTES, "server", "$.params.settings")
    return params


@mutation(rows.PUT, prepare=prepare_put)
def put_server(tx: Transaction, call: Call, params: McpServerPut) -> McpServer:
    """Store a server. Errors: McpServerLimit."""
    stored = tx.get(MCP_SERVERS, params.server)
    if stored is None and tx.count(MCP_SERVERS) >= MAX_STORED_SERVERS:
        raise McpServerLimit(f"the store has {MAX_STORED_SERVERS} MCP servers, the maximum; delete some")
    if stored is None or stored.settings != params.settings:
        writer = StreamWriter(tx, DAEMON_STREAM, origin=origin_of(call))
        writer.append(McpServerStored(server=params.server, settings=params.settings))
        writer.write()
    state: McpServerState = "starting" if params.settings.enabled else "disabled"
    return view_of(ServerSpec(params.server, params.settings, "stored"), state)


def prepare_delete(call: Call, params: McpServerDelete) -> McpServerDelete:
    """Require a caller that may change servers. Errors: ScopeWouldWiden."""
    require_unrestricted(call)
    spec = servers_of(call.runtime).get(params.server)
    if spec is not None and spec.source == "stored":
        call.services.mcp.current.hold_login(spec)
    return params


async def follow_delete(call: Call, params: McpServerDelete, result: DeletedMcpServer) -> DeletedMcpServer:
    """Tell the authorization server that the tokens of the server are deleted."""
    await call.services.mcp.current.revoke_login(result.server)
    return result


@mutation(rows.DELETE, prepare=prepare_delete, follow=follow_delete)
def delete_server(tx: Transaction, call: Call, params: McpServerDelete) -> DeletedMcpServer:
    """Delete a server, also one that the configuration hides; and its tokens, unless that has them.

    Errors: McpServerNotFound, McpServerReadOnly.
    """
    if tx.get(MCP_SERVERS, params.server) is None:
        _require_stored(call, params.server)
        raise server_not_found(params.server)
    writer = StreamWriter(tx, DAEMON_STREAM, origin=origin_of(call))
    writer.append(McpServerDeleted(server=params.server))
    writer.write()
    spec = servers_of(call.runtime).get(params.server)
    if spec is not None and spec.source == "stored" and tx.get(SECRETS, spec.login_slot) is not None:
        call.services.secrets.delete_slot(tx, spec.login_slot, origin=origin_of(call))
    return DeletedMcpServer(params.server)


def require_unrestricted(call: Call) -> None:
    """Require a caller whose token covers everything: a server is a program. Errors: ScopeWouldWiden."""
    if not call.caller.is_unrestricted:
        raise ScopeWouldWiden(
            "an MCP server is a program of the daemon for every agent, and the token covers only some agents"
        )


def _require_stored(call: Call, name: str) -> None:
    """Reject a name that the configuration or a definition has. Errors: McpServerReadOnly."""
    spec = servers_of(call.runtime).get(name)
    if spec is not None and spec.source != "stored":
        place = f"the agent '{spec.agents[0]}'" if spec.agents else "the configuration"
        text = f"{place} has an MCP server '{name}'; edit that, or choose another name"
        raise McpServerReadOnly(text, field="$.params.server")


HANDLERS = (
    list_servers,
    get_server,
    list_tools,
    call_tool,
    list_resources,
    list_prompts,
    restart_server,
    put_server,
    delete_server,
)
