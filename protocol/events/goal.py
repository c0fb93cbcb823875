"""Events of a goal. They stand in the stream of its session."""

from protocol.budget import Cost
from protocol.journal.envelope import Event
from protocol.objects.goal import GoalStatus, GoalTerms, GoalVerdict
from protocol.transcript import Usage


class GoalSet(GoalTerms, Event, frozen=True, tag="goal_set"):
    """The session has a new goal. ``reviewed_run_id`` is its newest run, which precedes the goal."""

    goal_id: str
    reviewed_run_id: str | None = None


class GoalUpdated(Event, frozen=True, tag="goal_updated"):
    """A goal has another status: by a person, by its agent, or because its budget is used up.

    ``resume_at_ms`` is the time until which it waits; null: until the session's next input.
    """

    goal_id: str
    status: GoalStatus
    note: str = ""
    evidence: str = ""
    resume_at_ms: int | None = None


class GoalReviewed(Event, frozen=True, tag="goal_reviewed"):
    """A run of the session was reviewed: whether the goal is reached, and why.

    ``usage`` and ``cost`` are those of the judge. ``run_usage``, ``run_cost`` and ``worked_ms`` are those of
    the goal's last continuation, if they were not counted yet. After a failure the daemon continues at
    ``retry_at_ms``; null: it does not.
    """

    goal_id: str
    reviewed_run_id: str
    verdict: GoalVerdict
    note: str = ""
    usage: Usage = Usage()
    cost: Cost | None = None
    run_usage: Usage = Usage()
    run_cost: Cost | None = None
    worked_ms: int = 0
    retry_at_ms: int | None = None


class GoalContinued(Event, frozen=True, tag="goal_continued"):
    """The daemon continued by itself with the run that this event belongs to, for this reason."""

    goal_id: str
    number: int
    reason: str


class GoalCleared(Event, frozen=True, tag="goal_cleared"):
    """The session has no goal any more."""

    goal_id: str
    note: str = ""
