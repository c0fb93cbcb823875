"""Events of the daemon itself."""

from protocol.ids import Cursor
from protocol.journal.envelope import Event


class DaemonStarted(Event, frozen=True, tag="daemon_started"):
    """The daemon opened its store. ``after_crash``: its predecessor did not record a stop."""

    version: str
    pid: int
    schema: int
    after_crash: bool = False


class DaemonStopped(Event, frozen=True, tag="daemon_stopped"):
    """The daemon shut down cleanly. ``note`` is the signal or request that stopped it."""

    note: str


class DaemonRestored(Event, frozen=True, tag="daemon_restored"):
    """The store was restored from a backup, and the work that was open in it was marked.

    ``epoch`` is that of the new line of history, which continues after ``backup_cursor``. ``runs`` and
    ``indoubts`` count the runs that were open and the calls that were running. ``revoked_tokens`` counts the
    tokens that the replaced store had revoked since the backup; null: it could not be read.
    """

    epoch: str
    backup_at_ms: int
    backup_cursor: Cursor
    restored_at_ms: int
    runs: int
    indoubts: int
    revoked_tokens: int | None


class DaemonReloaded(Event, frozen=True, tag="daemon_reloaded"):
    """A new runtime replaced the old one."""

    generation: int
    warnings: list[str] = []
