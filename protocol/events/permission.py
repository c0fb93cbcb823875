"""Events of permission rules and grants."""

from protocol.journal.envelope import Event
from protocol.objects.permission import Rule, RuleRef


class PermissionsChanged(Event, frozen=True, tag="permissions_changed"):
    """Rules were added and removed, grants revoked.

    The owner follows from the event's position: a run's event has a ``run_id``, a session's stands in the
    session's stream, the daemon's in the daemon's stream.
    """

    add: list[Rule] = []
    remove: list[RuleRef] = []
    revoke: list[str] = []
