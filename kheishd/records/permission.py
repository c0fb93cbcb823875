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
    from kheishd.store.environment import Snapshot
    from kheishd.store.tables import Key
    from protocol.journal.envelope import Envelope


def _evolve(record: DaemonRules | None, envelope: Envelope, event: PermissionsChanged) -> DaemonRules:
    rules = record.rules if record is not None else []
    return DaemonRules(rules=change_rules(rules, event), updated_cursor=envelope.cursor)


def _source(store: Snapshot, key: Key, record: DaemonRules) -> tuple[str, int]:
    return DAEMON_STREAM, record.updated_cursor


PERMISSION_RECORDS: Final = Projection(
    kind="permission rules",
    table=PERMISSIONS,
    begins=PermissionsChanged,
    events=(PermissionsChanged,),
    key=lambda envelope, event: (DAEMON_STREAM,),
    evolve=_evolve,
    source=_source,
    stream=DAEMON_STREAM,
    bounded=True,
)
