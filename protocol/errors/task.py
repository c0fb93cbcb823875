"""Refusals about tasks."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Gone, NotFound, Refused, TooMany


class TaskNotFound(NotFound, reason="task_not_found"):
    """No task has that id; task.list shows the open tasks."""


class TaskTitleTaken(Conflict, reason="task_title_taken"):
    """An open task of the session has that title; change that task or choose another title."""


class TaskAlreadyEnded(Conflict, reason="task_already_ended"):
    """The task has ended and can no longer change; create another."""


class TaskRunning(Conflict, reason="task_running"):
    """The task is a running shell; it can only be stopped."""


class TaskBlocked(Conflict, reason="task_blocked"):
    """The task is blocked by tasks that are not completed."""


class TaskNeeded(Conflict, reason="task_needed"):
    """Open tasks are blocked by this one; remove it from their blockers first."""


class TaskAlreadyDeleted(Gone, reason="task_already_deleted"):
    """The task was deleted; create another."""


class TasksFull(TooMany, reason="tasks_full"):
    """The maximum number of open tasks exists; end some, or stop some shells."""


class TaskCycle(Refused, reason="task_cycle"):
    """Tasks cannot block each other in a cycle."""


class TaskOutputMissing(Refused, reason="task_output_missing"):
    """A completed task requires an output; state its result."""
