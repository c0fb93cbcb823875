"""Sessions: making, showing, changing, reading and ending them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from kheishd.core.run.commands import Cancel
from kheishd.core.session import inherited, mode_within, narrower, narrowest
from kheishd.core.workspace import require_within_parent
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.objects.pages import PageTokens, page_of
from kheishd.objects.talk.bounds import bounds_of, may_have, mode_of, usual_mode
from kheishd.objects.talk.compaction import (
    Wanted,
    accept_compaction,
    compact_waits,
    follow_compaction,
    wanted,
)
from kheishd.objects.talk.contract import Contracts, contracts_of
from kheishd.objects.talk.history import history_of
from kheishd.objects.talk.plan import view_of
from kheishd.objects.talk.run import request_stop, settled
from kheishd.objects.talk.send import (
    Sending,
    accept,
    find_definition,
    find_route,
    follow_send,
    make_ready,
    require_storable,
    send_waits,
)
from kheishd.objects.talk.steer import Said, made_ready
from kheishd.objects.talk.steer import steer as steered
from kheishd.objects.talk.workspace import asked, workspace_of
from kheishd.objects.work.shell import request_stop_all
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import CHILDREN, RUNS, SESSIONS
from protocol import ids
from protocol.errors.definition import AgentNotFound
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import SessionAlreadyEnded, SessionBusy, SessionExists, SessionNotFound, TooDeep
from protocol.events.session import SessionCreated, SessionRenamed, SessionUpdated
from protocol.events.session import SessionEnded as EndedEvent
from protocol.journal.envelope import DAEMON_STREAM
from protocol.limits.names import MAX_METADATA_BYTES, MAX_SCOPE_BYTES
from protocol.limits.session import MAX_SESSION_DEPTH
from protocol.objects import session as rows
from protocol.objects.session import (
    CapabilityScope,
    History,
    InterruptResult,
    Session,
    SessionCompact,
    SessionCreate,
    SessionEnd,
    SessionHistoryParams,
    SessionInterrupt,
    SessionList,
    SessionListParams,
    SessionRef,
    SessionRename,
    SessionSend,
    SessionSteer,
    SessionUpdate,
    SessionView,
)

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.definition import Definition
    from protocol.objects.permission import PermissionMode
    from protocol.objects.run import CompactResult, SendResult, SteerResult


def find_session(store: Snapshot, call: Call, session_id: str, param: str = "session_id") -> Session:
    """A session that the caller may read.

    Errors: SessionNotFound, also for one whose agent or sender the caller's token does not cover.
    """
    session = store.get(SESSIONS, session_id)
    if session is None or not call.caller.covers(session.agent, session.sender):
        raise SessionNotFound(f"there is no session '{session_id}'", field=f"$.params.{param}")
    return session


def scope_of(definition: Definition) -> CapabilityScope:
    """The boundary that an agent's definition gives its new sessions."""
    return CapabilityScope(
        tools=definition.tools,
        skills=definition.skills,
        mcp=definition.mcp,
        members=definition.members,
    )


# Making.


@dataclass(frozen=True, slots=True)
class _Creation:
    params: SessionCreate
    session_id: str
    definition: Definition
    contracts: Contracts


def _prepare_create(call: Call, params: SessionCreate) -> _Creation:
    if params.session_id == DAEMON_STREAM:
        raise InvalidParams(f"no session may be called '{DAEMON_STREAM}'", field="$.params.session_id")
    require_storable(params.metadata, MAX_METADATA_BYTES, "metadata", "$.params.metadata")
    require_storable(params.scope, MAX_SCOPE_BYTES, "scope", "$.params.scope")
    definition = find_definition(call, params.agent)
    call.caller.need_sender(None)
    if params.route is not None:
        find_route(call.runtime, params.route)
    if params.workspace is not None:
        params = msgspec.structs.replace(params, workspace=asked(call, params.workspace))
    session_id = params.session_id or call.state.new_id(ids.SESSION)
    return _Creation(params, session_id, definition, contracts_of(params))


@mutation(rows.CREATE, prepare=_prepare_create)
def create(tx: Transaction, call: Call, plan: _Creation) -> Session:
    """Make a session; one that exists with the same properties is given as it is."""
    created = _created_event(tx, call, plan)
    existing = tx.get(SESSIONS, plan.session_id)
    if existing is not None:
        return _same_or_refuse(call, existing, created)
    fold = SessionWriter(tx, plan.session_id, session=None, origin=origin_of(call))
    fold.append(created)
    fold.write()
    return fold.session


