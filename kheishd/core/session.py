"""Sessions: a record as the projection of its events, plan mode, and the bounds of child sessions. Pure.

The first of ``open_runs`` has the session's only slot: it alone may execute, and it keeps the slot while it
waits for a person. A run leaves the list when it ends, and the next one is first.

In plan mode an agent only reads and asks. Entering it sets the session's permission mode to ``plan`` and
remembers the previous mode; leaving it restores that mode. Plan mode changes only the session's own mode, so
all bounds (the daemon's, the definition's, the parents') stay. Setting the mode meanwhile ends plan mode.
"""

from typing import Any

import msgspec
from msgspec.structs import replace

from kheishd.core.account import count_call, count_work, evolve_reservations
from kheishd.core.permissions.grants import evolve_session_grants
from kheishd.core.run.budget import accumulate_cost
from protocol.budget import Account, Cost
from protocol.errors.token import ScopeWouldWiden
from protocol.events.budget import BudgetReserved, BudgetSettled
from protocol.events.context import CompactionFailed, ContextCompacted
from protocol.events.plan import PlanEntered, PlanExited, TodosWritten
from protocol.events.run import MessageAppended, ModelFailed, RunAccepted, RunEnded
from protocol.events.session import SessionCreated, SessionEnded, SessionRenamed, SessionUpdated
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent
from protocol.objects.permission import MODES, PermissionMode
from protocol.objects.session import CapabilityScope, Session, SessionProperties
from protocol.structs import fields_of
from protocol.transcript import Usage


def evolve(session: Session | None, envelope: Envelope, event: JournalEvent) -> Session:
    """Return the session after an event of its stream. Most events of runs do not change it.

    Errors: AssertionError for a first event that is not ``SessionCreated``: the journal is damaged.
    """
    if isinstance(event, SessionCreated):
        return _create(envelope, event)
    assert session is not None, "a session's first event is its creation"
    match event:
        case SessionUpdated(changes=changes):
            if "permission_mode" in changes:
                # The new mode counts: there is none to restore.
                session = replace(session, plan_mode=False, pre_plan_mode=None)
            changed = replace(session, **_decode_changes(changes))
            if changed.budget is not None and changed.account is None:
                changed = replace(changed, account=Account())
        case SessionRenamed(title=title, usage=usage, cost=cost):
            changed = replace(_add_usage(session, usage, cost), title=title)
        case SessionEnded():
            changed = replace(session, status="ended")
        case RunAccepted(queue_index=index):
            assert envelope.run_id is not None
            index = len(session.open_runs) if index is None else index
            open_runs = [*session.open_runs[:index], envelope.run_id, *session.open_runs[index:]]
            changed = replace(session, open_runs=open_runs, runs=session.runs + 1)
        case RunEnded(worked_ms=worked_ms):
            open_runs = [run_id for run_id in session.open_runs if run_id != envelope.run_id]
            changed = replace(count_work(session, worked_ms), open_runs=open_runs)
        case ModelFailed() if session.account is None:
            return session
        case ModelFailed(usage=usage, cost=cost):
            changed = count_call(session, usage, cost)
        case BudgetReserved() | BudgetSettled():
            changed = evolve_reservations(session, envelope, event)
        case (
            MessageAppended(usage=usage, cost=cost)
            | ContextCompacted(usage=usage, cost=cost)
            | CompactionFailed(usage=usage, cost=cost)
        ):
            changed = _add_usage(session, usage, cost)
        case TodosWritten():
            changed = replace(session, todos_cursor=envelope.cursor)
        case PlanEntered() if session.plan_mode:
            changed = session
        case PlanEntered():
            mode = session.permission_mode
            changed = replace(session, plan_mode=True, pre_plan_mode=mode, permission_mode="plan")
        case PlanExited():
            changed = replace(leave_plan_mode(session), plan_cursor=envelope.cursor)
        case _:
            changed = evolve_session_grants(session, event, envelope.run_id)
            if changed is session:
                return session
    return replace(changed, updated_cursor=envelope.cursor, updated_at_ms=envelope.at_ms)


