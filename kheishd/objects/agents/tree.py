"""The tree of agents: find agents, and show them.

The tree is that of the sessions: the agent of a session is the parent of the agents of the sessions below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.core.agent import find_free, is_preparing, status_of
from kheishd.core.skill import active_skills
from kheishd.objects.talk.bounds import ancestors
from kheishd.objects.talk.budget import budget_of
from kheishd.objects.talk.output import output_of
from kheishd.records.agent import hash_key
from kheishd.store.tables import (
    AGENTS,
    AGENTS_BY_NAME,
    AGENTS_BY_NICKNAME,
    AGENTS_BY_PATH,
    AGENTS_LIVE,
    GOALS,
    RUNS,
    RUNS_BY_SESSION,
    SESSIONS,
)
from protocol.errors.agent import NoSuchAgent
from protocol.errors.rpc import InvalidParams
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.objects.agent import AgentSnapshot, AgentView
from protocol.structs import fields_of
from protocol.text import fold_text, truncate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.call import Call
    from kheishd.store.environment import Snapshot
    from protocol.objects.session import Session


MAX_ADDRESS_BYTES: Final = 500
"""The longest text that is looked up: a key of the store has at most 511 bytes."""
MAX_NAMED: Final = 4
"""How many agents with an ambiguous address a refusal names."""


def root_id_of(session: Session) -> str:
    """Return the id of the root of a session's tree."""
    return session.root_session_id or session.session_id


def path_of(store: Snapshot, session: Session) -> str:
    """Return an agent's path; that of an agent that was not spawned is its id."""
    agent = store.get(AGENTS, session.session_id) if session.parent_session_id is not None else None
    return session.session_id if agent is None else agent.path


def top_id_of(store: Snapshot, session: Session) -> str:
    """Return the id with which an agent's path begins: that of the nearest agent that was not spawned."""
    return path_of(store, session).partition("/")[0]


def find_agent(store: Snapshot, call: Call, address: str, field: str = "$.params.agent") -> Session:
    """Return the session of an agent that the caller may read. Errors: NoSuchAgent."""
    is_definition = address in call.runtime.definitions and call.caller.may_read_agent(address)
    where = "; it is the name of a definition: session.list lists its sessions" if is_definition else ""
    return _find(
        store,
        address,
        lambda session: call.caller.may_read(session.agent, session.sender),
        where=where,
        field=field,
    )


def find_relative(store: Snapshot, session: Session, address: str) -> Session:
    """Return the session of an agent in the tree of another one, which names it. Errors: NoSuchAgent.

    A path may begin below the agent that names it. Names and nicknames of other trees do not count.
    """
    root_id, base = root_id_of(session), path_of(store, session)
    return _find(store, address, lambda session: root_id_of(session) == root_id, base, " in this tree")


def _find(
    store: Snapshot,
    address: str,
    accepts: Callable[[Session], bool],
    base: str | None = None,
    where: str = "",
    field: str | None = None,
) -> Session:
    """Return the accepted agent with an id, a path, a path below ``base``, or a nickname or live name.

    Errors: NoSuchAgent, also for an address that several accepted agents have.
    """
    if is_address(address):
        relative = f"{base}/{address}" if base is not None else ""
        path_id = store.get(AGENTS_BY_PATH, address)
        relative_id = store.get(AGENTS_BY_PATH, relative) if is_address(relative) else None
        for ids in ([address], [path_id], [relative_id], sorted(find_named(store, address))):
            sessions = [store.get(SESSIONS, agent_id) for agent_id in ids if agent_id is not None]
            accepted = [session for session in sessions if session is not None and accepts(session)]
            if len(accepted) > 1:
                paths = ", ".join(path_of(store, session) for session in accepted[:MAX_NAMED])
                raise NoSuchAgent(f"'{address}' may be several agents: {paths}; give the path", field=field)
            if accepted:
                return accepted[0]
    raise NoSuchAgent(f"there is no agent '{address}'{where}", field=field)


def is_address(text: str) -> bool:
    """Whether a text can be looked up: a key of the store."""
    return 0 < len(text.encode()) <= MAX_ADDRESS_BYTES and "\0" not in text


def find_named(store: Snapshot, address: str) -> set[str]:
    """Return the ids of the agent with a nickname and of the live agents with a name."""
    named = {key[1] for key, _ in store.scan(AGENTS_BY_NAME, address)} if is_address(address) else set()
    nicknamed = store.get(AGENTS_BY_NICKNAME, hash_key(fold_text(address)))
    return named if nicknamed is None else named | {nicknamed}


