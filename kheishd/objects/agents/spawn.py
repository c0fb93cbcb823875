"""Spawn an agent: one transaction creates its session, its record and its first run, or finds it spawned.

``agent.spawn`` and the tools of agents call the same function, so no rule can be missed. Read from top to
bottom: ``prepare_spawn`` runs before the transaction, ``judge_spawn`` decides from what is stored, ``spawn``
writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import field

from kheishd.core.agent import choose_nickname, find_free, hash_request, is_preparing, make_name
from kheishd.core.scope import ChildRequest, ChildRights, Restriction, narrow_for_child
from kheishd.core.trust import join_origins
from kheishd.core.workspace import require_within_parent
from kheishd.objects.agents.tree import live_children, make_nickname, path_of, root_id_of
from kheishd.objects.agents.worktree import plan_worktree, require_repository
from kheishd.objects.storable import require_storable
from kheishd.objects.talk.address import find_route
from kheishd.objects.talk.bounds import ancestors, bounds_of, find_closed, scope_of
from kheishd.objects.talk.budget import plan_budget, settle_ended
from kheishd.objects.talk.input import origins_read
from kheishd.objects.talk.persona import bind_at_creation
from kheishd.objects.talk.pin import pin_run
from kheishd.objects.talk.send import start_if_free
from kheishd.objects.talk.session import require_small
from kheishd.objects.talk.workspace import find_problem, resolve, workspace_of
from kheishd.records.agent import hash_key
from kheishd.records.writer import BY_DAEMON, Origin, SessionWriter
from kheishd.store.blobs import blob_name, put_chunk
from kheishd.store.tables import (
    AGENTS,
    AGENTS_BY_PATH,
    AGENTS_BY_RUN,
    AGENTS_BY_TIME,
    AGENTS_LIVE,
    RUNS,
    SESSIONS,
    SPAWN_RECEIPTS,
)
from protocol import ids
from protocol.errors.agent import MemberForbidden, SpawnConflict, SpawnLimit
from protocol.errors.definition import AgentNotFound
from protocol.errors.route import RouteForbidden, RouteNotReady
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge, WorkspaceMissing
from protocol.events.agent import AgentSpawned, ChildSpawned
from protocol.events.run import InputReceived, RunAccepted
from protocol.events.session import SessionCreated
from protocol.limits.agent import MAX_AGENT_DESCRIPTION_BYTES, MAX_AGENT_PROMPT_BYTES
from protocol.limits.names import MAX_PATH_BYTES, MAX_SOURCE_BYTES
from protocol.limits.session import MAX_INPUT_BYTES
from protocol.objects.agent import LimitUse
from protocol.objects.run import SendParams
from protocol.objects.session import CapabilityScope
from protocol.structs import Value, fields_of
from protocol.text import truncate
from protocol.transcript import Text

if TYPE_CHECKING:
    from kheishd.config.sections.agents import AgentsSection
    from kheishd.kernel.runtime import RouteSpec, Runtime
    from kheishd.kernel.slots import RunSlots
    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.budget import Budget
    from protocol.events.budget import BudgetReserved
    from protocol.objects.agent import AgentWorktree, ManagedAgent, SpawnRequest
    from protocol.objects.definition import Definition
    from protocol.objects.session import PersonaBinding, Session
    from protocol.transcript import InputItem, InputOrigin

MINUTE_MS: Final = 60_000
"""The window in which spawns are counted."""


class SpawnPlan(Value, frozen=True):
    """A validated request, and the ids that the agent, its first input and its first run will have.

    ``request_id`` identifies the request among those of its parent. ``run_id`` is the run that spawns; None
    for a client. ``author`` wrote the task. ``workspace`` is resolved.
    """

    request: SpawnRequest
    items: list[InputItem]
    parent_id: str
    request_id: str
    child_id: str
    input_id: str
    launch_run_id: str
    item_id: str
    run_id: str | None = None
    workspace: str | None = None
    author: InputOrigin = "agent"
    origin: Origin = field(default_factory=lambda: BY_DAEMON)


class SpawnVerdict(Value, frozen=True):
    """What an agent will be: its definition, its place in the tree and its limits.

    ``reserved`` is the part of the parent's budget that will be set aside for it.
    """

    definition: Definition
    name: str
    path: str
    nickname: str
    rights: ChildRights
    workspace: str
    worktree: AgentWorktree | None
    route: RouteSpec
    persona: PersonaBinding | None
    budget: Budget | None
    reserved: BudgetReserved | None


def prepare_spawn(
    state: State,
    runtime: Runtime,
    request: SpawnRequest,
    *,
    parent_id: str,
    request_id: str | None = None,
    run_id: str | None = None,
    author: InputOrigin = "agent",
    origin: Origin = BY_DAEMON,
) -> SpawnPlan:
    """Validate a request and assign its ids. A relative workspace begins at the parent's.

    The workspace of a request that has spawned its agent already is not validated again.

    Errors: InvalidParams, InputTooLarge, WorkspaceMissing, WorkspaceForbidden, WorktreeUnavailable.
    """
    for name, value, limit in (
        ("instructions", request.instructions, MAX_AGENT_PROMPT_BYTES),
        ("description", request.description, MAX_AGENT_DESCRIPTION_BYTES),
    ):
        if len(value.encode()) > limit:
            text = f"the {name} of an agent may have {limit} bytes; it has {len(value.encode())}"
            raise InputTooLarge(text, field=f"$.params.{name}")
    workspace = None
    with state.read() as store:
        # A repeated request finds its agent, whatever has become of the directory.
        receipt = store.get(SPAWN_RECEIPTS, parent_id, hash_key(request_id)) if request_id else None
        parent_workspace = workspace_of(store, runtime, store.need(SESSIONS, parent_id))
    if receipt is None and (request.workspace is not None or request.isolation == "worktree"):
        workspace = _resolve(request.workspace or parent_workspace, parent_workspace)
    if request.isolation == "worktree" and workspace is not None:
        require_repository(workspace)
    return SpawnPlan(
        request=request,
        items=_read_task(request),
        parent_id=parent_id,
        request_id=request_id or state.new_id(ids.RUN),
        child_id=state.new_id(ids.SESSION),
        input_id=state.new_id(ids.INPUT),
        launch_run_id=state.new_id(ids.RUN),
        item_id=state.new_id(ids.ITEM),
        run_id=run_id,
        workspace=workspace,
        author=author,
        origin=origin,
    )


def _read_task(request: SpawnRequest) -> list[InputItem]:
    """Return the task as items: the text, or the ordered items. Errors: InvalidParams, InputTooLarge."""
    if request.prompt and request.input_items:
        raise InvalidParams("give either 'prompt' or 'input_items', not both", field="$.params.prompt")
    name = "$.params.input_items" if request.input_items else "$.params.prompt"
    items = list(request.input_items or ([Text(request.prompt)] if request.prompt else []))
    if not items or any(isinstance(item, Text) and not item.text.strip() for item in items):
        raise InvalidParams("the agent has no task: say what it is to do", field=name)
    for index, item in enumerate(items):
        if not isinstance(item, Text):
            text = "this version takes only items of kind 'text', no assets; put the text of the file there"
            raise InvalidParams(text, field=f"$.params.input_items[{index}].kind")
    require_storable(items, MAX_INPUT_BYTES, "task", name)
    return items


def _resolve(path: str, parent_workspace: str) -> str:
    """Return a directory within the parent's workspace, resolved.

    Errors: InvalidParams, WorkspaceForbidden, WorkspaceMissing.
    """
    resolved = resolve(path, parent_workspace)
    if resolved is None:
        raise InvalidParams(
            f"a workspace is a path of at most {MAX_PATH_BYTES} printable bytes", field="$.params.workspace"
        )
    require_within_parent(resolved, parent_workspace)
    problem = find_problem(resolved)
    if problem is not None:
        raise WorkspaceMissing(f"the workspace {resolved} {problem}", field="$.params.workspace")
    return resolved


# Judge.


def judge_spawn(store: Snapshot, runtime: Runtime, plan: SpawnPlan, now_ms: int) -> SpawnVerdict:
    """Return what an agent will be, within the limits and with at most its parent's rights.

    Errors: SessionAlreadyEnded, AgentAlreadyClosed, SpawnLimit, AgentNotFound, MemberForbidden,
    ScopeWouldWiden, InputTooLarge, RouteNotFound, RouteForbidden, RouteNotReady, WorkspaceForbidden,
    PersonaNotFound, BudgetExhausted, InvalidParams for a limit of money on a route without prices.
    """
    request, parent = plan.request, store.need(SESSIONS, plan.parent_id)
    closed = find_closed(store, parent)
    if closed is not None:
        raise type(closed)(closed.message, field="$.params.parent")
    for use in measure_limits(store, runtime.config.agents, parent, plan.run_id, now_ms):
        if use.used >= use.allowed:
            raise SpawnLimit(f"{use.limit} is {use.allowed}, and {use.used} are used; close agents or wait")
    bounds = bounds_of(store, runtime, parent)
    definition = _find_definition(runtime, parent, bounds.scope.members, request.agent)
    rights = narrow_for_child(
        bounds,
        ChildRequest(
            scope=request.scope or CapabilityScope(),
            credential_scope=request.credential_scope,
            permission_mode=request.permission_mode,
            profile=request.profile,
            allowed_tools=request.allowed_tools,
            blocked_tools=request.blocked_tools,
            agent_scope=scope_of(definition),
            agent_mode=definition.permission_mode,
        ),
    )
    require_small(rights.scope, rights.credential_scope, rights.blocked_tools)
    parent_workspace = workspace_of(store, runtime, parent)
    workspace = parent_workspace
    if plan.workspace is not None:
        workspace = require_within_parent(plan.workspace, parent_workspace)
    route = find_route(runtime, request.route, definition.route)
    forbidden = Restriction(credentials=rights.credential_scope).find_problem("route", route.route_id)
    if forbidden is not None:
        text = f"the agent may not use the route '{route.route_id}': {forbidden}"
        raise RouteForbidden(text, field="$.params.route")
    problem = runtime.models.problem(route)
    if problem is not None:
        raise RouteNotReady(f"the route '{route.route_id}' is not ready: {problem}", field="$.params.route")
    parent_path = path_of(store, parent)
    name = find_free(
        make_name(request.name),
        "_",
        lambda name: store.get(AGENTS_BY_PATH, f"{parent_path}/{name}") is not None,
    )
    requested = request.nickname if request.nickname and request.nickname.strip() else None
    nickname = make_nickname(store, requested or choose_nickname(plan.child_id), plan.child_id)
    persona = bind_at_creation(store, definition, now_ms, parent=parent)
    worktree = plan_worktree(workspace, plan.child_id, name) if request.isolation == "worktree" else None
    if request.budget is not None and request.budget.max_cost and route.prices is None:
        text = f"the route '{route.route_id}' states no prices, so the cost of an agent cannot be limited"
        raise InvalidParams(text, field="$.params.budget.max_cost")
    budget, reserved = plan_budget(
        store, runtime, parent, request.budget, child_id=plan.child_id, now_ms=now_ms, run_id=plan.run_id
    )
    return SpawnVerdict(
        definition,
        name,
        f"{parent_path}/{name}",
        nickname,
        rights,
        worktree.path if worktree is not None else workspace,
        worktree,
        route,
        persona,
        budget,
        reserved,
    )


def measure_limits(
    store: Snapshot, limits: AgentsSection, parent: Session, run_id: str | None, now_ms: int
) -> list[LimitUse]:
    """Return every limit on one more child of an agent, with its use."""
    root_id, since = root_id_of(parent), max(now_ms - MINUTE_MS, 0)
    recent, recent_below = store.count_after(AGENTS_BY_TIME, (since, "\U0010ffff", ""), root_id)
    uses = [
        ("max_depth", limits.max_depth, len(ancestors(store, parent))),
        ("max_children", limits.max_children, sum(1 for _ in live_children(store, parent))),
        ("max_descendants", limits.max_descendants, sum(1 for _ in store.scan(AGENTS_LIVE, root_id))),
        ("max_live", limits.max_live, store.count(AGENTS_LIVE)),
        ("max_spawns_per_minute", limits.max_spawns_per_minute, recent_below),
        ("max_daemon_spawns_per_minute", limits.max_daemon_spawns_per_minute, recent),
    ]
    if run_id is not None:
        spawned = sum(1 for _ in store.scan(AGENTS_BY_RUN, run_id))
        uses.append(("max_spawns_per_run", limits.max_spawns_per_run, spawned))
    return [LimitUse(limit=f"agents.{name}", allowed=allowed, used=used) for name, allowed, used in uses]


def _find_definition(
    runtime: Runtime, parent: Session, members: list[str] | None, requested: str | None
) -> Definition:
    """Return the definition that a child works as. Errors: AgentNotFound, MemberForbidden."""
    name = requested if requested is not None else parent.agent
    # An agent may always divide its own work.
    if members is not None and name not in members and name != parent.agent:
        allowed = ", ".join(members) or "no other agent"
        raise MemberForbidden(
            f"this agent may not delegate to '{name}'; its session {parent.session_id}, with the limits of "
            f"its creation, may delegate to: {allowed}",
            field="$.params.agent",
        )
    definition = runtime.definitions.get(name)
    if definition is None:
        names = ", ".join(sorted(runtime.definitions)[:8])
        raise AgentNotFound(f"there is no agent '{name}'; the agents are: {names}", field="$.params.agent")
    return definition


# Write.


def spawn(tx: Transaction, runtime: Runtime, plan: SpawnPlan, slots: RunSlots | None = None) -> ManagedAgent:
    """Create an agent and its first run, or return the agent that the same request has spawned.

    The run starts at once if one of the slots is free, as that of a message does; without ``slots`` later.

    Errors: SpawnConflict; those of ``judge_spawn`` and of ``pin_run``.
    """
    request, fingerprint = plan.request, hash_request(plan.request)
    spawned_id = tx.get(SPAWN_RECEIPTS, plan.parent_id, hash_key(plan.request_id))
    if spawned_id is not None:
        spawned = tx.need(AGENTS, spawned_id)
        if spawned.fingerprint != fingerprint:
            text = f"the request '{plan.request_id}' has spawned {spawned.path} for another task"
            raise SpawnConflict(text)
        return spawned
    parent = settle_ended(tx, tx.need(SESSIONS, plan.parent_id))
    verdict = judge_spawn(tx, runtime, plan, tx.now_ms)
    digest = None
    if request.instructions.strip():
        content = request.instructions.strip().encode()
        digest = blob_name(content)
        put_chunk(tx, digest, 0, content)
    writer = SessionWriter(tx, plan.child_id, session=None, origin=plan.origin)
    writer.append(
        SessionCreated(
            agent=verdict.definition.name,
            sender=_person_of(tx, parent, plan.run_id),
            parent_session_id=parent.session_id,
            root_session_id=root_id_of(parent),
            workspace=verdict.workspace,
            route=request.route,
            model=request.model,
            budget=verdict.budget,
            persona=verdict.persona,
            **fields_of(ChildRights, verdict.rights),
        )
    )
    writer.append(
        AgentSpawned(
            parent_id=parent.session_id,
            root_id=root_id_of(parent),
            name=verdict.name,
            path=verdict.path,
            nickname=verdict.nickname,
            spawn_request_id=plan.request_id,
            fingerprint=fingerprint,
            launch_run_id=plan.launch_run_id,
            retention=request.retention,
            shells=request.shells,
            description=request.description,
            owner=request.owner,
            spawned_by_run_id=plan.run_id,
            prompt_digest=digest,
            prompt_mode=request.instructions_mode,
            worktree=verdict.worktree,
        )
    )
    agent = writer.need(AGENTS, plan.child_id)
    writer.write()
    launch(tx, runtime, agent, verdict.definition, plan, slots)
    notice = SessionWriter(tx, parent.session_id, session=parent, origin=plan.origin)
    if verdict.reserved is not None:
        notice.append(verdict.reserved, run_id=plan.run_id)
    notice.append(
        ChildSpawned(
            child_id=plan.child_id,
            name=verdict.name,
            path=verdict.path,
            nickname=verdict.nickname,
            launch_run_id=plan.launch_run_id,
            description=request.description,
        ),
        run_id=plan.run_id,
    )
    notice.write()
    return agent


def _person_of(tx: Transaction, parent: Session, run_id: str | None) -> str | None:
    """Return the person for whom a child works: that of its parent, else of the run that spawns it."""
    run = tx.get(RUNS, run_id) if run_id is not None and parent.sender is None else None
    return parent.sender if run is None else run.sender


def launch(
    tx: Transaction,
    runtime: Runtime,
    agent: ManagedAgent,
    definition: Definition,
    plan: SpawnPlan,
    slots: RunSlots | None,
) -> None:
    """Accept the first run of an agent, and start it if nothing delays it. Errors: those of ``pin_run``."""
    session = tx.need(SESSIONS, agent.agent_id)
    settings = SendParams(model=plan.request.model)
    pinned = pin_run(tx, runtime, session, definition, settings)
    writer = SessionWriter(tx, agent.agent_id, session=session, origin=plan.origin)
    writer.begin_run(plan.launch_run_id, pinned)
    source, origins = "", [plan.author]
    if plan.author == "agent":
        # A task that an agent wrote has the origins of everything that the agent has read.
        source = truncate(agent.path.rpartition("/")[0], MAX_SOURCE_BYTES)
        origins = join_origins(origins_read(tx, tx.need(SESSIONS, agent.parent_id)), ["agent"])
    writer.append(InputReceived(input_id=plan.input_id, items=plan.items, origin=plan.author, source=source))
    spawning = tx.get(RUNS, plan.run_id) if plan.run_id is not None else None
    accepted = RunAccepted(
        input_id=plan.input_id,
        agent=definition.name,
        pinned=pinned,
        origins=origins,
        reports=True,
        hops=0 if spawning is None else spawning.hops,
    )
    writer.append(accepted)
    if slots is not None and not is_preparing(agent):
        start_if_free(writer, slots, runtime, plan.item_id)
    writer.write()
