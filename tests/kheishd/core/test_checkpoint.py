"""Checkpoints of workspace files as records, and the changes to revert."""

from typing import Any

from kheishd.core.checkpoint import choose_redo, choose_undo, evolve, merge, stored_bytes
from protocol.events.checkpoint import CheckpointDropped, CheckpointReverted, CheckpointSaved
from protocol.journal.envelope import Envelope
from protocol.objects.checkpoint import Checkpoint, FileVersion


def envelope(cursor: int) -> Envelope:
    """Return the envelope of an event of a session."""
    return Envelope(cursor=cursor, at_ms=cursor, session_id="ses_1", run_id="run_1")


def saved(number: int, *files: FileVersion, **fields: Any) -> Checkpoint:
    """Return a checkpoint as its first event begins it."""
    event = CheckpointSaved(checkpoint_id=f"chk_{number}", workspace="/w", files=[*files], **fields)
    record = evolve(None, envelope(number), event)
    assert record is not None
    return record


def test_a_record_is_the_fold_of_its_events() -> None:
    """An undo is begun until its files are written; then it is done, and what it reverts is reverted."""
    call, undo = saved(1), saved(2, kind="undo", reverts=["chk_1"])
    assert (call.status, undo.status) == ("done", "begun")
    event = CheckpointReverted(checkpoint_id="chk_2", reverts=["chk_1"])
    after = [evolve(record, envelope(3), event) for record in (call, undo)]
    assert [record.status for record in after if record is not None] == ["reverted", "done"]
    redo = CheckpointReverted(checkpoint_id="chk_4", reverts=["chk_2"], restores=["chk_1"])
    again = [evolve(record, envelope(5), redo) for record in after]
    assert [record.status for record in again if record is not None] == ["done", "reverted"]
    assert evolve(call, envelope(6), CheckpointDropped(checkpoint_id="chk_1")) is None


def test_the_newest_change_is_undone_and_the_newest_undo_redone() -> None:
    """Neither an undo that is only begun nor what is reverted counts."""
    file = FileVersion(path="a")
    newest_first = [saved(4, kind="undo"), saved(3, note="not saved"), saved(2, file), saved(1, file)]
    assert choose_undo(newest_first) is newest_first[2]
    assert choose_redo(newest_first) is None
    assert choose_undo([]) is None


def test_several_changes_are_reverted_to_before_the_first() -> None:
    """A file has its version before the first change; a gap between changes shows that others wrote it."""
    first = saved(1, FileVersion(path="a", before="1", after="2", bytes=5), FileVersion(path="b", after="x"))
    second = saved(2, FileVersion(path="a", before="2", after="3", bytes=5))
    third = saved(3, FileVersion(path="a", before="9", after="4"))
    a, b = merge([first, second])
    assert (a.version.before, a.expected, a.is_chained) == ("1", "3", True)
    assert (b.version.before, b.expected) == (None, "x")
    assert not merge([first, second, third])[0].is_chained
    assert stored_bytes(first) == 5
