"""Events of todos and plan mode."""

from protocol.journal.envelope import Event
from protocol.objects.session import Todo


class TodosWritten(Event, frozen=True, tag="todos_written"):
    """An agent wrote down what it means to do, in place of what it wrote before."""

    todos: list[Todo]


class PlanEntered(Event, frozen=True, tag="plan_entered"):
    """An agent entered plan mode: until it leaves it, it only reads and asks."""

    note: str = ""


class PlanExited(Event, frozen=True, tag="plan_exited"):
    """An agent proposed a plan and left plan mode; the permission mode is again what it was before."""

    artifact_id: str
    content: str
    created_at_ms: int
    summary: str = ""
