"""Events of what a run gives and what its agent means to do; part of the union in ``events``."""

from typing import Any

from protocol.envelope import Event
from protocol.objects.session import Todo


class OutputEmitted(Event, frozen=True, tag="output_emitted"):
    """A run gave an output by a call. ``structured``: ``text`` is JSON that its output contract wants."""

    output_id: str
    text: str
    call_id: str | None = None
    value: Any = None
    structured: bool = False


class RequirementSatisfied(Event, frozen=True, tag="requirement_satisfied"):
    """A call did what the run must have done: the ``number``th of its requirements, from 0."""

    number: int
    call_id: str
    path: str


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
