"""Refusals about MCP servers."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, LimitReached, NotFound, Unavailable, Unprocessable


class McpServerNotFound(NotFound, reason="mcp_server_not_found"):
    """No MCP server has that name; mcp.list shows all of them."""


class McpToolNotFound(NotFound, reason="mcp_tool_not_found"):
    """The server has no tool of that name; mcp.tools shows its tools."""


class McpServerUnavailable(Unavailable, reason="mcp_server_unavailable"):
    """The server is not connected; mcp.list shows the reason and the time of the next attempt."""


class McpCallFailed(Unavailable, reason="mcp_call_failed"):
    """The server did not answer the request, or answered with an error; the message quotes it."""

    retryable = False


class McpLoginNotFound(NotFound, reason="mcp_login_not_found"):
    """There is no such login any more, or the server has no tokens; mcp.login begins a login."""


class McpLoginFailed(Unprocessable, reason="mcp_login_failed"):
    """The login at the server did not succeed; the message says at which step, and quotes the answer."""


class McpServerInvalid(Unprocessable, reason="mcp_server_invalid"):
    """The settings of the server are invalid; the message names every problem."""


class McpServerReadOnly(Conflict, reason="mcp_server_read_only"):
    """The configuration or an agent's definition has the server; edit that, or choose another name."""


class McpServerLimit(LimitReached, reason="mcp_server_limit"):
    """The store has the maximum number of servers; delete some."""

    retryable = False
