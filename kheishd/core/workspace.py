"""Where agents may work. Pure: every path here is absolute and resolved, so its text says where it leads.

A workspace gives an agent's tools all that is in it. So it neither holds the daemon's home nor lies in it,
but for the one directory that is there for this; it lies within the configured root, if there is one, else
only an operator may choose it; and a child's lies within its parent's.
"""

from dataclasses import dataclass

from protocol.errors.session import WorkspaceForbidden

OWN = frozenset({"state", "run", "debug", "agents", "skills", "cron", "events"})
"""What the daemon keeps in its home, and obeys: who can write there is the daemon."""

_FIELD = "$.params.workspace"


@dataclass(frozen=True, slots=True)
class Workspaces:
    """Where agents work unless something else is said, ``root``; and the daemon's own ``home``.

    ``limited``: the configuration names the root, so everything lies within it.
    """

    root: str
    home: str
    limited: bool = False

    def check(self, path: str, *, free: bool = True) -> None:
        """See that agents may work in a directory; ``free``: that it was chosen by who may choose any.

        Errors: WorkspaceForbidden.
        """
        inside = within(path, self.root)
        if self.limited and not inside:
            raise WorkspaceForbidden(
                f"{path} is not within {self.root}, where the configuration lets agents work", field=_FIELD
            )
        if not inside and (within(path, self.home) or within(self.home, path)):
            raise WorkspaceForbidden(
                f"{path} is, holds or lies in the daemon's own home; choose a directory beside it",
                field=_FIELD,
            )
        if not self.limited and not free and path != self.root:
            raise WorkspaceForbidden(
                f"choosing a workspace needs the scope 'operate' unless [workspace] root is configured; "
                f"without one it is {self.root}",
                field=_FIELD,
                hint="operate",
            )


def within(path: str, directory: str) -> bool:
    """Whether a path is a directory or lies in it."""
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def root_problem(root: str, home: str) -> str | None:
    """Why no agent may be let into a configured root, or None."""
    if within(home, root):
        return f"{root} holds the daemon's own home {home}; name a directory beside it or below it"
    if within(root, home) and root.removeprefix(home).strip("/").split("/")[0] in OWN:
        return f"{root} is the daemon's own; name another directory"
    return None


def place(root: str, above: str | None, chosen: str | None, by_agent: str | None) -> str:
    """Where a session works: where it was told to, else where its agent does, else where its parent does.

    What nobody asked for now, the agent's own directory, counts only if it lies in the parent's.
    Errors: WorkspaceForbidden if it was told to leave the parent's, ``above``.
    """
    if chosen is not None:
        return within_parent(chosen, above) if above is not None else chosen
    if by_agent is not None and (above is None or within(by_agent, above)):
        return by_agent
    return above if above is not None else root


def within_parent(path: str, above: str) -> str:
    """The path, where it lies in the workspace of the session above. Errors: WorkspaceForbidden."""
    if not within(path, above):
        raise WorkspaceForbidden(f"{path} is not within {above}, where the parent works", field=_FIELD)
    return path
