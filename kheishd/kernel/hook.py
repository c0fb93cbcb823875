"""The types of the tool system: tools, sub-hooks, calls, outcomes and opinions.

A run's tools come from sub-hooks. A sub-hook declares each tool as one decorated function (:func:`tool`): its
name, its arguments as a struct, its description and every fact that the daemon needs stand there and nowhere
else. The daemon never interprets a tool's name; it reads the facts from the tool's row (:class:`Tool`).

The life of a call:

1. ``before_call`` of every sub-hook, in order, returns an opinion; the permission rules judge; the strictest
   wins. A call that is itself a question to a person is asked unless it is denied, and never dispatched.
2. If a person must approve, ``preview`` of the tool's sub-hook shows the effect and binds the approval to it.
   If the binding differs when the call is about to run, the person is asked again.
3. ``evidence`` is journaled together with the start of the call, and so is the ``checkpoint`` of the files
   that it is about to change.
4. ``dispatch`` runs the call.
5. ``after_call`` of every sub-hook, in order, may amend the text for the model; the result is journaled.
6. If the daemon dies between 3 and 5, the next one calls ``probe`` with the evidence to find out whether the
   call took effect.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_type_hints, overload

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from kheishd.core.permissions.judge import Ruling
from kheishd.core.scope import includes
from kheishd.kernel.schema import portable, schema_of
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from kheishd.config.sections.workspace import SandboxMode
    from kheishd.core.permissions.claims import Claim
    from kheishd.core.run.commands import AwaitEvent
    from kheishd.core.run.record import RunRecord
    from kheishd.core.scope import Bounds
    from kheishd.kernel.state import State
    from kheishd.store.environment import Transaction
    from protocol.journal.line import JournalEvent
    from protocol.objects.approval import Preview
    from protocol.objects.permission import Decision
    from protocol.objects.question import Question
    from protocol.objects.run import Pinned
    from protocol.objects.session import Session
    from protocol.transcript import InputOrigin

ToolKind = Literal["read", "edit", "execute", "fetch", "coordinate"]
"""The effect of a tool on the world. ``coordinate`` changes only the daemon's own records."""


class Arguments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The base of tools' argument structs, from which their JSON Schemas are generated."""


# Tools.


def _write_nothing(arguments: Any) -> Sequence[str]:
    return ()


class Tool(Value, frozen=True, dict=True):
    """A row that describes one tool: everything that the daemon knows about it.

    ``name`` has 1-64 characters of A-Z a-z 0-9 _ -, because every provider accepts those.
    ``schema`` is the JSON Schema by which arguments are validated, unless ``arguments`` names their struct.
    ``default`` is the decision if no permission rule matches.
    ``repeatable``: running the call twice has the same effect as once, so an interrupted call is run again.
    ``parallel``: the call may run beside other calls of its message.
    ``in_plan``: plan mode allows the call.
    ``droppable``: old results may be dropped from the prompt, as they are long and can be had again.
    ``writes`` returns the workspace files that a call writes, for a run that is required to write some.
    ``timeout_s`` does not include waiting for a person. ``waits``: the call only waits for other runs, so the
    configured limit on the time of calls does not apply to it, and a crash meanwhile is not held against its
    run; it must be ``repeatable``.
    ``methods`` are the functions of a declared tool; without, the sub-hook's own methods handle the call.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    kind: ToolKind
    default: Decision = "allow"
    repeatable: bool = False
    parallel: bool = False
    in_plan: bool = False
    waits: bool = False
    timeout_s: float = 30.0
    droppable: bool = False
    writes: Callable[[Any], Iterable[str]] = _write_nothing
    arguments: type[Arguments] | None = None
    methods: ToolMethods | None = None

    @cached_property
    def model_schema(self) -> dict[str, Any]:
        """The schema that is sent to models: in the subset that every provider accepts."""
        return portable(self.schema)

    @cached_property
    def model_json(self) -> Raw:
        """``model_schema`` as JSON, for requests: a row never changes, so each is encoded once."""
        return Raw(msgspec.json.encode(self.model_schema))

    @cached_property
    def prompt_bytes(self) -> int:
        """The bytes of the schema and the description, by which a prompt's tokens are estimated."""
        return len(memoryview(self.model_json)) + len(self.description)


