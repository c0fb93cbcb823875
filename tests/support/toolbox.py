"""A part of the composite Hook for tests: real tools, one of each sort, that work on a real directory."""

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
    """What the tools of this part did, in order, and how many ran at once.

    ``opinions`` are what it thinks of calls, by tool. ``lost`` are names that are not offered any more.
    ``shown`` is what a preview is bound to, besides the notes. Each note waits for ``goes_on``, before or
    after it is written, as ``holds`` says; ``reached`` is set then, or once a slow tool has begun.
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

    def offer(self, place: RunContext) -> Sequence[Tool]:
        """All but what is lost."""
        return [each for each in self.tools if each.name not in self.lost]

    def sections(self, place: RunContext) -> Sequence[str]:
        """One."""
        return [f"Notes are kept in {place.workspace}."]

    def subject(self, use: Invocation) -> str:
        """Return the text."""
        return str(use.arguments.get("text", ""))

    async def before_call(self, use: Invocation) -> Opinion | None:
        """Return the opinion that the test set."""
        return self.opinions.get(use.tool.name)

    async def preview(self, use: Invocation) -> Preview | None:
        """Return the line that would be added, bound to the notes as they are."""
        text = str(use.arguments.get("text", ""))
        if text == "impossible":
            raise ToolError("this cannot be noted")
        if use.tool.name == "plain":
            return None
        return Preview(kind="text", text=f"adds: {text}", binding=self._digest(use))

    async def evidence(self, use: Invocation) -> dict[str, Any]:
        """How long the notes are."""
        return {"size": len(self._read(use))}

    async def dispatch(self, use: Invocation) -> Outcome:
        """Do what the tool's name says."""
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            return await self._do(use)
        finally:
            self.open -= 1

    async def _do(self, use: Invocation) -> Outcome:
        text = str(use.arguments.get("text", ""))
        match use.tool.name:
            case "slow" | "look" | "endless":
                use.stream(f"{text} begins\n")
                self.reached.set()
                with trio.move_on_after(float(use.arguments.get("seconds", 0.0)) or 10_000.0):
                    await trio.Event().wait()
                use.stream(f"{text} ends\n")
                if use.tool.name == "look":
                    return Outcome(f"seen: {text}")
            case "raises":
                raise RuntimeError("a fault, with a detail that is nobody's business")
            case "refuses":
                async with trio.open_nursery():
                    raise ToolError("this tool does nothing; say something else")
            case "renames":
                return Outcome("renamed", events=(SessionRenamed(title=text),))
            case "long":
                return Outcome("x" * int(use.arguments.get("size", 0)))
            case "stale" if not self.goes_on.is_set():
                self.goes_on.set()
                self.shown = "changed"
                raise Stale
            case _:
                await use.observe({"noting": text})
        await self._hold("before")
        self.did.append(f"{use.tool.name} {text}")
        self._note(use, text)
        await self._hold("after")
        return Outcome(f"noted: {text}")

    async def _hold(self, when: str) -> None:
        if self.holds == when:
            self.reached.set()
            await self.goes_on.wait()

    def _note(self, use: Invocation, text: str) -> None:
        with (Path(use.context.workspace) / NOTES).open("a") as notes:
            notes.write(f"{text}\n")

    async def probe(self, use: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """Whether the notes grew by the line."""
        if "size" not in evidence:
            return ProbeResult("unknown", "it was not noted how long the notes were")
        added = self._read(use)[evidence["size"] :]
        if added == f"{use.arguments.get('text', '')}\n":
            return ProbeResult("done", "the line is there", {"found": added})
        return (
            ProbeResult("unknown", "other lines are there")
            if added
            else ProbeResult("not_done", "no line is there")
        )

    def _read(self, use: Invocation) -> str:
        path = Path(use.context.workspace) / NOTES
        return path.read_text() if path.exists() else ""

    def _digest(self, use: Invocation) -> str:
        return hashlib.sha256((self._read(use) + self.shown).encode()).hexdigest()[:16]


def calls(*chosen: tuple[str, dict[str, Any]]) -> Callable[[ModelRequest], AsyncIterator[ModelEvent]]:
    """Yield an answer that asks for tools, each with its arguments: ``call_1`` and so on."""
    items = [ToolCall(f"call_{n}", name, arguments) for n, (name, arguments) in enumerate(chosen, 1)]
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


def place(workspace: str = "/", tools: list[str] | None = None) -> RunContext:
    """Return a place for parts that read nothing from the store."""
    session = Session(session_id="ses_1", agent="default", status="open", created_at_ms=1, updated_at_ms=1)
    machine = Machine(tools=tools)
    return RunContext(session, machine.run, machine.pinned, workspace, "auto", cast("Any", None))


def use_of(chosen: Tool, where: RunContext | None = None, **arguments: Any) -> Invocation:
    """Return a call of a tool."""
    return Invocation(where or place(), "call_1", chosen, arguments)
