"""Fork a session: the fork's transcript is the parent's up to a cursor.

Nothing is copied. The fork records its fork point, and readers of its transcript continue there. So a fork is
one small transaction, whatever the length of the transcript.

A fork has the parent's scopes, persona, mode, contracts, workspace, parent session and narrowing permission
rules. It has neither its allow rules nor its grants. The two sessions cannot send each other anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.core.scope import choose_mode, intersect_scopes, narrower_mode
from kheishd.kernel.call import Call, mutation, origin_of
from kheishd.objects.node.journal import pruned_until
from kheishd.objects.talk.address import find_definition, find_session
from kheishd.objects.talk.bounds import bounds_of, default_mode, find_closed, require_mode, scope_of
from kheishd.objects.talk.budget import reserve
from kheishd.objects.talk.input import origins_read
from kheishd.objects.talk.lineage import lineage
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import SESSIONS
from protocol import ids
from protocol.errors.definition import AgentNotFound
from protocol.errors.journal import CursorPruned
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import SessionAlreadyEnded, TooDeep
from protocol.events.permission import PermissionsChanged
from protocol.events.session import SessionCreated
from protocol.events.skill import SkillActivated
from protocol.limits.session import MAX_FORKS
from protocol.objects import session as rows
from protocol.objects.session import ActiveSkill, ForkOf, Session, SessionFork, SessionProperties
from protocol.structs import Value, fields_of

if TYPE_CHECKING:
    from kheishd.store.environment import Transaction
    from protocol.objects.definition import Definition
    from protocol.objects.permission import PermissionMode


class _Fork(Value, frozen=True):
    """A validated request and the id that the fork will have."""

    params: SessionFork
    session_id: str
    definition: Definition | None


def _prepare(call: Call, params: SessionFork) -> _Fork:
    definition = find_definition(call, params.agent) if params.agent is not None else None
    return _Fork(params, call.state.new_id(ids.SESSION), definition)


@mutation(rows.FORK, prepare=_prepare)
def fork(tx: Transaction, call: Call, request: _Fork) -> Session:
    """Create a session that continues another one.

    Errors: SessionNotFound, SessionAlreadyEnded, AgentNotFound, ScopeMissing, InvalidParams, CursorPruned,
    TooDeep, BudgetExhausted.
    """
    source = find_session(tx, call, request.params.session_id)
    definition = request.definition or call.runtime.definitions.get(source.agent)
    if definition is None:
        raise AgentNotFound(f"the session's agent '{source.agent}' is no longer defined; name another")
    properties = fields_of(SessionProperties, source)
    properties["permission_mode"] = _mode(tx, call, source, definition)
    if request.params.title is not None:
        properties["title"] = request.params.title
    if definition.name != source.agent:
        properties["scope"] = intersect_scopes(scope_of(definition), source.scope)
        properties["route"] = properties["model"] = None
    if source.parent_session_id is not None:
        # A fork is one more child of the same parent.
        parent = tx.need(SESSIONS, source.parent_session_id)
        closed = find_closed(tx, parent)
        if closed is not None:
            text = f"a fork would work below the parent of the session: {closed.message}"
            raise SessionAlreadyEnded(text, field="$.params.session_id")
        properties["budget"] = reserve(
            tx, call.runtime, parent, source.budget, child_id=request.session_id, origin=origin_of(call)
        )
    writer = SessionWriter(tx, request.session_id, session=None, origin=origin_of(call, source.sender))
    writer.append(
        SessionCreated(
            agent=definition.name,
            sender=source.sender,
            parent_session_id=source.parent_session_id,
            root_session_id=source.root_session_id,
            persona=source.persona,
            fork_of=_fork_point(tx, source, request.params.at),
            origins=origins_read(tx, source),
            **properties,
        )
    )
    narrowing = [rule for rule in source.rules if rule.decision != "allow"]
    if narrowing:
        writer.append(PermissionsChanged(add=narrowing))
    for skill in source.active_skills:
        note = "active in the session that was forked"
        snapshot = fields_of(ActiveSkill, skill) | {"by_call": False, "note": note}
        del snapshot["activated_cursor"]
        writer.append(SkillActivated(**snapshot))
    writer.write()
    return writer.session


def _mode(tx: Transaction, call: Call, source: Session, definition: Definition) -> PermissionMode | None:
    """Return the mode of the fork. Errors: ScopeMissing if the caller may not give it."""
    if definition.name != source.agent:
        return choose_mode(bounds_of(tx, call.runtime, source).mode, None, definition.permission_mode)
    if source.permission_mode is None or source.parent_session_id is not None:
        return source.permission_mode
    mode = narrower_mode(call.runtime.config.permissions.max_mode, source.permission_mode)
    require_mode(call, mode, default_mode(call.runtime, definition))
    return mode


def _fork_point(tx: Transaction, source: Session, at: int | None) -> ForkOf:
    """Return the last event up to a cursor, in whichever session of the lineage it is.

    Errors: InvalidParams, CursorPruned, TooDeep.
    """
    if at is not None and at > tx.last_cursor:
        raise InvalidParams(f"the journal's newest cursor is {tx.last_cursor}", field="$.params.at")
    segments = lineage(tx, source)
    for depth, (session_id, last_cursor) in reversed(list(enumerate(segments, 1))):
        end = min((cursor for cursor in (at, last_cursor) if cursor is not None), default=None)
        entry = next(tx.entries(session_id, 0 if end is None else end + 1, reverse=True), None)
        if entry is None:
            continue
        cursor = entry[0]
        if depth > MAX_FORKS:
            raise TooDeep(f"forks of forks nest at most {MAX_FORKS} deep; fork an earlier session")
        if cursor < pruned_until(tx, session_id):
            raise CursorPruned(f"the events up to cursor {cursor} were pruned", field="$.params.at")
        chained = tx.entry(session_id, cursor)
        assert chained is not None, "the entry was just read"
        return ForkOf(session_id, cursor, chained[0].hex())
    raise InvalidParams(
        f"the session begins after cursor {at}; its first is {source.created_cursor}", field="$.params.at"
    )


HANDLERS = (fork,)
