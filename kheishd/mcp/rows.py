"""The rows of a server's tools: the server's list in bounds, each tool under its name for agents.

A tool that no call could use is left out with its reason, rather than offered to a model whose every call
would fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from kheishd.core.mcp import name_tool
from kheishd.core.validation_cost import find_schema_problem
from kheishd.hooks.validation import compile_schema
from kheishd.kernel.hook import Tool
from kheishd.kernel.mcp import RemoteTool
from protocol.limits.mcp import (
    MAX_ROW_WARNINGS,
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


def make_rows(spec: ServerSpec, listed: Iterable[Mapping[str, Any]]) -> tuple[list[RemoteTool], list[str]]:
    """Return the tools that are offered, sorted by name, and warnings about those that are left out.

    ``listed`` are the server's tools as it sent them. Takes up to 0.1 s for each of them.
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
            problem = None if row.output_schema is None else find_unusable(row.output_schema)
            if problem is not None:
                warnings.append(f"the output schema of the tool '{quoted}' is not used: {problem}")
                row = replace(row, output_schema=None)
            rows[row.row.name] = row
    if beyond:
        warnings.append(
            f"the server has {beyond} tools beyond the limit of {MAX_SERVER_TOOLS}; choose by enabled_tools"
        )
    warnings += [f"enabled_tools names '{name}', which the server does not have" for name in sorted(missing)]
    return [rows[name] for name in sorted(rows)], limit_warnings(warnings)


def limit_warnings(warnings: list[str]) -> list[str]:
    """Return the first warnings, and the number of the others: a server must not fill lists and the log."""
    if len(warnings) <= MAX_ROW_WARNINGS:
        return warnings
    return [*warnings[:MAX_ROW_WARNINGS], f"and {len(warnings) - MAX_ROW_WARNINGS} more warnings"]


def find_unusable(schema: Mapping[str, Any]) -> str | None:
    """Return why a schema cannot be used; None if it can."""
    size = len(msgspec.json.encode(schema))
    if size > MAX_SERVER_TOOL_SCHEMA_BYTES:
        return f"it has {size} bytes, and the limit is {MAX_SERVER_TOOL_SCHEMA_BYTES}"
    if (problem := find_schema_problem(schema)) is not None:
        return problem
    try:
        compile_schema(schema)
    except ValueError as error:
        return f"it is not valid: {sanitize(str(error))}"
    return None


def _make_row(spec: ServerSpec, tool: Mapping[str, Any]) -> RemoteTool | str:
    """Return the row of a tool, or the reason for which it is left out."""
    if len(tool["name"].encode()) > MAX_SERVER_TOOL_NAME_BYTES or not tool["name"].isprintable():
        return f"its name has more than {MAX_SERVER_TOOL_NAME_BYTES} bytes, or characters that do not print"
    schema = tool["inputSchema"]
    if (problem := find_unusable(schema)) is not None:
        return f"its schema cannot be used: {problem}"
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
    return RemoteTool(spec, tool["name"], row, read_only, idempotent, tool.get("outputSchema"))
