"""The rows of a server's tools: the server's list in bounds, each tool under its name for agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from kheishd.core.mcp import name_tool
from kheishd.kernel.hook import Tool
from kheishd.kernel.mcp import RemoteTool
from protocol.limits.mcp import (
    MAX_SERVER_TOOL_DESCRIPTION_BYTES,
    MAX_SERVER_TOOL_NAME_BYTES,
    MAX_SERVER_TOOL_SCHEMA_BYTES,
    MAX_SERVER_TOOLS,
)
from protocol.text import sanitize, truncate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kheishd.kernel.mcp import ServerSpec

# The time for cancelling a call at the server, after its own time limit.
CANCEL_SECONDS: Final = 10.0

MAX_QUOTED_CHARACTERS: Final = 80

MAX_ROW_WARNINGS: Final = 8


def make_rows(spec: ServerSpec, listed: Iterable[Mapping[str, Any]]) -> tuple[list[RemoteTool], list[str]]:
    """Return the tools that are offered, sorted by name, and warnings about those that are left out.

    ``listed`` are the server's tools as it sent them.
    """
    settings = spec.settings
    rows: dict[str, RemoteTool] = {}
    warnings: list[str] = []
    missing = set(settings.enabled_tools or ())
    beyond = 0
    for tool in listed:
        name = tool["name"]
        missing.discard(name)
        if settings.enabled_tools is not None and name not in settings.enabled_tools:
            continue
        if name in settings.disabled_tools:
            continue
        if len(rows) >= MAX_SERVER_TOOLS:
            beyond += 1
            continue
        row = _make_row(spec, tool)
        quoted = sanitize(name)[:MAX_QUOTED_CHARACTERS]
        if isinstance(row, str):
            warnings.append(f"the tool '{quoted}' is left out: {row}")
        elif row.row.name in rows:
            other = sanitize(rows[row.row.name].remote_name)[:MAX_QUOTED_CHARACTERS]
            warnings.append(f"the tool '{quoted}' is left out: its name is that of '{other}' for agents")
        else:
            rows[row.row.name] = row
    if beyond:
        warnings.append(
            f"the server has {beyond} tools beyond the limit of {MAX_SERVER_TOOLS}; choose by enabled_tools"
        )
    warnings += [f"enabled_tools names '{name}', which the server does not have" for name in sorted(missing)]
    if len(warnings) > MAX_ROW_WARNINGS:
        warnings[MAX_ROW_WARNINGS:] = [f"and {len(warnings) - MAX_ROW_WARNINGS} more warnings"]
    return [rows[name] for name in sorted(rows)], warnings


def _make_row(spec: ServerSpec, tool: Mapping[str, Any]) -> RemoteTool | str:
    """Return the row of a tool, or the reason for which it is left out."""
    if len(tool["name"].encode()) > MAX_SERVER_TOOL_NAME_BYTES or not tool["name"].isprintable():
        return f"its name has more than {MAX_SERVER_TOOL_NAME_BYTES} bytes, or characters that do not print"
    schema = tool["inputSchema"]
    size = len(msgspec.json.encode(schema))
    if size > MAX_SERVER_TOOL_SCHEMA_BYTES:
        return f"its schema has {size} bytes, and the limit is {MAX_SERVER_TOOL_SCHEMA_BYTES}"
    annotations = tool.get("annotations") or {}
    read_only = annotations.get("readOnlyHint") is True
    idempotent = read_only or annotations.get("idempotentHint") is True
    description = tool.get("description") or tool.get("title") or ""
    row = Tool(
        name=name_tool(spec.name, tool["name"]),
        description=truncate(sanitize(description), MAX_SERVER_TOOL_DESCRIPTION_BYTES),
        schema=schema,
        kind="execute",
        default="ask",
        repeatable=idempotent,
        parallel=read_only,
        droppable=read_only,
        timeout_s=spec.settings.tool_timeout_s + CANCEL_SECONDS,
    )
    return RemoteTool(spec, tool["name"], row, read_only, idempotent)
