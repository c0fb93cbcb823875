"""Events of the daemon itself."""

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


class DaemonReloaded(Event, frozen=True, tag="daemon_reloaded"):
    """A new runtime replaced the old one."""

    generation: int
    warnings: list[str] = []
