"""Sessions: create, show, list, update, rename and end them.

The methods that a session shares with its conversation are in send, steer, stop, compaction and history.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from kheishd.core.account import includes_budget, require_budget_change
from kheishd.core.run.budget import NO_LIMIT
from kheishd.core.scope import (
    ChildRequest,
    ChildRights,
    choose_mode,
    includes,
    intersect_scopes,
    narrow_for_child,
    require_narrower,
)
from kheishd.core.workspace import require_within_parent
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.objects.pages import PageTokens, page_of
from kheishd.objects.storable import require_storable
from kheishd.objects.talk.address import find_definition, find_route, find_session
from kheishd.objects.talk.bounds import (
    bounds_of,
    default_mode,
    find_closed,
    has_work_below,
    mode_of,
    require_mode,
    scope_of,
)
from kheishd.objects.talk.budget import budget_of, has_open_children, is_reserved, reserve, settle
from kheishd.objects.talk.contract import StoredSchema, read_contracts, read_schema
from kheishd.objects.talk.persona import bind_at_creation
from kheishd.objects.talk.plan import plan_of, todos_of
from kheishd.objects.talk.workspace import find_workspace_of, resolve_requested, workspace_of
from kheishd.objects.work.shell import request_stop_all
from kheishd.records.checkpoint import delete_checkpoint
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import AGENTS, CHECKPOINT_CHUNKS, CHILDREN, GOALS, SESSIONS
from protocol import ids
from protocol.errors.daemon import DaemonDraining
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, SessionBusy, SessionExists, TooDeep
from protocol.errors.token import ScopeWouldWiden
from protocol.events.session import SessionCreated, SessionEnded, SessionRenamed, SessionUpdated
from protocol.journal.envelope import DAEMON_STREAM
from protocol.limits.names import MAX_METADATA_BYTES, MAX_SCOPE_BYTES
from protocol.limits.session import MAX_SESSION_DEPTH
from protocol.objects import session as rows
from protocol.objects.session import (
    CapabilityScope,
    CredentialScope,
    Session,
    SessionCreate,
    SessionEnd,
    SessionList,
    SessionListParams,
    SessionProperties,
    SessionRef,
    SessionRename,
    SessionRow,
    SessionUpdate,
    SessionView,
)
from protocol.structs import Value, fields_of

if TYPE_CHECKING:
    from kheishd.kernel.runtime import Runtime
    from kheishd.store.commit import Job
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.definition import Definition
    from protocol.objects.permission import PermissionMode
    from protocol.objects.session import SessionSettings


# Properties.


class _Settings(Value, frozen=True):
    """The validated properties that params set, by name, and the schemas to store with them."""

    properties: dict[str, Any]
    schemas: tuple[StoredSchema, ...]


def _validate_settings(call: Call, params: SessionSettings) -> _Settings:
    """Return the properties that params set, as a session's record holds them.

    Errors: InputTooLarge, InvalidParams, RouteNotFound, WorkspaceForbidden, ContractInvalid.
    """
    if params.metadata is not UNSET:
        require_storable(params.metadata, MAX_METADATA_BYTES, "metadata", "$.params.metadata")
    for name in ("scope", "credential_scope", "blocked_tools"):
        value = getattr(params, name)
        if value is not UNSET:
            require_storable(value, MAX_SCOPE_BYTES, name, f"$.params.{name}")
    if isinstance(params.route, str):
        find_route(call.runtime, params.route)
    properties = {
        name: value
        for name in SessionProperties.__struct_fields__
        if (value := getattr(params, name, UNSET)) is not UNSET
    }
    if isinstance(params.workspace, str):
        properties["workspace"] = resolve_requested(call, params.workspace)
    if params.budget == NO_LIMIT:
        properties["budget"] = None
    contracts = read_contracts(params)
    return _Settings(properties | contracts.properties, contracts.schemas)


# Create.


class _Creation(Value, frozen=True):
    params: SessionCreate
    session_id: str
    definition: Definition
    settings: _Settings


def _prepare_create(call: Call, params: SessionCreate) -> _Creation:
    if params.session_id == DAEMON_STREAM:
        raise InvalidParams(f"no session may be called '{DAEMON_STREAM}'", field="$.params.session_id")
    definition = find_definition(call, params.agent)
    call.caller.require_sender(None)
    settings = _validate_settings(call, params)
    return _Creation(params, params.session_id or call.state.new_id(ids.SESSION), definition, settings)


@mutation(rows.CREATE, prepare=_prepare_create)
def create(tx: Transaction, call: Call, creation: _Creation) -> Session:
    """Create a session, or return the existing one of that id if its properties are the same."""
    for schema in creation.settings.schemas:
        schema.store(tx)
    created = _created_event(tx, call, creation)
    existing = tx.get(SESSIONS, creation.session_id)
    if existing is not None:
        return _require_same(call, existing, created, creation.params.persona_id)
    if created.parent_session_id is not None:
        parent = tx.need(SESSIONS, created.parent_session_id)
        child_id, origin = creation.session_id, origin_of(call)
        budget = reserve(tx, call.runtime, parent, created.budget, child_id=child_id, origin=origin)
        created = replace(created, budget=budget)
    writer = SessionWriter(tx, creation.session_id, session=None, origin=origin_of(call))
    writer.append(created)
    writer.write()
    return writer.session


def _created_event(tx: Transaction, call: Call, creation: _Creation) -> SessionCreated:
    """Return the event of a new session, its properties narrowed by its agent and its parent.

    Errors: SessionNotFound, SessionAlreadyEnded, PersonaNotFound, TooDeep, ScopeWouldWiden,
    WorkspaceForbidden, ScopeMissing.
    """
    definition, properties = creation.definition, dict(creation.settings.properties)
    parent_id, root_id, parent = creation.params.parent_session_id, None, None
    mode: PermissionMode | None = properties.get("permission_mode")
    if parent_id is not None:
        parent = find_session(tx, call, parent_id, "$.params.parent_session_id")
        closed = find_closed(tx, parent)
        if closed is not None and tx.get(SESSIONS, creation.session_id) is None:
            raise SessionAlreadyEnded(closed.message, field="$.params.parent_session_id")
        bounds = bounds_of(tx, call.runtime, parent)
        if bounds.depth + 1 >= MAX_SESSION_DEPTH:
            raise TooDeep(field="$.params.parent_session_id")
        root_id = parent.root_session_id or parent.session_id
        names = ("scope", "credential_scope", "permission_mode", "profile", "blocked_tools")
        requested = {name: properties[name] for name in names if name in properties}
        request = ChildRequest(
            agent_scope=scope_of(definition), agent_mode=definition.permission_mode, **requested
        )
        properties |= fields_of(ChildRights, narrow_for_child(bounds, request))
        _require_workspace_in_parent(tx, call, parent, properties)
    else:
        require_mode(call, mode, default_mode(call.runtime, definition))
        scope = properties.get("scope", CapabilityScope())
        properties |= {"scope": intersect_scopes(scope_of(definition), scope), "permission_mode": mode}
    created = SessionCreated(
        agent=definition.name,
        parent_session_id=parent_id,
        root_session_id=root_id,
        persona=bind_at_creation(
            tx, definition, tx.now_ms, parent=parent, persona_id=creation.params.persona_id
        ),
        **properties,
    )
    require_small(created.scope, created.credential_scope, created.blocked_tools)
    return created


def require_small(scope: CapabilityScope, credentials: CredentialScope, blocked_tools: list[str]) -> None:
    """Reject names that would take too much of the session's record together. Errors: InputTooLarge."""
    size = len(msgspec.json.encode((scope, credentials, blocked_tools)))
    if size > MAX_SCOPE_BYTES:
        text = (
            f"the names in the session's scopes and blocked tools take {size} bytes as JSON; the limit is "
            f"{MAX_SCOPE_BYTES}, with those inherited from the agent and the parent"
        )
        raise InputTooLarge(text, field="$.params.scope")


