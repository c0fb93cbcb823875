"""Goals: set, show, pause, resume and clear them; and the transactions of the goal worker.

``read_step`` reads a session's goal with its next step. ``review``, ``exhaust`` and ``continue_goal`` each
read it again in their transaction and do nothing if another step is due: a person's message, an agent's own
statement or an operator may have come first.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from kheishd.core import goal as rules
from kheishd.core.goal import ContinueStep, ExhaustStep, ReviewStep, WaitStep
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.objects.agents import mail
from kheishd.objects.storable import require_storable
from kheishd.objects.talk.address import definition_of, find_route, find_session
from kheishd.objects.talk.pin import pin_run, require_runnable
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import GOALS, RUNS, RUNS_BY_SESSION, SESSIONS
from protocol import ids
from protocol.errors.goal import GoalAlreadyEnded, GoalNotFound
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import SessionAlreadyEnded
from protocol.events.goal import GoalCleared, GoalContinued, GoalReviewed, GoalSet, GoalUpdated
from protocol.events.run import InputReceived, RunAccepted
from protocol.limits.goal import MAX_GOAL_BYTES
from protocol.objects import goal as rows
from protocol.objects.goal import (
    GOAL_ENDED,
    GOAL_OPEN,
    Goal,
    GoalChange,
    GoalRef,
    GoalSetParams,
    GoalTerms,
    GoalView,
)
from protocol.objects.run import SendParams
from protocol.structs import fields_of
from protocol.text import truncate
from protocol.transcript import Text

if TYPE_CHECKING:
    from kheishd.core.goal import GoalStep
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.objects.session import Session
    from protocol.transcript import InputOrigin

MAX_COMPACTIONS: Final = 16
"""Compactions that are skipped in the search for a session's newest run."""


# Set and show.


def require_goal(store: Snapshot, session: Session) -> Goal:
    """Return the goal of a session. Errors: GoalNotFound."""
    goal = store.get(GOALS, session.session_id) if session.goal_id is not None else None
    if goal is None:
        raise GoalNotFound(field="$.params.session_id")
    return goal


def newest_run(store: Snapshot, session_id: str) -> RunRecord | None:
    """Return a session's newest run but for compactions."""
    indexed = store.scan(RUNS_BY_SESSION, session_id, reverse=True)
    runs = (store.need(RUNS, run_id) for _, run_id in islice(indexed, MAX_COMPACTIONS))
    return next((run for run in runs if run.kind != "compaction"), None)


def set_goal(writer: SessionWriter, goal_id: str, terms: GoalTerms) -> None:
    """Append that a session has a goal."""
    newest = newest_run(writer.tx, writer.session_id)
    event = GoalSet(
        **fields_of(GoalTerms, terms),
        goal_id=goal_id,
        reviewed_run_id=newest.run_id if newest is not None else None,
    )
    writer.append(event)


def prepare_set(call: Call, params: GoalSetParams) -> tuple[GoalSetParams, GoalTerms, str]:
    """Validate the terms of a goal, and choose its id. Errors: InputTooLarge, InvalidParams."""
    names = set(GoalTerms.__struct_fields__) & set(GoalSetParams.__struct_fields__)
    terms = GoalTerms(**{name: getattr(params, name) for name in names})
    if not terms.objective.strip():
        raise InvalidParams("the objective is empty", field="$.params.objective")
    require_storable(terms, MAX_GOAL_BYTES, "goal", "$.params.objective")
    return params, terms, call.state.new_id(ids.GOAL)


@mutation(rows.SET, prepare=prepare_set)
def set_(tx: Transaction, call: Call, plan: tuple[GoalSetParams, GoalTerms, str]) -> Goal:
    """Give a session a goal, or another one.

    Errors: SessionNotFound, SessionAlreadyEnded; InvalidParams for a cost on a route without prices.
    """
    params, terms, goal_id = plan
    session = find_session(tx, call, params.session_id)
    _require_open(session)
    definition = call.runtime.definitions.get(session.agent)
    if params.budget.max_cost and definition is not None:
        route = find_route(call.runtime, None, session.route, definition.route)
        if route.prices is None:
            text = f"the route '{route.route_id}' states no prices, so the cost of a goal cannot be limited"
            raise InvalidParams(text, field="$.params.budget.max_cost")
    writer = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))
    set_goal(writer, goal_id, terms)
    writer.write()
    return writer.need(GOALS, session.session_id)


