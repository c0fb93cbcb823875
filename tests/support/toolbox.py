"""A sub-hook for tests: real tools, one of each sort, that work on a real directory."""

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import trio

from kheishd.core.workspace import Workspaces
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.hook import (
    Invocation,
    Opinion,
    Outcome,
    ProbeResult,
    RunContext,
    Stale,
    SubHook,
    Tool,
    ToolError,
)
from kheishd.kernel.runtime import ModelEvent, ModelRequest
from protocol.events.session import SessionRenamed
from protocol.objects.approval import Preview
from protocol.objects.session import Session
from protocol.transcript import ToolCall
from tests.support.desk import Desk, Scripted, gives, open_desk, says
from tests.support.machine import Machine

NOTES = "notes.txt"
SAYS: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "seconds": {"type": "number"}, "size": {"type": "integer"}},
    "additionalProperties": False,
}


def tool(name: str, **fields: Any) -> Tool:
    """Return a tool that takes a text, a time and a size."""
    described: dict[str, Any] = {"description": f"The tool {name}.", "schema": SAYS, "kind": "edit"}
    return Tool(name=name, **(described | fields))


TOOLS = (
    tool("note"),
    tool("again", repeatable=True),
    tool("careful", default="ask"),
    tool("plain", default="ask"),
    tool("slow", timeout_s=1_000.0, kind="execute"),
    tool("look", parallel=True, repeatable=True, kind="read", in_plan=True, timeout_s=1_000.0),
    tool("raises"),
    tool("refuses"),
    tool("renames", kind="coordinate"),
    tool("long", kind="read"),
    tool("stale", default="ask", parallel=True),
    tool("endless", timeout_s=5.0),
)


