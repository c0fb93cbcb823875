"""The tools of MCP servers in a run, by the names ``mcp__SERVER__TOOL``.

Strangers write these tools, their descriptions and their results. A call asks a person unless a rule allows
it; a result is returned as data in a field of its own, after a sentence that says so, and is limited.

A session sees a server if its scope holds the server and, for a server with a credential, if its credential
scope does, too. Servers of an agent's definition are for its sessions only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kheishd.core.mcp import format_answer
from kheishd.kernel.hook import Invocation, Outcome, RunContext, SubHook, Tool, ToolError
from kheishd.kernel.mcp import NoMcp, ServerFailure
from kheishd.kernel.runtime import ModelFailure
from protocol.errors.mcp import McpServerNotFound
from protocol.limits.call import MAX_PREVIEW_BYTES
from protocol.objects.approval import Preview
from protocol.text import truncate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kheishd.kernel.mcp import McpHolder, RemoteTool, ServerSpec
    from protocol.objects.permission import ItemKind


class ServerTools(SubHook):
    """The tools of all servers."""

    name = "mcp"

    def __init__(self, holder: McpHolder) -> None:
        self._holder = holder
        self._remote: Sequence[RemoteTool] = ()
        self._by_name: Mapping[str, RemoteTool] = {}
        self._current: tuple[Tool, ...] = ()

    @property
    def tools(self) -> Sequence[Tool]:
        """The rows of all servers' current tools; the same object until one changes."""
        remote = self._holder.current.tools
        if remote is not self._remote:
            self._remote = remote
            self._by_name = {tool.row.name: tool for tool in remote}
            self._current = tuple(tool.row for tool in remote)
        return self._current

    async def begin(self, context: RunContext) -> bool:
        """Wait for servers that are being connected for the first time.

        Errors: ModelFailure if a required server is not connected.
        """
        if not self._holder.adopted.is_set():
            await self._holder.adopted.wait()
        pool = self._holder.current
        if isinstance(pool, NoMcp):
            return False
        specs = [
            pool.find(view.name) for view in pool.views() if view.state in ("starting", "ready", "failed")
        ]
        usable = [spec for spec in specs if may_use(context, spec)]
        await pool.settle([spec.name for spec in usable])
        for spec in usable:
            problem = pool.find_problem(spec.name) if spec.settings.required else None
            if problem is not None:
                message = f"the required MCP server '{spec.name}' cannot be used: {problem}"
                raise ModelFailure("mcp_server_unavailable", message, retryable=True)
        return False

    def offer(self, context: RunContext) -> Sequence[Tool]:
        """Return the tools of the servers that the session may use."""
        usable: dict[str, bool] = {}
        rows = []
        for tool in self._remote:
            name = tool.spec.name
            if name not in usable:
                usable[name] = may_use(context, tool.spec)
            if usable[name]:
                rows.append(tool.row)
        return rows

    async def preview(self, call: Invocation) -> Preview | None:
        """Show the server, the tool and its arguments."""
        tool = self._find(call)
        arguments = msgspec.json.format(msgspec.json.encode(call.arguments), indent=2).decode()
        text = f"call '{tool.remote_name}' of the MCP server '{tool.spec.name}' ({describe_place(tool.spec)})"
        return Preview(kind="text", text=truncate(f"{text} with\n{arguments}", MAX_PREVIEW_BYTES))

    async def evidence(self, call: Invocation) -> dict[str, Any]:
        """Return the server and its own name of the tool."""
        tool = self._find(call)
        return {"server": tool.spec.name, "tool": tool.remote_name}

    async def dispatch(self, call: Invocation) -> Outcome:
        """Call the tool. Errors: ToolError."""
        tool = self._find(call)
        server = tool.spec.name
        try:
            result = await self._holder.current.call(server, tool.remote_name, call.arguments, call.stream)
        except McpServerNotFound as refusal:
            raise ToolError(f"{refusal.message}; nothing was run") from None
        except ServerFailure as failure:
            raise ToolError(describe_failed_call(tool, failure)) from None
        text, full = format_answer(server, result.content, result.structured)
        return Outcome(text, result.is_error, full)

    def _find(self, call: Invocation) -> RemoteTool:
        """Return the tool of a call. Errors: ToolError if it has disappeared."""
        tool = self._by_name.get(call.tool.name)
        if tool is None:
            raise ToolError(f"the tool '{call.tool.name}' is no longer available; nothing was run")
        return tool


def may_use(context: RunContext, spec: ServerSpec) -> bool:
    """Whether a session may use a server and, if it needs one, its credential."""
    if spec.agents and context.session.agent not in spec.agents:
        return False
    bounds = context.bounds
    if bounds is None:
        return True
    kinds: tuple[ItemKind, ...] = (
        ("mcp_server", "mcp_credential") if spec.needs_credential else ("mcp_server",)
    )
    return all(bounds.find_problem(kind, spec.name) is None for kind in kinds)


def describe_place(spec: ServerSpec) -> str:
    """Return where a server is: its URL, or its command."""
    return spec.settings.url or " ".join(spec.settings.argv)


def describe_failed_call(tool: RemoteTool, failure: ServerFailure) -> str:
    """Return what a model has to know about a call without an answer."""
    server = f"the MCP server '{tool.spec.name}'"
    match failure.reason:
        case "unavailable":
            return f"{server} cannot be called: {failure}. Nothing was run"
        case "lost" | "timed_out" if not tool.idempotent:
            return f"{server}: {failure}. The call may have taken effect: check that before you repeat it"
        case _:
            return f"{server}: {failure}"
