"""Tools with scripted behavior, and models that call them."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from kheishd.hooks.ask_user import AskUser
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.hook import Invocation, Outcome, ProbeResult, SubHook, Tool, ToolError
from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelRequest
from protocol.objects.approval import Preview
from protocol.transcript import Item, Text, ToolCall, Usage
from tests.support.desk import ModelPart, says

TEXT_SCHEMA = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "text": {"type": "string"}, "times": {"type": "integer"}},
    "required": ["path"],
    "additionalProperties": False,
}
WRITE = Tool("write", "Write a text to a path.", TEXT_SCHEMA, "edit", default="ask")
LOOK = Tool("look", "Look at a path.", TEXT_SCHEMA, "read", repeatable=True, parallel=True)
SEND = Tool("send", "Send a text somewhere.", TEXT_SCHEMA, "execute")


class Workshop(SubHook):
    """A sub-hook: ``write`` asks and shows a diff, ``look`` only reads, ``send`` is not repeatable."""

    name = "workshop"
    tools = (WRITE, LOOK, SEND)

    def __init__(self) -> None:
        self.done: list[tuple[str, dict[str, Any]]] = []
        self.binding: str | None = None

    def subject(self, call: Invocation) -> str:
        """Return the path."""
        return str(call.arguments["path"])

    async def preview(self, call: Invocation) -> Preview | None:
        """Return the text to be written. Errors: ToolError for an invalid path."""
        if call.arguments["path"] == "nowhere":
            raise ToolError("there is no such path")
        return Preview(kind="diff", text=f"+{call.arguments.get('text', '')}", binding=self.binding)

    async def dispatch(self, call: Invocation) -> Outcome:
        """Record the call."""
        self.done.append((call.tool.name, dict(call.arguments)))
        return Outcome(f"{call.tool.name} of {call.arguments['path']} is done")

    async def probe(self, call: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """Return that the outcome is unknown."""
        return ProbeResult("unknown", "its file is there")


def hooks(*parts: SubHook) -> CompositeHook:
    """Return these sub-hooks, and the one that asks the user."""
    return CompositeHook((AskUser(), *parts))


def write(path: str = "/a", call_id: str = "c1", **more: Any) -> ToolCall:
    """Return a call that asks."""
    return ToolCall(call_id, "write", {"path": path, **more})


COLOR = {"question": "Which color?", "options": [{"label": "Red"}, {"label": "Blue"}]}


def ask(*questions: dict[str, Any], call_id: str = "c1", **more: Any) -> ToolCall:
    """Return a call that asks the user; by default, for a color."""
    return ToolCall(call_id, "ask_user_question", {"questions": list(questions) or [COLOR], **more})


def calls(*requested: ToolCall) -> list[ModelPart]:
    """Return a model that calls these in one message and says "done" once it has the results."""
    items: list[Item] = [Text("I will."), *requested]

    async def first(request: ModelRequest) -> AsyncIterator[ModelEvent]:
        yield ModelAnswer(items, Usage(1, 1), "tool_calls", "scripted")

    return [first, lambda request: says("done")]
