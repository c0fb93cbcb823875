"""Rules for the directories in which agents may work. Pure: every path is absolute and resolved.

An agent's tools may use everything in its workspace. Therefore a workspace neither contains the daemon's home
nor is within it, except within the directory reserved for workspaces. It is within the configured root; if no
root is configured, only an operator may choose it. A child session's workspace is within its parent's.
"""

from collections.abc import Iterable

from protocol.errors.session import WorkspaceForbidden
from protocol.structs import Value

DAEMON_DIRECTORIES = frozenset({"state", "run", "debug", "agents", "skills", "hooks", "cron", "events"})
"""Directories in the daemon's home that the daemon obeys: write access to them is control of the daemon."""

_FIELD = "$.params.workspace"


class Workspaces(Value, frozen=True):
    """The bounds of workspaces: the default one, ``root``, and the daemon's own ``home``.

    ``limited``: the configuration sets the root, so all workspaces are within it. ``trusted`` are the roots
    that the configuration trusts.
    """

    root: str
    home: str
    limited: bool = False
    trusted: tuple[str, ...] = ()

    def require_allowed(self, path: str, *, by_operator: bool = True, field: str | None = _FIELD) -> None:
        """Require that agents may work in a directory.

        Args:   ``by_operator``: the caller that chose it has the scope ``operate``.
                ``field``: the field of the request that holds the path; None if the request does not hold it.
        Errors: WorkspaceForbidden.
        """
        inside = is_within(path, self.root)
        if self.limited and not inside:
            raise WorkspaceForbidden(
                f"{path} is not within {self.root}, the configured workspace root", field=field
            )
        if not inside and (is_within(path, self.home) or is_within(self.home, path)):
            raise WorkspaceForbidden(
                f"{path} overlaps with the daemon's own home; choose a directory beside it", field=field
            )
        if not self.limited and not by_operator and path != self.root:
            raise WorkspaceForbidden(
                f"choosing a workspace needs the scope 'operate' unless [workspace] root is configured; "
                f"the default workspace is {self.root}",
                field=field,
                hint="operate",
            )


def is_within(path: str, directory: str) -> bool:
    """Whether a path is a directory or is within it."""
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def find_root_problem(root: str, home: str) -> str | None:
    """Return why a root cannot be configured; None if it can."""
    if is_within(home, root):
        return f"{root} contains the daemon's own home {home}; name a directory beside it or below it"
    if is_within(root, home) and root.removeprefix(home).strip("/").split("/")[0] in DAEMON_DIRECTORIES:
        return f"{root} is the daemon's own; name another directory"
    return None


def find_trust_problem(root: str, home: str, user_home: str) -> str | None:
    """Return why a root cannot be trusted; None if it can.

    A trusted root covers everything below it, so one that covers the user's home or the daemon's own would
    cover files that other programs and strangers put there, such as downloads.
    """
    if is_within(user_home, root):
        return f"{root} contains the home directory {user_home}; name a directory below it"
    return find_root_problem(root, home)


def find_outermost(path: str, roots: Iterable[str]) -> str | None:
    """Return the outermost of the roots that contain a path; None if none does."""
    return min((root for root in roots if is_within(path, root)), key=len, default=None)


def choose_workspace(
    root: str,
    parent: str | None,
    requested: str | None,
    by_agent: str | None,
    field: str | None = _FIELD,
) -> str:
    """Return a session's workspace: the requested one, else its agent's, else its parent's, else the root.

    The agent's own directory is used only if it is within the parent's workspace.
    Errors: WorkspaceForbidden if the requested directory is not within the parent's.
    """
    if requested is not None:
        return require_within_parent(requested, parent, field) if parent is not None else requested
    if by_agent is not None and (parent is None or is_within(by_agent, parent)):
        return by_agent
    return parent if parent is not None else root


def require_within_parent(path: str, parent: str, field: str | None = _FIELD) -> str:
    """Return the path if it is within the parent session's workspace. Errors: WorkspaceForbidden."""
    if not is_within(path, parent):
        raise WorkspaceForbidden(f"{path} is not within {parent}, the parent's workspace", field=field)
    return path
