"""Goals: the shapes of params and records."""

import pytest

from protocol.limits.goal import MAX_GOAL_BYTES, MAX_GOAL_CONTINUATIONS, MAX_GOAL_ITEMS
from protocol.objects.goal import GOAL_ENDED, GOAL_OPEN, Goal, GoalChange, GoalSetParams, GoalView
from tests.support.samples import refuse, take

NEW = {"session_id": "ses_1", "objective": "Count."}


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"session_id": "ses_1"}, "$.params.objective"),
        (NEW | {"objective": ""}, "$.params.objective"),
        (NEW | {"objective": "x" * (MAX_GOAL_BYTES + 1)}, "$.params.objective"),
        (NEW | {"constraints": ["x"] * (MAX_GOAL_ITEMS + 1)}, "$.params.constraints"),
        (NEW | {"constraints": [""]}, "$.params.constraints[0]"),
        (NEW | {"stop_when": [1]}, "$.params.stop_when[0]"),
        (NEW | {"max_continuations": 0}, "$.params.max_continuations"),
        (NEW | {"max_continuations": MAX_GOAL_CONTINUATIONS + 1}, "$.params.max_continuations"),
        (NEW | {"budget": {"max_tokens": -1}}, "$.params.budget.max_tokens"),
        (NEW | {"judge": "no"}, "$.params.judge"),
        (NEW | {"goal_id": "gol_mine"}, "$.params.goal_id"),
    ],
)
def test_bad_params(params: dict[str, object], field: str) -> None:
    """The refusal names the field."""
    assert refuse(GoalSetParams, params) == field


def test_good_params() -> None:
    """A goal needs only its session and its objective."""
    assert take(GoalSetParams, NEW).judge
    assert take(GoalChange, {"session_id": "ses_1"}).note == ""


def test_the_view_has_every_field_of_the_record() -> None:
    """A view adds fields to the record; open and ended statuses do not overlap."""
    assert set(Goal.__struct_fields__) < set(GoalView.__struct_fields__)
    assert not GOAL_OPEN & GOAL_ENDED
