"""Refusals about tasks."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Gone, NotFound, Refused, TooMany


class TaskNotFound(NotFound, reason="task_not_found"):
    """The session has no task of that id; 'kheishctl task list' shows those there are."""


class TaskTitleTaken(Conflict, reason="task_title_taken"):
    """An open task of the session has that title; change that one, or choose another title."""


class TaskAlreadyEnded(Conflict, reason="task_already_ended"):
    """The task has ended and no longer changes; create another."""


class TaskRunning(Conflict, reason="task_running"):
    """The task is a shell that runs; it can only be stopped."""


class TaskBlocked(Conflict, reason="task_blocked"):
    """The task waits for others that are not completed."""


class TaskNeeded(Conflict, reason="task_needed"):
    """Open tasks wait for this one; take it out of what they are blocked by first."""


class TaskAlreadyDeleted(Gone, reason="task_already_deleted"):
    """The task was deleted; create another."""


class TasksFull(TooMany, reason="tasks_full"):
    """There are as many open tasks as there may be; end some, or stop some shells."""


class TaskCycle(Refused, reason="task_cycle"):
    """Tasks may not wait for each other in a circle."""


class TaskOutputMissing(Refused, reason="task_output_missing"):
    """A task is completed with its output: say what came of it."""
