"""The cost of validating a value, known before the validator is asked."""

from typing import Any

import pytest

from kheishd.core.validation_cost import find_cost_problem

TREE: dict[str, Any] = {
    "$defs": {
        "node": {"type": "object", "properties": {"children": {"items": {"$ref": "#/$defs/node"}}}},
    },
    "$ref": "#/$defs/node",
}


def doubling(levels: int, **last: Any) -> dict[str, Any]:
    """Return a schema of two kilobytes whose every level validates the next one twice."""
    parts = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**parts, f"a{levels}": last}, "properties": {"x": {"$ref": "#/$defs/a0"}}}


@pytest.mark.parametrize(
    ("schema", "value", "text"),
    [
        (doubling(19), {"x": 1}, "take too long"),
        (doubling(19), {}, None),
        (doubling(3), {"x": 1}, None),
        (doubling(3, **{"$ref": "#/$defs/a0"}), {"x": 1}, "take too long"),
        ({"$ref": "#"}, {}, "take too long"),
        ({"items": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}, [[[[[[[[[[[[1]]]]]]]]]]]], "take too long"),
        (TREE, {"children": [{"children": [{}] * 9}] * 9}, None),
        ({"items": {"type": "integer"}}, [1] * 9_000, None),
        ({"$ref": "https://example.com/x"}, {}, "places of its own"),
        ({"$ref": "#/$defs/none"}, {}, "places of its own"),
        ({"allOf": [{"$dynamicRef": "#x"}]}, {}, "dynamic"),
        ({"allOf": [{"$id": "x", "$ref": "#/y"}]}, {}, "'$id'"),
        ({"required": 5, "anyOf": 5, "properties": 5, "items": True}, {"a": 1}, None),
    ],
)
def test_cost(schema: dict[str, Any], value: Any, text: str | None) -> None:
    """A schema whose references multiply is refused; trees and long lists are not."""
    problem = find_cost_problem(schema, value, len(str(value)))
    assert (text is None) == (problem is None)
    assert text is None or text in str(problem)