def _require_same(call: Call, existing: Session, created: SessionCreated, persona_id: str | None) -> Session:
    """Return the existing session. Errors: SessionExists if its properties differ from the new ones."""
    names = ("agent", "parent_session_id", *SessionProperties.__struct_fields__)
    # The title and the metadata are labels.
    compared = [name for name in names if name not in ("title", "metadata")]
    differing = [name for name in compared if getattr(existing, name) != getattr(created, name)]
    # The parent's limits completed the budget that was requested.
    if "budget" in differing and includes_budget(existing.budget, created.budget):
        differing.remove("budget")
    if persona_id is not None and (existing.persona is None or existing.persona.persona_id != persona_id):
        differing.append("persona")
    if not call.caller.may_read(existing.agent, existing.sender):
        # The caller may not learn the properties.
        differing = ["owner"]
    if differing:
        raise SessionExists(
            f"the session '{existing.session_id}' exists with another {', '.join(differing)}",
            field="$.params.session_id",
        )
    return existing


def _require_workspace_in_parent(
    tx: Transaction, call: Call, parent: Session, properties: dict[str, Any]
) -> None:
    """Reject a workspace outside of the parent's. Errors: WorkspaceForbidden."""
    if properties.get("workspace") is not None:
        require_within_parent(properties["workspace"], workspace_of(tx, call.runtime, parent))


