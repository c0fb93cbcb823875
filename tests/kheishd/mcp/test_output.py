"""Structured results and output schemas."""

from typing import Any

import pytest

from kheishd.kernel.mcp import RemoteResult
from kheishd.mcp.output import MAX_INLINE_BYTES, check_result
from protocol.limits.mcp import MAX_CHECKED_RESULT_BYTES

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}, "t": {}}, "required": ["n"]}
SLOW = {
    "$defs": {"a": {"items": {"anyOf": [{"$ref": "#/$defs/a"}] * 2}}},
    "properties": {"t": {"$ref": "#/$defs/a"}},
}
DEEP: list[Any] = [1]
for _ in range(20):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("schema", "structured", "problem"),
    [
        (SCHEMA, {"n": 1}, ""),
        (SCHEMA, {"n": "x"}, "does not fit the tool's own output schema: $.n: "),
        (SCHEMA, {"n": "x", "t": "y" * MAX_INLINE_BYTES}, "does not fit the tool's own output schema: $.n: "),
        (SCHEMA, {"n": "x", "t": "y" * MAX_CHECKED_RESULT_BYTES}, ""),
        (SCHEMA, None, "no structured part"),
        (SLOW, {"t": DEEP}, "take too long"),
    ],
)
async def test_check(schema: dict[str, Any], structured: Any, problem: str) -> None:
    """A structured result that does not fit is left out, and the result is an error that says why."""
    result = await check_result(schema, RemoteResult([{"type": "text", "text": "x"}], structured))
    assert (problem in result.problem, result.is_error) == (True, bool(problem))
    assert result.structured == (None if problem else structured)
    assert result.content


async def test_errors_need_no_structure() -> None:
    """The result of a failed call has no structured part."""
    failed = RemoteResult([], is_error=True)
    assert await check_result(SCHEMA, failed) == failed