def _require_open(session: Session) -> None:
    if session.status == "ended":
        raise SessionAlreadyEnded(f"the session {session.session_id} was ended, so it pursues no goal")


@query(rows.GET)
def get(call: Call, params: GoalRef) -> GoalView:
    """Show the goal of a session. Errors: SessionNotFound, GoalNotFound."""
    with call.state.read() as store:
        session = find_session(store, call, params.session_id)
        return view_of(store, session, require_goal(store, session))


def view_of(store: Snapshot, session: Session, goal: Goal) -> GoalView:
    """Return a goal as shown, with the run in flight and the event that it waits for."""
    run = store.get(RUNS, session.open_runs[0]) if session.open_runs else None
    view = GoalView(**fields_of(Goal, goal), in_flight=run.run_id if run is not None else None)
    if goal.status not in GOAL_OPEN:
        return view
    if run is not None and run.status == "waiting_for_approval":
        return replace(view, waits_for="approval")
    if run is not None and run.status == "waiting_for_user_question":
        return replace(view, waits_for="question")
    if run is not None and run.status == "waiting_for_event":
        return replace(view, waits_for="event")
    if goal.resume_at_ms is not None:
        return replace(view, waits_for="time")
    return replace(view, waits_for="input") if goal.status == "waiting" else view


# Change.


@mutation(rows.CLEAR)
def clear(tx: Transaction, call: Call, params: GoalChange) -> Goal:
    """Remove the goal of a session; return it as it was. Errors: SessionNotFound, GoalNotFound."""
    session = find_session(tx, call, params.session_id)
    goal = require_goal(tx, session)
    writer = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))
    writer.append(GoalCleared(goal_id=goal.goal_id, note=params.note))
    writer.write()
    return goal


@mutation(rows.PAUSE)
def pause(tx: Transaction, call: Call, params: GoalChange) -> Goal:
    """Pause the goal of a session. Errors: SessionNotFound, GoalNotFound, GoalAlreadyEnded."""
    session = find_session(tx, call, params.session_id)
    goal = require_goal(tx, session)
    if goal.status == "paused":
        return goal
    return _update(tx, call, session, goal, "paused", params.note or "a person paused it")


@mutation(rows.RESUME)
def resume(tx: Transaction, call: Call, params: GoalChange) -> Goal:
    """Resume the goal of a session.

    Errors: SessionNotFound, SessionAlreadyEnded, GoalNotFound, GoalAlreadyEnded.
    """
    session = find_session(tx, call, params.session_id)
    goal = require_goal(tx, session)
    _require_open(session)
    if goal.status == "active" and goal.resume_at_ms is None:
        return goal
    return _update(tx, call, session, goal, "active", params.note or "a person resumed it")


def _update(
    tx: Transaction, call: Call, session: Session, goal: Goal, status: rows.GoalStatus, note: str
) -> Goal:
    if goal.status in GOAL_ENDED:
        text = f"the goal has ended ({goal.status}: {goal.note}); set a new one"
        raise GoalAlreadyEnded(text, field="$.params.session_id")
    writer = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call))
    writer.append(GoalUpdated(goal_id=goal.goal_id, status=status, note=note))
    writer.write()
    return writer.need(GOALS, session.session_id)


# The transactions of the worker.


def read_step(store: Snapshot, session_id: str, now_ms: int) -> tuple[Goal, GoalStep] | None:
    """Return a session's goal with its next step; None if none will be due."""
    goal = store.get(GOALS, session_id)
    if goal is None:
        return None
    session = store.need(SESSIONS, session_id)
    newest = newest_run(store, session_id) if not session.open_runs else None
    step = rules.next_step(goal, session, newest, now_ms)
    if isinstance(step, ContinueStep) and not mail.is_open(store, session):
        # An agent that is to be closed begins nothing.
        step = WaitStep()
    return None if step is None else (goal, step)