# Show.


@query(rows.GET)
def get(call: Call, params: SessionRef) -> SessionView:
    """Show a session."""
    with call.state.read() as store:
        return view_of(store, call.runtime, find_session(store, call, params.session_id))


def row_of(store: Snapshot, runtime: Runtime, session: Session) -> SessionRow:
    """Return a session as listed, with its effective scopes."""
    bounds = bounds_of(store, runtime, session)
    return SessionRow(
        **fields_of(Session, session),
        effective_scope=bounds.scope,
        effective_credential_scope=bounds.credentials,
        effective_blocked_tools=list(bounds.blocked),
        effective_workspace=find_workspace_of(store, runtime, session),
    )


def view_of(store: Snapshot, runtime: Runtime, session: Session) -> SessionView:
    """Return a session as shown, with its effective scopes, its todos, its plan and its schemas."""
    contract = session.output_contract
    return SessionView(
        **fields_of(SessionRow, row_of(store, runtime, session)),
        todos=todos_of(store, session),
        plan=plan_of(store, session),
        goal=store.get(GOALS, session.session_id) if session.goal_id is not None else None,
        input_schema=read_schema(store, session.input_contract),
        output_schema=read_schema(store, contract.digest if contract is not None else None),
        budget_use=budget_of(store, session),
    )


@query(rows.LIST)
def list_(call: Call, params: SessionListParams) -> SessionList:
    """List sessions by id. Ids that the daemon assigned sort by time."""
    reverse = params.order == "newest"
    tokens = PageTokens(call)
    with call.state.read() as store:
        session_id = tokens.id_of(params.after)
        if params.parent_session_id is None:
            sessions: Any = store.scan(SESSIONS, after=(session_id,) if session_id else None, reverse=reverse)
        else:
            field = "$.params.parent_session_id"
            parent_id = find_session(store, call, params.parent_session_id, field).session_id
            start = (parent_id, session_id) if session_id else None
            children = store.scan(CHILDREN, parent_id, after=start, reverse=reverse)
            sessions = ((key, store.get(SESSIONS, key[1])) for key, _ in children)
        page, following = page_of(
            sessions, params.limit, lambda session: _matches(call, params, session), tokens.token_of
        )
        listed = [row_of(store, call.runtime, session) for session in page]
    return SessionList(listed, following)


def _matches(call: Call, params: SessionListParams, session: Session) -> bool:
    """Whether a list shows a session: the caller may read it, and it passes every filter."""
    if not call.caller.may_read(session.agent, session.sender):
        return False
    if session.parent_session_id is not None and session.status == "ended" and not params.sidechains:
        return False
    persona_id = session.persona.persona_id if session.persona is not None else None
    if params.persona_id not in (None, persona_id):
        return False
    names = ("agent", "sender", "status")
    return all(getattr(params, name) in (None, getattr(session, name)) for name in names)


# Change.


def _find_open(tx: Transaction, call: Call, session_id: str) -> Session:
    """Return a session that can be changed. Errors: SessionNotFound, SessionAlreadyEnded."""
    session = find_session(tx, call, session_id)
    if session.status == "ended":
        raise SessionAlreadyEnded(f"the session {session_id} was ended and can no longer be changed")
    return session


