"""Refusals about tasks."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Gone, LimitReached, NotFound, Unprocessable


class TaskNotFound(NotFound, reason="task_not_found"):
    """No task has that id; task.list shows the open tasks."""


class TaskTitleTaken(Conflict, reason="task_title_taken"):
    """An open task of the session has that title; change that task or choose another title."""


class TaskAlreadyEnded(Conflict, reason="task_already_ended"):
    """The task has ended and can no longer change; create another."""


class TaskRunning(Conflict, reason="task_running"):
    """The task is a running shell; it can only be stopped."""


class TaskBlocked(Conflict, reason="task_blocked"):
    """The task is blocked by unfinished tasks; complete them first."""


class TaskBlocksOthers(Conflict, reason="task_blocks_others"):
    """Open tasks are blocked by this one; remove it from their blockers first."""


class TaskAlreadyDeleted(Gone, reason="task_already_deleted"):
    """The task was deleted; create another."""


class TaskLimit(LimitReached, reason="task_limit"):
    """The session has the maximum number of open tasks; end some, or stop some shells."""


class TaskCycle(Unprocessable, reason="task_cycle"):
    """Tasks cannot block each other in a cycle; remove one of the blockers."""


class TaskOutputMissing(Unprocessable, reason="task_output_missing"):
    """Completing this task requires an output; provide its result."""
