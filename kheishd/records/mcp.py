"""Records of the MCP servers in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.records.projection import Projection, key_in
from kheishd.store.records import StoredServer
from kheishd.store.tables import MCP_SERVERS
from protocol.events.mcp import McpServerDeleted, McpServerStored
from protocol.journal.envelope import DAEMON_STREAM

if TYPE_CHECKING:
    from protocol.journal.envelope import Envelope


def evolve(
    record: StoredServer | None, envelope: Envelope, event: McpServerStored | McpServerDeleted
) -> StoredServer | None:
    """Return the record after an event; None for a server that was deleted."""
    if isinstance(event, McpServerDeleted):
        return None
    return StoredServer(
        name=event.server,
        settings=event.settings,
        created_cursor=envelope.cursor if record is None else record.created_cursor,
        updated_cursor=envelope.cursor,
    )


SERVER_RECORDS: Final = Projection(
    kind="MCP server",
    table=MCP_SERVERS,
    begins=McpServerStored,
    events=(McpServerStored, McpServerDeleted),
    key=key_in("server"),
    evolve=evolve,
    source=lambda store, key, record: (DAEMON_STREAM, record.created_cursor),
    stream=DAEMON_STREAM,
    bounded=True,
)
