"""Trusted roots: trust, untrust and list them. The configuration's own cannot be untrusted by a client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kheishd.core.workspace import find_trust_problem
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.objects.pages import cursor_after, page_of
from kheishd.objects.talk.address import find_definition
from kheishd.objects.talk.workspace import (
    client_roots,
    configured_roots,
    find_problem,
    find_public_directory,
    find_trusted_root,
    resolve,
    resolve_requested,
)
from kheishd.records.writer import StreamWriter
from kheishd.store.tables import TRUSTED_ROOTS
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import WorkspaceForbidden, WorkspaceMissing
from protocol.errors.token import ScopeWouldWiden
from protocol.errors.workspace import RootConfigured, RootLimit, RootNotFound
from protocol.events.workspace import WorkspaceTrusted, WorkspaceUntrusted
from protocol.journal.envelope import DAEMON_STREAM
from protocol.limits.names import MAX_PATH_BYTES
from protocol.limits.workspace import MAX_TRUSTED_ROOTS
from protocol.objects import workspace as rows
from protocol.objects.workspace import (
    TrustedRoot,
    TrustedRootList,
    WorkspaceListParams,
    WorkspaceRef,
    WorkspaceTrust,
    WorkspaceUntrust,
    WorkspaceView,
)
from protocol.structs import Value

if TYPE_CHECKING:
    from kheishd.store.environment import Transaction


class _Named(Value, frozen=True):
    """A root as a request names it, with its links resolved."""

    root: str
    note: str


def _resolve(call: Call, params: WorkspaceTrust | WorkspaceUntrust) -> _Named:
    """Return the root that params name. Errors: InvalidParams, ScopeWouldWiden."""
    if not call.caller.is_unrestricted:
        raise ScopeWouldWiden("trusted roots concern every agent and sender, and the token covers only some")
    root = resolve(params.root, "/") if os.path.isabs(params.root) else None
    if root is None:
        text = f"a root is an absolute path of at most {MAX_PATH_BYTES} printable bytes"
        raise InvalidParams(text, field="$.params.root")
    return _Named(root, params.note)


def _prepare_trust(call: Call, params: WorkspaceTrust) -> _Named:
    """Return a root that may be trusted.

    Errors: InvalidParams, ScopeWouldWiden, WorkspaceForbidden, WorkspaceMissing.
    """
    named = _resolve(call, params)
    problem = find_trust_problem(named.root, call.runtime.workspaces.home, os.path.expanduser("~"))
    if problem is not None:
        raise WorkspaceForbidden(f"the root {problem}", field="$.params.root")
    problem = find_problem(named.root)
    if problem is not None:
        raise WorkspaceMissing(f"the root {named.root} {problem}", field="$.params.root")
    public = find_public_directory(named.root)
    if public is not None:
        text = f"every user of this machine may write in {public}; take that right away (chmod o-w) first"
        raise WorkspaceForbidden(text, field="$.params.root")
    return named


@mutation(rows.TRUST, prepare=_prepare_trust)
def trust(tx: Transaction, call: Call, named: _Named) -> TrustedRoot:
    """Trust a root. A root that is trusted already stays as it is. Errors: RootLimit."""
    roots = client_roots(tx)
    known = [root for root in (*configured_roots(call.runtime), *roots) if root.root == named.root]
    if known:
        return known[0]
    if len(roots) >= MAX_TRUSTED_ROOTS:
        raise RootLimit(f"{MAX_TRUSTED_ROOTS} roots are trusted; untrust some first")
    return _append(tx, call, WorkspaceTrusted(root=named.root, note=named.note))[-1]


@mutation(rows.UNTRUST, prepare=_resolve)
def untrust(tx: Transaction, call: Call, named: _Named) -> TrustedRoot:
    """Trust a root no longer, and return it. Errors: RootNotFound, RootConfigured."""
    known = [root for root in client_roots(tx) if root.root == named.root]
    if known:
        _append(tx, call, WorkspaceUntrusted(root=named.root, note=named.note))
        return known[0]
    if any(root.root == named.root for root in configured_roots(call.runtime)):
        raise RootConfigured(
            f"the configuration trusts {named.root}; change [workspace] trusted and reload",
            field="$.params.root",
        )
    raise RootNotFound(f"{named.root} is no trusted root", field="$.params.root")


@query(rows.LIST)
def list_(call: Call, params: WorkspaceListParams) -> TrustedRootList:
    """List the roots of the configuration, then those of clients."""
    with call.state.read() as store:
        roots = [*configured_roots(call.runtime), *client_roots(store)]
    last = cursor_after(params.after) or 0
    numbered = (((number,), root) for number, root in enumerate(roots, 1) if number > last)
    page, following = page_of(numbered, params.limit, lambda root: True)
    return TrustedRootList(page, following)


def _append(tx: Transaction, call: Call, event: WorkspaceTrusted | WorkspaceUntrusted) -> list[TrustedRoot]:
    """Append a change; return the roots of clients after it."""
    writer = StreamWriter(tx, DAEMON_STREAM, origin=origin_of(call))
    writer.append(event)
    roots = writer.need(TRUSTED_ROOTS, DAEMON_STREAM).roots
    writer.write()
    return roots


@query(rows.GET)
def get(call: Call, params: WorkspaceRef) -> WorkspaceView:
    """Show whether agents may work in a directory for the caller, and whether it is trusted.

    Errors: InvalidParams, AgentNotFound, AgentForbidden.
    """
    workspaces = call.runtime.workspaces
    agent = find_definition(call, params.agent)
    problem = ""
    try:
        path = resolve_requested(call, params.path, "$.params.path")
    except (WorkspaceForbidden, WorkspaceMissing) as refusal:
        # As it was named: a caller that may not choose it does not learn where its links lead.
        path, problem = os.path.normpath(os.path.join(workspaces.root, params.path)), refusal.message
    with call.state.read() as store:
        root = find_trusted_root(store, call.runtime, path)
    workspace = agent.workspace or (workspaces.root if problem else path)
    return WorkspaceView(
        path=path, workspace=workspace, problem=problem, root=root, default=path == workspaces.root
    )


HANDLERS = (trust, untrust, list_, get)
