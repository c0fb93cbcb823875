"""Branching off: a new session whose transcript is another one's, up to a cursor.

Nothing is copied: the new session says where it branched off, and whoever reads what was said in it reads
there first. So it takes one small transaction, however long the other is, and either it is there or not.

It has the other's boundary, contracts, mode and parent, and the rules that narrow; what was allowed there was
allowed there. It is nobody's child because of it: neither can tell the other anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kheishd.core.session import mode_within, narrowest, narrowest_mode
from kheishd.kernel.call import Call, mutation, origin_of
from kheishd.objects.node.journal import pruned_until
from kheishd.objects.talk.bounds import bounds_of, may_have, usual_mode
from kheishd.objects.talk.lineage import lineage
from kheishd.objects.talk.send import find_definition
from kheishd.objects.talk.session import find_session, scope_of
from kheishd.records.writer import SessionWriter
from protocol import ids
from protocol.errors.definition import AgentNotFound
from protocol.errors.journal import CursorPruned
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import TooDeep
from protocol.events.permission import PermissionsChanged
from protocol.events.session import SessionCreated
from protocol.limits.session import MAX_FORKS
from protocol.objects import session as rows
from protocol.objects.session import ForkOf, Session, SessionFork

if TYPE_CHECKING:
    from kheishd.store.environment import Transaction
    from protocol.objects.definition import Definition
    from protocol.objects.permission import PermissionMode


@dataclass(frozen=True, slots=True)
class _Branch:
    params: SessionFork
    session_id: str
    definition: Definition | None


def _prepare(call: Call, params: SessionFork) -> _Branch:
    definition = find_definition(call, params.agent) if params.agent is not None else None
    return _Branch(params, call.state.new_id(ids.SESSION), definition)


@mutation(rows.FORK, prepare=_prepare)
def fork(tx: Transaction, call: Call, plan: _Branch) -> Session:
    """Make a session that goes on from where another one was."""
    source = find_session(tx, call, plan.params.session_id)
    definition = plan.definition or call.runtime.definitions.get(source.agent)
    if definition is None:
        raise AgentNotFound(f"the session's agent '{source.agent}' is no longer defined; name another")
    same = definition.name == source.agent
    branch = SessionWriter(tx, plan.session_id, session=None, origin=origin_of(call, source.sender))
    branch.append(
        SessionCreated(
            agent=definition.name,
            sender=source.sender,
            parent_session_id=source.parent_session_id,
            root_session_id=source.root_session_id,
            title=plan.params.title if plan.params.title is not None else source.title,
            scope=source.scope if same else narrowest(scope_of(definition), source.scope),
            permission_mode=_mode(tx, call, source, definition, same=same),
            workspace=source.workspace,
            route=source.route if same else None,
            model=source.model if same else None,
            metadata=source.metadata,
            input_contract=source.input_contract,
            output_contract=source.output_contract,
            fork_of=_place(tx, source, plan.params.at),
        )
    )
    narrowing = [rule for rule in source.rules if rule.decision != "allow"]
    if narrowing:
        branch.append(PermissionsChanged(add=narrowing))
    branch.write()
    return branch.session


def _mode(
    tx: Transaction, call: Call, source: Session, definition: Definition, *, same: bool
) -> PermissionMode | None:
    """The mode of the branch. Errors: ScopeMissing for one that takes the right to approve."""
    if not same:
        return mode_within(bounds_of(tx, call.runtime, source).mode, None, definition.permission_mode)
    if source.permission_mode is None or source.parent_session_id is not None:
        return source.permission_mode
    mode = narrowest_mode(call.runtime.config.permissions.max_mode, source.permission_mode)
    may_have(call, mode, usual_mode(call.runtime, definition))
    return mode


def _place(tx: Transaction, source: Session, at: int | None) -> ForkOf:
    """Where to branch off: at the last event up to a cursor, in whichever session that is.

    Errors: InvalidParams, CursorPruned, TooDeep.
    """
    if at is not None and at > tx.last_cursor:
        raise InvalidParams(f"the journal's newest cursor is {tx.last_cursor}", field="$.params.at")
    stretches = lineage(tx, source)
    for number, (session_id, upto) in reversed(list(enumerate(stretches, 1))):
        end = min((cursor for cursor in (at, upto) if cursor is not None), default=None)
        found = next(tx.entries(session_id, 0 if end is None else end + 1, reverse=True), None)
        if found is None:
            continue
        cursor = found[0]
        if number > MAX_FORKS:
            raise TooDeep(f"a session branches off another one {MAX_FORKS} deep at most; use one before it")
        if cursor < pruned_until(tx, session_id):
            raise CursorPruned(f"what was said up to cursor {cursor} was pruned", field="$.params.at")
        entry = tx.entry(session_id, cursor)
        assert entry is not None, "what was just read is there"
        return ForkOf(session_id, cursor, entry[0].hex())
    raise InvalidParams(
        f"the session begins after cursor {at}; its first is {source.created_cursor}", field="$.params.at"
    )


HANDLERS = (fork,)
