"""The composite Hook: its sub-hooks behind one interface, in one order, with calls dispatched by tool name.

The order is that of construction; it determines the order of prompt sections and of ``before_call`` and
``after_call``. One opinion counts: a denial before a question, a question before an approval, because the
person who is asked sees the call anyway. The meaning of a tool is its sub-hook's concern: the composite
ensures that the call runs as its row says, and that a failure in a sub-hook harms only its own calls.

Tools may appear and disappear while the daemon runs, so they are looked up at each use. A tool name belongs
to the first sub-hook that had it, for the life of the composite, even while the tool is gone: otherwise an
approval for a tool of one sub-hook could be used by another one that takes the name. A sub-hook with a
``prefix`` owns all names that begin with it, so tools that come and go use up no names. A second tool of a
name is a programming error at construction; later it is left out, and the log has a warning.
"""

from __future__ import annotations

import logging
import re
from operator import is_
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from msgspec.structs import replace

from kheishd.core.text.surrogates import join_surrogates
from kheishd.hooks.validation import Validator
from kheishd.kernel.hook import (
    Amendment,
    Deny,
    HookPrompt,
    Invocation,
    NeedsAnswer,
    NeedsApproval,
    Opinion,
    Outcome,
    ProbeResult,
    RunContext,
    Stale,
    SubHook,
    Tool,
    ToolError,
)
from kheishd.kernel.runtime import ModelFailure
from protocol.limits.call import MAX_TOOL_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kheishd.core.permissions.claims import Claim
    from kheishd.kernel.hook import CheckpointDraft, WorkspaceFiles
    from protocol.objects.approval import Preview

log = logging.getLogger("kheishd.hooks")

_NAME: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_TOOL_BYTES}}}")

_RANK: Final[Mapping[type[Opinion], int]] = {Deny: 0, NeedsAnswer: 1, NeedsApproval: 2}

# A probe only looks at existing state, and a person who stops the run waits for it.
MAX_PROBE_SECONDS = 30.0

# Names that sub-hooks can claim: a server that renames its tools again and again must not fill the memory.
MAX_TOOL_NAMES: Final = 4_096

FAILED: Final = "Something failed inside the tool; the daemon's log has the details."


class _PartTools:
    """The rows that a sub-hook had last, and the usable ones of them by name.

    ``offered`` are the tools that were offered last, ``scopes`` those of the run that they were offered to.
    """

    def __init__(self, rows: tuple[Tool, ...], by_name: dict[str, Tool]) -> None:
        self.rows = rows
        self.by_name = by_name
        self.droppable = [name for name, tool in by_name.items() if tool.droppable]
        self.scopes: tuple[object, ...] | None = None
        self.offered: Sequence[Tool] = ()


