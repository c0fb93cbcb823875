"""Validation: valid arguments, coercions, and the errors for the model."""

import subprocess
import sys
from typing import Annotated, Any, Literal

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from kheishd.hooks.validation import MAX_PROBLEM_CHARACTERS, MAX_PROBLEMS, Validator, coerce
from kheishd.kernel.hook import Arguments, Tool, ToolError
from kheishd.kernel.schema import schema_of
from protocol.limits.call import MAX_TOOL_INPUT_BYTES
from tests.house.sources import ROOT
from tests.support.toolbox import tool


def taking(properties: dict[str, Any], **more: Any) -> Tool:
    """Return a tool with a JSON Schema of these arguments."""
    return tool("takes", schema={"type": "object", "properties": properties, **more})


def checked(schema: dict[str, Any], value: Any) -> Any:
    """Return one argument after validation."""
    return Validator().validate(taking({"value": schema}), {"value": value}).get("value", "absent")


def refusal(of: Tool, arguments: dict[str, Any]) -> str:
    """Return the error message."""
    with pytest.raises(ToolError) as caught:
        Validator().validate(of, arguments)
    return str(caught.value)


# Coercions.


@pytest.mark.parametrize(
    ("schema", "written", "meant"),
    [
        ({"type": "integer"}, 3.0, 3),
        ({"type": "integer"}, "3", 3),
        ({"type": "integer"}, "-3", -3),
        ({"type": ["integer", "null"]}, 3.0, 3),
        ({"type": "integer"}, None, "absent"),
        ({"type": "boolean"}, "true", True),
        ({"type": "array", "items": {"type": "integer"}}, [1.0, "2", 3], [1, 2, 3]),
        ({"type": "array", "items": {"type": "integer"}}, '["1", 2]', [1, 2]),
        ({"type": "object", "properties": {"n": {"type": "integer"}}}, {"n": "1"}, {"n": 1}),
        ({"type": "object", "properties": {"n": {"type": "integer"}}}, '{"n": 1}', {"n": 1}),
    ],
)
def test_what_is_meant_beyond_doubt_is_taken(schema: dict[str, Any], written: Any, meant: Any) -> None:
    """Numbers as text, lists as text, and null for an omitted argument are coerced."""
    result = checked(schema, written)
    assert result == meant
    assert type(result) is type(meant)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, None),
        ({"type": ["string", "null"]}, None),
        ({"enum": [None, "a"]}, None),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        (True, None),
        ({"type": "number"}, 3.0),
        ({"type": ["integer", "number"]}, 3.0),
        ({"type": "integer"}, 1e300),
        ({"type": "string"}, "3"),
        ({"type": "string"}, "true"),
        ({"type": ["string", "integer"]}, "3"),
        ({"type": "string"}, "[1]"),
        ({}, "[1]"),
    ],
)
def test_what_fits_as_it_is_stays_as_it_is(schema: Any, value: Any) -> None:
    """A valid value is not changed, least of all a meaningful null."""
    result = checked(schema, value)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, 3.5),
        ({"type": "integer"}, "3.0"),
        ({"type": "integer"}, "03"),
        ({"type": "integer"}, "٣"),
        ({"type": "integer"}, "1" * 19),
        ({"type": "boolean"}, "yes"),
        ({"type": "array"}, "a, b"),
        ({"type": "array"}, '{"a": 1}'),
        ({"type": "object"}, "[" * 100_000),
        (False, 1),
    ],
)
def test_what_is_in_doubt_is_refused(schema: Any, value: Any) -> None:
    """An ambiguous value is an error that names the argument."""
    assert refusal(taking({"value": schema}), {"value": value}).startswith(
        "these arguments do not fit takes: $.value"
    )


