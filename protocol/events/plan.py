"""Events of todos and plan mode."""

from protocol.journal.envelope import Event
from protocol.objects.session import Todo


class TodosWritten(Event, frozen=True, tag="todos_written"):
    """An agent replaced its list of todos."""

    todos: list[Todo]


class PlanEntered(Event, frozen=True, tag="plan_entered"):
    """An agent entered plan mode: until it leaves, it can only read and ask."""

    note: str = ""


class PlanExited(Event, frozen=True, tag="plan_exited"):
    """An agent proposed a plan and left plan mode; its previous permission mode is in force again."""

    artifact_id: str
    content: str
    created_at_ms: int
    summary: str = ""
