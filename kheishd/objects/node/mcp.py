"""MCP servers: their states, their tools, and calls by an operator."""

from __future__ import annotations

import time

from kheishd.core.mcp import format_answer
from kheishd.kernel.call import Call, control, query
from kheishd.kernel.mcp import RemoteTool, ServerFailure, servers_of, view_of
from kheishd.objects.pages import page_of
from protocol.errors.mcp import McpCallFailed, McpServerUnavailable, McpToolNotFound
from protocol.objects import mcp as rows
from protocol.objects.mcp import (
    McpCallParams,
    McpCallResult,
    McpListParams,
    McpServer,
    McpServerList,
    McpServerRef,
    McpTool,
    McpToolList,
    McpToolsParams,
)


@query(rows.LIST)
def list_servers(call: Call, params: McpListParams) -> McpServerList:
    """List the servers by name."""
    holder = call.services.mcp
    views = holder.current.views()
    if not holder.adopted.is_set():
        views = [view_of(spec, "starting") for spec in servers_of(call.runtime).values()]
    found = (((view.name,), view) for view in views if params.after is None or view.name > params.after)
    page, following = page_of(found, params.limit, lambda view: True)
    return McpServerList(page, following)


@query(rows.TOOLS)
def list_tools(call: Call, params: McpToolsParams) -> McpToolList:
    """List the tools of a server, or of all, by name. Errors: McpServerNotFound."""
    pool = call.services.mcp.current
    if params.server is not None:
        pool.find(params.server)
    tools = sorted(pool.tools, key=lambda tool: tool.row.name)
    found = (
        ((tool.row.name,), _view_of(tool))
        for tool in tools
        if params.server in (None, tool.spec.name) and (params.after is None or tool.row.name > params.after)
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


@control(rows.CALL)
async def call_tool(call: Call, params: McpCallParams) -> McpCallResult:
    """Call a tool. Errors: McpCallFailed, McpServerNotFound, McpServerUnavailable, McpToolNotFound."""
    pool = call.services.mcp.current
    pool.find(params.server)
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
    try:
        result = await pool.call(params.server, params.tool, params.arguments, lambda line: None)
    except ServerFailure as failure:
        text = f"the MCP server '{params.server}': {failure}"
        if failure.reason == "unavailable":
            raise McpServerUnavailable(text) from None
        raise McpCallFailed(text) from None
    text, _ = format_answer(params.server, result.content, result.structured)
    return McpCallResult(
        server=params.server,
        tool=params.tool,
        text=text,
        is_error=result.is_error,
        duration_ms=round((time.monotonic() - began) * 1000),
    )


@control(rows.RESTART)
async def restart_server(call: Call, params: McpServerRef) -> McpServer:
    """Connect to a server anew. Errors: McpServerNotFound, McpServerUnavailable if it is disabled."""
    pool = call.services.mcp.current
    await pool.restart(params.server)
    return next(view for view in pool.views() if view.name == params.server)


HANDLERS = (list_servers, list_tools, call_tool, restart_server)
