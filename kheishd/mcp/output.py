"""Structured results, checked by the output schemas that servers give for their own tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from msgspec.structs import replace

from kheishd.core.validation_cost import find_cost_problem
from kheishd.hooks.validation import compile_schema, find_problems
from protocol.limits.mcp import MAX_CHECKED_RESULT_BYTES, MAX_SERVER_ERROR_BYTES
from protocol.text import sanitize, truncate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kheishd.kernel.mcp import RemoteResult

# A longer result is checked in a thread.
MAX_INLINE_BYTES: Final = 4 * 1024


async def check_result(schema: Mapping[str, Any], result: RemoteResult) -> RemoteResult:
    """Return a result without its structured part, and as an error, if that part does not fit the schema.

    The result of a failed call need not have one.
    """
    if result.is_error:
        return result
    if result.structured is None:
        return replace(
            result,
            is_error=True,
            problem="it has no structured part, which the tool's output schema requires",
        )
    size = len(msgspec.json.encode(result.structured))
    if size > MAX_CHECKED_RESULT_BYTES:
        return result
    if size <= MAX_INLINE_BYTES:
        problem = _find_problem(schema, result.structured, size)
    else:
        problem = await trio.to_thread.run_sync(_find_problem, schema, result.structured, size)
    if problem is None:
        return result
    return replace(result, structured=None, is_error=True, problem=problem)


def _find_problem(schema: Mapping[str, Any], value: Any, size: int) -> str | None:
    """Return why a structured result is not used; None if it fits its schema."""
    cost_problem = find_cost_problem(schema, value, size)
    if cost_problem is not None:
        return f"its structured part is left out: the tool's output schema cannot be used: {cost_problem}"
    # The schema was compiled when the tool was listed; compiling takes as long as a few checks.
    problems = "; ".join(find_problems(compile_schema(schema), value))
    if not problems:
        return None
    text = truncate(sanitize(problems), MAX_SERVER_ERROR_BYTES)
    return f"its structured part is left out, as it does not fit the tool's own output schema: {text}"