def _add_usage(session: Session, usage: Usage, cost: Cost | None) -> Session:
    costs = accumulate_cost(session.costs, cost) if cost is not None else session.costs
    return count_call(replace(session, usage=session.usage + usage, costs=costs), usage, cost)


def leave_plan_mode(session: Session) -> Session:
    """Return the session with its previous mode: the widest that its next run may have."""
    if not session.plan_mode:
        return session
    return replace(session, plan_mode=False, pre_plan_mode=None, permission_mode=session.pre_plan_mode)


def _create(envelope: Envelope, event: SessionCreated) -> Session:
    assert envelope.session_id is not None
    return Session(
        **fields_of(SessionProperties, event),
        session_id=envelope.session_id,
        agent=event.agent,
        status="open",
        sender=event.sender,
        created_at_ms=envelope.at_ms,
        updated_at_ms=envelope.at_ms,
        parent_session_id=event.parent_session_id,
        root_session_id=event.root_session_id,
        fork_of=event.fork_of,
        created_cursor=envelope.cursor,
        updated_cursor=envelope.cursor,
        account=Account() if event.budget is not None else None,
    )


def _decode_changes(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the properties that an update changes, by name, with the types of the record."""
    properties = msgspec.convert(changes, SessionProperties)
    return {
        name: getattr(properties, name) for name in SessionProperties.__struct_fields__ if name in changes
    }


# Bounds.


def intersect_names(names: list[str] | None, bound: list[str] | None) -> list[str] | None:
    """Return the names in both lists; null means every name, so the result never has an extra name."""
    if names is None or bound is None:
        return names if bound is None else bound
    return [name for name in names if name in bound]


def intersect_scopes(scope: CapabilityScope, bound: CapabilityScope) -> CapabilityScope:
    """Return the scope that allows exactly what both scopes allow, in every field."""
    fields = CapabilityScope.__struct_fields__
    return CapabilityScope(*(intersect_names(getattr(scope, name), getattr(bound, name)) for name in fields))


def inherit_scope(parent: CapabilityScope, requested: CapabilityScope) -> CapabilityScope:
    """Return a child's scope: the requested fields, else the parent's.

    Errors: ScopeWouldWiden if a requested field is wider than the parent's.
    """
    fields = CapabilityScope.__struct_fields__
    pairs = ((getattr(requested, name), getattr(parent, name)) for name in fields)
    return require_narrower(
        parent, CapabilityScope(*(own if own is not None else inherited for own, inherited in pairs))
    )


def require_narrower(current: CapabilityScope, requested: CapabilityScope) -> CapabilityScope:
    """Return the requested scope if it allows nothing that the current one does not.

    Errors: ScopeWouldWiden, naming the field and the additional names.
    """
    for field in CapabilityScope.__struct_fields__:
        allowed, names = getattr(current, field), getattr(requested, field)
        if allowed is None:
            continue
        if names is None:
            raise ScopeWouldWiden(
                f"'{field}' is limited and cannot be opened again", field=f"$.params.scope.{field}"
            )
        extra = sorted(set(names) - set(allowed))
        if extra:
            raise ScopeWouldWiden(
                f"'{field}' did not allow {', '.join(extra)}", field=f"$.params.scope.{field}"
            )
    return requested


def is_wider(mode: PermissionMode, reference: PermissionMode) -> bool:
    """Whether a mode allows more than another one."""
    return MODES.index(mode) > MODES.index(reference)


def narrower_mode(mode: PermissionMode, bound: PermissionMode | None) -> PermissionMode:
    """Return the narrower of two modes; the first if there is no second."""
    return mode if bound is None else min(mode, bound, key=MODES.index)


def choose_mode(
    ceiling: PermissionMode, requested: PermissionMode | None, by_agent: PermissionMode | None = None
) -> PermissionMode:
    """Return a child's mode: the requested one, else the agent's own within the ceiling.

    Errors: ScopeWouldWiden if the requested mode is wider than the ceiling.
    """
    if requested is None:
        return narrower_mode(ceiling, by_agent)
    if is_wider(requested, ceiling):
        raise ScopeWouldWiden(
            f"the permission mode '{requested}' is wider than the parent's '{ceiling}'",
            field="$.params.permission_mode",
        )
    return requested
