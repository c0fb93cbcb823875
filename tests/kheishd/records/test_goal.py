"""Records of goals."""

from kheishd.records.goal import GOAL_RECORDS
from kheishd.store.tables import GOALS_OPEN
from protocol.events.goal import GoalContinued, GoalReviewed, GoalSet, GoalUpdated
from protocol.events.session import SessionEnded
from tests.support.records import fold_record

SET = GoalSet(goal_id="g", objective="Count.")


def test_an_open_goal_is_listed() -> None:
    """A goal is looked after while it is open, and until its last continuation is counted."""
    ended = GoalUpdated(goal_id="g", status="done", evidence="three")
    for events, is_listed in (
        ((SET,), True),
        ((SET, GoalUpdated(goal_id="g", status="paused")), False),
        ((SET, GoalContinued(goal_id="g", number=1, reason="set"), ended), True),
        ((SET, ended), False),
        ((SET, GoalReviewed(goal_id="g", reviewed_run_id="run_1", verdict="done")), False),
        ((SET, SessionEnded()), False),
    ):
        rows = GOAL_RECORDS.rows(fold_record(GOAL_RECORDS, *events))
        assert bool(rows) == is_listed, events
        assert {row.table for row in rows} <= {GOALS_OPEN}


def test_events_of_an_earlier_goal_change_nothing() -> None:
    """A late review of a goal that was replaced does not change the new one."""
    record = fold_record(
        GOAL_RECORDS, SET, GoalReviewed(goal_id="old", reviewed_run_id="run_1", verdict="done")
    )
    assert (record.status, record.updated_cursor) == ("active", 1)
