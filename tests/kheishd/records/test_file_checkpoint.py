"""Records of checkpoints of workspace files."""

from kheishd.records.file_checkpoint import index_rows
from kheishd.store.tables import FILE_CONTENT_USES
from protocol.objects.checkpoint import Checkpoint, FileVersion


def test_a_checkpoint_uses_the_contents_that_it_saved() -> None:
    """A file that did not exist, or was not saved, is no use of a content."""
    files = [
        FileVersion(path="a", before="1" * 64),
        FileVersion(path="copy", before="1" * 64),
        FileVersion(path="new"),
        FileVersion(path="big", before="2" * 64, problem="too large"),
    ]
    record = Checkpoint(
        checkpoint_id="chk_1",
        session_id="ses_1",
        kind="call",
        status="done",
        workspace="/w",
        created_at_ms=1,
        created_cursor=7,
        updated_cursor=7,
        files=files,
    )
    rows = index_rows(record)
    assert [row.key for row in rows if row.table is FILE_CONTENT_USES] == [("1" * 64, "chk_1")]
    assert len(rows) == 3
