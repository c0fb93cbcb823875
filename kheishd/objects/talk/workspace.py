"""Which directory a session's runs work in: resolved and checked when it is asked for and when it is used.

Names are resolved when they are accepted, and what is kept is where they led then. It is checked again
whenever a run is accepted, as configurations change; and tools enter it without following any link, so that
one which is put in its way later leads nowhere.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kheishd.core.workspace import place
from kheishd.store.tables import SESSIONS
from protocol.errors.rpc import InvalidParams
from protocol.limits.names import MAX_PATH_BYTES

if TYPE_CHECKING:
    from kheishd.kernel.call import Call
    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot
    from protocol.objects.definition import Definition
    from protocol.objects.session import Session


def asked(call: Call, path: str) -> str:
    """A directory that a caller wants work to be done in, resolved; a relative one begins at the root.

    Errors: InvalidParams, WorkspaceForbidden.
    """
    workspaces = call.runtime.workspaces
    resolved = resolve(path, workspaces.root)
    if resolved is None:
        raise InvalidParams(
            f"a workspace is a path of at most {MAX_PATH_BYTES} bytes, all of them printable",
            field="$.params.workspace",
        )
    workspaces.check(resolved, free="operate" in call.caller.scopes)
    return resolved


def resolve(path: str, root: str) -> str | None:
    """Where a path leads now; None for what cannot be a workspace's."""
    if not path.isprintable():
        return None
    resolved = os.path.realpath(os.path.join(root, path))
    fits = resolved.isprintable() and len(resolved.encode()) <= MAX_PATH_BYTES
    return resolved if fits else None


def workspace_of(
    store: Snapshot,
    runtime: Runtime,
    session: Session,
    chosen: str | None = None,
    speaker: Definition | None = None,
) -> str:
    """Where a session's next run works, told so or not, with its own agent or another one speaking.

    Errors: WorkspaceForbidden if it, or one above it, was told to work where it may not any more.
    Source: the records of the session and of those above it, MAX_SESSION_DEPTH at most.
    """
    chosen = chosen or session.workspace
    if chosen is not None:
        runtime.workspaces.check(chosen)
    above = None
    if session.parent_session_id is not None:
        parent = store.need(SESSIONS, session.parent_session_id)
        above = workspace_of(store, runtime, parent)
    agent = speaker or runtime.definitions.get(session.agent)
    return place(runtime.workspaces.root, above, chosen, agent.workspace if agent is not None else None)
