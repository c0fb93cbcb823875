"""Events of trusted roots, in the daemon's stream."""

from protocol.journal.envelope import Event


class WorkspaceTrusted(Event, frozen=True, tag="workspace_trusted"):
    """The operator trusts a root: the instructions, skills, hooks and settings in it take effect."""

    root: str
    note: str = ""


class WorkspaceUntrusted(Event, frozen=True, tag="workspace_untrusted"):
    """The operator no longer trusts a root."""

    root: str
    note: str = ""
