"""Refusals about goals."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, NotFound


class GoalNotFound(NotFound, reason="goal_not_found"):
    """The session has no goal; goal.set gives it one."""


class GoalAlreadyEnded(Conflict, reason="goal_already_ended"):
    """The goal has ended; set a new one."""