def _created_event(tx: Transaction, call: Call, plan: _Creation) -> SessionCreated:
    params = plan.params
    scope = narrowest(scope_of(plan.definition), params.scope)
    root, mode = None, params.permission_mode
    if params.parent_session_id is not None:
        parent = find_session(tx, call, params.parent_session_id, "parent_session_id")
        above = bounds_of(tx, call.runtime, parent)
        if above.depth + 1 >= MAX_SESSION_DEPTH:
            raise TooDeep(field="$.params.parent_session_id")
        root = parent.root_session_id or parent.session_id
        scope = narrowest(inherited(above.scope, params.scope), scope)
        mode = mode_within(above.mode, mode, plan.definition.permission_mode)
        if params.workspace is not None:
            require_within_parent(params.workspace, workspace_of(tx, call.runtime, parent))
    else:
        may_have(call, mode, usual_mode(call.runtime, plan.definition))
    return SessionCreated(
        agent=plan.definition.name,
        parent_session_id=params.parent_session_id,
        root_session_id=root,
        title=params.title,
        scope=scope,
        permission_mode=mode,
        workspace=params.workspace,
        route=params.route,
        model=params.model,
        metadata=params.metadata,
        **plan.contracts.keep(tx),
    )


def _same_or_refuse(call: Call, existing: Session, created: SessionCreated) -> Session:
    compared = (
        "agent",
        "parent_session_id",
        "scope",
        "permission_mode",
        "workspace",
        "route",
        "model",
        "input_contract",
        "output_contract",
    )
    differing = [name for name in compared if getattr(existing, name) != getattr(created, name)]
    if not call.caller.covers(existing.agent, existing.sender):
        # What it is like is none of the caller's business.
        differing = ["owner"]
    if differing:
        raise SessionExists(
            f"the session '{existing.session_id}' exists with another {', '.join(differing)}",
            field="$.params.session_id",
        )
    return existing


# Showing.


@query(rows.GET)
def get(call: Call, params: SessionRef) -> SessionView:
    """Show one session."""
    with call.state.read() as store:
        return view_of(store, find_session(store, call, params.session_id))


@query(rows.LIST)
def list_(call: Call, params: SessionListParams) -> SessionList:
    """List sessions by id, which is by time for those the daemon named."""
    reverse = params.order == "newest"
    with call.state.read() as store:
        marks = PageTokens(call)
        mark = marks.after(params.after)
        if params.parent_session_id is None:
            found: Any = store.scan(SESSIONS, after=(mark,) if mark else None, reverse=reverse)
        else:
            parent = find_session(store, call, params.parent_session_id, "parent_session_id").session_id
            beyond = (parent, mark) if mark else None
            children = store.scan(CHILDREN, parent, after=beyond, reverse=reverse)
            found = ((key, store.get(SESSIONS, key[1])) for key, _ in children)
        chosen, following = page_of(found, params.limit, lambda row: _wanted(call, params, row), marks.of)
    return SessionList(chosen, following)


def _wanted(call: Call, params: SessionListParams, session: Session) -> bool:
    if not call.caller.covers(session.agent, session.sender):
        return False
    if session.parent_session_id is not None and session.status == "ended" and not params.sidechains:
        return False
    asked = ((params.agent, session.agent), (params.sender, session.sender), (params.status, session.status))
    return all(wanted is None or wanted == found for wanted, found in asked)


@query(rows.HISTORY)
def history(call: Call, params: SessionHistoryParams) -> History:
    """Read a session's messages."""
    with call.state.read() as store:
        session = find_session(store, call, params.session_id)
        return history_of(store, session.session_id, params.after, params.limit, params.order)


# Changing.


def _changeable(tx: Transaction, call: Call, session_id: str) -> Session:
    session = find_session(tx, call, session_id)
    if session.status == "ended":
        raise SessionAlreadyEnded(f"the session {session_id} was ended and can no longer be changed")
    return session


def _changes_of(params: SessionUpdate) -> dict[str, Any]:
    names = ("scope", "permission_mode", "workspace", "route", "model", "metadata")
    return {name: value for name in names if (value := getattr(params, name)) is not UNSET}


def _prepare_update(call: Call, params: SessionUpdate) -> tuple[SessionUpdate, Contracts]:
    if params.metadata is not UNSET:
        require_storable(params.metadata, MAX_METADATA_BYTES, "metadata", "$.params.metadata")
    if params.scope is not UNSET:
        require_storable(params.scope, MAX_SCOPE_BYTES, "scope", "$.params.scope")
    if isinstance(params.route, str):
        find_route(call.runtime, params.route)
    if isinstance(params.workspace, str):
        params = msgspec.structs.replace(params, workspace=asked(call, params.workspace))
    return params, contracts_of(params)


