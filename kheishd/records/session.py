"""Records of sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.core import session as session_rules
from kheishd.records.projection import IndexRow, Projection, source_in_session
from kheishd.store.tables import CHILDREN, SESSIONS
from protocol.events.agent import AgentPrepared, AgentSpawned
from protocol.events.approval import ApprovalAnswered
from protocol.events.budget import BudgetReserved, BudgetSettled
from protocol.events.call import CallsJudged
from protocol.events.context import CompactionFailed, ContextCompacted
from protocol.events.goal import GoalCleared, GoalReviewed, GoalSet
from protocol.events.permission import PermissionsChanged
from protocol.events.persona import PersonaBound
from protocol.events.plan import PlanEntered, PlanExited, TodosWritten
from protocol.events.run import MessageAppended, ModelFailed, RunAccepted, RunEnded, Steered
from protocol.events.session import (
    SessionCreated,
    SessionEnded,
    SessionImported,
    SessionRenamed,
    SessionUpdated,
)
from protocol.events.skill import DefaultSkillsResolved, SkillActivated, SkillDeactivated
from protocol.events.task import TaskAdopted

if TYPE_CHECKING:
    from protocol.objects.session import Session


def index_rows(session: Session) -> frozenset[IndexRow]:
    """Return the index row by which a parent finds the session, if it has one."""
    if session.parent_session_id is None:
        return frozenset()
    return frozenset((IndexRow(CHILDREN, (session.parent_session_id, session.session_id)),))


EVENTS: Final = (
    SessionCreated,
    SessionUpdated,
    SessionRenamed,
    SessionEnded,
    AgentSpawned,
    AgentPrepared,
    PersonaBound,
    SessionImported,
    RunAccepted,
    RunEnded,
    Steered,
    MessageAppended,
    ModelFailed,
    BudgetReserved,
    BudgetSettled,
    ContextCompacted,
    CompactionFailed,
    GoalSet,
    GoalReviewed,
    GoalCleared,
    TodosWritten,
    TaskAdopted,
    PlanEntered,
    PlanExited,
    SkillActivated,
    SkillDeactivated,
    DefaultSkillsResolved,
    PermissionsChanged,
    ApprovalAnswered,
    CallsJudged,
)
"""The events that ``core.session.evolve`` applies; all others leave a session as it is."""

SESSION_RECORDS: Final = Projection(
    kind="session",
    table=SESSIONS,
    begins=SessionCreated,
    events=EVENTS,
    key=lambda envelope, event: None if envelope.session_id is None else (envelope.session_id,),
    evolve=session_rules.evolve,
    source=source_in_session,
    rows=index_rows,
    indexes=(CHILDREN,),
    constant_rows=True,
    bounded=True,
)
