"""Events of outputs and completion requirements."""

from typing import Any

from protocol.journal.envelope import Event


class OutputEmitted(Event, frozen=True, tag="output_emitted"):
    """A call emitted an output. ``structured``: ``text`` is JSON that matches the output contract."""

    output_id: str
    text: str
    call_id: str | None = None
    value: Any = None
    structured: bool = False


class RequirementSatisfied(Event, frozen=True, tag="requirement_satisfied"):
    """A call satisfied the run's completion requirement number ``index``, from 0."""

    index: int
    call_id: str
    path: str
