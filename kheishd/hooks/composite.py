"""The composite Hook: its parts behind one face, in one order, and calls dispatched by name.

The order is the one the parts were given in; it decides the order of prompt sections and in which parts
give their opinion before and after a call. Of several opinions one counts: a no before a question, a question
before the wish that a person approves, for who is asked sees the call anyway. A tool belongs to the one part
that offers it; two parts that offer tools of one name are a fault of whoever put them together. What a tool
means is its part's business: this room only sees that it is called as it said it wants to be, and that what
goes wrong inside a part harms nothing but its own calls.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
import trio

from kheishd.hooks.arguments import Checker
from kheishd.kernel.hook import (
    Deny,
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
from protocol.limits.call import MAX_TOOL_BYTES
from protocol.objects.approval import Preview

log = logging.getLogger("kheishd.hooks")

_NAME: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_TOOL_BYTES}}}")

_RANK: Final[Mapping[type[Opinion], int]] = {Deny: 0, NeedsAnswer: 1, NeedsApproval: 2}

# A probe looks at what is there: who wants the run stopped waits for it.
MAX_PROBE_SECONDS = 30.0

FAILED: Final = "Something failed inside the tool; the daemon's log has the details."


class CompositeHook:
    """Parts, in order. Errors: ValueError where two offer tools of one name, or one has no proper name."""

    def __init__(self, parts: Sequence[SubHook]) -> None:
        self._parts = tuple(parts)
        self._owners: dict[str, SubHook] = {}
        self._tools: dict[str, Tool] = {}
        self._checker = Checker()
        for part in self._parts:
            for tool in part.tools:
                self._own(part, tool)

    def _own(self, part: SubHook, tool: Tool) -> None:
        if not _NAME.fullmatch(tool.name):
            raise ValueError(f"{part.name} offers a tool called {tool.name!r}, which no provider takes")
        if tool.name in self._owners:
            other = self._owners[tool.name].name
            raise ValueError(f"both {other} and {part.name} offer a tool called {tool.name}")
        self._owners[tool.name] = part
        self._tools[tool.name] = tool

    def offered(self, place: RunContext) -> list[Tool]:
        """The tools a run may call, in the order of their parts, within its scope then and now."""
        return [tool for part in self._parts for tool in self._of(part, place)]

    def _of(self, part: SubHook, place: RunContext) -> Iterator[Tool]:
        if not part.tools or [] in (place.pinned.tools, place.tools):
            return
        try:
            offered = part.offered(place)
        except Exception:
            log.exception("a hook could not say what it offers", extra={"part": part.name})
            return
        for tool in offered:
            if self._owners.get(tool.name) is part and place.allows(tool.name):
                yield tool

    def sections(self, place: RunContext) -> list[str]:
        """What parts add to the instructions, in their order; of a part with tools, if any is offered."""
        found: list[str] = []
        for part in self._parts:
            if part.tools and next(self._of(part, place), None) is None:
                continue
            try:
                found += [_sayable(section) for section in part.sections(place)]
            except Exception:
                log.exception("a hook could not say its section", extra={"part": part.name})
        return found

    def tool(self, name: str) -> Tool | None:
        """The tool of a name, offered or not."""
        return self._tools.get(name)

    async def ready(self) -> None:
        """Make ready what ``checked`` needs, which the first time would keep the loop waiting."""
        if self._tools:
            await self._checker.ready()

    def checked(self, tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the schema wants them, lossless coercions made. Errors: ToolError."""
        return self._checker.checked(tool, arguments)

    def subject(self, use: Invocation) -> str:
        """What permission rules match besides the tool's name.

        Errors: ToolError if that cannot be said, for then no rule can be kept.
        """
        try:
            return _sayable(self._owner(use).subject(use))
        except ToolError:
            raise
        except Exception:
            raise _logged("a tool could not say its subject", use) from None

    async def before(self, use: Invocation) -> Opinion | None:
        """The opinion that counts. A part that fails to give any denies: nothing runs unjudged."""
        opinions: list[Opinion] = []
        for part in self._parts:
            try:
                opinion = await part.before(use)
            except Exception:
                log.exception("a hook failed before a call", extra={"part": part.name, "tool": use.tool.name})
                return Deny(f"the hook '{part.name}' failed, so this was not run")
            if opinion is not None:
                opinions.append(opinion)
        return min(opinions, key=lambda opinion: _RANK[type(opinion)], default=None)

    async def preview(self, use: Invocation) -> Preview | None:
        """What the call would do. Errors: ToolError if it cannot be done at all."""
        try:
            preview = await self._owner(use).preview(use)
        except ToolError:
            raise
        except Exception:
            raise _logged("a tool failed to show what it would do", use) from None
        return None if preview is None else msgspec.structs.replace(preview, text=_sayable(preview.text))

    async def evidence(self, use: Invocation) -> dict[str, Any]:
        """What will help to find out later whether the call took effect."""
        try:
            return await self._owner(use).evidence(use)
        except ToolError:
            # It will say so itself, when it is dispatched.
            return {}
        except Exception:
            log.exception("a tool failed to note its evidence", extra=_about(use))
            return {}

    async def dispatch(self, use: Invocation) -> Outcome:
        """Carry the call out within its time. Errors: Stale; everything else is an outcome."""
        with trio.move_on_after(use.tool.timeout_s):
            try:
                outcome = await self._owner(use).dispatch(use)
            except Exception as error:
                outcome = _unhappy(_only(error), use)
            return replace(outcome, text=_sayable(outcome.text))
        return Outcome(f"This took longer than {use.tool.timeout_s:g} s and was stopped.", is_error=True)

    async def after(self, use: Invocation, outcome: Outcome) -> Outcome:
        """The outcome as each part amends it; one that fails to leaves it as it was."""
        for part in self._parts:
            try:
                outcome = await part.after(use, outcome)
            except Exception:
                log.exception("a hook failed after a call", extra={"part": part.name, "tool": use.tool.name})
        return replace(outcome, text=_sayable(outcome.text))

    async def probe(self, use: Invocation, evidence: Mapping[str, Any]) -> ProbeResult:
        """What became of a call that the daemon died in; unknown where even that cannot be found out."""
        with trio.move_on_after(min(use.tool.timeout_s, MAX_PROBE_SECONDS)):
            try:
                return await self._owner(use).probe(use, evidence)
            except Exception as error:
                log.warning("a probe failed: %s", error, extra=_about(use))
        return ProbeResult("unknown", "what became of it could not be found out")

    def _owner(self, use: Invocation) -> SubHook:
        return self._owners[use.tool.name]


def _unhappy(error: Exception, use: Invocation) -> Outcome:
    """What a failed dispatch gives. Errors: Stale."""
    if isinstance(error, Stale):
        raise error
    if isinstance(error, ToolError):
        return Outcome(str(error), is_error=True)
    return Outcome(str(_logged("a tool failed", use, error)), is_error=True)


def _only(error: Exception) -> Exception:
    """What went wrong, out of the groups in which a tool's own nurseries wrap it."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _logged(what: str, use: Invocation, error: Exception | None = None) -> ToolError:
    """A fault of a part is told to the log; the model learns that there was one."""
    log.error(what, exc_info=error if error is not None else True, extra=_about(use))
    return ToolError(FAILED)


def _about(use: Invocation) -> dict[str, str]:
    return {"tool": use.tool.name, "run_id": use.place.run.run_id}


def _sayable(text: str) -> str:
    """A text without what UTF-8 cannot say: names of files need not be text."""
    return text if text.isascii() else text.encode(errors="replace").decode()
