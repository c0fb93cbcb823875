"""The record of the roots that clients trust."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.records.projection import Projection
from kheishd.store.records import TrustedRoots
from kheishd.store.tables import TRUSTED_ROOTS
from protocol.events.workspace import WorkspaceTrusted, WorkspaceUntrusted
from protocol.journal.envelope import DAEMON_STREAM
from protocol.objects.workspace import TrustedRoot

if TYPE_CHECKING:
    from protocol.journal.envelope import Envelope


def evolve(
    record: TrustedRoots | None, envelope: Envelope, event: WorkspaceTrusted | WorkspaceUntrusted
) -> TrustedRoots:
    """Return the trusted roots after a change."""
    roots = [root for root in (record.roots if record is not None else []) if root.root != event.root]
    if isinstance(event, WorkspaceTrusted):
        root = TrustedRoot(
            root=event.root,
            source="client",
            trusted_by=envelope.actor,
            trusted_at_ms=envelope.at_ms,
            note=event.note,
        )
        roots.append(root)
    created_cursor = record.created_cursor if record is not None else envelope.cursor
    return TrustedRoots(roots=roots, created_cursor=created_cursor, updated_cursor=envelope.cursor)


TRUSTED_ROOT_RECORDS: Final = Projection(
    kind="trusted roots",
    table=TRUSTED_ROOTS,
    begins=WorkspaceTrusted,
    events=(WorkspaceTrusted, WorkspaceUntrusted),
    key=lambda envelope, event: (DAEMON_STREAM,),
    evolve=evolve,
    source=lambda store, key, record: (DAEMON_STREAM, record.created_cursor),
    stream=DAEMON_STREAM,
    bounded=True,
)
