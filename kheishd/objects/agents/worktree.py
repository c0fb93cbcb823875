"""Worktrees of agents: where one can be made, and where it is made.

An agent that is isolated works in a git worktree of its own, on a branch of its own. Only the top of a
repository with a directory ``.git`` has worktrees: so everything that belongs to one is within the parent's
workspace. The agents worker makes and removes them (see ``hooks.os.worktrees``).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kheishd.objects.talk.bounds import ancestors
from kheishd.store.tables import AGENTS
from protocol.errors.agent import WorktreeUnavailable
from protocol.limits.names import MAX_PATH_BYTES
from protocol.objects.agent import AgentWorktree

if TYPE_CHECKING:
    from kheishd.kernel.state import State
    from protocol.objects.session import Session

DIRECTORY = ".kheish/worktrees"
"""The directory of worktrees in the workspace of their repository."""


def require_repository(workspace: str) -> None:
    """Require that a directory is the top of a git repository. Reads the file system.

    A link, or a file ``.git`` as in a worktree or a submodule, leads to a repository that may be outside.
    Errors: WorktreeUnavailable.
    """
    git = f"{workspace}/.git"
    if os.path.islink(git) or os.path.isfile(git):
        problem = "its .git is no directory, but leads to another one"
    elif not os.path.isdir(git):
        problem = "it has no directory .git"
    elif not all(os.path.lexists(f"{git}/{name}") for name in ("HEAD", "objects", "refs")):
        problem = "its .git is no repository"
    elif os.path.lexists(f"{git}/commondir"):
        problem = "its .git shares another repository"
    else:
        return
    raise WorktreeUnavailable(
        f"{workspace} cannot have worktrees: {problem}; name the top of a git repository as the workspace, "
        "or spawn without isolation",
        field="$.params.isolation",
    )


def plan_worktree(source_root: str, agent_id: str, name: str) -> AgentWorktree:
    """Return the worktree that an agent will have. Errors: WorktreeUnavailable."""
    path = f"{source_root}/{DIRECTORY}/{agent_id}"
    if len(path.encode()) > MAX_PATH_BYTES:
        raise WorktreeUnavailable(
            f"the path of the worktree would be longer than {MAX_PATH_BYTES} bytes",
            field="$.params.isolation",
        )
    return AgentWorktree(path=path, source_root=source_root, branch=f"kheish/{agent_id}/{name}")


def find_repository(state: State, session: Session, workspace: str) -> str | None:
    """Return the top of the repository if a workspace is the worktree of a session's agent; None if not.

    An agent below that works in the same directory has the same repository.
    Source: the records of the agent and of those above it, if the path is that of a worktree.
    """
    if session.parent_session_id is None or f"/{DIRECTORY}/" not in workspace:
        return None
    with state.read() as store:
        for above in (session, *ancestors(store, session)):
            agent = store.get(AGENTS, above.session_id)
            if agent is not None and agent.worktree is not None and agent.worktree.path == workspace:
                return agent.worktree.source_root
    return None