def make_nickname(store: Snapshot, requested: str, agent_id: str) -> str:
    """Return a requested nickname, with a number if it is another agent's nickname, live name or id.

    Errors: InvalidParams for a text that is not printable, or that could be a path.
    """
    nickname = " ".join(requested.split())
    if not nickname or not nickname.isprintable() or "/" in nickname:
        raise InvalidParams("a nickname is printable text without '/'", field="$.params.nickname")

    def is_taken(name: str) -> bool:
        folded = fold_text(name)
        ids = find_named(store, folded)
        ids |= {text for text in (name, folded) if is_address(text) and store.get(SESSIONS, text) is not None}
        return bool(ids - {agent_id})

    return find_free(nickname, " ", is_taken)


def live_children(store: Snapshot, session: Session) -> Iterator[str]:
    """Yield the ids of an agent's live children."""
    for key, _ in store.scan(AGENTS_LIVE, root_id_of(session), session.session_id):
        yield key[-1]


def tree_of(store: Snapshot, root_id: str, after: str | None = None) -> Iterator[tuple[tuple[str], str]]:
    """Yield (path), agent id of the agents below a root, each after its parent, from a path on."""
    prefix = f"{root_id}/"
    for key, agent_id in store.scan(AGENTS_BY_PATH, after=(after or prefix,)):
        if not key[0].startswith(prefix):
            return
        yield (key[0],), agent_id


# Show.


def view_of(store: Snapshot, session: Session) -> AgentView:
    """Return an agent as shown."""
    agent = store.get(AGENTS, session.session_id) if session.parent_session_id is not None else None
    active = store.get(RUNS, session.open_runs[0]) if session.open_runs else None
    calls = active.calls if active is not None else []
    view = AgentView(
        agent_id=session.session_id,
        root_id=root_id_of(session),
        definition=session.agent,
        name=session.session_id,
        path=session.session_id,
        status="idle",
        state="open" if session.status == "open" else "closed",
        depth=len(ancestors(store, session)),
        spawned_at_ms=session.created_at_ms,
        updated_at_ms=session.updated_at_ms,
        parent_id=session.parent_session_id,
        sender=session.sender,
        title=session.title,
        active_run_id=active.run_id if active is not None else None,
        queued_runs=max(len(session.open_runs) - 1, 0),
        pending_approvals=sum(call.state == "asked" for call in calls),
        pending_questions=sum(call.state == "questioned" for call in calls),
        children=sum(1 for _ in live_children(store, session)),
        usage=session.usage,
        costs=session.costs,
        budget=budget_of(store, session),
    )
    fields = fields_of(AgentView, view)
    if agent is not None:
        fields |= {name: getattr(agent, name) for name in AgentView.__struct_fields__ if hasattr(agent, name)}
    else:
        last = _last_ended(store, session)
        if last is not None:
            fields |= {
                "last_run_id": last.run_id,
                "last_outcome": last.status,
                "last_error": last.error,
                "settled_at_ms": last.ended_at_ms,
            }
    fields["status"] = status_of(
        active.status if active is not None else None,
        fields["last_outcome"],
        retention=fields["retention"],
        failed=agent is not None and agent.failed,
        preparing=agent is not None and is_preparing(agent),
    )
    if active is not None:
        fields["settled_at_ms"] = None
    return AgentView(**fields)


def snapshot_of(store: Snapshot, session: Session) -> AgentSnapshot:
    """Return an agent as shown, with the output of its newest run that has ended."""
    view = view_of(store, session)
    run = store.get(RUNS, view.last_run_id) if view.last_run_id is not None else None
    output = output_of(store, run) if run is not None else None
    text = None if output is None else truncate(output.text, MAX_TOOL_TEXT_BYTES // 2, "\n[... truncated]")
    active = store.get(RUNS, session.open_runs[0]) if session.open_runs else None
    calls = active.calls if active is not None else []
    goal = store.get(GOALS, session.session_id) if session.goal_id is not None else None
    return AgentSnapshot(
        **fields_of(AgentView, view),
        output=text,
        profile=session.profile,
        permission_mode=session.permission_mode,
        persona_id=session.persona.persona_id if session.persona is not None else None,
        active_skills=[skill.name for skill in active_skills(session)],
        goal_status=goal.status if goal is not None else None,
        approval_ids=[call.waits_for for call in calls if call.state == "asked" and call.waits_for],
        question_ids=[call.waits_for for call in calls if call.state == "questioned" and call.waits_for],
    )


def _last_ended(store: Snapshot, session: Session) -> RunRecord | None:
    """Return the newest run of a session that has ended. The open ones are the newest."""
    for _, run_id in store.scan(RUNS_BY_SESSION, session.session_id, reverse=True):
        run = store.need(RUNS, run_id)
        if run.ended_at_ms is not None:
            return run
    return None