class ToolMethods(Value, frozen=True):
    """The functions of a declared tool. Each takes the call and its arguments; a probe also the evidence."""

    run: Callable[[Invocation, Any], Awaitable[Outcome]]
    subject: Callable[[Invocation, Any], str] | None = None
    claims: Callable[[Invocation, Any], Sequence[Claim]] | None = None
    preview: Callable[[Invocation, Any], Awaitable[Preview | None]] | None = None
    evidence: Callable[[Invocation, Any], Awaitable[dict[str, Any]]] | None = None
    probe: Callable[[Invocation, Any, Mapping[str, Any]], Awaitable[ProbeResult]] | None = None
    read_subject: Callable[[str], SubjectReading] | None = None
    checkpoint: Callable[[Invocation, Any], Awaitable[CheckpointDraft | None]] | None = None


class SubjectReading(Value, frozen=True):
    """A call that a person describes by its subject: as its tool would name it, and with its claims.

    ``problem``: why the tool never does this, whatever the rules say; if it ``is_openable``, unless one of
    them names exactly the subject.
    """

    subject: str
    claims: Sequence[Claim] = ()
    problem: str | None = None
    is_openable: bool = False


class DeclaredTool:
    """A tool declared in the class of a sub-hook. In an instance, it is the tool's row."""

    def __init__(self, row: Tool, functions: Mapping[str, Callable[..., Any] | None]) -> None:
        self._row = row
        self._functions = functions
        self._attribute = ""

    def __set_name__(self, owner: type[SubHook], name: str) -> None:
        """Remember the attribute, under which an instance keeps its row."""
        self._attribute = name

    @overload
    def __get__(self, instance: None, owner: type[SubHook]) -> DeclaredTool: ...

    @overload
    def __get__(self, instance: SubHook, owner: type[SubHook]) -> Tool: ...

    def __get__(self, instance: SubHook | None, owner: type[SubHook]) -> Tool | DeclaredTool:
        """Return the row, with its functions bound to the instance."""
        if instance is None:
            return self
        bound = {
            name: function.__get__(instance)
            for name, function in self._functions.items()
            if function is not None
        }
        row = replace(self._row, methods=ToolMethods(**bound))
        vars(instance)[self._attribute] = row
        return row


def tool(
    name: str,
    *,
    kind: ToolKind,
    description: str,
    default: Decision = "allow",
    repeatable: bool = False,
    parallel: bool = False,
    in_plan: bool = False,
    waits: bool = False,
    timeout_s: float = 30.0,
    droppable: bool = False,
    writes: Callable[[Any], Iterable[str]] = _write_nothing,
    subject: Callable[[Any, Invocation, Any], str] | None = None,
    claims: Callable[[Any, Invocation, Any], Sequence[Claim]] | None = None,
    preview: Callable[[Any, Invocation, Any], Awaitable[Preview | None]] | None = None,
    evidence: Callable[[Any, Invocation, Any], Awaitable[dict[str, Any]]] | None = None,
    probe: Callable[[Any, Invocation, Any, Mapping[str, Any]], Awaitable[ProbeResult]] | None = None,
    read_subject: Callable[[Any, str], SubjectReading] | None = None,
    checkpoint: Callable[[Any, Invocation, Any], Awaitable[CheckpointDraft | None]] | None = None,
) -> Callable[[Callable[[Any, Invocation, Any], Awaitable[Outcome]]], DeclaredTool]:
    """Declare a method of a sub-hook as a tool; its facts are those of :class:`Tool`.

    The arguments' struct is the annotation of the method's parameter ``arguments``. ``subject`` returns the
    text that permission rules match besides the tool's name, such as a path. ``claims``, ``preview``,
    ``evidence``, ``checkpoint`` and ``probe`` are as in :class:`SubHook`, for this tool. ``read_subject``
    reads the subject of a call that a person asks about, if people write it in several ways.

    Errors: ToolError.
    """

    def declare(run: Callable[[Any, Invocation, Any], Awaitable[Outcome]]) -> DeclaredTool:
        arguments: type[Arguments] = get_type_hints(run)["arguments"]
        row = Tool(
            name=name,
            description=description,
            schema=schema_of(arguments),
            kind=kind,
            default=default,
            repeatable=repeatable,
            parallel=parallel,
            in_plan=in_plan,
            waits=waits,
            timeout_s=timeout_s,
            droppable=droppable,
            writes=writes,
            arguments=arguments,
        )
        functions = {
            "run": run,
            "subject": subject,
            "claims": claims,
            "preview": preview,
            "evidence": evidence,
            "probe": probe,
            "read_subject": read_subject,
            "checkpoint": checkpoint,
        }
        return DeclaredTool(row, functions)

    return declare


