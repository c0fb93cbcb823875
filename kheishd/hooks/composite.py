"""The composite Hook: its parts behind one face, in one order, and calls dispatched by name.

The order is the one the parts were given in; it decides the order of prompt sections and in which parts
give their opinion before and after a call. Of several opinions the strictest wins. A tool belongs to the
one part that offers it; two parts that offer tools of one name are a fault of whoever put them together.
What a tool means is its part's business: this room only sees that it is called as it said it wants to be.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import trio

from kheishd.hooks.arguments import Checker
from kheishd.kernel.hook import (
    Deny,
    Finding,
    NeedsApproval,
    Opinion,
    Outcome,
    Part,
    Place,
    Stale,
    Tool,
    ToolError,
    ToolUse,
)
from protocol.objects.approval import Preview

log = logging.getLogger("kheishd.hooks")

_RANK: Final[Mapping[type[Opinion], int]] = {Deny: 0, NeedsApproval: 1}
"""From the strictest on; a question is neither a yes nor a no, and comes last."""

FAILED: Final = "Something failed inside the tool; the daemon's log has the details."


class Composite:
    """Parts, in order. Errors: ValueError where two of them offer tools of one name."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)
        self._owners: dict[str, Part] = {}
        self._tools: dict[str, Tool] = {}
        self._checker = Checker()
        for part in self._parts:
            for tool in part.tools:
                if tool.name in self._owners:
                    other = self._owners[tool.name].name
                    raise ValueError(f"both {other} and {part.name} offer a tool called {tool.name}")
                self._owners[tool.name] = part
                self._tools[tool.name] = tool

    def offered(self, place: Place) -> list[Tool]:
        """The tools a run may call, in the order of their parts, within the scope it pinned."""
        allowed = place.run.pinned.tools
        return [
            tool
            for part in self._parts
            for tool in part.offered(place)
            if allowed is None or tool.name in allowed
        ]

    def sections(self, place: Place) -> list[str]:
        """What parts add to the instructions, in their order."""
        return [section for part in self._parts for section in part.sections(place)]

    def tool(self, name: str) -> Tool | None:
        """The tool of a name, offered or not."""
        return self._tools.get(name)

    def checked(self, tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the schema wants them, lossless coercions made. Errors: ToolError."""
        return self._checker.checked(tool, arguments)

    def subject(self, use: ToolUse) -> str:
        """What permission rules match besides the tool's name."""
        return self._owner(use).subject(use)

    async def before(self, use: ToolUse) -> Opinion | None:
        """The strictest opinion of all parts. One that fails to give any denies: nothing runs unjudged."""
        opinions: list[Opinion] = []
        for part in self._parts:
            try:
                opinion = await part.before(use)
            except Exception:
                log.exception("a hook failed before a call", extra={"part": part.name, "tool": use.tool.name})
                return Deny(f"the hook '{part.name}' failed, so this was not run")
            if opinion is not None:
                opinions.append(opinion)
        return min(opinions, key=lambda opinion: _RANK.get(type(opinion), 2), default=None)

    async def preview(self, use: ToolUse) -> Preview | None:
        """What the call would do. Errors: ToolError if it cannot be done at all, or cannot be shown."""
        try:
            return await self._owner(use).preview(use)
        except ToolError:
            raise
        except Exception:
            log.exception("a preview failed", extra={"tool": use.tool.name})
            raise ToolError(FAILED) from None

    async def evidence(self, use: ToolUse) -> dict[str, Any]:
        """What will help to find out later whether the call took effect; nothing where that fails."""
        try:
            return await self._owner(use).evidence(use)
        except ToolError:
            # It will say so itself, when it is dispatched.
            return {}
        except Exception:
            log.exception("no evidence was gathered", extra={"tool": use.tool.name})
            return {}

    async def dispatch(self, use: ToolUse) -> Outcome:
        """Carry the call out within its time. Errors: Stale; everything else is an outcome."""
        outcome = await self._dispatch(use)
        for part in self._parts:
            try:
                outcome = await part.after(use, outcome)
            except Exception:
                log.exception("a hook failed after a call", extra={"part": part.name, "tool": use.tool.name})
        return outcome

    async def _dispatch(self, use: ToolUse) -> Outcome:
        try:
            with trio.fail_after(use.tool.timeout_s):
                return await self._owner(use).dispatch(use)
        except trio.TooSlowError:
            return Outcome(f"This took longer than {use.tool.timeout_s:g} s and was stopped.", is_error=True)
        except Stale:
            raise
        except ToolError as error:
            return Outcome(str(error), is_error=True)
        except Exception:
            log.exception("a tool failed", extra={"tool": use.tool.name, "run_id": use.place.run.run_id})
            return Outcome(FAILED, is_error=True)

    async def probe(self, use: ToolUse, evidence: Mapping[str, Any]) -> Finding:
        """What became of a call that the daemon died in; unknown where even that cannot be found out."""
        try:
            with trio.fail_after(use.tool.timeout_s):
                return await self._owner(use).probe(use, evidence)
        except Exception as error:
            log.warning("a probe failed: %s", error, extra={"tool": use.tool.name})
            return Finding("unknown", "what became of it could not be found out")

    def _owner(self, use: ToolUse) -> Part:
        return self._owners[use.tool.name]