@dataclass
class Toolbox(SubHook):
    """A sub-hook that records in ``did`` its calls in order, and in ``most`` how many ran at once.

    ``opinions`` are its opinions about calls, by tool. The tools ``lost`` are not offered any more. A preview
    is bound to the notes and to ``shown``. Each note waits for ``goes_on`` before or after it is written, as
    ``holds`` says; ``reached`` is set then, or once a slow tool has begun.
    """

    name: str = "toolbox"
    tools: tuple[Tool, ...] = TOOLS
    did: list[str] = field(default_factory=list)
    open: int = 0
    most: int = 0
    opinions: dict[str, Opinion] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    shown: str = ""
    holds: Literal["", "before", "after"] = ""
    reached: trio.Event = field(default_factory=trio.Event)
    goes_on: trio.Event = field(default_factory=trio.Event)

    def offer(self, context: RunContext) -> Sequence[Tool]:
        """Offer all tools that are not lost."""
        return [row for row in self.tools if row.name not in self.lost]

    def sections(self, context: RunContext) -> Sequence[str]:
        """Return one section."""
        return [f"Notes are kept in {context.workspace}."]

    def subject(self, call: Invocation) -> str:
        """Return the text."""
        return str(call.arguments.get("text", ""))

    async def before_call(self, call: Invocation) -> Opinion | None:
        """Return the opinion that the test set."""
        return self.opinions.get(call.tool.name)

    async def preview(self, call: Invocation) -> Preview | None:
        """Return the line that would be added, bound to the current notes."""
        text = str(call.arguments.get("text", ""))
        if text == "impossible":
            raise ToolError("this cannot be noted")
        if call.tool.name == "plain":
            return None
        return Preview(kind="text", text=f"adds: {text}", binding=self._digest(call))

    async def evidence(self, call: Invocation) -> dict[str, Any]:
        """Return the length of the notes."""
        return {"size": len(self._read(call))}

    async def dispatch(self, call: Invocation) -> Outcome:
        """Perform the action that the tool's name describes."""
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            return await self._do(call)
        finally:
            self.open -= 1

    async def _do(self, call: Invocation) -> Outcome:
        text = str(call.arguments.get("text", ""))
        match call.tool.name:
            case "slow" | "look" | "endless":
                call.stream(f"{text} begins\n")
                self.reached.set()
                with trio.move_on_after(float(call.arguments.get("seconds", 0.0)) or 10_000.0):
                    await trio.Event().wait()
                call.stream(f"{text} ends\n")
                if call.tool.name == "look":
                    return Outcome(f"seen: {text}")
            case "raises":
                raise RuntimeError("a fault, with a detail that is nobody's business")
            case "refuses":
                async with trio.open_nursery():
                    raise ToolError("this tool does nothing; say something else")
            case "renames":
                return Outcome("renamed", events=(SessionRenamed(title=text),))
            case "long":
                return Outcome("x" * int(call.arguments.get("size", 0)))
            case "quick":
                return Outcome(text, evidence={"noting": text})
            case "stale" if not self.goes_on.is_set():
                self.goes_on.set()
                self.shown = "changed"
                raise Stale
            case _:
                await call.observe({"noting": text})
        await self._hold("before")
        self.did.append(f"{call.tool.name} {text}")
        self._note(call, text)
        await self._hold("after")
        return Outcome(f"noted: {text}")

    async def _hold(self, when: str) -> None:
        if self.holds == when:
            self.reached.set()
            await self.goes_on.wait()

    def _note(self, call: Invocation, text: str) -> None:
        with (Path(call.context.workspace) / NOTES).open("a") as notes:
            notes.write(f"{text}\n")

    async def probe(self, call: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """Whether the notes grew by the line."""
        if "size" not in evidence:
            return ProbeResult("unknown", "it was not noted how long the notes were")
        added = self._read(call)[evidence["size"] :]
        if added == f"{call.arguments.get('text', '')}\n":
            return ProbeResult("done", "the line is there", {"found": added})
        return (
            ProbeResult("unknown", "other lines are there")
            if added
            else ProbeResult("not_done", "no line is there")
        )

    def _read(self, call: Invocation) -> str:
        path = Path(call.context.workspace) / NOTES
        return path.read_text() if path.exists() else ""

    def _digest(self, call: Invocation) -> str:
        return hashlib.sha256((self._read(call) + self.shown).encode()).hexdigest()[:16]


def calls(*invocations: tuple[str, dict[str, Any]]) -> Callable[[ModelRequest], AsyncIterator[ModelEvent]]:
    """Yield an answer that calls tools with these arguments; the calls are ``call_1`` and so on."""
    items = [ToolCall(f"call_{n}", name, arguments) for n, (name, arguments) in enumerate(invocations, 1)]
    return lambda request: gives(*items, stop_reason="tool_calls")


@asynccontextmanager
async def workbench(
    directory: Path, box: Toolbox, *parts: Callable[[ModelRequest], AsyncIterator[ModelEvent]], **runtime: Any
) -> AsyncIterator[Desk]:
    """Provide a desk whose agents have a box's tools and work in ``directory``/work.

    The model says ``parts``; its last answer, by default, is the list of the calls' results.
    """
    work = directory / "work"
    work.mkdir(parents=True, exist_ok=True)
    models = Scripted([*parts, lambda request: says("done")])
    fields: dict[str, Any] = {
        "hooks": CompositeHook((box,)),
        "workspaces": Workspaces(str(work), str(directory / "home")),
    }
    async with open_desk(directory, models, **(fields | runtime)) as desk:
        yield desk


def run_context(workspace: str = "/", tools: list[str] | None = None) -> RunContext:
    """Return a context for sub-hooks that read nothing from the store."""
    session = Session(session_id="ses_1", agent="default", status="open", created_at_ms=1, updated_at_ms=1)
    machine = Machine(tools=tools)
    return RunContext(session, machine.run, machine.pinned, workspace, "auto", cast("Any", None))


def call_of(row: Tool, context: RunContext | None = None, **arguments: Any) -> Invocation:
    """Return a call of a tool."""
    return Invocation(context or run_context(), "call_1", row, arguments)
