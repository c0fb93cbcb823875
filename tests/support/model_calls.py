"""Helpers for model calls: a request in one line, and the recorded events of a call."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kheishd.kernel.runtime import (
    ModelAnswer,
    ModelCaller,
    ModelEvent,
    ModelFailure,
    ModelRequest,
    TextDelta,
    ThinkingDelta,
)
from protocol.objects.run import Pinned
from protocol.transcript import Message, Text


@dataclass(slots=True)
class RecordedCall:
    """The events of one model call."""

    deltas: list[TextDelta | ThinkingDelta] = field(default_factory=list)
    answer: ModelAnswer | None = None
    failure: ModelFailure | None = None

    @property
    def text(self) -> str:
        """The text of all deltas."""
        return "".join(delta.text for delta in self.deltas if isinstance(delta, TextDelta))

    @property
    def thinking(self) -> str:
        """The reasoning of all deltas."""
        return "".join(delta.text for delta in self.deltas if isinstance(delta, ThinkingDelta))

    def take(self, event: ModelEvent) -> None:
        """Record an event; an answer must be the last."""
        assert self.answer is None, "an answer is the last event"
        if isinstance(event, ModelAnswer):
            self.answer = event
        else:
            self.deltas.append(event)

    def require_answer(self) -> ModelAnswer:
        """Return the answer, which must exist."""
        assert self.answer is not None, f"no answer: {self.failure and self.failure.message}"
        return self.answer

    def require_failure(self) -> ModelFailure:
        """Return the failure, which must exist."""
        assert self.failure is not None, f"no failure: {self.answer}"
        return self.failure


def make_request(content: str = "hello", *, earlier: tuple[Message, ...] = (), **pinned: Any) -> ModelRequest:
    """Return a request with one user message after the ``earlier`` ones."""
    values: dict[str, Any] = {"route": "test", "driver": "offline", "model": "echo", **pinned}
    instructions = values.pop("instructions", "")
    messages = [*earlier, Message("user", [Text(content)])]
    return ModelRequest(Pinned(**values), instructions, messages)


async def ask(models: ModelCaller, request: ModelRequest) -> RecordedCall:
    """Ask a model and record the whole call."""
    call = RecordedCall()
    try:
        async with models.ask(request) as events:
            async for event in events:
                call.take(event)
    except ModelFailure as failure:
        call.failure = failure
    return call


async def inline(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function without a thread, because a mock clock would jump while a thread runs."""
    return function(*args)