def test_a_null_for_what_must_be_there_is_refused() -> None:
    """Null for a required argument is an error about its type."""
    assert "$.path: this is not of type" in refusal(
        taking({"path": {"type": "string"}}, required=["path"]), {"path": None}
    )


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
SCHEMAS = st.recursive(
    st.booleans()
    | st.just({})
    | st.fixed_dictionaries({"type": TYPES | st.lists(TYPES, min_size=1, unique=True)}),
    lambda inner: (
        st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            }
        )
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner})
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from("abc"), SCHEMAS, max_size=3),
    st.dictionaries(st.sampled_from("abc"), JSON),
)
def test_mending_never_breaks_what_fits(properties: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Coercion keeps valid arguments valid and unchanged, and is idempotent."""
    schema = {"type": "object", "properties": properties}
    mended = coerce(schema, arguments)
    assert coerce(schema, mended) == mended
    if jsonschema_rs.is_valid(schema, arguments):
        assert mended == arguments
        assert jsonschema_rs.is_valid(schema, mended)


# Refusals.


def test_a_refusal_names_the_arguments_and_what_is_wrong() -> None:
    """The error names a few arguments by path, without repeating long values."""
    strict = taking({"path": {"type": "string"}, "limits": {"type": "array", "items": {"type": "integer"}}})
    text = refusal(strict, {"path": ["x" * 10_000], "limits": [1, "two"]})
    assert '$.path: this is not of type "string"' in text
    assert '$.limits[1]: this is not of type "integer"' in text
    many = refusal(taking({f"a{n}": {"type": "string"} for n in range(20)}), {f"a{n}": 1 for n in range(20)})
    assert many.count("$.") == MAX_PROBLEMS
    assert len(many) < MAX_PROBLEMS * (MAX_PROBLEM_CHARACTERS + 2) + 50


def test_what_is_missing_and_what_is_too_much_is_said() -> None:
    """The error names missing and unexpected arguments."""
    closed = taking({"path": {"type": "string"}}, required=["path"], additionalProperties=False)
    text = refusal(closed, {"pth": "a"})
    assert "'pth' was unexpected" in text
    assert '"path" is a required property' in text


def test_huge_arguments_are_refused_before_they_are_looked_at() -> None:
    """Huge arguments are rejected first, with the limit."""
    text = "x" * MAX_TOOL_INPUT_BYTES
    assert str(MAX_TOOL_INPUT_BYTES) in refusal(taking({"text": {"type": "string"}}), {"text": text})


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1/s.json", "https://example.com/s", "file:///etc/passwd"])
def test_nothing_is_fetched_for_a_schema(uri: str) -> None:
    """A schema that refers elsewhere is an error; references inside it work."""
    assert uri in refusal(taking({"value": {"$ref": uri}}), {"value": 1})
    inside = taking({"value": {"$ref": "#/$defs/v"}}, **{"$defs": {"v": {"type": "integer"}}})
    assert Validator().validate(inside, {"value": 1}) == {"value": 1}


def test_an_expression_that_takes_long() -> None:
    """An expression that would take hours is given up; one that looks ahead with few steps works."""
    endless = taking({"value": {"type": "string", "pattern": "(?=(a+)+b)a"}})
    assert "backtracking" in refusal(endless, {"value": "a" * 5_000 + "!"})
    label = {"type": "string", "pattern": "^(?!.*--)[a-z-]{3,63}$"}
    assert checked(label, "my-bucket") == "my-bucket"
    assert "does not match" in refusal(taking({"value": label}), {"value": "my--bucket"})


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"properties": 5}, {"required": "a"}])
def test_a_schema_that_is_none_fits_nothing(schema: dict[str, Any]) -> None:
    """An invalid foreign schema is an error for the model, not a failure of the daemon."""
    assert "the schema of takes is not valid" in refusal(tool("takes", schema=schema), {"a": 1})


def test_a_tool_may_be_offered_with_another_schema_elsewhere() -> None:
    """Each call is validated by the schema of its own row."""
    validator = Validator()
    single, second = taking({"value": {"enum": ["a"]}}), taking({"value": {"enum": ["b"]}})
    for item, value in ((single, "a"), (second, "b"), (single, "a")):
        assert validator.validate(item, {"value": value}) == {"value": value}


# Tools with a struct.


class Inner(Arguments, frozen=True):
    """A nested struct."""

    count: Annotated[int, Meta(ge=1)] = 1


class Outer(Arguments, frozen=True):
    """Arguments of a tool."""

    path: Annotated[str, Meta(min_length=1)]
    inner: list[Inner] = []
    mode: Literal["fast", "slow"] | None = None


OUTER = tool("takes", schema=schema_of(Outer), arguments=Outer)


def test_arguments_become_the_struct() -> None:
    """The arguments of a tool with a struct are coerced by its schema, then converted, defaults included."""
    written = {"path": "a", "inner": '[{"count": "3"}, {}]', "mode": None}
    validated = Validator().validate(OUTER, written)
    assert validated == Outer(path="a", inner=[Inner(count=3), Inner()])
    assert msgspec.to_builtins(validated) == {"path": "a", "inner": [{"count": 3}, {}]}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "$: Object missing required field `path`"),
        (
            {"pth": "a", "path": "a"},
            "$: Object contains unknown field `pth`; the fields are path, inner, mode",
        ),
        ({"path": ""}, "$.path: Expected `str` of length >= 1"),
        ({"path": None}, "$.path: Expected `str`, got `null`"),
        ({"path": "a", "inner": [{"count": 0}]}, "$.inner[0].count: Expected `int` >= 1"),
        (
            {"path": "a", "inner": [{"counts": 1}]},
            "$.inner[0]: Object contains unknown field `counts`; the fields are count",
        ),
        ({"path": "a", "mode": "middling"}, "$.mode: Invalid enum value 'middling'"),
    ],
)
def test_an_error_of_a_struct_names_the_argument(arguments: dict[str, Any], problem: str) -> None:
    """The error names the tool, the argument by its path, and the problem."""
    assert refusal(OUTER, arguments) == f"these arguments do not fit takes: {problem}"


def test_a_long_value_is_not_repeated() -> None:
    """An error is short, however long the value is."""
    text = refusal(OUTER, {"path": "a", "mode": "x" * 10_000})
    assert len(text) < MAX_PROBLEM_CHARACTERS + 50


# The library.


def test_the_library_is_imported_in_a_thread() -> None:
    """The library is imported for a tool without a struct only, in a thread: it would block the loop."""
    program = """
import sys, threading, trio
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.hook import Arguments, SubHook, Tool

class Watch:
    threads = []
    def find_spec(self, name, path, target=None):
        if name == "jsonschema_rs":
            self.threads.append(threading.get_ident())

class One(SubHook):
    name, tools = "one", (Tool("look", "Look.", {}, "read"),)

class WithStruct(SubHook):
    name, tools = "two", (Tool("see", "See.", {}, "read", arguments=Arguments),)

sys.meta_path.insert(0, Watch())
trio.run(CompositeHook((WithStruct(),)).prepare, None, ())
hooks = CompositeHook((One(),))
assert "jsonschema_rs" not in sys.modules
trio.run(hooks.prepare, None, ())
trio.run(hooks.prepare, None, ())
assert "jsonschema_rs" in sys.modules
(thread,) = Watch.threads
assert thread != threading.get_ident()
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)
