"""Goals: a record as the fold of its events, the next step, and the texts for the agent. Pure.

After each run of the session, the goal's next step follows from the records alone, so a daemon that starts
after a crash takes the same step. A run in flight and queued messages come first: the daemon continues only
while the session has no open run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from msgspec.structs import replace

from kheishd.core.run.budget import accumulate_cost, format_cost, to_micros
from kheishd.core.trust import escape_tags
from protocol.budget import Budget, Cost
from protocol.events.goal import GoalCleared, GoalContinued, GoalReviewed, GoalSet, GoalUpdated
from protocol.events.session import SessionEnded
from protocol.objects.goal import GOAL_ENDED, GOAL_OPEN, Goal, GoalTerms
from protocol.structs import Value, fields_of
from protocol.text import truncate
from protocol.transcript import Usage

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from protocol.journal.envelope import Envelope
    from protocol.objects.session import Session

GoalEvent = GoalSet | GoalUpdated | GoalReviewed | GoalContinued | GoalCleared | SessionEnded

BACKOFF_SECONDS: Final = (10.0, 60.0)
"""The pauses after the first failures in a row; one more parks the goal."""

PERMANENT: Final = frozenset(
    (
        "unauthorized",
        "quota_exhausted",
        "route_gone",
        "credential_missing",
        "bad_request",
        "context_too_long",
        "session_token_budget",
        "session_cost_budget",
        "session_time_budget",
    )
)
"""The failures of a run that no further run can cure: they park the goal at once."""

MAX_NOTE_BYTES: Final = 1_024

NO_USE: Final = Usage()


# The record.


def evolve(goal: Goal | None, envelope: Envelope, event: GoalEvent) -> Goal | None:
    """Return a session's goal after an event; None without one. Earlier goals' events change nothing."""
    if isinstance(event, GoalSet):
        assert envelope.session_id is not None, "a goal belongs to a session"
        return Goal(
            **fields_of(GoalTerms, event),
            goal_id=event.goal_id,
            session_id=envelope.session_id,
            status="active",
            created_at_ms=envelope.at_ms,
            updated_at_ms=envelope.at_ms,
            created_cursor=envelope.cursor,
            updated_cursor=envelope.cursor,
            reviewed_run_id=event.reviewed_run_id,
        )
    if goal is None or (not isinstance(event, SessionEnded) and event.goal_id != goal.goal_id):
        return goal
    match event:
        case GoalCleared():
            return None
        case SessionEnded():
            if goal.status in GOAL_ENDED:
                return goal
            changed = replace(goal, status="stopped", note="the session was ended", run_id=None)
        case GoalUpdated():
            changed = replace(
                goal,
                status=event.status,
                note=event.note,
                evidence=event.evidence or goal.evidence,
                resume_at_ms=event.resume_at_ms,
                failures=0,
                # The agent's own statement is the review of its run.
                reviewed_run_id=envelope.run_id or goal.reviewed_run_id,
            )
        case GoalReviewed():
            changed = _evolve_review(goal, event)
        case GoalContinued(number=number, reason=reason):
            changed = replace(
                goal,
                status="active",
                note=reason,
                continuations=number,
                resume_at_ms=None,
                run_id=envelope.run_id,
            )
    return replace(changed, updated_at_ms=envelope.at_ms, updated_cursor=envelope.cursor)


def _evolve_review(goal: Goal, event: GoalReviewed) -> Goal:
    costs = goal.costs
    for cost in filter(None, (event.cost, event.run_cost)):
        costs = accumulate_cost(costs, cost)
    counted = replace(
        goal,
        run_id=None,
        usage=goal.usage + event.usage + event.run_usage,
        costs=costs,
        worked_ms=goal.worked_ms + event.worked_ms,
    )
    if event.verdict == "counted" or goal.status not in GOAL_OPEN:
        return counted
    reviewed = replace(counted, reviewed_run_id=event.reviewed_run_id, note=event.note, resume_at_ms=None)
    match event.verdict:
        case "done":
            return replace(reviewed, status="done", evidence=event.note, failures=0)
        case "stop":
            return replace(reviewed, status="stopped", failures=0)
        case "interrupted":
            return replace(reviewed, status="paused")
        case "failed" | "unjudged":
            failed = replace(
                reviewed,
                status="active" if event.retry_at_ms is not None else "paused",
                failures=goal.failures + 1,
                resume_at_ms=event.retry_at_ms,
            )
            if event.verdict == "failed":
                return failed
            # The judge is asked about the run again.
            return replace(failed, reviewed_run_id=goal.reviewed_run_id)
        case _:
            return replace(reviewed, status="active", failures=0)


# The next step.


class WaitStep(Value, frozen=True):
    """Nothing is due until an event of the session, or until a time."""

    until_ms: int | None = None


class ReviewStep(Value, frozen=True):
    """The session's newest run must be reviewed. ``verdict``: what its record alone says; None: judge it."""

    run_id: str
    verdict: Literal["not_done", "failed", "interrupted", "counted"] | None
    note: str = ""


class ExhaustStep(Value, frozen=True):
    """The goal's budget is used up."""

    note: str


