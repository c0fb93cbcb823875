"""Records of checkpoints of workspace files, and the uses of the contents that they keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kheishd.core import checkpoint
from kheishd.records.projection import IndexRow, Projection, key_in, source_in_session
from kheishd.store.tables import (
    FILE_CHECKPOINTS,
    FILE_CHECKPOINTS_BY_AGE,
    FILE_CONTENT_USES,
    RECORDS_BY_SESSION,
)
from protocol.events.checkpoint import CheckpointDropped, CheckpointReverted, CheckpointSaved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kheishd.store.table import Key
    from protocol.journal.envelope import Envelope
    from protocol.objects.checkpoint import Checkpoint

CHECKPOINT: Final = "checkpoint"


def index_rows(record: Checkpoint) -> frozenset[IndexRow]:
    """Return the index rows of a checkpoint: its age, its session, and its uses of contents."""
    uses = {file.before for file in record.files if file.before is not None and not file.problem}
    return frozenset(
        (
            IndexRow(
                RECORDS_BY_SESSION,
                (record.session_id, CHECKPOINT, record.created_cursor),
                record.checkpoint_id,
            ),
            IndexRow(FILE_CHECKPOINTS_BY_AGE, (record.created_cursor,), record.checkpoint_id),
            *(IndexRow(FILE_CONTENT_USES, (digest, record.checkpoint_id)) for digest in uses),
        )
    )


def _keys(envelope: Envelope, event: Any) -> Sequence[Key]:
    """Return the keys of the checkpoints that an event changes."""
    if isinstance(event, CheckpointReverted):
        return [(name,) for name in dict.fromkeys((event.checkpoint_id, *event.reverts, *event.restores))]
    return ((event.checkpoint_id,),)


FILE_CHECKPOINT_RECORDS: Final = Projection(
    kind=CHECKPOINT,
    table=FILE_CHECKPOINTS,
    begins=CheckpointSaved,
    events=(CheckpointSaved, CheckpointReverted, CheckpointDropped),
    key=key_in("checkpoint_id"),
    keys=_keys,
    evolve=checkpoint.evolve,
    source=source_in_session,
    rows=index_rows,
    indexes=(RECORDS_BY_SESSION, FILE_CHECKPOINTS_BY_AGE, FILE_CONTENT_USES),
    constant_rows=True,
    bounded=True,
    # An undo may name a checkpoint that was dropped meanwhile.
    strays=True,
)
