"""Events of MCP servers in the store. They stand in the daemon's stream."""

from protocol.journal.envelope import Event
from protocol.objects.mcp import McpServerSettings


class McpServerStored(Event, frozen=True, tag="mcp_server_stored"):
    """A server was stored, or its settings were replaced."""

    server: str
    settings: McpServerSettings


class McpServerDeleted(Event, frozen=True, tag="mcp_server_deleted"):
    """A server was deleted from the store."""

    server: str
