"""Events of the daemon itself."""

from protocol.journal.envelope import Event


class DaemonStarted(Event, frozen=True, tag="daemon_started"):
    """The daemon opened its store. ``after_crash``: the last one did not say that it stopped."""

    version: str
    pid: int
    schema: int
    after_crash: bool = False


class DaemonStopped(Event, frozen=True, tag="daemon_stopped"):
    """The daemon stopped in an orderly way."""

    note: str


class DaemonReloaded(Event, frozen=True, tag="daemon_reloaded"):
    """A new runtime took the old one's place."""

    generation: int
    warnings: list[str] = []
