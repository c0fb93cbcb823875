"""Events of outputs and completion requirements."""

from typing import Any

from protocol.journal.envelope import Event


class OutputEmitted(Event, frozen=True, tag="output_emitted"):
    """A run gave an output by a call. ``structured``: ``text`` is JSON that its output contract wants."""

    output_id: str
    text: str
    call_id: str | None = None
    value: Any = None
    structured: bool = False


class RequirementSatisfied(Event, frozen=True, tag="requirement_satisfied"):
    """A call did what the run must have done: the ``index``th of its requirements, from 0."""

    index: int
    call_id: str
    path: str
