"""A goal: the standing objective of a session. The daemon continues by itself until it is reached.

A session has one goal at most. It is *active* while the daemon continues, *waiting* until a time or until the
session's next input, *paused* by a person or after failures, and ends as *done*, *stopped* or *exhausted*.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocol.budget import Budget, Cost
from protocol.errors.goal import GoalAlreadyEnded, GoalNotFound
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, SessionNotFound
from protocol.errors.store import StorageFull
from protocol.ids import Cursor, Id
from protocol.limits.goal import (
    DEFAULT_GOAL_CONTINUATIONS,
    MAX_GOAL_BYTES,
    MAX_GOAL_CONTINUATIONS,
    MAX_GOAL_ITEMS,
)
from protocol.limits.names import MAX_REASON_BYTES
from protocol.rpc.method import Method, Mutation, Params
from protocol.transcript import Usage

GoalStatus = Literal["active", "waiting", "paused", "done", "stopped", "exhausted"]
GOAL_OPEN: frozenset[str] = frozenset(("active", "waiting"))
"""The statuses in which the daemon may continue by itself."""
GOAL_ENDED: frozenset[str] = frozenset(("done", "stopped", "exhausted"))
"""The statuses that never change again."""

GoalVerdict = Literal["done", "not_done", "stop", "failed", "unjudged", "interrupted", "counted"]
"""The review of a run. ``done``, ``not_done``, ``stop``: by the judge. ``failed``: the run failed.
``unjudged``: the judge failed. ``interrupted``: a person stopped the run. ``counted``: only its use, and that
of a judge who was overtaken by a person's message, was counted."""

GoalText = Annotated[str, Meta(max_length=MAX_GOAL_BYTES)]
GoalItems = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=MAX_GOAL_BYTES)]], Meta(max_length=MAX_GOAL_ITEMS)
]
Continuations = Annotated[int, Meta(ge=1, le=MAX_GOAL_CONTINUATIONS)]


class GoalTerms(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The terms of a goal.

    ``done_when`` says what counts as done, ``stop_when`` when the work must stop without being done.
    ``budget`` limits what all continuations and the judge use together, ``max_continuations`` their number.
    ``judge``: a model judges after each run whether the goal is reached; else only the agent says so.
    """

    objective: str
    done_when: str = ""
    constraints: list[str] = []
    stop_when: list[str] = []
    budget: Budget = Budget()
    max_continuations: int = DEFAULT_GOAL_CONTINUATIONS
    judge: bool = True
    set_by: Literal["operator", "agent"] = "operator"


class Goal(GoalTerms, frozen=True, kw_only=True, omit_defaults=True):
    """A goal, as the fold of its events.

    ``note`` is the reason of its status, ``evidence`` what shows that it is done. ``resume_at_ms`` is the
    time until which it waits. ``run_id`` is the continuation whose use is not counted yet,
    ``reviewed_run_id`` the newest run that was reviewed. ``failures`` counts failures in a row. ``usage``,
    ``costs`` and ``worked_ms`` are those of its continuations and of the judge.
    """

    goal_id: Id
    session_id: Id
    status: GoalStatus
    created_at_ms: int
    updated_at_ms: int
    created_cursor: Cursor
    updated_cursor: Cursor
    note: str = ""
    evidence: str = ""
    continuations: int = 0
    failures: int = 0
    resume_at_ms: int | None = None
    run_id: str | None = None
    reviewed_run_id: str | None = None
    usage: Usage = Usage()
    costs: list[Cost] = []
    worked_ms: int = 0


class GoalView(Goal, frozen=True, kw_only=True, omit_defaults=True):
    """A goal with the run in flight in its session, and the person's act that this run waits for."""

    in_flight: str | None = None
    waits_for: Literal["approval", "question", "event", "time", "input"] | None = None


class GoalSetParams(Mutation, frozen=True, kw_only=True):
    """Params of ``goal.set``. A goal that the session has is replaced."""

    session_id: Id
    objective: Annotated[str, Meta(min_length=1, max_length=MAX_GOAL_BYTES)]
    done_when: GoalText = ""
    constraints: GoalItems = []
    stop_when: GoalItems = []
    budget: Budget = Budget()
    max_continuations: Continuations = DEFAULT_GOAL_CONTINUATIONS
    judge: bool = True


class GoalRef(Params, frozen=True, kw_only=True):
    """Params of ``goal.get``."""

    session_id: Id


class GoalChange(Mutation, frozen=True, kw_only=True):
    """Params of ``goal.clear``, ``goal.pause`` and ``goal.resume``."""

    session_id: Id
    note: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""


_ERRORS = (SessionNotFound, GoalNotFound)

SET = Method(
    "goal.set",
    "mutation",
    GoalSetParams,
    Goal,
    "Give a session a goal; the daemon continues by itself until it is reached.",
    scope="operate",
    errors=(SessionNotFound, SessionAlreadyEnded, InputTooLarge, InvalidParams, StorageFull),
)
GET = Method("goal.get", "query", GoalRef, GoalView, "Show the goal of a session.", errors=_ERRORS)
CLEAR = Method(
    "goal.clear",
    "mutation",
    GoalChange,
    Goal,
    "Remove the goal of a session; a run in flight continues.",
    scope="operate",
    errors=(*_ERRORS, StorageFull),
)
PAUSE = Method(
    "goal.pause",
    "mutation",
    GoalChange,
    Goal,
    "Pause the goal of a session; a run in flight continues.",
    scope="operate",
    errors=(*_ERRORS, GoalAlreadyEnded, StorageFull),
)
RESUME = Method(
    "goal.resume",
    "mutation",
    GoalChange,
    Goal,
    "Resume the goal of a session that is paused or waits.",
    scope="operate",
    errors=(*_ERRORS, SessionAlreadyEnded, GoalAlreadyEnded, StorageFull),
)

METHODS = (SET, GET, CLEAR, PAUSE, RESUME)
