"""The arguments of file tools, and the schemas that models are shown of them."""

from typing import Any

import jsonschema_rs
import msgspec
import pytest

from kheishd.hooks.files.arguments import (
    ApplyPatch,
    Arguments,
    EditFile,
    ReadFile,
    WriteFile,
    decoded,
    schema_of,
)
from kheishd.hooks.files.tools import tools
from kheishd.hooks.validation import Validator
from kheishd.kernel.hook import ToolError

KINDS = [kind for kind in Arguments.__subclasses__()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_whole_in_itself(kind: type[Arguments]) -> None:
    """An object, closed, valid, without a reference."""
    schema = schema_of(kind)
    jsonschema_rs.meta.validate(schema)
    assert (schema["type"], schema["additionalProperties"]) == ("object", False)
    assert b"$ref" not in msgspec.json.encode(schema)
    assert b"null" not in msgspec.json.encode(schema)


@pytest.mark.parametrize(
    ("kind", "arguments", "fits"),
    [
        (ReadFile, {"path": "a"}, True),
        (ReadFile, {"path": "a", "start_line": 0}, False),
        (ReadFile, {"path": ""}, False),
        (ReadFile, {"path": "a", "more": 1}, False),
        (WriteFile, {"path": "a", "content": "", "expected_sha256": "0" * 64}, True),
        (WriteFile, {"path": "a", "content": "", "expected_sha256": "ab"}, False),
        (EditFile, {"path": "a", "old_text": "", "new_text": "b"}, False),
        (ApplyPatch, {"hunks": []}, False),
        (ApplyPatch, {"hunks": [{"path": "a", "old_text": "b", "new_text": ""}]}, True),
    ],
)
def test_schema_and_type_say_the_same(kind: type[Arguments], arguments: dict[str, Any], fits: bool) -> None:
    """What one takes, the other takes."""
    assert jsonschema_rs.is_valid(schema_of(kind), arguments) == fits
    if fits:
        assert isinstance(decoded(kind, arguments), kind)
    else:
        with pytest.raises(ToolError, match="do not fit"):
            decoded(kind, arguments)


def test_a_null_is_what_was_left_out() -> None:
    """Models say it so, whatever they are shown; and whole numbers are mended, wherever they stand."""
    row = next(tool for tool in tools(regex=True) if tool.name == "read_file")
    mended = Validator().validate(row, {"path": "a", "line_count": "3", "start_line": None})
    assert decoded(ReadFile, mended) == ReadFile(path="a", line_count=3)
    assert decoded(ReadFile, {"path": "a", "line_count": None}) == ReadFile(path="a")
