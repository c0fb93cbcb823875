"""What a hook is: one part of the composite Hook that offers tools, prompt sections and opinions. Types only.

A run's tools come from parts. Each part says what it offers as values (:class:`Tool`), and does what is
asked of it when a call of one of its tools is dispatched by name. The daemon never interprets what a tool
means: what it must know of one (may it run beside others, may it be run twice, does it only read) stands
in the tool's own row.

The life of one call, and who is asked on the way:

1. ``before`` of every part, in order, for an opinion; the permission rules judge; the strictest wins. A call
   that is itself a question to a person is asked unless it is denied, and never dispatched.
2. Where a person is to be asked, ``preview`` of the tool's own part shows what would happen, and binds the
   approval to it: if the binding is another when the call is about to run, the person is asked again.
3. ``evidence`` is journaled with the fact that the call begins.
4. ``dispatch`` does it.
5. ``after`` of every part, in order, may amend what the model reads; that is journaled as the one result.
6. Had the daemon died in between, ``probe`` is asked, with the evidence, what became of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from kheishd.config.sections.workspace import SandboxMode
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot
    from protocol.journal.line import JournalEvent
    from protocol.objects.approval import Preview
    from protocol.objects.permission import Decision
    from protocol.objects.question import Question
    from protocol.objects.run import Pinned
    from protocol.objects.session import Session

ToolKind = Literal["read", "edit", "execute", "fetch", "coordinate"]
"""What a tool does to the world. ``coordinate`` changes only what the daemon itself keeps."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as it is offered: ``schema`` is the JSON Schema of its arguments, an object.

    ``name`` has 1-64 characters of A-Z a-z 0-9 _ -, for that is what every provider takes. ``default`` is the
    decision where no permission rule says anything. ``repeatable``: running it twice does
    what running it once does, so a call that was cut short is simply run again. ``parallel``: it may run
    beside other calls of its batch. ``in_plan``: plan mode allows it. ``timeout_s`` does not include waiting
    for a person.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    kind: ToolKind
    default: Decision = "allow"
    repeatable: bool = False
    parallel: bool = False
    in_plan: bool = False
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class RunContext:
    """Where a run is: what decides which tools and sections it is shown.

    ``workspace`` is an absolute path of a directory that file and shell tools are confined to.
    ``sandbox`` is how shell commands are confined. ``state`` is for reading only: what a tool changes in
    the store it gives as events of its outcome. ``tools`` are those that the session, and all above it, allow
    now, which may be fewer than the run pinned; None: all.
    """

    session: Session
    run: RunRecord
    pinned: Pinned
    workspace: str
    sandbox: SandboxMode
    state: State
    tools: Sequence[str] | None = None

    def allows(self, tool: str) -> bool:
        """Whether a tool of this name may be called: its run pinned it, and it is still allowed."""
        scopes = (self.pinned.tools, self.tools)
        return all(scope is None or tool in scope for scope in scopes)


async def _nothing_observed(evidence: Mapping[str, Any]) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of one tool. ``arguments`` fit the tool's schema.

    ``binding`` is what an approval was bound to (see :class:`Preview`); None where nobody was asked. ``say``
    shows a piece of output to whoever watches, while the tool runs; it costs little and never waits.
    ``observe`` journals more evidence once the tool has begun, such as a process id; at most 4 KiB.
    """

    place: RunContext
    call_id: str
    tool: Tool
    arguments: Mapping[str, Any]
    binding: str | None = None
    say: Callable[[str], None] = field(default=lambda text: None)
    observe: Callable[[Mapping[str, Any]], Awaitable[None]] = field(default=_nothing_observed)

    @property
    def key(self) -> str:
        """A name for this call that no other call of this home has: for files and processes of its own.

        Shape:  letters, digits, ``.``, ``_`` and ``-``; nothing of the call's own id, which a model made up.
        """
        digest = sha256(self.call_id.encode()).hexdigest()[:16]
        return f"{self.place.run.run_id}.{self.place.run.turn}.{digest}"


class ToolError(Exception):
    """A tool's no: what the model is told, in a sentence that says what to do instead."""


class Stale(Exception):
    """What was approved is not what is there any more; the person must be asked again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tool gave: ``text`` is what the model reads, JSON where there is more than one thing to say.

    ``whole`` is the entire output where ``text`` holds only part of it; it is kept as a blob that the result
    refers to. ``events`` are committed in the same transaction as the result: 64 KiB of them at most.

    ``change`` is for what must be decided by how the store is when it changes: it is called in the
    transaction that commits the result, and what it gives is committed instead of this one, whose text nobody
    sees then, and whose events count only if it is no error. It only reads, may be called again, and takes a
    millisecond. So nothing that others do meanwhile can break a rule, and a call that does nothing else is
    ``repeatable``: where its result was lost, so was its change. Errors: ToolError, which is the result then.
    """

    text: str
    is_error: bool = False
    whole: bytes | None = None
    events: tuple[JournalEvent, ...] = ()
    change: Callable[[Snapshot], Outcome] | None = None


