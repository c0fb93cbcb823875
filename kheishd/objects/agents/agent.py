"""Agents: spawn, judge, list, show, rename and close them, and list their transitions."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import trio
from msgspec.structs import replace

from kheishd.core.agent import AuditFold
from kheishd.core.scope import MCP_PREFIX, Restriction
from kheishd.kernel.call import Call, control, mutation, origin_of, query
from kheishd.objects.agents.spawn import (
    SpawnPlan,
    SpawnVerdict,
    judge_spawn,
    measure_limits,
    prepare_spawn,
    spawn,
)
from kheishd.objects.agents.tree import find_agent, make_nickname, snapshot_of, top_id_of, tree_of, view_of
from kheishd.objects.pages import PageTokens, cursor_after, page_of
from kheishd.objects.talk.pin import choose_model
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import AGENTS, AGENTS_CLOSING, SESSIONS
from protocol.errors.agent import AgentAlreadyClosed
from protocol.errors.refusal import Refusal
from protocol.errors.rpc import InvalidParams
from protocol.events.agent import AgentCloseRequested, AgentRenamed
from protocol.journal.line import Unknown, decode_envelope, decode_event
from protocol.objects import agent as rows
from protocol.objects.agent import (
    AgentAudit,
    AgentAuditParams,
    AgentClose,
    AgentExplain,
    AgentList,
    AgentListParams,
    AgentRef,
    AgentRename,
    AgentSnapshot,
    AgentTransition,
    AgentView,
    SpawnExplanation,
    SpawnParams,
)
from protocol.objects.run import SendParams

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.agent import ManagedAgent
    from protocol.objects.session import Session

AUDIT_SLICE_ENTRIES: Final = 500
"""How many entries of a journal an audit reads before other tasks have their turn: about 5 ms."""

SLOW_CLOSE_MS: Final = 120_000
"""How long a close may be without progress before a status names the agent."""

MAX_WARNED: Final = 5
"""The closing agents that a status looks at."""


def find_agent_warnings(store: Snapshot, now_ms: int) -> Iterator[str]:
    """Yield a sentence about each agent whose close makes no progress."""
    for (agent_id,), _ in islice(store.scan(AGENTS_CLOSING), MAX_WARNED):
        agent = store.need(AGENTS, agent_id)
        entry = store.entry(agent_id, agent.updated_cursor)
        if entry is not None and now_ms - decode_envelope(entry[1]).at_ms > SLOW_CLOSE_MS:
            yield f"the close of the agent {agent.path} makes no progress; see the daemon's log"


# Spawn.


def prepare(call: Call, params: SpawnParams) -> SpawnPlan:
    """Validate a request.

    Errors: NoSuchAgent, InvalidParams, InputTooLarge, WorkspaceMissing, WorkspaceForbidden,
    WorktreeUnavailable, AgentForbidden.
    """
    if params.agent is not None:
        call.caller.require_agent(params.agent)
    with call.state.read() as store:
        parent = find_agent(store, call, params.parent, "$.params.parent")
    return prepare_spawn(
        call.state,
        call.runtime,
        params,
        parent_id=parent.session_id,
        request_id=params.spawn_request_id or params.idempotency_key,
        author=call.caller.origin or "person",
        origin=origin_of(call),
    )


@mutation(
    rows.SPAWN,
    prepare=prepare,
    on_commit=lambda call, result: call.services.slots.take_up(result.launch_run_id),
)
def spawn_agent(tx: Transaction, call: Call, plan: SpawnPlan) -> AgentSnapshot:
    """Spawn an agent. Errors: see ``spawn``."""
    agent = spawn(tx, call.runtime, plan, call.services.slots)
    return snapshot_of(tx, tx.need(SESSIONS, agent.agent_id))


@query(rows.EXPLAIN)
def explain(call: Call, params: AgentExplain) -> SpawnExplanation:
    """Judge a spawn, and list every limit. Errors: NoSuchAgent."""
    with call.state.read() as store:
        parent = find_agent(store, call, params.spawn.parent, "$.params.spawn.parent")
        limits = measure_limits(store, call.runtime.config.agents, parent, None, call.now_ms)
    try:
        # What the request would spawn, even if it has spawned its agent already.
        plan = prepare(call, replace(params.spawn, spawn_request_id=None, idempotency_key=None))
        with call.state.read() as store:
            verdict = judge_spawn(store, call.runtime, plan, call.now_ms)
    except Refusal as refusal:
        return SpawnExplanation(
            allowed=False,
            limits=limits,
            reason=refusal.reason,
            field=refusal.field,
            message=refusal.message,
        )
    return SpawnExplanation(
        allowed=True,
        limits=limits,
        definition=verdict.definition.name,
        name=verdict.name,
        path=verdict.path,
        permission_mode=verdict.rights.permission_mode,
        scope=verdict.rights.scope,
        credential_scope=verdict.rights.credential_scope,
        profile=verdict.rights.profile,
        blocked_tools=verdict.rights.blocked_tools,
        workspace=verdict.workspace,
        branch=verdict.worktree.branch if verdict.worktree is not None else None,
        route=verdict.route.route_id,
        budget=verdict.budget,
        model=choose_model(
            verdict.route, SendParams(), params.spawn.route, params.spawn.model, verdict.definition
        ),
        warnings=_find_missing_tools(call, params.spawn.allowed_tools or [], verdict),
    )


def _find_missing_tools(call: Call, names: list[str], verdict: SpawnVerdict) -> list[str]:
    """Return a warning for each requested tool that the agent will not have, although its parent may."""
    rights, definition = verdict.rights, verdict.definition.name
    restriction = Restriction(rights.scope, blocked=tuple(rights.blocked_tools))
    warnings = []
    for name in names:
        if restriction.find_problem("tool", name) is not None:
            cause = f"'{definition}' or the request excludes it"
            warnings.append(f"the agent will not have the tool '{name}': {cause}")
        elif call.runtime.hooks.find_tool(name) is None and not name.startswith(MCP_PREFIX):
            warnings.append(f"there is no tool '{name}' now")
    return warnings


# Show.


@query(rows.GET)
def get(call: Call, params: AgentRef) -> AgentSnapshot:
    """Show an agent. Errors: NoSuchAgent."""
    with call.state.read() as store:
        return snapshot_of(store, find_agent(store, call, params.agent))


@query(rows.LIST)
def list_(call: Call, params: AgentListParams) -> AgentList:
    """List the agents of a tree, each after its parent; or all spawned agents, by id. Errors: NoSuchAgent."""
    tokens = PageTokens(call)
    with call.state.read() as store:
        if params.root is None:
            agent_id = tokens.id_of(params.after)
            start = None if agent_id is None else (agent_id,)
            scanned: Any = ((key, key[0]) for key, _ in store.scan(AGENTS, after=start))
        else:
            top_id = top_id_of(store, find_agent(store, call, params.root, "$.params.root"))
            scanned = _scan_tree(store, top_id, params.after, tokens)
        views = ((key, _view_listed(store, call, agent_id)) for key, agent_id in scanned)
        page, following = page_of(views, params.limit, lambda view: _matches(params, view), tokens.token_of)
    return AgentList(page, following)


def _scan_tree(
    store: Snapshot, root_id: str, after: str | None, tokens: PageTokens
) -> Iterator[tuple[tuple[str], str]]:
    """Yield (id), id of the agents of a tree: the root, then each agent after its parent."""
    last_id = tokens.id_of(after)
    if last_id is None:
        yield (root_id,), root_id
    last = store.get(AGENTS, last_id) if last_id is not None else None
    for _, agent_id in tree_of(store, root_id, last.path if last is not None else None):
        yield (agent_id,), agent_id


def _view_listed(store: Snapshot, call: Call, agent_id: str) -> AgentView | None:
    """Return an agent of a list; None for one that the caller may not read."""
    session = store.need(SESSIONS, agent_id)
    return view_of(store, session) if call.caller.may_read(session.agent, session.sender) else None


def _matches(params: AgentListParams, view: AgentView) -> bool:
    if view.state == "closed" and view.parent_id is not None and not params.closed:
        return False
    return params.status in (None, view.status)


@control(rows.AUDIT)
async def audit(call: Call, params: AgentAuditParams) -> AgentAudit:
    """List an agent's transitions after a cursor. Errors: NoSuchAgent."""
    last = cursor_after(params.after) or 0
    with call.state.read() as store:
        session_id = find_agent(store, call, params.agent).session_id
    fold, position = AuditFold(), 0
    page: list[AgentTransition] = []
    while True:
        with call.state.read() as store:
            entries = [
                line
                for (_, line), _ in zip(
                    store.entries(session_id, position), range(AUDIT_SLICE_ENTRIES), strict=False
                )
            ]
        for line in entries:
            envelope, event = decode_envelope(line), decode_event(line)
            position = envelope.cursor
            if isinstance(event, Unknown):
                continue
            page += [entry for entry in fold.fold(envelope, event) if entry.cursor > last]
            if len(page) >= params.limit:
                return AgentAudit(page, str(position))
        if len(entries) < AUDIT_SLICE_ENTRIES:
            return AgentAudit(page, None)
        await trio.lowlevel.checkpoint()