def review(tx: Transaction, reviewed: GoalReviewed, session_id: str) -> None:
    """Append the review of a run, with the use of the goal's continuation if it was not counted yet.

    If another step is due by now, the judge's use counts all the same, and its verdict does not.
    """
    session = tx.need(SESSIONS, session_id)
    due = read_step(tx, session_id, tx.now_ms)
    is_due = (
        due is not None
        and due[0].goal_id == reviewed.goal_id
        and isinstance(due[1], ReviewStep)
        and due[1].run_id == reviewed.reviewed_run_id
    )
    if not is_due:
        if reviewed.usage == rules.NO_USE:
            return
        reviewed = replace(reviewed, verdict="counted", retry_at_ms=None)
    goal = tx.get(GOALS, session_id)
    run = tx.get(RUNS, goal.run_id) if goal is not None and goal.run_id is not None else None
    if run is not None and run.ended_at_ms is not None:
        reviewed = replace(reviewed, run_usage=run.usage, run_cost=run.cost, worked_ms=run.worked_ms)
    elif run is not None:
        # The judge of an earlier run came late: the continuation in flight is counted after its end.
        return
    writer = SessionWriter(tx, session_id, session=session)
    writer.append(reviewed)
    writer.write()


def exhaust(tx: Transaction, session_id: str) -> None:
    """End the goal of a session if its budget is used up."""
    due = read_step(tx, session_id, tx.now_ms)
    if due is not None and isinstance(due[1], ExhaustStep):
        _append_update(
            tx, session_id, GoalUpdated(goal_id=due[0].goal_id, status="exhausted", note=due[1].note)
        )


def park(tx: Transaction, session_id: str, goal_id: str, note: str) -> None:
    """Pause a goal that cannot be continued now."""
    goal = tx.get(GOALS, session_id)
    if goal is not None and goal.goal_id == goal_id and goal.status in GOAL_OPEN:
        _append_update(tx, session_id, GoalUpdated(goal_id=goal_id, status="paused", note=note))


def _append_update(tx: Transaction, session_id: str, event: GoalUpdated) -> None:
    writer = SessionWriter(tx, session_id, session=tx.need(SESSIONS, session_id))
    writer.append(event)
    writer.write()


def continue_goal(tx: Transaction, runtime: Runtime, session_id: str, run_id: str, input_id: str) -> bool:
    """Accept the next run towards the goal of a session, if that is due; return whether mail comes first.

    Errors: AgentNotFound, RouteNotFound, RouteForbidden, RouteNotReady, WorkspaceForbidden, InvalidParams:
    no run can be accepted now.
    """
    due = read_step(tx, session_id, tx.now_ms)
    if due is None or not isinstance(due[1], ContinueStep):
        return False
    goal, reason = due[0], due[1].reason
    session = tx.need(SESSIONS, session_id)
    if mail.state_of(tx, session_id) == "due":
        # What refuses the run that would deliver the mail refuses this one, too.
        require_runnable(tx, runtime, session, definition_of(runtime, session), SendParams())
        return True
    params = SendParams(budget=rules.remaining_budget(goal))
    pinned = pin_run(tx, runtime, session, definition_of(runtime, session), params)
    number = goal.continuations + 1
    # A goal that the agent set itself is not an operator's instruction.
    origin: InputOrigin = "program" if goal.set_by == "operator" else "agent"
    writer = SessionWriter(tx, session_id, session=session)
    writer.begin_run(run_id, pinned)
    text = rules.format_continuation(goal, number, reason)
    writer.append(InputReceived(input_id=input_id, items=[Text(text)], origin=origin, source="goal"))
    accepted = RunAccepted(
        input_id=input_id,
        agent=session.agent,
        sender=session.sender,
        pinned=pinned,
        origins=[origin],
        hops=session.hops,
    )
    writer.append(accepted)
    writer.append(
        GoalContinued(goal_id=goal.goal_id, number=number, reason=truncate(reason, rules.MAX_NOTE_BYTES))
    )
    writer.write()
    return False


HANDLERS = (set_, get, clear, pause, resume)