# Opinions, before a call is judged.


@dataclass(frozen=True, slots=True)
class Deny:
    """The call is not to be carried out; ``note`` reaches the model."""

    note: str


@dataclass(frozen=True, slots=True)
class NeedsApproval:
    """A person is to be asked, whatever the mode."""

    note: str


@dataclass(frozen=True, slots=True)
class NeedsAnswer:
    """The call is itself a question to a person: the answer is its result, and it is never dispatched."""

    questions: list[Question]
    expires_after_ms: int | None = None


Opinion = Deny | NeedsApproval | NeedsAnswer


class ProbeResult(Struct, frozen=True):
    """What a probe found out about a call that the daemon died in; ``note`` says how it is known.

    ``done``: it took effect. ``not_done``: it did not, and may be run again. ``unknown``: nobody can tell.
    """

    outcome: Literal["done", "not_done", "unknown"]
    note: str
    evidence: dict[str, Any] = {}


class SubHook:
    """One part of the composite Hook; the defaults are those of a part that only offers tools."""

    name: str
    tools: tuple[Tool, ...] = ()

    def offered(self, place: RunContext) -> Sequence[Tool]:
        """The tools of this part that make sense in a place; scopes are applied by the composite."""
        return self.tools

    def sections(self, place: RunContext) -> Sequence[str]:
        """What the instructions of a run say about this part."""
        return ()

    def subject(self, use: Invocation) -> str:
        """What permission rules match besides the tool's name: a path, a command line, a host."""
        return ""

    async def before(self, use: Invocation) -> Opinion | None:
        """An opinion about a call of any part's tool, or None."""
        return None

    async def preview(self, use: Invocation) -> Preview | None:
        """What a call of this part's tool would do. Errors: ToolError if it cannot be done at all."""
        return None

    async def evidence(self, use: Invocation) -> dict[str, Any]:
        """What will help to find out later whether a call took effect; at most 4 KiB as JSON."""
        return {}

    async def dispatch(self, use: Invocation) -> Outcome:
        """Carry out a call of one of this part's tools. Cancelled: it has stopped when this has ended.

        Errors: ToolError, Stale.
        """
        raise ToolError(f"the part '{self.name}' does not carry out {use.tool.name}")

    async def probe(self, use: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """What became of a call that the daemon died in. Leaves nothing of it running."""
        return ProbeResult("unknown", "nothing is known about it")

    async def after(self, use: Invocation, outcome: Outcome) -> Outcome:
        """The outcome of a call of any part's tool, perhaps amended."""
        return outcome


class Hook(Protocol):
    """All parts behind one face."""

    def offered(self, place: RunContext) -> list[Tool]:
        """The tools a run may call, by name, within the scope it pinned and that in force now."""
        ...

    def sections(self, place: RunContext) -> list[str]:
        """What parts add to the instructions, in their order."""
        ...

    def tool(self, name: str) -> Tool | None:
        """The tool of a name, offered or not."""
        ...

    def checked(self, tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the schema wants them, lossless coercions made. Errors: ToolError."""
        ...

    def subject(self, use: Invocation) -> str:
        """What permission rules match besides the tool's name. Errors: ToolError if that cannot be said."""
        ...

    async def ready(self) -> None:
        """Make ready what ``checked`` needs, which the first time would keep the loop waiting."""
        ...

    async def before(self, use: Invocation) -> Opinion | None:
        """The opinion that counts of all parts': Deny, then NeedsAnswer, then NeedsApproval."""
        ...

    async def preview(self, use: Invocation) -> Preview | None:
        """What the call would do. Errors: ToolError if it cannot be done at all."""
        ...

    async def evidence(self, use: Invocation) -> dict[str, Any]:
        """What will help to find out later whether it took effect."""
        ...

    async def dispatch(self, use: Invocation) -> Outcome:
        """Carry it out: validated, by name, within its timeout. Never raises but Stale and cancellation."""
        ...

    async def after(self, use: Invocation, outcome: Outcome) -> Outcome:
        """The outcome as the model is to read it. Never raises but cancellation."""
        ...

    async def probe(self, use: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """What became of a call that the daemon died in."""
        ...