class ContinueStep(Value, frozen=True):
    """The daemon must continue with another run."""

    reason: str


GoalStep = WaitStep | ReviewStep | ExhaustStep | ContinueStep


def next_step(goal: Goal, session: Session, newest: RunRecord | None, now_ms: int) -> GoalStep | None:
    """Return the next step of a goal; None if none will be due.

    Args:   ``newest`` is the session's newest run but for compactions.
    """
    if session.open_runs:
        return WaitStep()
    is_open = goal.status in GOAL_OPEN
    is_unreviewed = newest is not None and newest.run_id != goal.reviewed_run_id
    if not is_open or not is_unreviewed or newest is None:
        if goal.run_id is not None:
            return ReviewStep(goal.run_id, "counted")
        if not is_open:
            return None
    exhausted = find_exhausted(goal)
    if exhausted is not None and not is_unreviewed:
        return ExhaustStep(exhausted)
    must_wait = goal.resume_at_ms is not None and goal.resume_at_ms > now_ms
    if must_wait and goal.status == "active":
        return WaitStep(goal.resume_at_ms)
    if newest is not None and is_unreviewed:
        return _review(goal, newest)
    if goal.status == "active":
        return ContinueStep(goal.note or "the goal was set")
    if must_wait or goal.resume_at_ms is None:
        return WaitStep(goal.resume_at_ms)
    return ContinueStep("the time that it waited for has come")


def _review(goal: Goal, run: RunRecord) -> ReviewStep:
    error = run.error
    if run.status in ("cancelled", "interrupted") and (error is None or error.reason != "daemon_restarted"):
        return ReviewStep(run.run_id, "interrupted", f"its run was {run.status}")
    if run.status != "completed":
        text = f"{error.reason}: {error.message}" if error is not None else f"the run was {run.status}"
        return ReviewStep(run.run_id, "failed", truncate(text, MAX_NOTE_BYTES))
    if run.guest is not None:
        return ReviewStep(run.run_id, "not_done", "a guest has spoken")
    if not goal.judge:
        return ReviewStep(run.run_id, "not_done", "the agent has not said that it is done")
    return ReviewStep(run.run_id, None)


def retry_at_ms(goal: Goal, run: RunRecord | None, now_ms: int) -> int | None:
    """Return the time at which a failed goal continues; None if it is parked."""
    if run is not None and run.error is not None and run.error.reason in PERMANENT:
        return None
    if goal.failures >= len(BACKOFF_SECONDS):
        return None
    return now_ms + round(BACKOFF_SECONDS[goal.failures] * 1000)


# The budget.


def find_exhausted(goal: Goal) -> str | None:
    """Return the limit that a goal has reached; None without one."""
    budget = goal.budget
    tokens = goal.usage.input_tokens + goal.usage.output_tokens
    if goal.continuations >= goal.max_continuations:
        return f"the goal has used its {goal.max_continuations} continuations"
    if budget.max_tokens and tokens >= budget.max_tokens:
        return f"the goal has used {tokens} of its {budget.max_tokens} tokens"
    if budget.max_work_s and goal.worked_ms >= budget.max_work_s * 1000:
        return f"the goal has used {goal.worked_ms / 1000:g} s of its {budget.max_work_s:g} s"
    for cost in goal.costs:
        if budget.max_cost and cost.micros >= to_micros(budget.max_cost):
            limit = Cost(to_micros(budget.max_cost), cost.currency)
            return f"the goal has used {format_cost(cost)} of its {format_cost(limit)}"
    return None


def remaining_budget(goal: Goal) -> Budget:
    """Return the budget of the next continuation of a goal that is not exhausted."""
    budget = goal.budget
    tokens = goal.usage.input_tokens + goal.usage.output_tokens
    spent = max((cost.micros for cost in goal.costs), default=0)
    return Budget(
        max_tokens=budget.max_tokens - tokens if budget.max_tokens else 0,
        max_work_s=budget.max_work_s - goal.worked_ms / 1000 if budget.max_work_s else 0.0,
        max_cost=(to_micros(budget.max_cost) - spent) / 1_000_000 if budget.max_cost else 0.0,
    )


# Texts.


def format_goal(goal: Goal) -> str:
    """Describe a goal to its agent or to the judge."""
    lines = [f"Objective: {goal.objective}"]
    if goal.done_when:
        lines.append(f"Done when: {goal.done_when}")
    lines += [f"Constraint: {constraint}" for constraint in goal.constraints]
    lines += [f"Stop when: {condition}" for condition in goal.stop_when]
    return "\n".join(lines)


def format_continuation(goal: Goal, number: int, reason: str) -> str:
    """Return the input of a continuation. The reason may be a model's words, so it is framed as data."""
    return (
        f"[Continuation {number} of at most {goal.max_continuations} towards the goal of this session. No "
        "person wrote this message; the daemon continues by itself.]\n\n"
        f"{format_goal(goal)}\n\n"
        f'Why it continues: <data origin="tool_output" source="goal">{escape_tags(reason)}</data>\n\n'
        "Do the next part of the work. Report, with the evidence, when the goal is done; report when it must "
        "wait or cannot be reached."
    )
