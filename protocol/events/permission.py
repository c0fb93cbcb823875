"""Events of permission rules and grants."""

from protocol.journal.envelope import Event
from protocol.objects.permission import Rule, RuleRef


class PermissionsChanged(Event, frozen=True, tag="permissions_changed"):
    """Rules were added and removed, grants revoked: of a run, a session, or the whole daemon.

    Whose they are is where the event stands: a run's has its ``run_id``, the daemon's is in its stream.
    """

    add: list[Rule] = []
    remove: list[RuleRef] = []
    revoke: list[str] = []