# Checkpoints of files.


class SavedFile(Value, frozen=True):
    """A version of a file of the workspace, and the digest of the one that follows it.

    ``digest`` is the SHA-256 in hex; None: there is no such file; empty: it is not known. ``content`` is None
    also where ``problem`` says why it was not saved.
    """

    path: str
    content: bytes | None
    digest: str | None
    mode: int = 0
    after: str | None = None
    problem: str = ""


class CheckpointDraft(Value, frozen=True):
    """The files that a call changes, as they were before, for a checkpoint.

    ``more`` counts changed files that are left out; ``note`` says what is not covered.
    """

    workspace: str
    files: Sequence[SavedFile]
    more: int = 0
    note: str = ""


class FileWrite(Value, frozen=True):
    """A file to bring to a content; None deletes it. ``expected`` is its digest until then."""

    path: str
    content: bytes | None
    mode: int
    expected: str | None


class WorkspaceFiles(Protocol):
    """Access to files of workspaces, for restoring checkpoints."""

    def lock(self, paths: Iterable[str]) -> AbstractAsyncContextManager[None]:
        """Lock paths against other changes of this daemon."""
        ...

    async def read(self, workspace: str, paths: Sequence[str]) -> list[SavedFile]:
        """Return the current versions of files. Errors: ToolError if the workspace is gone."""
        ...

    async def write(self, workspace: str, writes: Sequence[FileWrite], key: str) -> None:
        """Write files, if all are as expected. Errors: ToolError, Stale."""
        ...

    async def diff(self, pairs: Sequence[tuple[SavedFile, SavedFile]]) -> str:
        """Return a unified diff of pairs of versions."""
        ...


async def _discard_draft(draft: CheckpointDraft) -> None:
    pass


# Calls.


class RunContext(Value, frozen=True):
    """The surroundings of a call: they decide which tools and prompt sections a run has.

    ``workspace`` is the absolute path of the directory that file and shell tools are confined to.
    ``state`` is for reading only: a tool returns its changes of the store as events of its outcome.
    ``bounds`` are those of the session now, which may be narrower than those that the run pinned; None: there
    are none.
    """

    session: Session
    run: RunRecord
    pinned: Pinned
    workspace: str
    sandbox: SandboxMode
    state: State
    bounds: Bounds | None = None

    @property
    def tool_scopes(self) -> tuple[object, ...]:
        """Everything in the context that decides which tools are allowed."""
        bounds = self.bounds
        return (self.pinned.tools, *((bounds.scope, bounds.blocked) if bounds is not None else ()))

    @property
    def has_no_tools(self) -> bool:
        """Whether no tool at all is allowed."""
        return self.pinned.tools == [] or (self.bounds is not None and self.bounds.scope.tools == [])

    def allows_skill(self, name: str) -> bool:
        """Whether a skill of this name may be used, or be active."""
        return self.bounds is None or self.bounds.allows_skill(name)

    def allows(self, tool: str) -> bool:
        """Whether a tool of this name may be called: the run pinned it, and it is still allowed."""
        return includes(self.pinned.tools, tool) and (self.bounds is None or self.bounds.allows_tool(tool))


def _discard_text(text: str) -> None:
    pass


async def _discard_evidence(evidence: Mapping[str, Any]) -> None:
    pass


def _deny_claim(claim: Claim) -> Ruling:
    return Ruling("deny", "deny", "no rules", "no rules are known here")