class CompositeHook:
    """Sub-hooks, in order. Errors: ValueError if two have a tool of one name, or a name is invalid."""

    def __init__(self, parts: Iterable[SubHook]) -> None:
        self._parts = tuple(parts)
        # Most sub-hooks have nothing to prepare.
        self._preparing = [part for part in self._parts if type(part).begin is not SubHook.begin]
        self._owners: dict[str, SubHook] = {}
        self._rejected: set[tuple[str, str]] = set()
        self._last: dict[int, _PartTools] = {}
        self._scopes: tuple[object, ...] = ()
        self._with_offer = [*map(id, self._parts_with("offer"))]
        self._with_text = [*map(id, self._parts_with("sections", "situation"))]
        self._with_opinion = self._parts_with("before_call")
        self._with_amendment = self._parts_with("after_call")
        self._with_other_arguments = self._parts_with("amend")
        self._with_denial = self._parts_with("before_approval")
        self._with_preparation = self._parts_with("prepare")
        self._prefixes = {part.prefix: part for part in self._parts if part.prefix}
        self._validator = Validator()
        for part in self._parts:
            names = set()
            for tool in part.tools:
                problem = self._claim(part, tool)
                if problem is None and tool.name in names:
                    problem = f"{part.name} has two tools called {tool.name}"
                if problem is not None:
                    raise ValueError(problem)
                names.add(tool.name)

    def _parts_with(self, *methods: str) -> list[SubHook]:
        """Return the sub-hooks that do not leave all of these methods to the defaults, which do nothing."""
        return [
            part
            for part in self._parts
            if any(
                getattr(getattr(part, name), "__func__", None) is not getattr(SubHook, name)
                for name in methods
            )
        ]

    def _claim(self, part: SubHook, tool: Tool) -> str | None:
        """Make a sub-hook the owner of its tool's name. Return the problem if it cannot be."""
        owner = self._find_owner(tool.name)
        if owner is part:
            return None
        if owner is not None:
            return f"both {owner.name} and {part.name} have a tool called {tool.name}"
        if not _NAME.fullmatch(tool.name):
            return f"{part.name} has a tool called {tool.name!r}, a name that no provider accepts"
        if len(self._owners) >= MAX_TOOL_NAMES:
            return f"{part.name} has the tool {tool.name}, beyond the limit of {MAX_TOOL_NAMES} names"
        self._owners[tool.name] = part
        return None

    def _find_owner(self, name: str) -> SubHook | None:
        for prefix, part in self._prefixes.items():
            if name.startswith(prefix) and _NAME.fullmatch(name):
                return part
        return self._owners.get(name)

    def _tools_of(self, part: SubHook) -> _PartTools:
        """Return a sub-hook's current tools, without those that cannot be used.

        The same rows have the same answer, because a name stays with its owner.
        """
        try:
            rows = tuple(part.tools)
        except Exception:
            log.exception("a hook could not list its tools", extra={"part": part.name})
            return _PartTools((), {})
        last = self._last.get(id(part))
        if last is not None and (
            rows is last.rows or (len(rows) == len(last.rows) and all(map(is_, rows, last.rows)))
        ):
            return last
        usable: dict[str, Tool] = {}
        for tool in rows:
            problem = self._claim(part, tool)
            if problem is None:
                usable.setdefault(tool.name, tool)
            elif (part.name, tool.name) not in self._rejected and len(self._rejected) < MAX_TOOL_NAMES:
                self._rejected.add((part.name, tool.name))
                log.warning("a tool is left out: %s", problem, extra={"part": part.name})
        tools = self._last[id(part)] = _PartTools(rows, usable)
        return tools

    def tools(self) -> list[Tool]:
        """Return all tools that exist now, offered or not."""
        return [tool for part in self._parts for tool in self._tools_of(part).by_name.values()]

    def find_tool(self, name: str) -> Tool | None:
        """Return the tool of a name, offered or not; None if no tool has it now."""
        owner = self._find_owner(name)
        if owner is not None:
            return self._tools_of(owner).by_name.get(name)
        return next((tool for tool in self.tools() if tool.name == name), None)

    def explain_missing(self, context: RunContext, name: str) -> str | None:
        """Return a sentence why a tool that a run calls is missing; None without a known cause."""
        owner = next((part for prefix, part in self._prefixes.items() if name.startswith(prefix)), None)
        return None if owner is None else owner.explain_missing(context, name)

    def offer(self, context: RunContext) -> list[Tool]:
        """Return the tools that a run may call, in the order of their sub-hooks, within its scopes."""
        scopes = self._scopes_of(context)
        return [
            tool
            for part in self._parts
            for tool in self._offer_of(part, self._tools_of(part), context, scopes)
        ]

    def _scopes_of(self, context: RunContext) -> tuple[object, ...]:
        """Return a run's scopes; the same object for equal ones in a row."""
        scopes = context.tool_scopes
        if scopes != self._scopes:
            self._scopes = scopes
        return self._scopes

    def _offer_of(
        self, part: SubHook, tools: _PartTools, context: RunContext, scopes: tuple[object, ...]
    ) -> Sequence[Tool]:
        if not tools.by_name:
            return ()
        if tools.scopes is scopes:
            return tools.offered
        if context.has_no_tools:
            return ()
        try:
            rows = part.offer(context)
        except Exception:
            log.exception("a hook could not list its tools", extra={"part": part.name})
            return ()
        offered: dict[str, Tool] = {}
        for tool in rows:
            if tool.name in tools.by_name and context.allows(tool.name):
                offered.setdefault(tool.name, tool)
        if id(part) in self._with_offer:
            # It depends on more than the scopes.
            return list(offered.values())
        tools.scopes, tools.offered = scopes, list(offered.values())
        return tools.offered

    def prompt(self, context: RunContext) -> HookPrompt:
        """Return the sub-hooks' part of a run's next prompt."""
        prompt, scopes = HookPrompt([], [], [], []), self._scopes_of(context)
        for part in self._parts:
            tools = self._tools_of(part)
            prompt.droppable.extend(tools.droppable)
            offered = self._offer_of(part, tools, context, scopes)
            prompt.tools.extend(offered)
            if id(part) not in self._with_text or (tools.by_name and not offered):
                continue
            for texts, texts_of in ((prompt.sections, part.sections), (prompt.situation, part.situation)):
                try:
                    texts += [join_surrogates(text) for text in texts_of(context)]
                except Exception:
                    log.exception("a hook could not make its section", extra={"part": part.name})
        return prompt

    async def begin(self, context: RunContext) -> bool:
        """Prepare the sub-hooks for a run, and return whether one has changed the session.

        Errors: ModelFailure if the run must not go on.
        """
        has_changed = False
        for part in self._preparing:
            try:
                has_changed |= await part.begin(context)
            except ModelFailure:
                raise
            except Exception:
                log.exception("a hook could not prepare for a run", extra={"part": part.name})
        return has_changed

    async def prepare(self, context: RunContext, names: Sequence[str]) -> None:
        """Prepare for calls of these tools: wait for tools that are not there yet after a restart.

        Also load the library by which arguments are validated without a struct: it would block the loop.
        """
        for part in self._with_preparation:
            try:
                await part.prepare(context, names)
            except Exception:
                log.exception("a hook could not prepare for calls", extra={"part": part.name})
        if any(tool.arguments is None for tool in self.tools()):
            await self._validator.prepare()

    def validate(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        """Return the arguments as the tool takes them, after lossless coercions. Errors: ToolError."""
        return self._validator.validate(tool, arguments)

    def subject(self, call: Invocation) -> str:
        """Return the text that permission rules match besides the tool's name.

        Errors: ToolError if there is none, because no rule could be applied then.
        """
        try:
            return join_surrogates(self._owner(call).subject(call))
        except ToolError:
            raise
        except Exception:
            raise _log_fault("a tool could not name its subject", call) from None

    def claims(self, call: Invocation) -> Sequence[Claim]:
        """Return what a call asks for besides its subject. Errors: ToolError if that is not known."""
        try:
            return tuple(self._owner(call).claims(call))
        except ToolError:
            raise
        except Exception:
            raise _log_fault("a tool could not name its claims", call) from None

    async def before_call(self, call: Invocation) -> Opinion | None:
        """Return the opinion that counts. A sub-hook that fails denies: no call runs unjudged."""
        opinions: list[Opinion] = []
        for part in self._with_opinion:
            try:
                opinion = await part.before_call(call)
            except Exception:
                log.exception("a hook failed before a call", extra={**_about(call), "part": part.name})
                return Deny(f"the hook '{part.name}' failed, so this was not run")
            if opinion is not None:
                opinions.append(opinion)

        def rank(opinion: Opinion) -> tuple[int, bool]:
            return _RANK[type(opinion)], isinstance(opinion, NeedsApproval) and not opinion.is_firm

        return min(opinions, key=rank, default=None)

    async def amend(self, call: Invocation) -> Amendment | None:
        """Return other arguments for a call, of the last sub-hook that has some; one that fails has none.

        A sub-hook that fails here is asked for its opinion all the same.
        """
        amendment: Amendment | None = None
        for part in self._with_other_arguments:
            try:
                amendment = await part.amend(call) or amendment
            except Exception:
                log.exception("a hook failed before a call", extra={**_about(call), "part": part.name})
        return amendment

    async def before_approval(self, call: Invocation, note: str) -> Deny | None:
        """Return the first denial of a call about which a person would be asked. A failure denies."""
        for part in self._with_denial:
            try:
                denial = await part.before_approval(call, note)
            except Exception:
                log.exception("a hook failed before an approval", extra={**_about(call), "part": part.name})
                return Deny(f"the hook '{part.name}' failed, so this was not run")
            if denial is not None:
                return denial
        return None

    async def preview(self, call: Invocation) -> Preview | None:
        """Show the effect of a call. Errors: ToolError if the call is impossible."""
        try:
            preview = await self._owner(call).preview(call)
        except ToolError:
            raise
        except Exception:
            raise _log_fault("a tool failed to show its effect", call) from None
        return (
            None if preview is None else msgspec.structs.replace(preview, text=join_surrogates(preview.text))
        )

    async def evidence(self, call: Invocation) -> dict[str, Any]:
        """Return data that helps to find out later whether the call took effect."""
        try:
            return await self._owner(call).evidence(call)
        except ToolError:
            # The dispatched call will report the same error.
            return {}
        except Exception:
            log.exception("a tool failed to collect its evidence", extra=_about(call))
            return {}

    async def checkpoint(self, call: Invocation) -> CheckpointDraft | None:
        """Return the files that the call will change, as they are now; None if it declares none."""
        try:
            return await self._owner(call).checkpoint(call)
        except ToolError:
            # The dispatched call will report the same error.
            return None
        except Exception:
            log.exception("a tool failed to collect the files that it changes", extra=_about(call))
            return None

    @property
    def files(self) -> WorkspaceFiles | None:
        """The files of workspaces; None if no sub-hook has tools for them."""
        return next((part.files for part in self._parts if part.files is not None), None)

    async def dispatch(self, call: Invocation) -> Outcome:
        """Run the call within its timeout. Errors: Stale; every other error is an outcome."""
        with trio.move_on_after(call.tool.timeout_s):
            try:
                outcome = await self._owner(call).dispatch(call)
            except Exception as raised:
                error = raised
                # A tool's own nurseries wrap its error in groups.
                while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
                    error = error.exceptions[0]
                if isinstance(error, Stale):
                    raise error from None
                if not isinstance(error, ToolError):
                    error = _log_fault("a tool failed", call, error)
                outcome = Outcome(str(error), is_error=True)
            return replace(outcome, text=join_surrogates(outcome.text))
        return Outcome(f"This took longer than {call.tool.timeout_s:g} s and was stopped.", is_error=True)

    async def after_call(self, call: Invocation, outcome: Outcome) -> Outcome:
        """Return the outcome as the sub-hooks amend it; one that fails amends nothing."""
        for part in self._with_amendment:
            try:
                outcome = await part.after_call(call, outcome)
            except Exception:
                log.exception("a hook failed after a call", extra={**_about(call), "part": part.name})
        return replace(outcome, text=join_surrogates(outcome.text))

    async def probe(self, call: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """Find out whether a call during which the daemon died took effect; unknown if that fails, too."""
        with trio.move_on_after(min(call.tool.timeout_s, MAX_PROBE_SECONDS)):
            try:
                return await self._owner(call).probe(call, evidence)
            except Exception as error:
                log.warning("a probe failed: %s", error, extra=_about(call))
        return ProbeResult("unknown", "the probe of the tool failed")

    def _owner(self, call: Invocation) -> SubHook:
        """Return the sub-hook of a call's tool. Errors: ToolError if the tool has disappeared."""
        name = call.tool.name
        owner = self._find_owner(name)
        if owner is None or name not in self._tools_of(owner).by_name:
            raise ToolError(f"the tool '{name}' is no longer available; nothing was run")
        return owner


def _log_fault(message: str, call: Invocation, error: Exception | None = None) -> ToolError:
    """Log a fault of a sub-hook. Return the error for the model, without the details."""
    log.error(message, exc_info=error if error is not None else True, extra=_about(call))
    return ToolError(FAILED)


def _about(call: Invocation) -> dict[str, str]:
    return {"tool": call.tool.name, "run_id": call.context.run.run_id}
