"""JSON Schemas of tools, generated from types and translated into the portable subset."""

from typing import Annotated, Any, Literal

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct, UnsetType

from kheishd.kernel.schema import MAX_DEPTH, MAX_SUBSCHEMAS, portable, schema_of
from tests.support.schemas import assert_portable


class Hunk(Struct, frozen=True, forbid_unknown_fields=True):
    """A nested struct."""

    path: Annotated[str, Meta(min_length=1, pattern="^a", description="The file.")]
    count: Annotated[int, Meta(ge=1, le=9)] = 1


class Everything(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A field of each sort."""

    hunks: Annotated[list[Hunk], Meta(min_length=1, max_length=100, description="The hunks.")]
    first: Annotated[Hunk, Meta(description="The first one.")]
    text: str | None = None
    mode: Literal["fast", "slow"] = "fast"
    level: Literal[1, "high"] | UnsetType = UNSET
    union: Annotated[int | str, Meta(description="A number or a text.")] = 0
    labels: dict[str, int] = {}
    value: Any = None
    flag: bool = False
    ratio: Annotated[float, Meta(gt=0)] | None = None


def one(schema: Any, **root: Any) -> Any:
    """Return the translation of the schema of one optional property."""
    translated = portable({"type": "object", "properties": {"value": schema}, **root})
    assert_portable(translated)
    return translated["properties"].get("value")


def test_schema_of_a_struct_has_no_references() -> None:
    """The schema that validates holds nested structs, bounds and descriptions, without references."""
    schema = schema_of(Everything)
    assert "$ref" not in str(schema)
    assert "title" not in schema
    assert schema["properties"]["hunks"]["items"]["properties"]["path"]["minLength"] == 1
    assert schema["properties"]["first"]["description"] == "The first one."
    assert schema["properties"]["text"] == {"type": "string"}
    assert schema["required"] == ["hunks", "first"]


def test_a_struct_is_translated() -> None:
    """Each sort of field has its type, its description and no keyword that a provider rejects."""
    schema = portable(schema_of(Everything))
    assert_portable(schema)
    hunk = {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "The file."},
            "count": {"type": "integer", "description": "Default: 1.", "minimum": 1, "maximum": 9},
        },
        "required": ["path"],
        "additionalProperties": False,
    }
    properties = schema["properties"]
    assert properties["hunks"] == {"type": "array", "description": "The hunks.", "items": hunk}
    assert properties["first"] == {"type": "object", "description": "The first one.", **hunk}
    assert properties["text"] == {"type": "string"}
    assert properties["mode"] == {
        "type": "string",
        "description": 'Default: "fast".',
        "enum": ["fast", "slow"],
    }
    assert properties["level"] == {
        "anyOf": [{"type": "integer", "enum": [1]}, {"type": "string", "enum": ["high"]}]
    }
    assert [branch["type"] for branch in properties["union"]["anyOf"]] == ["integer", "string"]
    assert properties["labels"] == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert len(properties["value"]["anyOf"]) == 5
    assert properties["flag"] == {"type": "boolean"}
    assert properties["ratio"] == {"type": "number"}
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["hunks", "first"]


def test_the_translation_is_deterministic() -> None:
    """Equal schemas are equal bytes, whatever order their keywords were written in."""
    turned = {name: value for name, value in reversed(schema_of(Everything).items())}
    encode = msgspec.json.encode
    assert encode(portable(turned)) == encode(portable(schema_of(Everything)))
    assert portable(portable(turned)) == portable(turned)


@pytest.mark.parametrize(
    ("schema", "translated"),
    [
        ({"type": ["string", "null"], "maxLength": 5, "format": "date"}, {"type": "string"}),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"const": "a", "enum": None}, {"type": "string", "enum": ["a"]}),
        ({"enum": ["a", None]}, {"type": "string", "enum": ["a"]}),
        ({"enum": [True, False]}, {"type": "boolean"}),
        (
            {"anyOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}, {"type": "integer"}]},
            {"anyOf": [{"type": "string", "enum": ["a", "b", "c"]}, {"type": "integer"}]},
        ),
        ({"oneOf": [{"type": "string"}]}, {"type": "string"}),
        (
            {"type": "string", "anyOf": [{"minLength": 1}, {"pattern": "a"}], "description": "d"},
            {"type": "string", "description": "d"},
        ),
        (
            {"anyOf": [{"type": "integer"}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}]},
            {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        ),
        (
            {"properties": {"a": {"type": "string"}}, "anyOf": [{"required": ["a"]}]},
            {"type": "object", "properties": {"a": {"type": "string"}}},
        ),
        (
            {"allOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"type": "object"}]},
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        ),
        ({"$ref": "#/$defs/v", "description": "mine"}, {"type": "integer", "description": "mine"}),
        ({"prefixItems": [{"type": "string"}]}, {"type": "array", "items": {"type": "string"}}),
        (False, None),
    ],
)
def test_foreign_schemas_are_translated(schema: Any, translated: Any) -> None:
    """Keywords that an MCP server may use become their nearest equivalent in the subset."""
    assert one(schema, **{"$defs": {"v": {"type": "integer"}}}) == translated


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"$ref": "http://127.0.0.1/s.json"},
        {"$ref": "#/gone"},
        {"enum": [{}]},
        {"not": {}},
        {"type": 7},
    ],
)
def test_an_untranslatable_schema_allows_any_value(schema: Any) -> None:
    """A part without an equivalent is not a reason to leave a property out."""
    assert [branch["type"] for branch in one(schema)["anyOf"]] == [
        *("string", "number", "boolean", "object", "array")
    ]


def test_null_stays_where_a_property_is_required() -> None:
    """A required property that may be null cannot be omitted instead."""
    assert one({"type": ["string", "null"]}, required=["value"]) == {
        "anyOf": [{"type": "string"}, {"type": "null"}]
    }


def test_a_property_with_a_name_that_providers_reject_is_left_out() -> None:
    """One such name would make a provider refuse every request."""
    schema = portable({"type": "object", "properties": {"$filter": {}, "ok": {"type": "string"}}})
    assert list(schema["properties"]) == ["ok"]


@pytest.mark.parametrize("schema", [{}, {"type": "string"}, {"type": ["object", "null"]}, {"$ref": "#"}])
def test_the_root_is_an_object(schema: dict[str, Any]) -> None:
    """Every provider requires an object with properties at the root."""
    assert portable(schema) == {"type": "object", "properties": {}}


def test_alternatives_at_the_root_are_merged() -> None:
    """A root of alternatives becomes one object that requires the properties common to all."""
    branches = [
        {
            "type": "object",
            "properties": {"id": {"type": "string"}, name: {"type": "integer"}},
            "required": ["id", name],
        }
        for name in ("a", "b")
    ]
    schema = portable({"oneOf": branches})
    assert_portable(schema)
    assert sorted(schema["properties"]) == ["a", "b", "id"]
    assert schema["required"] == ["id"]


def test_a_schema_that_contains_itself_ends() -> None:
    """Recursion ends at a depth, and a schema that doubles with each reference ends at a size."""
    tree = {"type": "object", "properties": {"child": {"$ref": "#"}, "leaf": {"type": "string"}}}
    assert str(portable(tree)).count("leaf") == MAX_DEPTH + 1
    doubling = {
        f"d{level}": {
            "type": "object",
            "properties": {side: {"$ref": f"#/$defs/d{level + 1}"} for side in ("l", "r")},
        }
        for level in range(40)
    }
    bomb = portable({"type": "object", "properties": {"v": {"$ref": "#/$defs/d0"}}, "$defs": doubling})
    assert_portable(bomb)
    assert len(msgspec.json.encode(bomb)) < MAX_SUBSCHEMAS * 600
    assert_portable(portable({"allOf": [{"$ref": "#"}] * 50}))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.sampled_from(["string", "object", "array", "#", "#/a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("type", "properties", "required", "items", "anyOf", "oneOf", "allOf", "enum", "const"),
                    *(
                        "$ref",
                        "additionalProperties",
                        "a",
                        "description",
                        "default",
                        "minimum",
                        "prefixItems",
                    ),
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["type", "properties", "anyOf", "allOf", "$ref", "a"]), VALUES))
def test_any_json_is_translated(schema: dict[str, Any]) -> None:
    """Whatever a server sends as a schema, the result belongs to the subset."""
    assert_portable(portable(schema))


@given(st.fixed_dictionaries({"path": st.just("a")}, optional={"count": st.integers(1, 9)}))
def test_arguments_that_fit_the_source_fit_the_translation(arguments: dict[str, Any]) -> None:
    """A translation allows all that its source allows."""
    assert jsonschema_rs.is_valid(schema_of(Hunk), arguments)
    assert jsonschema_rs.is_valid(portable(schema_of(Hunk)), arguments)
