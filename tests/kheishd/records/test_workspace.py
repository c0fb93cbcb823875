"""The record of trusted roots."""

from kheishd.records.workspace import TRUSTED_ROOT_RECORDS
from protocol.events.workspace import WorkspaceTrusted, WorkspaceUntrusted
from tests.support.records import fold_record


def test_it_holds_the_roots_that_are_trusted_now() -> None:
    """A root is there once, until it is untrusted."""
    record = fold_record(
        TRUSTED_ROOT_RECORDS,
        WorkspaceTrusted(root="/a"),
        WorkspaceTrusted(root="/b", note="mine"),
        WorkspaceTrusted(root="/a", note="again"),
        WorkspaceTrusted(root="/c"),
        WorkspaceUntrusted(root="/c"),
    )
    assert [(root.root, root.note, root.source) for root in record.roots] == [
        ("/b", "mine", "client"),
        ("/a", "again", "client"),
    ]
    assert record.updated_cursor == 5
    assert not TRUSTED_ROOT_RECORDS.final(record)