class Invocation(Value, frozen=True):
    """One call of one tool. Make it from ``Hook.validate(tool, ...)`` and the run's context.

    ``arguments`` are validated: the tool's struct, or a dict for a tool that has none.
    ``binding`` is the state that an approval is bound to (see :class:`Preview`); None without an approval.
    ``stream`` shows a piece of output to the run's followers while the tool runs; it never waits.
    ``observe`` journals more evidence after the start, such as a process id; at most 4 KiB.
    ``closed_patterns`` reads the current rules and returns the patterns of paths that they keep from tools
    that read (see ``core.permissions.judge``).
    ``yield_slot`` is entered while the call waits for another run: meanwhile this one takes no slot.
    ``judge_claim`` judges a claim of the running call by the current rules, such as a connection. A claim
    that was approved together with the call is allowed unless a rule denies it now.
    ``save`` commits a checkpoint of files that the running call has changed. ``saved`` are the digests of the
    files in the checkpoint that was committed with its start, by path; empty for a file that did not exist.
    ``scrub`` replaces secrets: for a text that is cut, because a part of a secret is not recognized later.
    ``scrub_cut`` does so in the beginning of a longer text, and leaves out what the cut made of a secret.
    """

    context: RunContext
    call_id: str
    tool: Tool
    arguments: Any
    binding: str | None = None
    stream: Callable[[str], None] = _discard_text
    observe: Callable[[Mapping[str, Any]], Awaitable[None]] = _discard_evidence
    closed_patterns: Callable[[], Sequence[str]] = tuple
    judge_claim: Callable[[Claim], Ruling] = _deny_claim
    save: Callable[[CheckpointDraft], Awaitable[None]] = _discard_draft
    saved: Mapping[str, str] = {}
    yield_slot: Callable[[], AbstractContextManager[None]] = nullcontext
    scrub: Callable[[bytes], bytes] = bytes
    scrub_cut: Callable[[bytes], bytes] = bytes

    @property
    def key(self) -> str:
        """A name that no other call of this home has, for the call's own files and processes.

        Shape:  letters, digits, ``.``, ``_`` and ``-``; no part of the call's id, which a model made up.
        """
        digest = sha256(self.call_id.encode()).hexdigest()[:16]
        return f"{self.context.run.run_id}.{self.context.run.turn}.{digest}"


class ToolError(Exception):
    """A tool's refusal: its message is for the model and says what to do instead."""


class Stale(Exception):
    """The state that was approved has changed since; the person must be asked again."""


class Outcome(Value, frozen=True):
    """The outcome of a call: ``text`` is what the model reads, as JSON if it has several parts.

    ``full_output`` is the entire output if ``text`` holds only part of it; it is stored as a blob that the
    result refers to. ``events`` are committed in the same transaction as the result; at most 64 KiB. So is
    ``evidence``, what the tool would have observed, had it taken longer. ``origins`` are those of the texts
    of other agents that ``text`` holds: the run has read inputs of these origins, too. ``hops`` is the number
    of events in a chain on the bus, the last of which ``text`` holds: the run belongs to that chain.

    ``decide`` runs inside the commit and returns the final outcome. Use it when the result depends on current
    state, or when the call changes other sessions: it may append to their streams by writers of its own. It
    must be fast (a millisecond) and have no other effect, as it may run again. It replaces this outcome,
    except for this outcome's events, which are committed with the final ones unless that is an error. So no
    concurrent change can break a rule, and a call that does nothing else is ``repeatable``: if its result was
    lost, so was its change. Errors: ToolError, which becomes the result.

    ``awaits``, of the outcome that ``decide`` returns: the call has no result yet; its run waits for an event
    on the bus, as a row, and the event becomes the result.
    """

    text: str
    is_error: bool = False
    full_output: bytes | None = None
    events: tuple[JournalEvent, ...] = ()
    evidence: Mapping[str, Any] | None = None
    origins: Sequence[InputOrigin] = ()
    hops: int = 0
    decide: Callable[[Transaction], Outcome] | None = None
    awaits: AwaitEvent | None = None


# Opinions, before a call is judged.


class Deny(Value, frozen=True):
    """The call must not run; ``note`` reaches the model."""

    note: str


class NeedsApproval(Value, frozen=True):
    """A person must approve the call, whatever the mode.

    If it is not ``is_firm``, it only keeps the mode acceptEdits from allowing the call.
    """

    note: str
    is_firm: bool = True


class NeedsAnswer(Value, frozen=True):
    """The call is itself a question to a person: the answer is its result, and it is never dispatched.

    ``to_agent`` is the id of the agent that is asked instead; people may answer, too.
    """

    questions: list[Question]
    expires_after_ms: int | None = None
    to_agent: str | None = None


Opinion = Deny | NeedsApproval | NeedsAnswer


class Amendment(Value, frozen=True):
    """Other arguments for a call, by a hook of this name; they are validated and judged like the first."""

    arguments: Mapping[str, Any]
    hook: str


