"""Sessions: a record as the projection of its events, and plan mode. Pure.

The first of ``open_runs`` has the session's only slot: it alone may execute, and it keeps the slot while it
waits for a person. A run leaves the list when it ends, and the next one is first.

In plan mode an agent only reads and asks. Entering it sets the session's permission mode to ``plan`` and
remembers the previous mode; leaving it restores that mode. Plan mode changes only the session's own mode, so
all bounds (the daemon's, the definition's, the parents') stay. Setting the mode meanwhile ends plan mode.
"""

from typing import Any

import msgspec
from msgspec.structs import replace

from kheishd.core.account import count_call, count_work, evolve_account
from kheishd.core.permissions.grants import evolve_session_grants
from kheishd.core.run.budget import accumulate_cost
from kheishd.core.trust import join_origins
from protocol.budget import Account, Cost
from protocol.events.agent import AgentPrepared, AgentSpawned
from protocol.events.context import CompactionFailed, ContextCompacted
from protocol.events.goal import GoalCleared, GoalReviewed, GoalSet
from protocol.events.persona import PersonaBound
from protocol.events.plan import PlanEntered, PlanExited, TodosWritten
from protocol.events.run import MessageAppended, RunAccepted, RunEnded, Steered
from protocol.events.session import (
    SessionCreated,
    SessionEnded,
    SessionImported,
    SessionRenamed,
    SessionUpdated,
)
from protocol.events.skill import DefaultSkillsResolved, SkillActivated, SkillDeactivated
from protocol.events.task import TaskAdopted
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent
from protocol.objects.agent import AgentWorktree
from protocol.objects.session import ActiveSkill, Session, SessionProperties
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
        case Steered() | RunAccepted() | RunEnded():
            changed = _evolve_runs(session, envelope, event)
            if changed is session:
                return session
        case ContextCompacted(usage=usage, cost=cost, upto=upto, strategy=strategy):
            changed = _add_usage(session, usage, cost)
            if strategy != "results" and session.active_skills:
                changed = replace(changed, compacted_cursor=max(upto, session.compacted_cursor))
        case (
            MessageAppended(usage=usage, cost=cost)
            | CompactionFailed(usage=usage, cost=cost)
            | GoalReviewed(usage=usage, cost=cost)
        ):
            changed = _add_usage(session, usage, cost)
        case DefaultSkillsResolved(skills=skills) if session.persona is not None:
            changed = replace(session, persona=replace(session.persona, skills=skills))
        case SkillActivated():
            changed = replace(session, active_skills=activate_skill(session.active_skills, envelope, event))
        case SkillDeactivated(name=name):
            changed = replace(
                session, active_skills=[skill for skill in session.active_skills if skill.name != name]
            )
        case AgentSpawned(worktree=AgentWorktree()) | AgentPrepared():
            changed = replace(session, preparing=isinstance(event, AgentSpawned))
        case GoalSet() | GoalCleared():
            changed = replace(session, goal_id=event.goal_id if isinstance(event, GoalSet) else None)
        case PersonaBound(binding=binding):
            changed = replace(session, persona=binding)
        case TodosWritten():
            changed = replace(session, todos_cursor=envelope.cursor)
        case PlanEntered() if session.plan_mode:
            changed = session
        case PlanEntered():
            mode = session.permission_mode
            changed = replace(session, plan_mode=True, pre_plan_mode=mode, permission_mode="plan")
        case SessionImported(origins=origins) | TaskAdopted(origins=origins):
            changed = replace(session, origins=join_origins(session.origins, origins))
            if changed == session:
                return session
        case PlanExited():
            changed = replace(leave_plan_mode(session), plan_cursor=envelope.cursor)
        case _:
            changed = evolve_account(evolve_session_grants(session, event, envelope.run_id), envelope, event)
            if changed is session:
                return session
    return replace(changed, updated_cursor=envelope.cursor, updated_at_ms=envelope.at_ms)


def _evolve_runs(session: Session, envelope: Envelope, event: Steered | RunAccepted | RunEnded) -> Session:
    """Return the session after a run was accepted, got a message or ended."""
    match event:
        case Steered(hops=hops):
            return session if hops <= session.hops else replace(session, hops=hops)
        case RunAccepted(queue_index=index):
            assert envelope.run_id is not None
            index = len(session.open_runs) if index is None else index
            open_runs = [*session.open_runs[:index], envelope.run_id, *session.open_runs[index:]]
            hops = session.hops if event.kind == "compaction" else event.hops
            return replace(session, open_runs=open_runs, runs=session.runs + 1, hops=hops)
        case RunEnded(origins=origins, worked_ms=worked_ms):
            return replace(
                count_work(session, worked_ms),
                open_runs=[run_id for run_id in session.open_runs if run_id != envelope.run_id],
                origins=join_origins(session.origins, origins),
            )


def activate_skill(active: list[ActiveSkill], envelope: Envelope, event: SkillActivated) -> list[ActiveSkill]:
    """Return the active skills after one more was activated, which replaces one of the same name."""
    skill = ActiveSkill(
        name=event.name,
        text=event.text,
        text_bytes=event.text_bytes,
        activated_cursor=envelope.cursor,
        allowed_tools=event.allowed_tools,
        blocked_tools=event.blocked_tools,
        by_call=event.by_call,
    )
    return [*(other for other in active if other.name != event.name), skill]


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
        persona=event.persona,
        created_at_ms=envelope.at_ms,
        updated_at_ms=envelope.at_ms,
        parent_session_id=event.parent_session_id,
        root_session_id=event.root_session_id,
        fork_of=event.fork_of,
        origins=event.origins,
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
