"""Contracts: which schemas they may have, what fits them, and what satisfies a requirement."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.contract import (
    MAX_PROBLEM_CHARACTERS,
    MAX_PROBLEMS,
    Fits,
    Violates,
    canonical,
    instruction,
    missing,
    read,
    reminder,
    repair,
    satisfied,
    schema_problems,
    unfenced,
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


def problem(text: str, schema: dict[str, Any] = SCHEMA) -> str:
    """Why a text does not fit."""
    found = read(schema, text)
    assert isinstance(found, Violates), found
    return found.problem


def value(text: str, schema: dict[str, Any] = SCHEMA) -> Any:
    """What a text that fits says."""
    found = read(schema, text)
    assert isinstance(found, Fits), found
    assert json.loads(found.text) == found.value
    return found.value


# Schemas.


def test_a_schema_of_known_keywords_has_no_problems() -> None:
    """The whole subset, at every level."""
    assert schema_problems(SCHEMA) == []
    for kind in ("string", "number", "integer", "boolean", "null", "array"):
        assert schema_problems({"type": kind}) == []


def test_unknown_keywords_are_named_together_with_their_paths() -> None:
    """Whatever would be passed over is refused, all of it at once."""
    schema = {
        "type": "object",
        "properties": {
            "tags": {"type": "array", "items": {"type": "string", "enum": ["a"]}, "minItems": 1},
            "who": {"type": "string", "title": "Who"},
        },
        "additionalProperties": False,
        "$defs": {},
    }
    assert schema_problems(schema) == [
        "$.$defs: not a keyword that contracts have for 'object'",
        "$.properties.tags.minItems: not a keyword that contracts have for 'array'",
        "$.properties.tags.items.enum: not a keyword that contracts have for 'string'",
        "$.properties.who.title: not a keyword that contracts have for 'string'",
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
        ({"$ref": "https://example.org/schema"}, "$.$ref: not a keyword that contracts have for schemas"),
    ],
)
def test_schemas_that_contracts_do_not_have(schema: Any, path: str) -> None:
    """Each is named by the path of what is wrong."""
    assert any(each.startswith(path) for each in schema_problems(schema)), schema_problems(schema)


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
def test_a_value_is_read_from_what_models_write(text: str) -> None:
    """Space and one code fence around it are taken away; null is as good as absent where that is allowed."""
    assert read(SCHEMA, text) == Fits('{"ok":true}', {"ok": True})


def test_what_fits_is_written_in_one_way() -> None:
    """Keys sorted at every level, no space, characters as they are; nulls that mean something stay."""
    text = '{"tags": ["é", "b"], "ok": true, "by": {"nothing": null, "name": "x"}, "lines": 3.0}'
    found = read(SCHEMA, text)
    assert isinstance(found, Fits)
    assert found.text == '{"by":{"name":"x","nothing":null},"lines":3.0,"ok":true,"tags":["é","b"]}'
    assert canonical(msgspec.json.decode(found.text)) == found.text


def test_a_whole_number_is_a_number() -> None:
    """And 3.0 is whole; a fraction is not."""
    assert value('{"ok": true, "score": 3, "lines": 3.0}')["score"] == 3
    assert problem('{"ok": true, "lines": 3.5}').startswith("$.lines: 3.5 ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "this is not one JSON value"),
        ("It is fine.", "this is not one JSON value"),
        ('{"ok": true} {"ok": true}', "this is not one JSON value"),
        ('Here you are: {"ok": true}', "this is not one JSON value"),
        ("NaN", "this is not one JSON value"),
        ("[" * 2_000 + "]" * 2_000, "this is not one JSON value"),
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
def test_what_does_not_fit_is_named_by_its_path(text: str, said: str) -> None:
    """A sentence for whoever is to mend it."""
    assert said in problem(text)


def test_problems_are_few_and_short() -> None:
    """What is wrong a thousand times, or very long, is said a few times and cut."""
    found = problem(json.dumps({"ok": True, "tags": [1] * 1_000}))
    assert found.count("$.tags[") == MAX_PROBLEMS
    long = problem(json.dumps({"ok": "x" * 10_000}))
    assert len(long) == MAX_PROBLEM_CHARACTERS


def test_one_fence_is_taken_away_and_not_two() -> None:
    """A fence in the middle of a text is no fence around it."""
    assert unfenced("```json\n1\n```") == "1"
    assert unfenced("``` \n1```") == "1"
    assert unfenced("```\n```\n1\n```\n```") == "```\n1\n```"
    assert unfenced("so:\n```\n1\n```") == "so:\n```\n1\n```"


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
def test_reading_never_fails_and_what_fits_fits_again(any_value: Any) -> None:
    """Whatever JSON is said, it fits or it does not; what was kept of it is kept the same way."""
    found = read(SCHEMA, json.dumps(any_value))
    if isinstance(found, Fits):
        assert read(SCHEMA, found.text) == found
    assert isinstance(read({"type": "array", "items": {"type": "null"}}, json.dumps([None, None])), Fits)


@given(st.text())
def test_reading_any_text_never_fails(text: str) -> None:
    """What is no JSON does not fit."""
    assert isinstance(read({"type": "null"}, text + "x"), Violates)


def test_what_models_are_told() -> None:
    """The schema and that nothing else may stand beside it; with a repair also what is wrong."""
    assert '{"type":"null"}' in instruction('{"type":"null"}')
    said = repair("$.ok: wrong", '{"type":"null"}')
    assert said.startswith("Your answer does not fit what was agreed: $.ok: wrong")
    assert said.endswith(instruction('{"type":"null"}'))
    assert "to write a file and to write the file 'x'" in reminder(["write a file", "write the file 'x'"])


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
def test_a_written_file_satisfies_a_requirement(
    required: str | None, written: list[str], path: str | None
) -> None:
    """A requirement is satisfied by its path, or one that ends with it; without a path, by any file."""
    requirement = Requirement(type="workspace_file", path=required)
    assert satisfied(requirement, written) == path


def test_what_is_missing_is_said_in_words() -> None:
    """Those that are met are left out."""
    requirements = [Requirement(type="workspace_file", path="a"), Requirement(type="workspace_file")]
    assert missing(requirements, []) == ["write the file 'a'", "write a file"]
    assert missing(requirements, [0]) == ["write a file"]
    assert missing(requirements, [0, 1]) == []
