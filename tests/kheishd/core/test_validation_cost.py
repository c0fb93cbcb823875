"""The cost of validating a value, known before the validator is asked."""

from typing import Any

import pytest

from kheishd.core.validation_cost import find_cost_problem, find_schema_problem

TREE: dict[str, Any] = {
    "$defs": {
        "node": {"type": "object", "properties": {"children": {"items": {"$ref": "#/$defs/node"}}}},
    },
    "$ref": "#/$defs/node",
}


CHAIN: dict[str, Any] = {
    "$defs": {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(900)} | {"a900": {}},
    "$ref": "#/$defs/a0",
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


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (doubling(19), "take too long"),
        ({"properties": {"x": {"items": {"$ref": "#/properties/x/items"}}}}, "take too long"),
        ({"$defs": {"a": {"$ref": "https://example.com/x"}}}, "places of its own"),
        ({"not": {"$dynamicRef": "#x"}}, "dynamic"),
        (CHAIN, "too deeply"),
        (TREE, None),
        (doubling(3), None),
        ({"properties": {"$ref": {"type": "string"}}, "default": {"$ref": 5}, "enum": [{"$ref": "x"}]}, None),
        ({"required": 5, "anyOf": 5, "properties": 5, "items": True, "prefixItems": [True]}, None),
        ({"allOf": [{"properties": {f"p{n}": {"$ref": "#"}}} for n in range(200)]}, None),
    ],
)
def test_schemas(schema: dict[str, Any], text: str | None) -> None:
    """A schema by which no value can be validated is known without a value."""
    problem = find_schema_problem(schema)
    assert (text is None) == (problem is None)
    assert text is None or text in str(problem)
