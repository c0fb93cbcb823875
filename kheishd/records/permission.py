"""The record of the permission rules of the whole daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.core.permissions.grants import change_rules
from kheishd.records.projection import Projection
from kheishd.store.records import DaemonRules
from kheishd.store.tables import PERMISSIONS
from protocol.events.permission import PermissionsChanged
from protocol.journal.envelope import DAEMON_STREAM

if TYPE_CHECKING:
    from protocol.journal.envelope import Envelope


def evolve(record: DaemonRules | None, envelope: Envelope, event: PermissionsChanged) -> DaemonRules:
    """Return the rules of the daemon after a change."""
    rules = record.rules if record is not None else []
    return DaemonRules(rules=change_rules(rules, event), updated_cursor=envelope.cursor)


PERMISSION_RECORDS: Final = Projection(
    kind="permission rules",
    table=PERMISSIONS,
    begins=PermissionsChanged,
    events=(PermissionsChanged,),
    key=lambda envelope, event: (DAEMON_STREAM,),
    evolve=evolve,
    source=lambda store, key, record: (DAEMON_STREAM, record.updated_cursor),
    stream=DAEMON_STREAM,
    bounded=True,
)
