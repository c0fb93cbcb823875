"""A session's record as the fold of its events, and the rules about its boundaries. Pure.

The first of ``open_runs`` holds the session's one slot: it is the only one that may execute, and it keeps
the slot while it waits for a person. A run leaves the list when it ends, and then the next one is first.
"""

from typing import Any

import msgspec
from msgspec.structs import replace

from kheishd.core import planning
from kheishd.core.permissions.grants import kept_by_session
from kheishd.core.run.budget import summed
from protocol.budget import Cost
from protocol.errors.token import ScopeWouldWiden
from protocol.events.context import CompactionFailed, ContextCompacted
from protocol.events.plan import PlanEntered, PlanExited, TodosWritten
from protocol.events.run import MessageAppended, RunAccepted, RunEnded
from protocol.events.session import SessionCreated, SessionEnded, SessionRenamed, SessionUpdated
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent
from protocol.objects.permission import MODES, PermissionMode
from protocol.objects.session import CapabilityScope, Session, SessionProperties
from protocol.structs import fields_of
from protocol.transcript import Usage


def evolve(session: Session | None, envelope: Envelope, event: JournalEvent) -> Session:
    """The session after an event of its stream. Most events of runs leave it as it is.

    Errors: AssertionError for a first event that is not ``SessionCreated``: the journal is damaged.
    """
    if isinstance(event, SessionCreated):
        return _created(envelope, event)
    assert session is not None, "a session's first event is its creation"
    match event:
        case SessionUpdated(changes=changes):
            before = planning.mode_set(session) if "permission_mode" in changes else session
            changed = replace(before, **_decode_changes(changes))
        case SessionRenamed(title=title, usage=usage, cost=cost):
            changed = replace(_paid(session, usage, cost), title=title)
        case SessionEnded():
            changed = replace(session, status="ended")
        case RunAccepted():
            assert envelope.run_id is not None
            open_runs = [*session.open_runs, envelope.run_id]
            changed = replace(session, open_runs=open_runs, runs=session.runs + 1)
        case RunEnded():
            changed = replace(session, open_runs=[r for r in session.open_runs if r != envelope.run_id])
        case (
            MessageAppended(usage=usage, cost=cost)
            | ContextCompacted(usage=usage, cost=cost)
            | CompactionFailed(usage=usage, cost=cost)
        ):
            changed = _paid(session, usage, cost)
        case TodosWritten() | PlanEntered() | PlanExited():
            changed = planning.evolve(session, envelope, event)
        case _:
            changed = kept_by_session(session, event, envelope.run_id)
            if changed is session:
                return session
    return replace(changed, updated_cursor=envelope.cursor, updated_at_ms=envelope.at_ms)


def _paid(session: Session, usage: Usage, cost: Cost | None) -> Session:
    costs = summed(session.costs, cost) if cost is not None else session.costs
    return replace(session, usage=session.usage + usage, costs=costs)


def _created(envelope: Envelope, event: SessionCreated) -> Session:
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
    )


def _decode_changes(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the properties that an update changes, by name, with the types of the record."""
    properties = msgspec.convert(changes, SessionProperties)
    return {
        name: getattr(properties, name) for name in SessionProperties.__struct_fields__ if name in changes
    }


def both(one: list[str] | None, other: list[str] | None) -> list[str] | None:
    """The names that both allow: null is everything, so this never adds a name and never fails open."""
    if one is None or other is None:
        return one if other is None else other
    return [name for name in one if name in other]


def narrowest(one: CapabilityScope, other: CapabilityScope) -> CapabilityScope:
    """The scope that allows what both allow, in every field."""
    fields = CapabilityScope.__struct_fields__
    return CapabilityScope(*(both(getattr(one, name), getattr(other, name)) for name in fields))


def wider(one: PermissionMode, other: PermissionMode) -> bool:
    """Whether a mode allows more than another."""
    return MODES.index(one) > MODES.index(other)


def mode_within(
    ceiling: PermissionMode, mode: PermissionMode | None, by_agent: PermissionMode | None = None
) -> PermissionMode:
    """``mode``, if it is no wider than ``ceiling``; where none is asked for, the agent's own within it.

    Errors: ScopeWouldWiden.
    """
    if mode is None:
        return narrowest_mode(ceiling, by_agent)
    if wider(mode, ceiling):
        raise ScopeWouldWiden(
            f"the permission mode '{mode}' is wider than the parent's '{ceiling}'",
            field="$.params.permission_mode",
        )
    return mode


def narrowest_mode(one: PermissionMode, other: PermissionMode | None) -> PermissionMode:
    """The narrower of two modes; the one there is, where there is one."""
    return one if other is None else min(one, other, key=MODES.index)


def inherited(parent: CapabilityScope, asked: CapabilityScope) -> CapabilityScope:
    """A child's scope: the parent's, where it asks for nothing; what it asks for, where that is no more.

    Errors: ScopeWouldWiden.
    """
    fields = CapabilityScope.__struct_fields__
    filled = ((getattr(asked, name), getattr(parent, name)) for name in fields)
    return narrower(parent, CapabilityScope(*(own if own is not None else given for own, given in filled)))


def narrower(old: CapabilityScope, new: CapabilityScope) -> CapabilityScope:
    """``new``, if it allows nothing that ``old`` does not.

    Errors: ScopeWouldWiden, naming the field and the names that were not allowed before.
    """
    for field in CapabilityScope.__struct_fields__:
        was, will = getattr(old, field), getattr(new, field)
        if was is None:
            continue
        if will is None:
            raise ScopeWouldWiden(
                f"'{field}' is limited and cannot be opened again", field=f"$.params.scope.{field}"
            )
        extra = sorted(set(will) - set(was))
        if extra:
            raise ScopeWouldWiden(
                f"'{field}' did not allow {', '.join(extra)}", field=f"$.params.scope.{field}"
            )
    return new
