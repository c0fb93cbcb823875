"""Checkpoints of workspace files: a record as the fold of its events, and the changes to revert. Pure."""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from protocol.events.checkpoint import CheckpointDropped, CheckpointReverted, CheckpointSaved
from protocol.journal.envelope import Envelope
from protocol.objects.checkpoint import Checkpoint, FileVersion
from protocol.structs import Value

CheckpointEvent = CheckpointSaved | CheckpointReverted | CheckpointDropped


def evolve(record: Checkpoint | None, envelope: Envelope, event: CheckpointEvent) -> Checkpoint | None:
    """Return a checkpoint after an event; None once it was dropped."""
    match event:
        case CheckpointSaved():
            assert envelope.session_id is not None, "a checkpoint belongs to a session"
            return Checkpoint(
                checkpoint_id=event.checkpoint_id,
                session_id=envelope.session_id,
                kind=event.kind,
                status="done" if event.kind == "call" else "begun",
                workspace=event.workspace,
                created_at_ms=envelope.at_ms,
                created_cursor=envelope.cursor,
                updated_cursor=envelope.cursor,
                files=event.files,
                run_id=envelope.run_id,
                call_id=event.call_id,
                tool=event.tool,
                more=event.more,
                note=event.note,
                reverts=event.reverts,
                restores=event.restores,
            )
        case CheckpointReverted():
            assert record is not None, "a checkpoint is saved first"
            status = "reverted" if record.checkpoint_id in event.reverts else "done"
            return replace(record, status=status, updated_cursor=envelope.cursor)
        case CheckpointDropped():
            return None


def stored_bytes(record: Checkpoint) -> int:
    """Return the bytes of the contents that a checkpoint keeps."""
    return sum(file.bytes for file in record.files if not file.problem)


class FileRevert(Value, frozen=True):
    """The revert of a file: its version to restore, and the digest that the file should have until then.

    ``is_chained`` is False if others changed the file between two of the reverted changes.
    """

    version: FileVersion
    expected: str | None
    is_chained: bool = True


def choose_undo(records: Iterable[Checkpoint]) -> Checkpoint | None:
    """Return the newest change of a call that is not reverted, of checkpoints from the newest on."""
    changes = (record for record in records if record.kind == "call" and record.files)
    return next((record for record in changes if record.status == "done"), None)


def choose_redo(records: Iterable[Checkpoint]) -> Checkpoint | None:
    """Return the newest undo that is not reverted, of checkpoints from the newest on."""
    return next((record for record in records if record.kind == "undo" and record.status == "done"), None)


def merge(records: Sequence[Checkpoint]) -> list[FileRevert]:
    """Return the reverts that bring files back to before several changes, given oldest first."""
    reverts: dict[str, FileRevert] = {}
    for record in records:
        for file in record.files:
            earlier = reverts.get(file.path)
            if earlier is None:
                reverts[file.path] = FileRevert(file, file.after)
            else:
                is_chained = earlier.is_chained and earlier.expected == file.before
                reverts[file.path] = FileRevert(earlier.version, file.after, is_chained)
    return [reverts[path] for path in sorted(reverts)]