@mutation(rows.UPDATE, prepare=_prepare_update)
def update(tx: Transaction, call: Call, plan: tuple[SessionUpdate, Contracts]) -> Session:
    """Change properties: scopes and a child's mode only narrow, and its workspace lies in its parent's."""
    params, contracts = plan
    session = _changeable(tx, call, params.session_id)
    changes = _changes_of(params) | msgspec.to_builtins(contracts.keep(tx))
    if isinstance(params.scope, CapabilityScope):
        changes["scope"] = msgspec.to_builtins(narrower(session.scope, params.scope))
    parent = tx.get(SESSIONS, session.parent_session_id) if session.parent_session_id else None
    if params.permission_mode is not UNSET:
        changes["permission_mode"] = _new_mode(tx, call, session, parent, params.permission_mode)
    if parent is not None and isinstance(params.workspace, str):
        require_within_parent(params.workspace, workspace_of(tx, call.runtime, parent))
    if not changes:
        return session
    fold = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))
    fold.append(SessionUpdated(changes=changes))
    fold.write()
    return fold.session


def _new_mode(
    tx: Transaction, call: Call, session: Session, parent: Session | None, mode: PermissionMode | None
) -> PermissionMode | None:
    """The mode that a session gets. Errors: ScopeWouldWiden, ScopeMissing."""
    runtime = call.runtime
    own = runtime.definitions.get(session.agent)
    if parent is not None:
        by_agent = own.permission_mode if own is not None else None
        return mode_within(bounds_of(tx, runtime, parent).mode, mode, by_agent)
    may_have(call, mode, usual_mode(runtime, own), mode_of(runtime, session))
    return mode


@mutation(rows.RENAME)
def rename(tx: Transaction, call: Call, params: SessionRename) -> Session:
    """Give a session a title."""
    session = find_session(tx, call, params.session_id)
    fold = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))
    fold.append(SessionRenamed(title=params.title))
    fold.write()
    return fold.session


@mutation(rows.END)
def end(tx: Transaction, call: Call, params: SessionEnd) -> Session:
    """End an idle session."""
    session = _changeable(tx, call, params.session_id)
    if session.open_runs:
        raise SessionBusy(
            f"the session has {len(session.open_runs)} runs that have not ended; wait for them or cancel them"
        )
    fold = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))
    fold.append(EndedEvent(note=params.note))
    request_stop_all(fold, "the session was ended")
    fold.write()
    return fold.session


# Sending and stopping.


def _prepare_send(call: Call, params: SessionSend) -> Sending:
    return make_ready(call, params, sender=params.sender)


@mutation(rows.SEND, prepare=_prepare_send, follow=follow_send, follows=send_waits)
def send(tx: Transaction, call: Call, sending: Sending) -> SendResult:
    """Accept an input and its run into a session."""
    assert isinstance(sending.params, SessionSend)
    session = find_session(tx, call, sending.params.session_id)
    definition = call.runtime.definitions.get(session.agent)
    if definition is None:
        raise AgentNotFound(f"the session's agent '{session.agent}' is no longer defined")
    fold = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call, sending.sender))
    result = accept(tx, call, sending, fold, definition)
    fold.write()
    return result


def _prepare_steer(call: Call, params: SessionSteer) -> tuple[SessionSteer, Said]:
    return params, made_ready(call, params, params.sender)


@mutation(rows.STEER, prepare=_prepare_steer)
def steer(tx: Transaction, call: Call, plan: tuple[SessionSteer, Said]) -> SteerResult:
    """Say something to the run in flight."""
    params, said = plan
    return steered(tx, call, find_session(tx, call, params.session_id), said)


def _prepare_compact(call: Call, params: SessionCompact) -> tuple[SessionCompact, Wanted]:
    return params, wanted(call)


@mutation(rows.COMPACT, prepare=_prepare_compact, follow=follow_compaction, follows=compact_waits)
def compact(tx: Transaction, call: Call, plan: tuple[SessionCompact, Wanted]) -> CompactResult:
    """Accept a run that sums the session up."""
    params, ids_of_it = plan
    return accept_compaction(tx, call, find_session(tx, call, params.session_id), ids_of_it)


async def _until_stopped(call: Call, params: SessionInterrupt, result: InterruptResult) -> InterruptResult:
    if result.run_id is None:
        return result
    run = await settled(call, result.session_id, result.run_id, None)
    stopped = run.status in ("interrupted", "cancelled")
    return InterruptResult(stopped, result.session_id, result.run_id if stopped else None)


@mutation(rows.INTERRUPT, follow=_until_stopped, follows=lambda params: True)
def interrupt(tx: Transaction, call: Call, params: SessionInterrupt) -> InterruptResult:
    """Interrupt the run in flight; queued ones go on."""
    session = find_session(tx, call, params.session_id)
    run = tx.get(RUNS, session.open_runs[0]) if session.open_runs else None
    if run is None:
        return InterruptResult(False, session.session_id)
    request_stop(tx, call, run, Cancel("interrupted", params.note))
    return InterruptResult(True, session.session_id, run.run_id)


HANDLERS = (create, get, list_, update, send, steer, compact, history, rename, interrupt, end)
