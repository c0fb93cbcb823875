"""The portable subset of JSON Schema, as an assertion."""

from typing import Any

from kheishd.kernel.schema import KEYWORDS


def assert_portable(schema: dict[str, Any], *, root: bool = True) -> None:
    """Assert that a schema and everything in it belongs to the subset."""
    assert [name for name in KEYWORDS if name in schema] == list(schema)
    assert ("type" in schema) != ("anyOf" in schema)
    assert isinstance(schema.get("type", ""), str)
    if root:
        assert schema["type"] == "object"
        assert "properties" in schema
    if schema.get("type") == "array":
        assert "items" in schema
    assert set(schema.get("required", ())) <= set(schema.get("properties", ()))
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    inner += [schema[name] for name in ("items",) if name in schema]
    if isinstance(schema.get("additionalProperties"), dict):
        inner.append(schema["additionalProperties"])
    for subschema in inner:
        assert_portable(subschema, root=False)
