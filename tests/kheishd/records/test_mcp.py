"""Records of the MCP servers in the store."""

from kheishd.records.mcp import SERVER_RECORDS
from protocol.events.mcp import McpServerDeleted, McpServerStored
from protocol.journal.envelope import Envelope
from protocol.objects.mcp import McpServerSettings
from tests.support.records import fold_record


def stored(command: str) -> McpServerStored:
    """Return the storing of a server."""
    return McpServerStored(server="a", settings=McpServerSettings(command=command))


def test_the_last_settings_count() -> None:
    """A record holds the last settings, and the cursors of its first and last event."""
    record = fold_record(SERVER_RECORDS, stored("x"), stored("y"))
    assert (record.name, record.settings.command, record.created_cursor, record.updated_cursor) == (
        *("a", "y"),
        *(1, 2),
    )


def test_a_deleted_server_has_no_record() -> None:
    """A server that is deleted leaves no record."""
    record = fold_record(SERVER_RECORDS, stored("x"))
    envelope = Envelope(cursor=2, at_ms=0)
    assert SERVER_RECORDS.evolve(record, envelope, McpServerDeleted(server="a")) is None