@mutation(rows.UPDATE, prepare=lambda call, params: (params, _validate_settings(call, params)))
def update(tx: Transaction, call: Call, plan: tuple[SessionUpdate, _Settings]) -> Session:
    """Change properties. Scopes and a child's mode are only narrowed; its workspace is in its parent's.

    A profile is chosen once, and tools that are blocked stay blocked.

    Errors: SessionNotFound, SessionAlreadyEnded, ScopeWouldWiden, ScopeMissing, WorkspaceForbidden,
    BudgetExhausted, InvalidParams.
    """
    params, settings = plan
    session = _find_open(tx, call, params.session_id)
    for schema in settings.schemas:
        schema.store(tx)
    changes = dict(settings.properties)
    _require_narrowing(session, changes)
    parent = tx.need(SESSIONS, session.parent_session_id) if session.parent_session_id else None
    if params.permission_mode is not UNSET:
        definition = call.runtime.definitions.get(session.agent)
        if parent is None:
            current = mode_of(call.runtime, session)
            require_mode(call, params.permission_mode, default_mode(call.runtime, definition), current)
        else:
            agent_mode = definition.permission_mode if definition is not None else None
            max_mode = bounds_of(tx, call.runtime, parent).mode
            changes["permission_mode"] = choose_mode(max_mode, params.permission_mode, agent_mode)
    if parent is not None:
        _require_workspace_in_parent(tx, call, parent, changes)
    if "budget" in changes:
        require_budget_change(
            session,
            changes["budget"],
            is_reserved=is_reserved(tx, session),
            has_children=has_open_children(tx, session),
        )
    if not changes:
        return session
    changed = replace(session, **changes)
    require_small(changed.scope, changed.credential_scope, changed.blocked_tools)
    return _append(tx, call, session, SessionUpdated(changes=msgspec.to_builtins(changes)))


def _require_narrowing(session: Session, changes: dict[str, Any]) -> None:
    """Reject changes by which a session could use more. Errors: ScopeWouldWiden, naming the field."""
    if "scope" in changes:
        require_narrower(session.scope, changes["scope"])
    if "credential_scope" in changes:
        require_narrower(session.credential_scope, changes["credential_scope"], "credential_scope")
    unblocked = [tool for tool in session.blocked_tools if not includes(changes.get("blocked_tools"), tool)]
    if unblocked:
        text = f"{', '.join(unblocked)} cannot be unblocked; name all tools that are blocked"
        raise ScopeWouldWiden(text, field="$.params.blocked_tools")
    if session.profile not in (None, changes.get("profile", session.profile)):
        text = f"the session has the profile '{session.profile}', which cannot be changed"
        raise ScopeWouldWiden(text, field="$.params.profile")


@mutation(rows.RENAME)
def rename(tx: Transaction, call: Call, params: SessionRename) -> Session:
    """Set or remove the title of a session."""
    session = find_session(tx, call, params.session_id)
    return _append(tx, call, session, SessionRenamed(title=params.title))


def _prepare_end(call: Call, params: SessionEnd) -> SessionEnd:
    call.services.transcripts.take(params.session_id)
    return params


def _delete_rest(call: Call, session: Session) -> None:
    """Delete the rest of a long checkpoint, one transaction after another."""

    def delete_more(job: Job[bool] | None = None) -> None:
        if job is None or (job.error is None and job.value):
            with suppress(DaemonDraining):
                call.state.submit(lambda tx: delete_checkpoint(tx, session.session_id), delete_more)

    with call.state.read() as store:
        is_long = any(True for _ in store.scan(CHECKPOINT_CHUNKS, session.session_id))
    if is_long:
        delete_more()


@mutation(rows.END, prepare=_prepare_end, on_commit=_delete_rest)
def end(tx: Transaction, call: Call, params: SessionEnd) -> Session:
    """End an idle session, stop its background shells, and delete its checkpoint."""
    session = _find_open(tx, call, params.session_id)
    if session.open_runs:
        raise SessionBusy(
            f"the session has {len(session.open_runs)} runs that have not ended; wait for them or cancel them"
        )
    if session.parent_session_id is not None and tx.get(AGENTS, session.session_id) is not None:
        raise SessionBusy("this is the session of a spawned agent; close the agent, which ends the session")
    if has_work_below(tx, session):
        raise SessionBusy("sessions below have runs or live agents; cancel and close them first")
    writer = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))
    writer.append(SessionEnded(note=params.note))
    request_stop_all(writer, "the session was ended")
    writer.write()
    settle(tx, writer.session)
    delete_checkpoint(tx, session.session_id)
    return writer.session


def _append(tx: Transaction, call: Call, session: Session, event: SessionUpdated | SessionRenamed) -> Session:
    writer = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))
    writer.append(event)
    writer.write()
    return writer.session


HANDLERS = (create, get, list_, update, rename, end)
