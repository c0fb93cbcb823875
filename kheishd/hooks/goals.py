"""The tools with which an agent reads, sets and reports on the goal of its session.

A change is decided in the transaction that commits the call's result. An agent can set a goal only where none
is open, within the budget of its own run, and by default only with a person's approval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kheishd.core.goal import format_goal
from kheishd.kernel.hook import Arguments, Invocation, Outcome, RunContext, SubHook, Tool, ToolError, tool
from kheishd.objects.agents.goal import view_of
from kheishd.store.tables import GOALS
from protocol import ids
from protocol.budget import Budget
from protocol.events.goal import GoalSet, GoalUpdated
from protocol.limits.budget import MAX_BUDGET_TOKENS
from protocol.limits.goal import (
    DEFAULT_GOAL_CONTINUATIONS,
    MAX_GOAL_BYTES,
    MAX_GOAL_ITEMS,
    MAX_GOAL_WAIT_SECONDS,
)
from protocol.limits.names import MAX_REASON_BYTES
from protocol.objects.goal import GOAL_ENDED, GOAL_OPEN, Goal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kheishd.store.environment import Snapshot

Items = Annotated[list[str], Meta(max_length=MAX_GOAL_ITEMS)]


class ReadGoal(Arguments, frozen=True):
    """Arguments of ``get_goal``."""


class CreateGoal(Arguments, frozen=True):
    """Arguments of ``create_goal``."""

    objective: Annotated[str, Meta(min_length=1, description="What is to be reached.")]
    done_when: Annotated[str, Meta(description="What shows that it is reached.")] = ""
    constraints: Items = []
    stop_when: Annotated[Items, Meta(description="Conditions under which the work must stop.")] = []
    max_continuations: Annotated[
        int, Meta(ge=1, le=DEFAULT_GOAL_CONTINUATIONS, description="Runs that may follow this one.")
    ] = DEFAULT_GOAL_CONTINUATIONS
    token_budget: Annotated[int, Meta(ge=1, le=MAX_BUDGET_TOKENS)] | UnsetType = UNSET


class UpdateGoal(Arguments, frozen=True):
    """Arguments of ``update_goal``."""

    status: Annotated[
        Literal["done", "waiting", "paused"],
        Meta(
            description="done: it is reached. waiting: nothing can be done before a time, or before the "
            "session's next message. paused: only a person can decide how to go on."
        ),
    ]
    evidence: Annotated[str, Meta(description="For done: what shows that it is reached.")] = ""
    note: Annotated[str, Meta(description="For waiting and paused: the reason.")] = ""
    wait_s: (
        Annotated[int, Meta(ge=1, le=MAX_GOAL_WAIT_SECONDS, description="For waiting: the seconds to wait.")]
        | UnsetType
    ) = UNSET


class GoalTools(SubHook):
    """The tools for the goal of a session, and the goal in the prompt of its runs."""

    name = "goals"

    def offer(self, context: RunContext) -> Sequence[Tool]:
        """Offer the tools for a goal only where the session has one: most sessions have none."""
        return [self.create_goal] if context.session.goal_id is None else self.tools

    def situation(self, context: RunContext) -> Sequence[str]:
        """Describe the session's goal while it is open."""
        if context.session.goal_id is None:
            return ()
        with context.state.read() as store:
            goal = store.get(GOALS, context.session.session_id)
        if goal is None or goal.status not in GOAL_OPEN:
            return ()
        return (
            "This session has a goal, towards which you continue after each run by yourself:\n"
            f"{format_goal(goal)}\n"
            "A message of a person comes first. When the goal is reached, call update_goal with status done "
            "and the evidence; when nothing can be done for now, with status waiting.",
        )

    @tool(
        "get_goal",
        description="Show the goal of this session: its terms, its status, and what it has used.",
        kind="coordinate",
        repeatable=True,
        parallel=True,
        in_plan=True,
    )
    async def get_goal(self, call: Invocation, arguments: ReadGoal) -> Outcome:
        """Show the goal. Errors: ToolError."""
        session = call.context.session
        with call.context.state.read() as store:
            goal = _need_goal(store, session.session_id)
            return Outcome(msgspec.json.encode(view_of(store, session, goal)).decode())

    @tool(
        "create_goal",
        description="Give this session a goal, so that your work continues by itself, run after run, until "
        "the goal is reached. Only if the user wants that; a person approves it.",
        kind="coordinate",
        default="ask",
        repeatable=True,
        timeout_s=10.0,
    )
    async def create_goal(self, call: Invocation, arguments: CreateGoal) -> Outcome:
        """Set a goal. Errors: ToolError."""
        context = call.context
        if context.run.goal is not None:
            raise ToolError(
                "this run continues a goal by itself; report on that one, a person decides on others"
            )
        limit = context.pinned.budget.max_tokens if context.pinned.budget is not None else 0
        tokens = limit if arguments.token_budget is UNSET else arguments.token_budget
        if limit and tokens > limit:
            raise ToolError(f"this run's own budget is {limit} tokens; a goal set by it has no more")
        budget = Budget(max_tokens=tokens)
        if context.pinned.budget is not None:
            budget = msgspec.structs.replace(
                budget,
                max_work_s=context.pinned.budget.max_work_s,
                max_cost=context.pinned.budget.max_cost_micros / 1_000_000,
            )
        event = GoalSet(
            goal_id=context.state.new_id(ids.GOAL),
            objective=arguments.objective,
            done_when=arguments.done_when,
            constraints=arguments.constraints,
            stop_when=arguments.stop_when,
            budget=budget,
            max_continuations=arguments.max_continuations,
            set_by="agent",
        )
        if len(msgspec.json.encode(event)) > MAX_GOAL_BYTES:
            raise ToolError(f"the goal takes more than {MAX_GOAL_BYTES} bytes; move details to files")

        def decide(store: Snapshot) -> Outcome:
            goal = store.get(GOALS, context.session.session_id)
            if goal is not None and goal.status not in GOAL_ENDED:
                raise ToolError(f"the session has a goal, which is {goal.status}; only a person replaces it")
            return Outcome("The goal is set; the work continues after this run.", events=(event,))

        return Outcome("", decide=decide)

    @tool(
        "update_goal",
        description="Report that the goal of this session is done, must wait, or needs a person.",
        kind="coordinate",
        repeatable=True,
        timeout_s=10.0,
    )
    async def update_goal(self, call: Invocation, arguments: UpdateGoal) -> Outcome:
        """Report on the goal. Errors: ToolError."""
        context = call.context
        if arguments.status == "done" and not arguments.evidence.strip():
            raise ToolError("give the evidence: what shows that the goal is reached")
        if max(len(arguments.evidence.encode()), len(arguments.note.encode())) > MAX_REASON_BYTES:
            raise ToolError(f"the evidence or the note takes more than {MAX_REASON_BYTES} bytes; shorten it")
        wait_s = None if arguments.wait_s is UNSET else arguments.wait_s
        if wait_s is not None and arguments.status != "waiting":
            raise ToolError("wait_s belongs to the status waiting")
        resume_at_ms = context.state.now_ms() + wait_s * 1000 if wait_s is not None else None

        def decide(store: Snapshot) -> Outcome:
            goal = _need_goal(store, context.session.session_id)
            if goal.status not in GOAL_OPEN:
                raise ToolError(f"the goal is {goal.status} already: {goal.note}")
            event = GoalUpdated(
                goal_id=goal.goal_id,
                status=arguments.status,
                note=arguments.note or f"the agent says that it is {arguments.status}",
                evidence=arguments.evidence,
                resume_at_ms=resume_at_ms,
            )
            return Outcome(f"The goal is {arguments.status}.", events=(event,))

        return Outcome("", decide=decide)


def _need_goal(store: Snapshot, session_id: str) -> Goal:
    """Return the goal of a session. Errors: ToolError."""
    goal = store.get(GOALS, session_id)
    if goal is None:
        raise ToolError("this session has no goal")
    return goal