# Change.


def _find_spawned(tx: Transaction, call: Call, address: str) -> tuple[Session, ManagedAgent]:
    """Return a spawned agent that is not closed. Errors: NoSuchAgent, InvalidParams, AgentAlreadyClosed."""
    session = find_agent(tx, call, address)
    agent = tx.get(AGENTS, session.session_id)
    if agent is None:
        text = f"{session.session_id} was not spawned: it is the agent of a session; session.end ends it"
        raise InvalidParams(text, field="$.params.agent")
    if agent.state == "closed":
        raise AgentAlreadyClosed(
            f"the agent {agent.path} is closed: {agent.close_note}", field="$.params.agent"
        )
    return session, agent


@mutation(rows.RENAME)
def rename(tx: Transaction, call: Call, params: AgentRename) -> AgentSnapshot:
    """Give an agent another nickname; a number is added to one that is taken.

    Errors: NoSuchAgent, InvalidParams, AgentAlreadyClosed.
    """
    session, agent = _find_spawned(tx, call, params.agent)
    nickname = make_nickname(tx, params.nickname, agent.agent_id)
    if nickname != agent.nickname:
        writer = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))
        writer.append(AgentRenamed(nickname=nickname))
        writer.write()
    return snapshot_of(tx, session)


@mutation(rows.CLOSE, follow=lambda call, params, result: _follow_close(call, result))
def close(tx: Transaction, call: Call, params: AgentClose) -> AgentSnapshot:
    """Begin to close an agent. Errors: NoSuchAgent, InvalidParams, AgentAlreadyClosed."""
    session, agent = _find_spawned(tx, call, params.agent)
    if agent.state == "open":
        writer = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))
        writer.append(AgentCloseRequested(note=params.note or "closed by a client"))
        writer.write()
    return snapshot_of(tx, session)


async def _follow_close(call: Call, result: AgentSnapshot) -> AgentSnapshot:
    """Wait until the agent is closed."""
    while True:
        bell = call.state.bell(AGENTS.name)
        with call.state.read() as store:
            snapshot = snapshot_of(store, store.need(SESSIONS, result.agent_id))
        if snapshot.state == "closed":
            return snapshot
        call.state.require_sound()
        await bell.wait()


HANDLERS = (spawn_agent, explain, get, list_, audit, rename, close)