class ProbeResult(Struct, frozen=True):
    """The finding of a probe about a call during which the daemon died; ``note`` gives the reason.

    ``done``: it took effect. ``not_done``: it did not, and may be run again. ``unknown``: it cannot be found
    out.
    """

    outcome: Literal["done", "not_done", "unknown"]
    note: str
    evidence: dict[str, Any] = {}


# Hooks.


class SubHook:
    """A part of the composite Hook. The defaults are those of a sub-hook that only declares tools.

    A sub-hook whose tools appear and disappear while the daemon runs, such as one for MCP servers, overrides
    ``tools`` with a property that returns the current rows, and handles their calls in ``dispatch``. Only
    its tools have names that begin with its ``prefix``.
    """

    name: str
    prefix: ClassVar[str] = ""
    files: WorkspaceFiles | None = None
    _declared: ClassVar[tuple[str, ...]] = ()
    _rows: tuple[Tool, ...] | None = None

    def __init_subclass__(cls) -> None:
        """Collect the declared tools of the class."""
        own = (name for name, value in vars(cls).items() if isinstance(value, DeclaredTool))
        cls._declared = tuple(dict.fromkeys((*cls._declared, *own)))

    @property
    def tools(self) -> Sequence[Tool]:
        """The tools that exist now: the declared ones, in the order of their declaration."""
        if self._rows is None:
            self._rows = tuple(getattr(self, name) for name in self._declared)
        return self._rows

    def revise(self, row: Tool, **facts: Any) -> None:
        """Change facts of a declared tool in this instance: they may depend on the configuration."""
        attribute = next(name for name, value in vars(self).items() if value is row)
        vars(self)[attribute] = replace(row, **facts)
        self._rows = None

    async def begin(self, context: RunContext) -> bool:
        """Prepare for a run before its first prompt; return whether the session has changed by that.

        Errors: ModelFailure if the run must not go on.
        """
        return False

    async def prepare(self, context: RunContext, names: Sequence[str]) -> None:
        """Prepare for calls of these tools, also of a run that goes on after a restart, without ``begin``."""

    def offer(self, context: RunContext) -> Sequence[Tool]:
        """Return the tools that make sense in a context; the composite applies the scopes."""
        return self.tools

    def explain_missing(self, context: RunContext, name: str) -> str | None:
        """Return a sentence why a tool with the sub-hook's prefix is missing; None without a cause."""
        return None

    def sections(self, context: RunContext) -> Sequence[str]:
        """Return the sub-hook's sections of a run's instructions.

        They must not change during a conversation: a provider caches the prompt from its beginning, and a
        changed section makes it read the whole transcript anew. Changing text belongs to ``situation``.
        """
        return ()

    def situation(self, context: RunContext) -> Sequence[str]:
        """Return the sub-hook's texts about the current situation, which the model reads last."""
        return ()

    def subject(self, call: Invocation) -> str:
        """Return the text that permission rules match besides the tool's name: a path, a command."""
        methods = call.tool.methods
        return "" if methods is None or methods.subject is None else methods.subject(call, call.arguments)

    def claims(self, call: Invocation) -> Sequence[Claim]:
        """Return what a call asks for besides its subject, such as destinations. Errors: ToolError.

        Each claim is judged by the rules. A person who is asked about the call is shown the destinations.
        """
        methods = call.tool.methods
        return () if methods is None or methods.claims is None else methods.claims(call, call.arguments)

    async def amend(self, call: Invocation) -> Amendment | None:
        """Return other arguments for a call of any sub-hook's tool, or None; before the opinions."""
        return None

    async def before_call(self, call: Invocation) -> Opinion | None:
        """Return an opinion about a call of any sub-hook's tool, or None."""
        return None

    async def before_approval(self, call: Invocation, note: str) -> Deny | None:
        """Deny a call of any sub-hook's tool about which a person would be asked, or return None."""
        return None

    async def preview(self, call: Invocation) -> Preview | None:
        """Show the effect of a call of an own tool. Errors: ToolError if the call is impossible."""
        methods = call.tool.methods
        if methods is None or methods.preview is None:
            return None
        return await methods.preview(call, call.arguments)

    async def evidence(self, call: Invocation) -> dict[str, Any]:
        """Return data that helps to find out later whether a call took effect; at most 4 KiB as JSON."""
        methods = call.tool.methods
        if methods is None or methods.evidence is None:
            return {}
        return await methods.evidence(call, call.arguments)

    async def checkpoint(self, call: Invocation) -> CheckpointDraft | None:
        """Return the files that a call of an own tool will change, as they are now. Errors: ToolError."""
        methods = call.tool.methods
        if methods is None or methods.checkpoint is None:
            return None
        return await methods.checkpoint(call, call.arguments)

    async def dispatch(self, call: Invocation) -> Outcome:
        """Run a call of an own tool. If cancelled, the call has stopped when this ends.

        Errors: ToolError, Stale.
        """
        if call.tool.methods is None:
            raise ToolError(f"the sub-hook '{self.name}' does not run {call.tool.name}")
        return await call.tool.methods.run(call, call.arguments)

    async def probe(self, call: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """Find out whether a call during which the daemon died took effect. Stops what still runs of it."""
        methods = call.tool.methods
        if methods is None or methods.probe is None:
            return ProbeResult("unknown", "nothing is known about it")
        return await methods.probe(call, call.arguments, evidence)

    async def after_call(self, call: Invocation, outcome: Outcome) -> Outcome:
        """Return the outcome of a call of any sub-hook's tool, perhaps amended."""
        return outcome


class HookPrompt(Value, frozen=True):
    """The hooks' part of a prompt, each list in the order of the sub-hooks.

    ``tools`` are those that the run may call. ``sections`` are those of its instructions, ``situation`` the
    texts about its current situation; a sub-hook with tools has both only if one of these is offered.
    ``droppable`` are the names of all tools, offered or not, whose old results may be dropped.
    """

    tools: list[Tool]
    sections: list[str]
    situation: list[str]
    droppable: list[str]


class Hook(Protocol):
    """All sub-hooks behind one interface."""

    def tools(self) -> list[Tool]:
        """Return all tools that exist now, offered or not."""
        ...

    def offer(self, context: RunContext) -> list[Tool]:
        """Return the tools that a run may call, within the scope it pinned and the current one."""
        ...

    def prompt(self, context: RunContext) -> HookPrompt:
        """Return the hooks' part of a run's next prompt."""
        ...

    def find_tool(self, name: str) -> Tool | None:
        """Return the tool of a name, offered or not; None if no tool has it now."""
        ...

    def explain_missing(self, context: RunContext, name: str) -> str | None:
        """Return a sentence why a tool that a run calls is missing; None without a known cause."""
        ...

    async def begin(self, context: RunContext) -> bool:
        """Prepare all sub-hooks for a run before its first prompt; return whether the session changed."""
        ...

    async def prepare(self, context: RunContext, names: Sequence[str]) -> None:
        """Prepare for calls of these tools, before they are looked up and validated."""
        ...

    def validate(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        """Return the arguments as the tool takes them, after lossless coercions. Errors: ToolError."""
        ...

    def subject(self, call: Invocation) -> str:
        """Return the text that permission rules match besides the tool's name. Errors: ToolError."""
        ...

    def claims(self, call: Invocation) -> Sequence[Claim]:
        """Return what a call asks for besides its subject. Errors: ToolError."""
        ...

    async def amend(self, call: Invocation) -> Amendment | None:
        """Return other arguments for a call, before opinions about it; None if it stays as it is."""
        ...

    async def before_approval(self, call: Invocation, note: str) -> Deny | None:
        """Return a denial of a call about which a person would be asked; None if there is none."""
        ...

    async def before_call(self, call: Invocation) -> Opinion | None:
        """Return the strictest opinion of all sub-hooks: Deny, then NeedsAnswer, then NeedsApproval."""
        ...

    async def preview(self, call: Invocation) -> Preview | None:
        """Show the effect of a call. Errors: ToolError if the call is impossible."""
        ...

    async def evidence(self, call: Invocation) -> dict[str, Any]:
        """Return data that helps to find out later whether the call took effect."""
        ...

    async def checkpoint(self, call: Invocation) -> CheckpointDraft | None:
        """Return the files that the call will change, as they are now; None if it declares none."""
        ...

    @property
    def files(self) -> WorkspaceFiles | None:
        """The files of workspaces; None if no sub-hook has tools for them."""
        ...

    async def dispatch(self, call: Invocation) -> Outcome:
        """Run the call within its timeout. Raises nothing but Stale and cancellation."""
        ...

    async def after_call(self, call: Invocation, outcome: Outcome) -> Outcome:
        """Return the outcome for the model. Raises nothing but cancellation."""
        ...

    async def probe(self, call: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """Find out whether a call during which the daemon died took effect."""
        ...
