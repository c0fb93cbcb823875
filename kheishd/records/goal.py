"""Records of goals: one for each session that has a goal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.core import goal as goal_rules
from kheishd.records.projection import IndexRow, Projection, source_in_session
from kheishd.store.tables import GOALS, GOALS_OPEN
from protocol.events.goal import GoalCleared, GoalContinued, GoalReviewed, GoalSet, GoalUpdated
from protocol.events.session import SessionEnded
from protocol.objects.goal import GOAL_OPEN

if TYPE_CHECKING:
    from protocol.objects.goal import Goal


def index_rows(goal: Goal) -> frozenset[IndexRow]:
    """Return the row of a goal that the daemon has to look after."""
    if goal.status not in GOAL_OPEN and goal.run_id is None:
        return frozenset()
    return frozenset((IndexRow(GOALS_OPEN, (goal.session_id,)),))


GOAL_RECORDS: Final = Projection(
    kind="goal",
    table=GOALS,
    begins=GoalSet,
    events=(GoalSet, GoalUpdated, GoalReviewed, GoalContinued, GoalCleared, SessionEnded),
    key=lambda envelope, event: None if envelope.session_id is None else (envelope.session_id,),
    evolve=goal_rules.evolve,
    source=source_in_session,
    rows=index_rows,
    indexes=(GOALS_OPEN,),
    bounded=True,
    # A session without a goal ends, too.
    strays=True,
)
