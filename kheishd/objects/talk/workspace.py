"""The directory that a session's runs work in.

A path is resolved when it is accepted, and the result is stored. It is checked again whenever a run is
accepted, because configurations change. Tools enter it without following any symbolic link, so a link that
replaces it later leads nowhere.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from kheishd.core.workspace import choose_workspace, find_outermost, is_within
from kheishd.store.tables import SESSIONS, TRUSTED_ROOTS
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import WorkspaceForbidden, WorkspaceMissing
from protocol.journal.envelope import DAEMON_STREAM
from protocol.limits.names import MAX_PATH_BYTES
from protocol.objects.workspace import TrustedRoot

if TYPE_CHECKING:
    from kheishd.kernel.call import Call
    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot
    from protocol.objects.definition import Definition
    from protocol.objects.session import Session


def find_workspace(call: Call, path: str) -> str | None:
    """Return a directory, resolved, if the caller may choose it and it can be entered."""
    try:
        return resolve_requested(call, path)
    except (InvalidParams, WorkspaceForbidden, WorkspaceMissing):
        return None


def resolve_requested(call: Call, path: str, field: str = "$.params.workspace") -> str:
    """Return the directory that a caller requests, resolved; a relative path begins at the root.

    Errors: InvalidParams, WorkspaceForbidden, WorkspaceMissing.
    """
    workspaces = call.runtime.workspaces
    resolved = resolve(path, workspaces.root)
    if resolved is None:
        raise InvalidParams(f"a workspace is a path of at most {MAX_PATH_BYTES} printable bytes", field=field)
    # First: a caller that may not choose it learns nothing about it.
    workspaces.require_allowed(resolved, by_operator="operate" in call.caller.scopes, field=field)
    problem = find_problem(resolved)
    if problem is not None:
        raise WorkspaceMissing(f"the workspace {resolved} {problem}", field=field)
    return resolved


def find_problem(path: str) -> str | None:
    """Return why a resolved path is no directory to work in; None if it is one."""
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        return "does not exist; create it, or name an existing directory"
    except OSError as error:
        return f"cannot be entered: {(error.strerror or str(error)).lower()}"
    if not is_directory:
        return "is not a directory"
    if not os.access(path, os.R_OK | os.X_OK):
        return f"cannot be entered by the daemon's user (uid {os.geteuid()})"
    return None


def resolve(path: str, root: str) -> str | None:
    """Return the target of a path; None if it cannot be a workspace."""
    if not path.isprintable():
        return None
    resolved = os.path.realpath(os.path.join(root, path))
    return resolved if resolved.isprintable() and len(resolved.encode()) <= MAX_PATH_BYTES else None


# Trust.


def configured_roots(runtime: Runtime) -> list[TrustedRoot]:
    """Return the roots that the configuration trusts."""
    return [TrustedRoot(root=root, source="config") for root in runtime.workspaces.trusted]


def client_roots(store: Snapshot) -> list[TrustedRoot]:
    """Return the roots that clients trust, oldest first."""
    record = store.get(TRUSTED_ROOTS, DAEMON_STREAM)
    return record.roots if record is not None else []


def find_trusted_root(store: Snapshot, runtime: Runtime, path: str) -> str | None:
    """Return the outermost trusted root that contains a resolved path; None if none does."""
    return find_outermost(path, [*runtime.workspaces.trusted, *(root.root for root in client_roots(store))])


def find_trusted_roots(store: Snapshot, runtime: Runtime, path: str) -> list[str]:
    """Return all trusted roots that contain a resolved path, the outermost first."""
    roots = {*runtime.workspaces.trusted, *(root.root for root in client_roots(store))}
    return sorted((root for root in roots if is_within(path, root)), key=len)


def is_trusted(store: Snapshot, runtime: Runtime, path: str) -> bool:
    """Whether the instructions, skills, hooks and settings in a directory take effect.

    Args:   ``path`` is absolute, and its links are resolved.
    """
    return find_trusted_root(store, runtime, path) is not None


def list_trusted_directories(store: Snapshot, runtime: Runtime, path: str) -> list[str]:
    """Return a directory and those above it up to the trusted root, the nearest first.

    The list is empty if the directory is not trusted.
    """
    root = find_trusted_root(store, runtime, path)
    directories = [] if root is None else [path]
    while directories and directories[-1] != root:
        directories.append(os.path.dirname(directories[-1]))
    return directories


def find_public_directory(root: str) -> str | None:
    """Return the directory in which every user may change or replace a root; None if there is none.

    It is the root itself or one above: the sticky bit, as in ``/tmp``, keeps others from renaming the root.
    """
    path, exempt = root, 0
    while True:
        mode = os.stat(path).st_mode
        if mode & stat.S_IWOTH and not mode & exempt:
            return path
        if path == "/":
            return None
        path, exempt = os.path.dirname(path), stat.S_ISVTX


# The workspace of a session.


def find_workspace_of(store: Snapshot, runtime: Runtime, session: Session) -> str | None:
    """Return the directory of a session's next run; None if it is no longer allowed."""
    try:
        return workspace_of(store, runtime, session)
    except WorkspaceForbidden:
        return None


def workspace_of(
    store: Snapshot,
    runtime: Runtime,
    session: Session,
    requested: str | None = None,
    speaker: Definition | None = None,
) -> str:
    """Return the directory of a session's next run, for its own agent or for a guest that speaks in it.

    Errors: WorkspaceForbidden if a configured directory, or one of a session above, is no longer allowed.
    Source: the records of the session and of those above it, at most MAX_SESSION_DEPTH.
    """
    path = requested or session.workspace
    field = "$.params.workspace" if requested else None
    if path is not None:
        runtime.workspaces.require_allowed(path, field=field)
    parent_path = None
    if session.parent_session_id is not None:
        parent = store.need(SESSIONS, session.parent_session_id)
        parent_path = workspace_of(store, runtime, parent)
    agent = speaker or runtime.definitions.get(session.agent)
    agent_path = agent.workspace if agent is not None else None
    return choose_workspace(runtime.workspaces.root, parent_path, path, agent_path, field)
