"""Contracts: valid schemas, matching values, prompts, and the files that meet a requirement."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.contract import (
    MAX_PROBLEM_CHARACTERS,
    MAX_PROBLEMS,
    ContractMatch,
    ContractViolation,
    encode_canonical,
    find_match,
    find_missing,
    find_schema_problems,
    format_instruction,
    format_reminder,
    format_repair,
    parse_value,
    remove_fence,
)
from protocol.contract import Requirement
from protocol.limits.rpc import MAX_NESTING

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A verdict",
    "type": "object",
    "properties": {
        "ok": {"type": "boolean", "description": "Whether it may be merged."},
        "score": {"type": "number"},
        "lines": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "by": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "nothing": {"type": "null"}},
            "additionalProperties": False,
        },
    },
    "required": ["ok"],
    "additionalProperties": False,
}


def find_violation(text: str, schema: dict[str, Any] = SCHEMA) -> str:
    """Return the violation of a text."""
    result = parse_value(schema, text)
    assert isinstance(result, ContractViolation), result
    return result.problem


def parse(text: str, schema: dict[str, Any] = SCHEMA) -> Any:
    """Return the value of a text that matches."""
    result = parse_value(schema, text)
    assert isinstance(result, ContractMatch), result
    assert json.loads(result.text) == result.value
    return result.value


# Schemas.


def test_a_schema_of_known_keywords_has_no_problems() -> None:
    """The whole subset has no problems, at every level."""
    assert list(find_schema_problems(SCHEMA)) == []
    for kind in ("string", "number", "integer", "boolean", "null", "array"):
        assert list(find_schema_problems({"type": kind})) == []


def test_unknown_keywords_are_reported() -> None:
    """Every unsupported keyword is reported with its path, all of them at once."""
    schema = {
        "type": "object",
        "properties": {
            "tags": {"type": "array", "items": {"type": "string", "enum": ["a"]}, "minItems": 1},
            "who": {"type": "string", "title": "Who"},
        },
        "additionalProperties": False,
        "$defs": {},
    }
    assert list(find_schema_problems(schema)) == [
        "$.$defs: not a keyword that contracts support for 'object'",
        "$.properties.tags.minItems: not a keyword that contracts support for 'array'",
        "$.properties.tags.items.enum: not a keyword that contracts support for 'string'",
        "$.properties.who.title: not a keyword that contracts support for 'string'",
    ]


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ([], "$: expected a schema"),
        ({}, "$.type: expected one of"),
        ({"type": ["string", "null"]}, "$.type: expected one of"),
        ({"type": "string", "properties": {}}, "$.properties: not a keyword"),
        ({"type": "string", "description": 1}, "$.description: expected a string"),
        ({"type": "object"}, "$.additionalProperties: must be false"),
        ({"type": "object", "additionalProperties": True}, "$.additionalProperties: must be false"),
        ({"type": "object", "additionalProperties": {}}, "$.additionalProperties: must be false"),
        ({"type": "object", "additionalProperties": False, "properties": []}, "$.properties: expected"),
        (
            {"type": "object", "additionalProperties": False, "properties": {"a": 1}},
            "$.properties.a: expected",
        ),
        ({"type": "object", "additionalProperties": False, "required": "a"}, "$.required: expected"),
        ({"type": "object", "additionalProperties": False, "required": ["a"]}, "$.required: 'a' is not"),
        ({"type": "array", "items": [{"type": "string"}]}, "$.items: expected a schema"),
        ({"type": "array", "items": {"type": "object"}}, "$.items.additionalProperties: must be false"),
        ({"$ref": "https://example.org/schema"}, "$.$ref: not a keyword that contracts support for schemas"),
    ],
)
def test_invalid_schemas(schema: Any, path: str) -> None:
    """Each problem is reported with its path."""
    assert any(problem.startswith(path) for problem in find_schema_problems(schema)), list(
        find_schema_problems(schema)
    )


# Values.


@pytest.mark.parametrize(
    "text",
    [
        '{"ok": true}',
        ' \n{"ok":true}\n ',
        '```json\n{"ok": true}\n```',
        '\n```\n{"ok": true}\n```\n',
        '{"ok": true, "tags": null, "by": null}',
    ],
)
def test_parse_value_in_a_models_spelling(text: str) -> None:
    """Space and one fence are removed; an optional null is as good as absent."""
    assert parse_value(SCHEMA, text) == ContractMatch('{"ok":true}', {"ok": True})


def test_values_have_one_canonical_form() -> None:
    """Keys are sorted at every level, without space; meaningful nulls stay."""
    text = '{"tags": ["é", "b"], "ok": true, "by": {"nothing": null, "name": "x"}, "lines": 3.0}'
    result = parse_value(SCHEMA, text)
    assert isinstance(result, ContractMatch)
    assert result.text == '{"by":{"name":"x","nothing":null},"lines":3.0,"ok":true,"tags":["é","b"]}'
    assert encode_canonical(msgspec.json.decode(result.text)) == result.text


def test_integers_are_numbers() -> None:
    """An integer is a number, and 3.0 is an integer; a fraction is not."""
    assert parse('{"ok": true, "score": 3, "lines": 3.0}')["score"] == 3
    assert find_violation('{"ok": true, "lines": 3.5}').startswith("$.lines: 3.5 ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "this is not one JSON value"),
        ("It is fine.", "this is not one JSON value"),
        ('{"ok": true} {"ok": true}', "this is not one JSON value"),
        ('Here you are: {"ok": true}', "this is not one JSON value"),
        ("NaN", "this is not one JSON value"),
        ("[" * 200_000 + "]" * 200_000, "this is not one JSON value"),
        ("[" * (MAX_NESTING + 2) + "]" * (MAX_NESTING + 2), "nested deeper"),
        ('{"ok": 1e999}', "this is not one JSON value"),
        ("{}", '$: "ok" is a required property'),
        ('{"ok": null}', "$.ok: null is not of type"),
        ('{"ok": "yes"}', '$.ok: "yes" is not of type "boolean"'),
        ('{"ok": true, "tags": ["a", 1]}', "$.tags[1]: 1 is not of type"),
        ('{"ok": true, "by": {"name": 7}}', "$.by.name: 7 is not of type"),
        ('{"ok": true, "more": null}', "$: Additional properties are not allowed"),
        ("[]", "$: [] is not of type"),
    ],
)
def test_violations_name_their_path(text: str, words: str) -> None:
    """A violation is a sentence with its path."""
    assert words in find_violation(text)


def test_violations_are_bounded() -> None:
    """The number and the length of reported problems are limited."""
    problem = find_violation(json.dumps({"ok": True, "tags": [1] * 1_000}))
    assert problem.count("$.tags[") == MAX_PROBLEMS
    long = find_violation(json.dumps({"ok": "x" * 10_000}))
    assert len(long) == MAX_PROBLEM_CHARACTERS


def test_remove_fence() -> None:
    """One fence around the text is removed; a fence within it is not."""
    assert remove_fence("```json\n1\n```") == "1"
    assert remove_fence("``` \n1```") == "1"
    assert remove_fence("```\n```\n1\n```\n```") == "```\n1\n```"
    assert remove_fence("so:\n```\n1\n```") == "so:\n```\n1\n```"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_the_canonical_form_matches_again(any_value: Any) -> None:
    """Any JSON matches or violates; the canonical form of a match matches again."""
    result = parse_value(SCHEMA, json.dumps(any_value))
    if isinstance(result, ContractMatch):
        assert parse_value(SCHEMA, result.text) == result
    assert isinstance(
        parse_value({"type": "array", "items": {"type": "null"}}, json.dumps([None, None])), ContractMatch
    )


@given(st.text())
def test_text_that_is_not_json_violates(text: str) -> None:
    """Text that is not JSON is a violation, never an error."""
    assert isinstance(parse_value({"type": "null"}, text + "x"), ContractViolation)


def test_prompts() -> None:
    """The instruction has the schema, the repair the problem, the reminder the requirements."""
    assert '{"type":"null"}' in format_instruction('{"type":"null"}')
    prompt = format_repair("$.ok: wrong", '{"type":"null"}')
    assert prompt.startswith("Your answer does not match the required schema: $.ok: wrong")
    assert prompt.endswith(format_instruction('{"type":"null"}'))
    assert "had to write a file and to write the file 'x'" in format_reminder(
        ["write a file", "write the file 'x'"]
    )


# Requirements.


@pytest.mark.parametrize(
    ("required", "written", "path"),
    [
        ("a.md", ["a.md"], "a.md"),
        ("a.md", ["./a.md"], "./a.md"),
        ("./a.md", ["a.md"], "a.md"),
        ("a.md", ["docs/a.md"], "docs/a.md"),
        ("docs/a.md", ["/home/docs/a.md"], "/home/docs/a.md"),
        (None, ["b.md"], "b.md"),
        ("b.md", ["a.md", "b.md"], "b.md"),
        ("a.md", ["ba.md"], None),
        ("a.md", ["a.md.txt"], None),
        ("docs/a.md", ["a.md"], None),
        ("a.md", [], None),
        (None, [], None),
    ],
)
def test_find_match(required: str | None, written: list[str], path: str | None) -> None:
    """A path matches if it is the required one or ends with it; without a path, any file does."""
    requirement = Requirement(type="workspace_file", path=required)
    assert find_match(requirement, written) == path


def test_find_missing() -> None:
    """Unmet requirements are named in words."""
    requirements = [Requirement(type="workspace_file", path="a"), Requirement(type="workspace_file")]
    assert find_missing(requirements, []) == ["write the file 'a'", "write a file"]
    assert find_missing(requirements, [0]) == ["write a file"]
    assert find_missing(requirements, [0, 1]) == []
