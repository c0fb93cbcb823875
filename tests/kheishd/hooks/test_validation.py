"""Arguments: what fits, what is mended, what is refused and how that is said."""

import subprocess
import sys
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.hooks.validation import MAX_PROBLEM_CHARACTERS, MAX_PROBLEMS, Validator, coerce
from kheishd.kernel.hook import Tool, ToolError
from protocol.limits.call import MAX_TOOL_INPUT_BYTES
from tests.house.sources import ROOT
from tests.support.toolbox import tool


def taking(properties: dict[str, Any], **more: Any) -> Tool:
    """A tool that takes these arguments."""
    return tool("takes", schema={"type": "object", "properties": properties, **more})


def checked(schema: dict[str, Any], value: Any) -> Any:
    """One argument as its tool gets it."""
    return Validator().validate(taking({"value": schema}), {"value": value}).get("value", "absent")


def refusal(of: Tool, arguments: dict[str, Any]) -> str:
    """What the model is told."""
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
    """Models write numbers as text, lists as the text of one, and null for what they leave out."""
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
    """Nothing is lost, least of all a null that means something."""
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
    """The model is told which argument, and asked for what it wants."""
    assert refusal(taking({"value": schema}), {"value": value}).startswith(
        "these arguments do not fit takes: $.value"
    )


def test_a_null_for_what_must_be_there_is_refused() -> None:
    """It is not left out, or the refusal would name the wrong thing."""
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
    """What fits before fits after and says the same; mending what is mended changes nothing."""
    schema = {"type": "object", "properties": properties}
    mended = coerce(schema, arguments)
    assert coerce(schema, mended) == mended
    if jsonschema_rs.is_valid(schema, arguments):
        assert mended == arguments
        assert jsonschema_rs.is_valid(schema, mended)


# Refusals.


def test_a_refusal_names_the_arguments_and_what_is_wrong() -> None:
    """By their paths, a handful at most, without repeating what may be long."""
    strict = taking({"path": {"type": "string"}, "limits": {"type": "array", "items": {"type": "integer"}}})
    text = refusal(strict, {"path": ["x" * 10_000], "limits": [1, "two"]})
    assert '$.path: this is not of type "string"' in text
    assert '$.limits[1]: this is not of type "integer"' in text
    many = refusal(taking({f"a{n}": {"type": "string"} for n in range(20)}), {f"a{n}": 1 for n in range(20)})
    assert many.count("$.") == MAX_PROBLEMS
    assert len(many) < MAX_PROBLEMS * (MAX_PROBLEM_CHARACTERS + 2) + 50


def test_what_is_missing_and_what_is_too_much_is_said() -> None:
    """So that the next call can be right."""
    closed = taking({"path": {"type": "string"}}, required=["path"], additionalProperties=False)
    text = refusal(closed, {"pth": "a"})
    assert "'pth' was unexpected" in text
    assert '"path" is a required property' in text


def test_huge_arguments_are_refused_before_they_are_looked_at() -> None:
    """The limit is named."""
    text = "x" * MAX_TOOL_INPUT_BYTES
    assert str(MAX_TOOL_INPUT_BYTES) in refusal(taking({"text": {"type": "string"}}), {"text": text})


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1/s.json", "https://example.com/s", "file:///etc/passwd"])
def test_nothing_is_fetched_for_a_schema(uri: str) -> None:
    """One that refers elsewhere fits nothing, and says so: it must hold what it refers to itself."""
    assert uri in refusal(taking({"value": {"$ref": uri}}), {"value": 1})
    inside = taking({"value": {"$ref": "#/$defs/v"}}, **{"$defs": {"v": {"type": "integer"}}})
    assert Validator().validate(inside, {"value": 1}) == {"value": 1}


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"properties": 5}, {"required": "a"}])
def test_a_schema_that_is_none_fits_nothing(schema: dict[str, Any]) -> None:
    """Of a tool from elsewhere, say; the model is told, and the daemon lives on."""
    assert "the schema of takes is not valid" in refusal(tool("takes", schema=schema), {"a": 1})


def test_a_tool_may_be_offered_with_another_schema_elsewhere() -> None:
    """Each call is checked against the one it was offered with."""
    validator = Validator()
    one, other = taking({"value": {"enum": ["a"]}}), taking({"value": {"enum": ["b"]}})
    for each, value in ((one, "a"), (other, "b"), (one, "a")):
        assert validator.validate(each, {"value": value}) == {"value": value}


# The library.


def test_the_library_is_imported_in_a_thread() -> None:
    """Not with the daemon, and not on its loop: there it would keep everybody waiting."""
    program = """
import sys, threading, trio
from kheishd.hooks.composite import CompositeHook
from kheishd.kernel.hook import SubHook, Tool

class Watch:
    threads = []
    def find_spec(self, name, path, target=None):
        if name == "jsonschema_rs":
            self.threads.append(threading.get_ident())

class One(SubHook):
    name, tools = "one", (Tool("look", "Look.", {}, "read"),)

sys.meta_path.insert(0, Watch())
trio.run(CompositeHook(()).prepare)
hooks = CompositeHook((One(),))
assert "jsonschema_rs" not in sys.modules
trio.run(hooks.prepare)
trio.run(hooks.prepare)
assert "jsonschema_rs" in sys.modules
(thread,) = Watch.threads
assert thread != threading.get_ident()
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)
