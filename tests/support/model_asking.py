"""Model calls in tests: a request in one line, and everything that the call returned."""

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
class Heard:
    """The events of one call."""

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
        """Record an event. No event may follow an answer."""
        assert self.answer is None, "an answer is the last event"
        if isinstance(event, ModelAnswer):
            self.answer = event
        else:
            self.deltas.append(event)

    def answered(self) -> ModelAnswer:
        """Return the answer, which must exist."""
        assert self.answer is not None, f"no answer: {self.failure and self.failure.message}"
        return self.answer

    def failed(self) -> ModelFailure:
        """Return the failure, which must exist."""
        assert self.failure is not None, f"no failure: {self.answer}"
        return self.failure


def asking(text: str = "hello", *, earlier: tuple[Message, ...] = (), **pinned: Any) -> ModelRequest:
    """Return a request with one user message, after ``earlier`` ones."""
    values: dict[str, Any] = {"route": "test", "driver": "offline", "model": "echo", **pinned}
    instructions = values.pop("instructions", "")
    messages = [*earlier, Message("user", [Text(text)])]
    return ModelRequest(Pinned(**values), instructions, messages)


async def ask(models: ModelCaller, request: ModelRequest) -> Heard:
    """Call a model and record all of its events."""
    heard = Heard()
    try:
        async with models.ask(request) as events:
            async for event in events:
                heard.take(event)
    except ModelFailure as failure:
        heard.failure = failure
    return heard


async def inline(function: Callable[..., Any], *args: Any) -> Any:
    """Run a function without a thread, because a mock clock would jump while a thread runs."""
    return function(*args)
